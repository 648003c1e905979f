//! The composition root: builds the parts from the configuration, binds the listeners, runs until told to stop.
//!
//! The only place that knows both the configuration and the parts; each part declares its own options, and this
//! translates.

mod admin;
mod announce;
mod certificate;
mod copying;
mod parts;
mod probes;
mod sealing;
mod traffic;
mod ways;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{self, Next};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bridge::Bridge;
use crate::bridge::pending::Pending;
use crate::bridge::sessions::Sessions;
use crate::config::Config;
use crate::lifecycle::service_manager::ServiceManager;
use crate::lifecycle::{Drain, Ended, FORCED_GRACE, Shutdown, Trigger};
use crate::metrics::{Metrics, Source};
use crate::ops::{self, Ops, SessionAccess, health::Readiness};
use crate::session::clock::{Clock, SystemClock};
use crate::session::copies::Copies;
use crate::session::credential::Credential;
use crate::session::store::SessionStore;
use crate::store::near_cache::NearCacheStats;
use crate::wire::fields::{Fields, name};
use crate::wire::headers;
use crate::wire::server::{self, Edge, EdgeStats};
use crate::wire::upstream::Upstream;

pub use certificate::server_tls;
pub use copying::{Copying, Progress, Report};
pub use parts::{SnapshotCache, open_store, open_store_and_copies, open_store_told, upstream};

use traffic::Traffic;

/// A bridge that is bound to its addresses but does not serve yet.
pub struct App {
    traffic: TcpListener,
    operators: TcpListener,
    addresses: Addresses,
    service: Traffic,
    ops: Router,
    edge: Edge,
    shutdown: Shutdown,
    running: Running,
}

/// How long the store may take to be closed.
const CLOSE_STORE: Duration = Duration::from_secs(5);

/// The least time that changes which wait for the store have once all connections are gone.
const LAST_CHANGES: Duration = Duration::from_secs(1);

/// Where the bridge listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For clients.
    pub traffic: SocketAddr,
    /// For operators.
    pub ops: SocketAddr,
}

/// What works beside the requests.
struct Running {
    store: Arc<dyn SessionStore>,
    pending: Arc<Pending>,
    readiness: Arc<Readiness>,
    probes: probes::Probes,
    certificate: Option<certificate::Watch>,
    service_manager: Option<ServiceManager>,
    /// How long requests, and what they changed, have at shutdown once nothing is accepted any more.
    drain_timeout: Duration,
}

/// Why the bridge cannot start. The text is for the operator and holds no secret.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl App {
    /// Builds everything and binds the listeners.
    ///
    /// # Errors
    /// When an address is taken, or the store cannot be opened. A Redis or a backend that does not answer is no error:
    /// the bridge starts unready and waits for it.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        let tls = config.server.tls.as_ref().map(server_tls).transpose()?;
        let certificate = tls.clone().zip(config.server.tls.as_ref());
        let traffic = listen(config.server.listen, "server.listen").await?;
        let operators = listen(config.ops.listen, "ops.listen").await?;
        let addresses = Addresses {
            traffic: local(&traffic, "server.listen")?,
            ops: local(&operators, "ops.listen")?,
        };

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, near_cache) = open_store_and_copies(config, Arc::clone(&clock)).await?;
        let metrics = parts::metrics();
        let sessions = parts::sessions(
            config,
            Arc::clone(&store),
            near_cache.clone().map(|cache| cache as Arc<dyn Copies>),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let pending = Pending::new(Arc::clone(&sessions), Arc::clone(&metrics));
        let upstream = upstream(&config.upstream)?;
        let (readiness, probes) = probes::build(config, Arc::clone(&clock), Arc::clone(&sessions), upstream.clone());
        let shutdown = Shutdown::new(config.server.drain_delay, config.server.drain_timeout);
        let edge = parts::edge(config, tls, shutdown.drain(), Arc::clone(&clock), Arc::clone(&metrics));
        read_sources(&metrics, &edge.stats, &upstream, &pending, &readiness);
        read_store(&metrics, &store);
        if let Some(cache) = near_cache {
            read_near_cache(&metrics, &cache);
        }

        let bridge = Bridge::new(parts::bridge(
            config,
            parts::Shared {
                sessions: Arc::clone(&sessions),
                pending: Arc::clone(&pending),
                metrics: Arc::clone(&metrics),
                upstream,
                tasks: shutdown.drain().work(),
            },
        )?);
        let ops = ops_router(config, Arc::clone(&readiness), metrics, sessions, Arc::clone(&pending));
        let ops = ops.layer(middleware::from_fn_with_state(Arc::clone(&clock), with_request_id));
        Ok(Self {
            traffic,
            operators,
            addresses,
            service: Traffic::new(config, bridge, Arc::clone(&readiness), clock),
            ops,
            edge,
            shutdown,
            running: Running {
                store,
                pending,
                readiness,
                probes,
                certificate: certificate.map(|(server, files)| certificate::Watch::new(server, files)),
                service_manager: None,
                drain_timeout: config.server.drain_timeout,
            },
        })
    }

    /// Has `manager` told how the bridge is while it [runs](Self::run).
    #[must_use]
    pub fn announced_to(mut self, manager: ServiceManager) -> Self {
        self.running.service_manager = Some(manager);
        self
    }

    /// Where it listens: the real ports, also where the configuration says 0.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What tells it to stop.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        self.shutdown.trigger()
    }

    /// Serves until told to stop, and returns when everything is finished and stored, or was dropped.
    pub async fn run(self) -> Ended {
        let (drain, trigger) = (self.shutdown.drain(), self.shutdown.trigger());
        let Running {
            store,
            pending,
            readiness,
            probes,
            certificate,
            service_manager,
            drain_timeout,
        } = self.running;
        let stats = Arc::clone(&self.edge.stats);

        let operators = tokio::spawn(async move { axum::serve(self.operators, self.ops).await });
        let probing = tokio::spawn(probes.run());
        let watching = certificate.map(|watch| tokio::spawn(watch.run()));
        let stop = CancellationToken::new();
        let retrying = tokio::spawn({
            let (pending, stop) = (Arc::clone(&pending), stop.clone());
            async move { pending.run(stop).await }
        });
        let announcing = service_manager.map(|manager| {
            let (readiness, stats) = (Arc::clone(&readiness), Arc::clone(&stats));
            let longest = self.shutdown.longest() + LAST_CHANGES + CLOSE_STORE;
            tokio::spawn(announce::run(manager, readiness, drain.clone(), stats, longest))
        });
        fail_readiness(&drain, readiness);
        drain.spawn(server::serve(self.traffic, self.edge, self.service));

        let mut ended = self.shutdown.run(|| stats.load()).await;
        probing.abort();
        if let Some(watching) = watching {
            watching.abort();
        }
        stop.cancel();
        let left = || {
            let spent = drain.closing_since().map_or(drain_timeout, |at| at.elapsed());
            drain_timeout.saturating_sub(spent).max(LAST_CHANGES)
        };
        if !all_stored(&pending, retrying, &*store, left, &trigger).await {
            ended = Ended::Dropped;
        }
        // Up to here, what asks about readiness and metrics is answered.
        operators.abort();
        if let Some(announcing) = announcing {
            announcing.abort();
        }
        ended
    }
}

/// Stores the changes that wait, for `left()` at most or until a second signal, and closes the store; whether none is lost.
async fn all_stored(
    pending: &Pending,
    retrying: JoinHandle<()>,
    store: &dyn SessionStore,
    left: impl FnOnce() -> Duration,
    trigger: &Trigger,
) -> bool {
    let mut lost = 0;
    let finished = async {
        if retrying.await.is_err() {
            tracing::error!("the background commits have failed");
        }
        lost = pending.drain(left()).await;
        close(store).await;
    };
    tokio::select! {
        biased;
        () = finished => {}
        () = given_up(trigger) => tracing::warn!("a second signal: not all was brought to its end"),
    }
    pending.is_empty() && lost == 0
}

async fn close(store: &dyn SessionStore) {
    match tokio::time::timeout(CLOSE_STORE, store.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the store was not closed cleanly"),
        Err(_) => tracing::warn!("the store was not closed in time"),
    }
}

/// Waits for a second signal, and a moment more.
async fn given_up(trigger: &Trigger) {
    trigger.aborted().await;
    tokio::time::sleep(FORCED_GRACE).await;
}

/// From the beginning of the shutdown this replica is not ready.
fn fail_readiness(drain: &Drain, readiness: Arc<Readiness>) {
    let draining = drain.draining();
    tokio::spawn(async move {
        draining.await;
        readiness.start_draining();
    });
}

async fn listen(address: SocketAddr, key: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError(format!("{key}: cannot listen on {address}: {error}")))
}

fn local(listener: &TcpListener, key: &str) -> Result<SocketAddr, StartError> {
    listener
        .local_addr()
        .map_err(|error| StartError(format!("{key}: {error}")))
}

/// Answers of the bridge's own carry the request ID as those of the backend do.
async fn with_request_id(State(clock): State<Arc<dyn Clock>>, request: Request<Body>, next: Next) -> Response<Body> {
    let id = headers::request_id(&Fields::from_map(request.headers()), clock.now().as_millis());
    let mut response = next.run(request).await;
    response.headers_mut().entry(name::X_REQUEST_ID).or_insert(id);
    response
}

fn ops_router(
    config: &Config,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
    pending: Arc<Pending>,
) -> Router {
    ops::router(Ops {
        readiness,
        metrics,
        sessions: Arc::new(admin::Admin::new(sessions, pending)),
        format: parts::format(config.install_id.format),
        access: match &config.ops.token {
            Some(token) => SessionAccess::Token(Credential::new(token.expose().as_bytes())),
            None if config.ops.listen.ip().is_loopback() => SessionAccess::Anyone,
            None => SessionAccess::Nobody,
        },
    })
}

/// The same for what the store counts.
fn read_store(metrics: &Metrics, store: &Arc<dyn SessionStore>) {
    let counted = Arc::clone(store);
    metrics.read_from(Source::StoreReconnects, move || counted.stats().reconnects);
    let counted = Arc::clone(store);
    metrics.read_from(Source::StoreUnreplicated, move || counted.stats().unreplicated);
}

/// The same for what the near cache counts.
fn read_near_cache(metrics: &Metrics, cache: &Arc<SnapshotCache>) {
    let read = |source, count: fn(NearCacheStats) -> u64| {
        let cache = Arc::clone(cache);
        metrics.read_from(source, move || count(cache.stats()));
    };
    read(Source::NearCacheHits, |stats| stats.hits);
    read(Source::NearCacheMisses, |stats| stats.misses);
    read(Source::NearCacheOutageHits, |stats| stats.outage_hits);
    read(Source::NearCacheInvalidations, |stats| stats.invalidations);
    read(Source::NearCacheFlushes, |stats| stats.flushes);
    read(Source::NearCacheArmed, |stats| stats.armed);
}

/// Lets the metrics read what the parts count themselves.
fn read_sources(
    metrics: &Metrics,
    edge: &Arc<EdgeStats>,
    upstream: &Upstream,
    pending: &Arc<Pending>,
    readiness: &Arc<Readiness>,
) {
    let stats = Arc::clone(edge);
    metrics.read_from(Source::ClientConnections, move || stats.open.load(Ordering::Relaxed));
    let stats = Arc::clone(edge);
    metrics.read_from(Source::ClientProxyFailures, move || {
        stats.proxy_failed.load(Ordering::Relaxed)
    });
    let stats = Arc::clone(edge);
    metrics.read_from(Source::ClientTlsFailures, move || {
        stats.tls_failed.load(Ordering::Relaxed)
    });
    let stats = upstream.clone();
    metrics.read_from(Source::UpstreamConnections, move || {
        u64::try_from(stats.stats().open).unwrap_or(u64::MAX)
    });
    let stats = upstream.clone();
    metrics.read_from(Source::UpstreamConnects, move || stats.stats().connects);
    let stats = upstream.clone();
    metrics.read_from(Source::UpstreamReuses, move || stats.stats().reused);
    let stats = upstream.clone();
    metrics.read_from(Source::UpstreamRetries, move || stats.stats().retries);
    let waiting = Arc::clone(pending);
    metrics.read_from(Source::CommitsPending, move || waiting.len() as u64);
    let waiting = Arc::clone(pending);
    metrics.read_from(Source::CommitsPendingBytes, move || waiting.bytes() as u64);
    let waiting = Arc::clone(pending);
    metrics.read_from(Source::CommitsPendingAge, move || waiting.age().as_secs());
    let readiness = Arc::clone(readiness);
    metrics.read_from(Source::Ready, move || u64::from(readiness.is_ready()));
}
