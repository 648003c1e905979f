//! What the bridge counts, all in one place.
//!
//! Durations are in seconds. No label carries an ID, a path, or anything else that a client or the backend sent. A
//! series without a fixed set of labels appears once it has happened; all others are there from the start.
//!
//! | metric | type | labels | meaning |
//! |---|---|---|---|
//! | `session_bridge_requests_total` | counter | `method`, `status`, `outcome` | requests answered; `status` is a class (`2xx`); for `outcome` see [`Outcome`] |
//! | `session_bridge_request_duration_seconds` | histogram | | from the end of the request head to the response head being passed on |
//! | `session_bridge_upstream_duration_seconds` | histogram | | for a response head of the backend, waiting for a free connection to it included |
//! | `session_bridge_refusals_total` | counter | `slug` | requests that the bridge answered itself, by the end of the problem `type` |
//! | `session_bridge_sessions_created_total` | counter | | records stored where there was none |
//! | `session_bridge_sessions_replaced_total` | counter | | sessions whose session cookie got a new value: a log-in, a rotation |
//! | `session_bridge_sessions_ended_total` | counter | | records removed: log-outs, and sessions ended by an operator |
//! | `session_bridge_sessions_lost_total` | counter | `answer` | sessions that the backend did not know any more, see [`LostAnswer`] |
//! | `session_bridge_leases_total` | counter | `event` | the lead over starting a session, see [`LeaseEvent`] |
//! | `session_bridge_session_wait_seconds` | histogram | | how long requests waited for another one to start their session |
//! | `session_bridge_cookies_dropped_total` | counter | `reason` | cookies of the backend that were not kept, see [`CookieDrop`] |
//! | `session_bridge_set_cookies_stripped_total` | counter | | `Set-Cookie` fields taken out of responses |
//! | `session_bridge_commit_conflicts_total` | counter | | commits that found the record changed, and were merged anew |
//! | `session_bridge_commits_retried_total` | counter | | tries to store in the background what the store did not take at first |
//! | `session_bridge_commits_superseded_total` | counter | | changes that waited and are needless, as a newer one says all that they said |
//! | `session_bridge_commits_abandoned_total` | counter | `reason` | changes given up for good: a session may have lost them; see [`Abandoned`] |
//! | `session_bridge_commits_pending` | gauge | | changes that wait to be stored in the background |
//! | `session_bridge_commits_pending_bytes` | gauge | | about how much memory they take |
//! | `session_bridge_commits_pending_age_seconds` | gauge | | for how long the oldest of them has waited |
//! | `session_bridge_records_unreadable_total` | counter | `reason` | reads that found a record which cannot be read, see [`RecordFlaw`] |
//! | `session_bridge_touches_total` | counter | | expiries moved |
//! | `session_bridge_store_operations_total` | counter | `op`, `result` | calls of the store, see [`StoreOp`] and [`StoreResult`] |
//! | `session_bridge_store_operation_duration_seconds` | histogram | `op` | how long they took, failed ones too |
//! | `session_bridge_client_connections` | gauge | | open connections of clients |
//! | `session_bridge_client_proxy_failures_total` | counter | | connections of trusted proxies that began without a good header of the PROXY protocol |
//! | `session_bridge_client_tls_failures_total` | counter | | connections on which a client did not get through the handshake of TLS |
//! | `session_bridge_upstream_connections` | gauge | | open connections to the backend, idle ones too |
//! | `session_bridge_upstream_connects_total` | counter | | connections opened to the backend |
//! | `session_bridge_upstream_reuses_total` | counter | | requests sent over a connection that was open already |
//! | `session_bridge_upstream_retries_total` | counter | | requests sent once more, as they provably never arrived |
//! | `session_bridge_store_reconnects_total` | counter | | connections to the store's servers made in place of others |
//! | `session_bridge_store_unreplicated_total` | counter | | changes that stand and that fewer replicas of Redis confirmed in time than `store.wait_replicas` |
//! | `session_bridge_near_cache_hits_total` | counter | | requests whose session was known without asking Redis |
//! | `session_bridge_near_cache_misses_total` | counter | | requests whose session was not |
//! | `session_bridge_near_cache_outage_hits_total` | counter | | copies that sessions went on from while Redis could not be asked |
//! | `session_bridge_near_cache_invalidations_total` | counter | | changes of sessions that Redis told |
//! | `session_bridge_near_cache_flushes_total` | counter | | times that all copies were lost at once: a connection broke, or Redis was emptied |
//! | `session_bridge_near_cache_armed` | gauge | | connections by which Redis tells of changes now; at 0 no copy is served |
//! | `session_bridge_ready` | gauge | | 1 while this replica is ready, else 0 |
//! | `session_bridge_build_info` | gauge | `version` | always 1 |

mod labels;
mod times;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

pub use labels::{
    Abandoned, CookieDrop, LeaseEvent, LostAnswer, Method, Outcome, RecordFlaw, StatusClass, StoreOp, StoreResult,
};
use labels::{Counters, Histograms};
use times::Times;

/// Upper bounds for what waits for a backend or for other requests, in microseconds.
const SLOW: &[u64] = &[
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];
/// Upper bounds for what waits for the store, in microseconds.
const QUICK: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
];

/// Everything that is counted. Recording takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Counters<3>,
    request_duration: Times,
    upstream_duration: Times,
    refusals: Counters<1>,
    refusal_slugs: Box<[&'static str]>,
    sessions_created: Counter,
    sessions_replaced: Counter,
    sessions_ended: Counter,
    sessions_lost: Counters<1>,
    leases: Counters<1>,
    session_wait: Times,
    cookies_dropped: Counters<1>,
    set_cookies_stripped: Counter,
    commit_conflicts: Counter,
    commits_retried: Counter,
    commits_superseded: Counter,
    commits_abandoned: Counters<1>,
    records_unreadable: Counters<1>,
    touches: Counter,
    store_operations: Counters<2>,
    store_operation_duration: Histograms<1>,
    sources: Arc<Sources>,
}

/// A number that is kept elsewhere and read whenever metrics are asked for, see [`Metrics::read_from`].
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

impl Metrics {
    /// All metrics at zero. `refusal_slugs` are the values of the label `slug`.
    #[must_use]
    pub fn new(refusal_slugs: &[&'static str]) -> Self {
        let mut it = Self {
            registry: Registry::with_prefix("session_bridge"),
            requests: Counters::new(
                Method::ALL.len() * StatusClass::ALL.len() * Outcome::ALL.len(),
                Counter::default,
            ),
            request_duration: Times::new(SLOW),
            upstream_duration: Times::new(SLOW),
            refusals: Counters::new(refusal_slugs.len(), Counter::default),
            refusal_slugs: refusal_slugs.into(),
            sessions_created: Counter::default(),
            sessions_replaced: Counter::default(),
            sessions_ended: Counter::default(),
            sessions_lost: Counters::new(LostAnswer::ALL.len(), Counter::default),
            leases: Counters::new(LeaseEvent::ALL.len(), Counter::default),
            session_wait: Times::new(SLOW),
            cookies_dropped: Counters::new(CookieDrop::ALL.len(), Counter::default),
            set_cookies_stripped: Counter::default(),
            commit_conflicts: Counter::default(),
            commits_retried: Counter::default(),
            commits_superseded: Counter::default(),
            commits_abandoned: Counters::new(Abandoned::ALL.len(), Counter::default),
            records_unreadable: Counters::new(RecordFlaw::ALL.len(), Counter::default),
            touches: Counter::default(),
            store_operations: Counters::new(StoreOp::ALL.len() * StoreResult::ALL.len(), Counter::default),
            store_operation_duration: Histograms::new(StoreOp::ALL.len(), || Times::new(QUICK)),
            sources: Arc::default(),
        };
        it.show_from_the_start();
        it.register();
        it
    }

    fn show_from_the_start(&self) {
        for slug in &self.refusal_slugs {
            self.with_refusal(slug, |_| {});
        }
        for event in LeaseEvent::ALL {
            self.leases.with(event.index(), [("event", event.text())], |_| {});
        }
        for flaw in RecordFlaw::ALL {
            self.records_unreadable
                .with(flaw.index(), [("reason", flaw.text())], |_| {});
        }
        for reason in CookieDrop::ALL {
            self.cookies_dropped
                .with(reason.index(), [("reason", reason.text())], |_| {});
        }
        for reason in Abandoned::ALL {
            self.commits_abandoned(*reason, 0);
        }
    }

    fn register(&mut self) {
        let build: Family<[(&str, &str); 1], Gauge> = Family::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        let sources = Arc::clone(&self.sources);
        let registry = &mut self.registry;
        macro_rules! register {
            ($($name:literal: $help:literal = $metric:expr;)+) => { $(registry.register($name, $help, $metric);)+ };
        }
        register! {
            "requests": "Requests answered" = self.requests.family();
            "request_duration_seconds": "Time to the response head" = self.request_duration.clone();
            "upstream_duration_seconds": "Time of the backend" = self.upstream_duration.clone();
            "refusals": "Requests that the bridge answered itself" = self.refusals.family();
            "sessions_created": "Sessions stored anew" = self.sessions_created.clone();
            "sessions_replaced": "Session cookies that got a new value" = self.sessions_replaced.clone();
            "sessions_ended": "Sessions removed" = self.sessions_ended.clone();
            "sessions_lost": "Sessions that the backend did not know any more" = self.sessions_lost.family();
            "leases": "The lead over starting a session" = self.leases.family();
            "session_wait_seconds": "Wait for another request's session" = self.session_wait.clone();
            "cookies_dropped": "Cookies of the backend not kept" = self.cookies_dropped.family();
            "set_cookies_stripped": "Set-Cookie fields taken out" = self.set_cookies_stripped.clone();
            "commit_conflicts": "Commits merged anew" = self.commit_conflicts.clone();
            "commits_retried": "Commits tried again in the background" = self.commits_retried.clone();
            "commits_superseded": "Commits needless by newer ones" = self.commits_superseded.clone();
            "commits_abandoned": "Commits given up" = self.commits_abandoned.family();
            "records_unreadable": "Reads of records that cannot be read" = self.records_unreadable.family();
            "touches": "Expiries moved" = self.touches.clone();
            "store_operations": "Calls of the store" = self.store_operations.family();
            "store_operation_duration_seconds": "Time of the store" = self.store_operation_duration.family();
            "build_info": "The version that runs" = build;
        }
        registry.register_collector(Box::new(sources));
    }

    /// Has `source` read by `read` from now on, whenever metrics are asked for. `read` must be quick and must not
    /// wait. Only the first reader of a source counts; a source without one is zero.
    pub fn read_from(&self, source: Source, read: impl Fn() -> u64 + Send + Sync + 'static) {
        // A second reader is dropped: that is what is promised.
        let _ = self.sources.slot(source).set(Box::new(read));
    }

    /// A request has been answered.
    pub fn request(&self, method: Method, status: StatusClass, outcome: Outcome, took: Duration) {
        let index = (method.index() * StatusClass::ALL.len() + status.index()) * Outcome::ALL.len() + outcome.index();
        let labels = [
            ("method", method.text()),
            ("status", status.text()),
            ("outcome", outcome.text()),
        ];
        self.requests.with(index, labels, count);
        self.request_duration.observe(took);
    }

    /// The backend has sent a response head.
    pub fn upstream(&self, took: Duration) {
        self.upstream_duration.observe(took);
    }

    /// The bridge has answered a request itself. A slug that was not named in [`Metrics::new`] is not counted.
    pub fn refusal(&self, slug: &'static str) {
        self.with_refusal(slug, count);
    }

    fn with_refusal(&self, slug: &'static str, apply: fn(&Counter)) {
        if let Some(index) = self.refusal_slugs.iter().position(|known| *known == slug) {
            self.refusals.with(index, [("slug", slug)], apply);
        }
    }

    /// A record was stored where there was none.
    pub fn session_created(&self) {
        self.sessions_created.inc();
    }

    /// A session cookie got a new value.
    pub fn session_replaced(&self) {
        self.sessions_replaced.inc();
    }

    /// A record was removed.
    pub fn session_ended(&self) {
        self.sessions_ended.inc();
    }

    /// The backend did not know a session.
    pub fn session_lost(&self, answer: LostAnswer) {
        self.sessions_lost
            .with(answer.index(), [("answer", answer.text())], count);
    }

    /// Something happened to the lead over starting a session.
    pub fn lease(&self, event: LeaseEvent) {
        self.leases.with(event.index(), [("event", event.text())], count);
    }

    /// A request has waited for its session.
    pub fn session_wait(&self, waited: Duration) {
        self.session_wait.observe(waited);
    }

    /// A cookie of the backend was not kept.
    pub fn cookie_dropped(&self, reason: CookieDrop) {
        self.cookies_dropped
            .with(reason.index(), [("reason", reason.text())], count);
    }

    /// So many `Set-Cookie` fields were taken out of a response.
    pub fn set_cookies_stripped(&self, fields: usize) {
        if fields > 0 {
            self.set_cookies_stripped.inc_by(fields as u64);
        }
    }

    /// A commit found the record changed.
    pub fn commit_conflict(&self) {
        self.commit_conflicts.inc();
    }

    /// A commit was tried again in the background.
    pub fn commit_retried(&self) {
        self.commits_retried.inc();
    }

    /// So many commits that waited are needless, as a newer one says all that they said.
    pub fn commits_superseded(&self, changes: usize) {
        self.commits_superseded.inc_by(changes as u64);
    }

    /// So many commits were given up.
    pub fn commits_abandoned(&self, reason: Abandoned, changes: usize) {
        self.commits_abandoned
            .with(reason.index(), [("reason", reason.text())], |counter| {
                counter.inc_by(changes as u64);
            });
    }

    /// A record was read that cannot be.
    pub fn record_unreadable(&self, flaw: RecordFlaw) {
        self.records_unreadable
            .with(flaw.index(), [("reason", flaw.text())], count);
    }

    /// The expiry of a record was moved.
    pub fn touched(&self) {
        self.touches.inc();
    }

    /// A call of the store has ended.
    pub fn store_operation(&self, op: StoreOp, result: StoreResult, took: Duration) {
        let index = op.index() * StoreResult::ALL.len() + result.index();
        self.store_operations
            .with(index, [("op", op.text()), ("result", result.text())], count);
        self.store_operation_duration
            .with(op.index(), [("op", op.text())], |times| times.observe(took));
    }

    /// Everything as text, in the OpenMetrics format, which the parsers of the older Prometheus format read too.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

fn count(counter: &Counter) {
    counter.inc();
}

type Read = OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>;

#[derive(Default)]
struct Sources {
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
    const GAUGES: [(Source, &'static str, &'static str); 7] = [
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
    const COUNTERS: [(Source, &'static str, &'static str); 12] = [
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

    const fn slot(&self, source: Source) -> &Read {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::session::store::StoreError;

    const MOMENT: Duration = Duration::from_millis(3);

    /// Metrics on which everything has happened once.
    fn all_happened() -> Metrics {
        let metrics = Metrics::new(&["one", "two"]);
        for method in Method::ALL {
            for status in StatusClass::ALL {
                for outcome in Outcome::ALL {
                    metrics.request(*method, *status, *outcome, MOMENT);
                }
            }
        }
        for op in StoreOp::ALL {
            for result in StoreResult::ALL {
                metrics.store_operation(*op, *result, MOMENT);
            }
        }
        LeaseEvent::ALL.iter().for_each(|event| metrics.lease(*event));
        RecordFlaw::ALL.iter().for_each(|flaw| metrics.record_unreadable(*flaw));
        CookieDrop::ALL
            .iter()
            .for_each(|reason| metrics.cookie_dropped(*reason));
        ["one", "two"].into_iter().for_each(|slug| metrics.refusal(slug));
        metrics.upstream(MOMENT);
        metrics.session_created();
        metrics.session_replaced();
        metrics.session_ended();
        LostAnswer::ALL.iter().for_each(|answer| metrics.session_lost(*answer));
        metrics.session_wait(MOMENT);
        metrics.set_cookies_stripped(1);
        metrics.commit_conflict();
        metrics.commit_retried();
        metrics.commits_superseded(1);
        Abandoned::ALL
            .iter()
            .for_each(|reason| metrics.commits_abandoned(*reason, 1));
        metrics.touched();
        for (source, _, _) in Sources::GAUGES.into_iter().chain(Sources::COUNTERS) {
            metrics.read_from(source, || 1);
        }
        metrics
    }

    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    type Shape = BTreeMap<String, (String, BTreeSet<String>)>;

    /// Metric → type and labels, as the module documentation has it.
    fn catalogue() -> Shape {
        let rows = include_str!("metrics.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `session_bridge_"));
        rows.map(|row| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
            let labels = cells[2]
                .split(", ")
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect();
            assert!(cells[3].len() > 5, "no meaning: {row}");
            (format!("session_bridge_{}", cells[0]), (cells[1].clone(), labels))
        })
        .collect()
    }

    /// Metric → type and labels, as encoded.
    fn encoded(text: &str) -> Shape {
        let mut shape = Shape::new();
        let mut current = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let suffix = if kind == "counter" { "_total" } else { "" };
                current = (format!("{name}{suffix}"), kind.to_owned());
                shape.insert(current.0.clone(), (current.1.clone(), BTreeSet::new()));
            } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
                let names = labels.split('=').filter_map(|part| part.rsplit(['{', ',', '"']).next());
                let names = names.filter(|name| !name.is_empty() && *name != "le" && !name.starts_with('}'));
                shape.get_mut(&current.0).unwrap().1.extend(names.map(str::to_owned));
            }
        }
        shape
    }

    #[test]
    fn the_catalogue_is_what_is_encoded() {
        assert_eq!(encoded(&all_happened().encode()), catalogue());
    }

    #[test]
    fn each_thing_that_happens_is_counted_once_in_its_own_series() {
        let text = all_happened().encode();
        for method in Method::ALL {
            for status in StatusClass::ALL {
                for outcome in Outcome::ALL {
                    let (method, status, outcome) = (method.text(), status.text(), outcome.text());
                    let labels = format!("{{method=\"{method}\",status=\"{status}\",outcome=\"{outcome}\"}}");
                    assert_eq!(
                        value(&text, &format!("session_bridge_requests_total{labels}")),
                        Some(1.0),
                        "{labels}"
                    );
                }
            }
        }
        for reason in Abandoned::ALL {
            let series = format!("session_bridge_commits_abandoned_total{{reason=\"{}\"}}", reason.text());
            assert_eq!(value(&text, &series), Some(1.0), "{series}");
        }
        for op in StoreOp::ALL {
            for result in StoreResult::ALL {
                let labels = format!("{{op=\"{}\",result=\"{}\"}}", op.text(), result.text());
                let series = format!("session_bridge_store_operations_total{labels}");
                assert_eq!(value(&text, &series), Some(1.0), "{labels}");
            }
            let series = format!(
                "session_bridge_store_operation_duration_seconds_count{{op=\"{}\"}}",
                op.text()
            );
            assert_eq!(value(&text, &series), Some(StoreResult::ALL.len() as f64));
        }
        for series in catalogue()
            .into_iter()
            .filter(|(_, (kind, labels))| kind != "histogram" && labels.is_empty())
        {
            assert_eq!(value(&text, &series.0), Some(1.0), "{}", series.0);
        }
    }

    #[test]
    fn alerts_find_their_series_before_anything_happened() {
        let text = Metrics::new(&["overloaded"]).encode();
        for series in [
            "session_bridge_refusals_total{slug=\"overloaded\"}",
            "session_bridge_leases_total{event=\"lost\"}",
            "session_bridge_cookies_dropped_total{reason=\"lost\"}",
            "session_bridge_commits_abandoned_total{reason=\"full\"}",
            "session_bridge_records_unreadable_total{reason=\"unknown_key\"}",
            "session_bridge_upstream_connects_total",
            "session_bridge_ready",
        ] {
            assert_eq!(value(&text, series), Some(0.0), "{series}");
        }
    }

    #[test]
    fn an_unknown_slug_makes_no_series() {
        let metrics = Metrics::new(&["overloaded"]);
        metrics.refusal("made-up");
        assert!(!metrics.encode().contains("made-up"));
    }

    #[test]
    fn what_is_kept_elsewhere_is_read_when_asked_for() {
        let metrics = Metrics::new(&[]);
        let connections = Arc::new(AtomicU64::new(3));
        let read = Arc::clone(&connections);
        metrics.read_from(Source::ClientConnections, move || read.load(Ordering::Relaxed));
        assert_eq!(value(&metrics.encode(), "session_bridge_client_connections"), Some(3.0));
        connections.store(7, Ordering::Relaxed);
        assert_eq!(value(&metrics.encode(), "session_bridge_client_connections"), Some(7.0));
    }

    #[test]
    fn labels_are_taken_from_what_happened() {
        assert_eq!(Method::from(&http::Method::POST), Method::Post);
        assert_eq!(Method::from(&http::Method::from_bytes(b"BREW").unwrap()), Method::Other);
        assert_eq!(StatusClass::from(http::StatusCode::NOT_FOUND), StatusClass::ClientError);
        assert_eq!(
            StatusClass::from(http::StatusCode::from_u16(999).unwrap()),
            StatusClass::Other
        );
        assert_eq!(StoreResult::from(&Ok::<_, StoreError>(())), StoreResult::Ok);
        assert_eq!(
            StoreResult::from(&Err::<(), _>(StoreError::Timeout)),
            StoreResult::Timeout
        );
    }
}
