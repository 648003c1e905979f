//! Changes that are given up: every one is counted, and told to the log, but no more than a line a second: in a long
//! outage there may be thousands.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Abandoned, Metrics};
use crate::session::store::Key;

const TELL_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Losses {
    metrics: Arc<Metrics>,
    /// When a loss was told last, and how many changes were lost since.
    told: Mutex<(Option<Instant>, usize)>,
}

impl Losses {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            told: Mutex::default(),
        }
    }

    /// So many changes of `key`, or of many, are lost.
    pub(super) fn tell(&self, key: Option<&Key>, reason: Abandoned, changes: usize) {
        if changes == 0 {
            return;
        }
        self.metrics.commits_abandoned(reason, changes);
        let untold = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let untold = told.1 + changes;
            *told = match told.0 {
                Some(at) if at.elapsed() < TELL_EVERY && reason != Abandoned::Shutdown => (Some(at), untold),
                _ => (Some(Instant::now()), 0),
            };
            (told.1 == 0).then_some(untold)
        };
        let (install, reason) = (key.map(tracing::field::display), reason.text());
        match untold {
            Some(changes) => tracing::error!(install, reason, changes, "session changes are lost"),
            None => tracing::debug!(install, reason, changes, "session changes are lost"),
        }
    }
}
