//! Records that cannot be read: counted, told now and then, and treated by policy.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Metrics, RecordFlaw};
use crate::session::store::{Key, Unreadable};

/// How often each kind of flaw is told at most: one key that was forgotten makes every record of it unreadable.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What becomes of a record that cannot be read (`store.on_unreadable`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnreadable {
    /// It is left alone, and its requests are treated as in an outage of the store.
    #[default]
    Reject,
    /// It is removed, and its requests begin without a session.
    Replace,
}

/// Counts and tells. A lock is taken only when a record could not be read.
pub(super) struct Watch {
    metrics: Arc<Metrics>,
    /// For each flaw.
    told: Mutex<Box<[Told]>>,
}

/// When a flaw was told last, and how often it was met since.
type Told = (Option<Instant>, u64);

impl Watch {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            told: Mutex::new(RecordFlaw::ALL.iter().map(|_| (None, 0)).collect()),
        }
    }

    /// Notes that the record of `key` could not be read.
    pub(super) fn met(&self, key: &Key, unreadable: &Unreadable, policy: OnUnreadable) {
        let flaw = RecordFlaw::from(unreadable.flaw);
        self.metrics.record_unreadable(flaw);
        let Some(reads) = self.due(flaw) else { return };
        let then = match policy {
            OnUnreadable::Reject => "it is left alone, and its requests are treated as in an outage",
            OnUnreadable::Replace => "it is removed, and its requests begin without a session",
        };
        tracing::error!(
            install = %key,
            error = %unreadable,
            reason = flaw.text(),
            reads,
            then,
            "a record cannot be read"
        );
    }

    /// How often that flaw was met since it was told last, this time included, if it is to be told now.
    fn due(&self, flaw: RecordFlaw) -> Option<u64> {
        // Whole at every moment, whatever happened to another thread.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = told.get_mut(flaw as usize)?;
        *count += 1;
        if last.is_some_and(|last| last.elapsed() < TELL_EVERY) {
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_flaw_is_told_at_once_and_then_now_and_then_with_the_count() {
        let watch = Watch::new(Arc::new(Metrics::new(&[])));
        assert_eq!(watch.due(RecordFlaw::UnknownKey), Some(1));
        for _ in 0..1000 {
            assert_eq!(watch.due(RecordFlaw::UnknownKey), None);
        }
        assert_eq!(watch.due(RecordFlaw::Garbled), Some(1));
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(watch.due(RecordFlaw::UnknownKey), Some(1001));
        assert_eq!(watch.due(RecordFlaw::UnknownKey), None);
    }
}
