//! Whether this replica can serve: the store and the backend are asked now and then, so that nobody who asks about
//! readiness has to wait for them.

use std::sync::Arc;
use std::time::Duration;

use crate::bridge::sessions::Sessions;
use crate::config::{Config, OnStoreError};
use crate::ops::health::{Part, Patience, Readiness, Weight};
use crate::session::clock::Clock;
use crate::wire::upstream::Upstream;

/// How often they are asked.
const EVERY: Duration = Duration::from_millis(500);

/// The store is bad once it has failed for about a second, and good again once it has answered for half of one: a
/// connection that broke or a short pause takes no replica out, and one that flaps does not take it in and out.
const STORE: Patience = Patience {
    failures: 3,
    successes: 2,
};

/// Asks, and keeps the readiness up to date.
pub(super) struct Probes {
    readiness: Arc<Readiness>,
    sessions: Arc<Sessions>,
    upstream: Upstream,
    store_reporter: Reporter,
    upstream_reporter: Reporter,
}

/// A backend that is down is told, but takes no replica out of the balancer: all of them would go, and a 502 says more
/// than no answer. The store counts where requests cannot do without it.
pub(super) fn build(
    config: &Config,
    clock: Arc<dyn Clock>,
    sessions: Arc<Sessions>,
    upstream: Upstream,
) -> (Arc<Readiness>, Probes) {
    let mut readiness = Readiness::new(clock);
    let weight = match config.session.on_store_error {
        OnStoreError::Reject => Weight::Required,
        OnStoreError::Stateless => Weight::Reported,
    };
    let store_part = readiness.part("store", weight, STORE);
    let upstream_part = readiness.part("upstream", Weight::Reported, Patience::NONE);
    let readiness = Arc::new(readiness);
    (
        Arc::clone(&readiness),
        Probes {
            readiness,
            sessions,
            upstream,
            store_reporter: Reporter::new("store", store_part),
            upstream_reporter: Reporter::new("backend", upstream_part),
        },
    )
}

impl Probes {
    /// Asks for ever.
    pub(super) async fn run(self) {
        let Self {
            readiness,
            sessions,
            upstream,
            mut store_reporter,
            mut upstream_reporter,
        } = self;
        let store = async {
            let mut was_ready = false;
            loop {
                store_reporter.report(sessions.ping().await.map_err(|error| error.to_string()));
                was_ready = tell(&readiness, was_ready);
                tokio::time::sleep(EVERY).await;
            }
        };
        let upstream = async {
            loop {
                upstream_reporter.report(upstream.probe().await.map_err(|error| error.to_string()));
                tokio::time::sleep(EVERY * 4).await;
            }
        };
        tokio::join!(store, upstream);
    }
}

/// Tells the log when readiness has come or gone; whether it is there. A shutdown tells of itself.
fn tell(readiness: &Readiness, was_ready: bool) -> bool {
    let ready = readiness.is_ready();
    if ready && !was_ready {
        tracing::info!("this replica is ready");
    } else if was_ready && !ready && !readiness.is_draining() {
        tracing::warn!("this replica is not ready: load balancers send its requests elsewhere");
    }
    ready
}

/// Tells of one part: its state to those who ask about readiness, and to the log what changed.
struct Reporter {
    name: &'static str,
    part: Arc<Part>,
    /// The last answer; none before the first.
    last: Option<Result<(), String>>,
}

impl Reporter {
    const fn new(name: &'static str, part: Arc<Part>) -> Self {
        Self { name, part, last: None }
    }

    /// The reason goes to the log, once a change: the first answer, and each other reason, too. Outsiders who ask about
    /// readiness are told no more than which part fails.
    fn report(&mut self, answer: Result<(), String>) {
        match &answer {
            Ok(()) => self.part.ok(),
            Err(_) => self.part.failed("does not answer"),
        }
        if self.last.as_ref() != Some(&answer) {
            match &answer {
                Ok(()) => tracing::info!("the {} answers", self.name),
                Err(reason) => tracing::warn!(reason, "the {} does not answer", self.name),
            }
            self.last = Some(answer);
        }
    }
}
