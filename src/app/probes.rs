//! Whether this replica can serve: the store and the backend are asked now and then, so that nobody who asks about
//! readiness has to wait for them.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, OnStoreError};
use crate::ops::health::{Part, Readiness, Weight};
use crate::session::store::SessionStore;
use crate::wire::upstream::Upstream;

/// How often they are asked.
const EVERY: Duration = Duration::from_millis(500);

/// Asks, and keeps the readiness up to date.
pub(super) struct Probes {
    store: (Arc<dyn SessionStore>, Arc<Part>),
    upstream: (Upstream, Arc<Part>),
}

/// A backend that is down is told, but takes no replica out of the balancer: all of them would go, and a 502 says more
/// than no answer. The store counts where requests cannot do without it.
pub(super) fn build(config: &Config, store: Arc<dyn SessionStore>, upstream: Upstream) -> (Arc<Readiness>, Probes) {
    let mut readiness = Readiness::default();
    let weight = match config.session.on_store_error {
        OnStoreError::Reject => Weight::Required,
        OnStoreError::Stateless => Weight::Reported,
    };
    let store_part = readiness.part("store", weight);
    let upstream_part = readiness.part("upstream", Weight::Reported);
    (
        Arc::new(readiness),
        Probes {
            store: (store, store_part),
            upstream: (upstream, upstream_part),
        },
    )
}

impl Probes {
    /// Asks for ever.
    pub(super) async fn run(self) {
        let store = async {
            let (store, part) = &self.store;
            loop {
                let answer = store.ping().await;
                report(
                    part,
                    "store",
                    answer.is_ok(),
                    &answer.err().map(|error| error.to_string()).unwrap_or_default(),
                );
                tokio::time::sleep(EVERY).await;
            }
        };
        let upstream = async {
            let (upstream, part) = &self.upstream;
            loop {
                let answer = upstream.probe().await;
                let reason = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
                report(part, "upstream", answer.is_ok(), &reason);
                tokio::time::sleep(EVERY * 4).await;
            }
        };
        tokio::join!(store, upstream);
    }
}

/// The reason goes to the log, once a change; outsiders who ask about readiness are told no more than which part fails.
fn report(part: &Part, name: &'static str, ok: bool, reason: &str) {
    let was_ok = part.is_ok();
    if ok {
        part.ok();
    } else {
        part.failed("does not answer");
    }
    match (was_ok, ok) {
        (true, false) => tracing::warn!(part = name, reason, "does not answer"),
        (false, true) => tracing::info!(part = name, "answers"),
        _ => {}
    }
}
