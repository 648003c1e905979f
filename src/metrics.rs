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
mod sources;
mod times;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use labels::{
    Abandoned, CookieDrop, LeaseEvent, LostAnswer, Method, Outcome, RecordFlaw, StatusClass, StoreOp, StoreResult,
};
use labels::{Counters, Histograms};
pub use sources::Source;
use sources::Sources;
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

#[cfg(test)]
mod tests;
