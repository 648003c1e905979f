//! Sliding expiry (rule T1): a session that is used lives on. The record is not rewritten, and its expiry is moved only
//! once a tenth of the idle timeout has passed since it was last moved.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::TaskTracker;

use super::sessions::Sessions;
use crate::metrics::Metrics;
use crate::session::clock::Timestamp;
use crate::session::record::Snapshot;
use crate::session::store::Key;

/// Moves expiries, off the path of requests.
pub struct Touch {
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    /// The keys being touched by this replica, so that requests of one moment do it once.
    under_way: Arc<Mutex<HashSet<Key>>>,
}

impl Touch {
    /// Nothing is being touched.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, metrics: Arc<Metrics>, tasks: TaskTracker) -> Self {
        Self {
            sessions,
            metrics,
            tasks,
            under_way: Arc::default(),
        }
    }

    /// Notes that the session was used, at `now`.
    pub fn used(&self, key: &Key, snapshot: &Arc<Snapshot>, now: Timestamp) {
        if !self.is_due(snapshot, now) || !lock(&self.under_way).insert(*key) {
            return;
        }
        let (sessions, metrics, under_way) = (
            Arc::clone(&self.sessions),
            Arc::clone(&self.metrics),
            Arc::clone(&self.under_way),
        );
        let (key, snapshot) = (*key, Arc::clone(snapshot));
        self.tasks.spawn(async move {
            match sessions.touch(&key, &snapshot).await {
                Ok(true) => metrics.touched(),
                // Somebody wrote the record, which moves its expiry too, or removed it.
                Ok(false) => {}
                Err(error) => tracing::debug!(install = %key, %error, "an expiry was not moved; the next use will"),
            }
            lock(&under_way).remove(&key);
        });
    }

    fn is_due(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        let target = snapshot.record.expiry(now, &self.sessions.lifetime);
        target.since(snapshot.expires_at) >= self.sessions.lifetime.idle_timeout / 10
    }
}

fn lock(keys: &Mutex<HashSet<Key>>) -> std::sync::MutexGuard<'_, HashSet<Key>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}
