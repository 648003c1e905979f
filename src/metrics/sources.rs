//! Numbers that are kept elsewhere and read whenever metrics are asked for.

use std::fmt;
use std::sync::OnceLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A number that is kept elsewhere and read whenever metrics are asked for, see [`Metrics::read_from`](super::Metrics::read_from).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Open connections of clients.
    ClientConnections,
    /// Connections of trusted proxies so far that began without a good header of the PROXY protocol.
    ClientProxyFailures,
    /// Connections so far on which a client did not get through the handshake of TLS.
    ClientTlsFailures,
    /// Open connections to the backend.
    UpstreamConnections,
    /// Connections opened to the backend so far.
    UpstreamConnects,
    /// Requests sent over an open connection so far.
    UpstreamReuses,
    /// Requests sent once more so far.
    UpstreamRetries,
    /// Changes that wait to be stored.
    CommitsPending,
    /// The memory that they take, in bytes.
    CommitsPendingBytes,
    /// The age of the oldest of them, in seconds.
    CommitsPendingAge,
    /// 1 while ready.
    Ready,
    /// Connections to the store made in place of others so far.
    StoreReconnects,
    /// Changes so far that fewer replicas of the store confirmed than was asked for.
    StoreUnreplicated,
    /// Sessions known without asking so far.
    NearCacheHits,
    /// Sessions asked for so far, with the near cache on.
    NearCacheMisses,
    /// Copies used so far while the store could not be asked.
    NearCacheOutageHits,
    /// Changes told so far.
    NearCacheInvalidations,
    /// How often all copies were lost at once.
    NearCacheFlushes,
    /// Connections by which changes are told.
    NearCacheArmed,
}

type Read = OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>;

/// Where such numbers are kept.
#[derive(Default)]
pub(super) struct Sources {
    client_connections: Read,
    client_proxy_failures: Read,
    client_tls_failures: Read,
    upstream_connections: Read,
    upstream_connects: Read,
    upstream_reuses: Read,
    upstream_retries: Read,
    commits_pending: Read,
    commits_pending_bytes: Read,
    commits_pending_age: Read,
    ready: Read,
    store_reconnects: Read,
    store_unreplicated: Read,
    near_cache_hits: Read,
    near_cache_misses: Read,
    near_cache_outage_hits: Read,
    near_cache_invalidations: Read,
    near_cache_flushes: Read,
    near_cache_armed: Read,
}

impl Sources {
    pub(super) const GAUGES: [(Source, &'static str, &'static str); 7] = [
        (
            Source::ClientConnections,
            "client_connections",
            "Open connections of clients",
        ),
        (
            Source::UpstreamConnections,
            "upstream_connections",
            "Open connections to the backend",
        ),
        (
            Source::CommitsPending,
            "commits_pending",
            "Changes that wait to be stored",
        ),
        (
            Source::CommitsPendingBytes,
            "commits_pending_bytes",
            "Memory of the changes that wait to be stored",
        ),
        (
            Source::CommitsPendingAge,
            "commits_pending_age_seconds",
            "Age of the oldest change that waits to be stored",
        ),
        (
            Source::NearCacheArmed,
            "near_cache_armed",
            "Connections by which Redis tells of changes",
        ),
        (Source::Ready, "ready", "Whether this replica is ready"),
    ];
    pub(super) const COUNTERS: [(Source, &'static str, &'static str); 12] = [
        (
            Source::ClientProxyFailures,
            "client_proxy_failures",
            "Connections of trusted proxies that began without a good header of the PROXY protocol",
        ),
        (
            Source::ClientTlsFailures,
            "client_tls_failures",
            "Connections on which a client did not get through the handshake of TLS",
        ),
        (
            Source::UpstreamConnects,
            "upstream_connects",
            "Connections opened to the backend",
        ),
        (
            Source::UpstreamReuses,
            "upstream_reuses",
            "Requests sent over an open connection",
        ),
        (Source::UpstreamRetries, "upstream_retries", "Requests sent once more"),
        (
            Source::StoreReconnects,
            "store_reconnects",
            "Connections to the store made in place of others",
        ),
        (
            Source::StoreUnreplicated,
            "store_unreplicated",
            "Changes that fewer replicas of the store confirmed than was asked for",
        ),
        (
            Source::NearCacheHits,
            "near_cache_hits",
            "Sessions known without asking Redis",
        ),
        (
            Source::NearCacheMisses,
            "near_cache_misses",
            "Sessions that Redis was asked for",
        ),
        (
            Source::NearCacheOutageHits,
            "near_cache_outage_hits",
            "Copies used while Redis could not be asked",
        ),
        (
            Source::NearCacheInvalidations,
            "near_cache_invalidations",
            "Changes that Redis told",
        ),
        (
            Source::NearCacheFlushes,
            "near_cache_flushes",
            "Times that all copies were lost at once",
        ),
    ];

    pub(super) const fn slot(&self, source: Source) -> &Read {
        match source {
            Source::ClientConnections => &self.client_connections,
            Source::ClientProxyFailures => &self.client_proxy_failures,
            Source::ClientTlsFailures => &self.client_tls_failures,
            Source::UpstreamConnections => &self.upstream_connections,
            Source::UpstreamConnects => &self.upstream_connects,
            Source::UpstreamReuses => &self.upstream_reuses,
            Source::UpstreamRetries => &self.upstream_retries,
            Source::CommitsPending => &self.commits_pending,
            Source::CommitsPendingBytes => &self.commits_pending_bytes,
            Source::CommitsPendingAge => &self.commits_pending_age,
            Source::Ready => &self.ready,
            Source::StoreReconnects => &self.store_reconnects,
            Source::StoreUnreplicated => &self.store_unreplicated,
            Source::NearCacheHits => &self.near_cache_hits,
            Source::NearCacheMisses => &self.near_cache_misses,
            Source::NearCacheOutageHits => &self.near_cache_outage_hits,
            Source::NearCacheInvalidations => &self.near_cache_invalidations,
            Source::NearCacheFlushes => &self.near_cache_flushes,
            Source::NearCacheArmed => &self.near_cache_armed,
        }
    }

    fn read(&self, source: Source) -> u64 {
        self.slot(source).get().map_or(0, |read| read())
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (source, name, help) in Self::GAUGES {
            let gauge = ConstGauge::new(i64::try_from(self.read(source)).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, &format!("{help}."), None, gauge.metric_type())?)?;
        }
        for (source, name, help) in Self::COUNTERS {
            let counter = ConstCounter::new(self.read(source));
            counter.encode(encoder.encode_descriptor(name, &format!("{help}."), None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}
