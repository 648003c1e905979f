//! Changes that the store could not take (rule F3): kept here, tried again in the background until they are stored or
//! superseded, and served by this replica meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::change::{Change, Outcome};
use super::lead::LEASE_TTL;
use super::sessions::Sessions;
use crate::metrics::Metrics;
use crate::session::record::Snapshot;
use crate::session::store::{Acquired, Key, LeaseEnd, LeaseToken, StoreError};

/// The most changes that are kept; a few kilobytes each.
const MAX_CHANGES: usize = 10_000;

/// The first pause between two attempts, and the longest.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

struct Entry {
    /// The record as it is with all the changes: what this replica serves.
    overlay: Option<Arc<Snapshot>>,
    changes: VecDeque<Change>,
}

/// The changes that wait for the store.
pub struct Pending {
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    entries: Mutex<HashMap<Key, Entry>>,
    /// Of changes, over all entries: read on every request, so that the map is not locked while there is none.
    count: AtomicUsize,
    arrived: Notify,
    /// Held while changes are carried to the store, so that those of one record keep their order.
    flushing: tokio::sync::Mutex<()>,
}

impl Pending {
    /// Nothing waits.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            metrics,
            entries: Mutex::default(),
            count: AtomicUsize::new(0),
            arrived: Notify::new(),
            flushing: tokio::sync::Mutex::default(),
        })
    }

    /// The record of `key` as it is with the changes that wait, where any do.
    #[must_use]
    pub fn overlay(&self, key: &Key) -> Option<Option<Arc<Snapshot>>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.entries().get(key).map(|entry| entry.overlay.clone())
    }

    /// Adds a change. Returns the record with it, or gives the change up when too many wait already.
    pub fn push(&self, key: &Key, change: Change) -> Option<Arc<Snapshot>> {
        if self.count.load(Ordering::Acquire) >= MAX_CHANGES {
            self.metrics.commit_abandoned();
            tracing::error!(install = %key, "a session change is lost: too many wait for the store already");
            return change.sent;
        }
        let overlay = {
            let mut entries = self.entries();
            let entry = entries.entry(*key).or_insert_with(|| Entry {
                overlay: change.sent.clone(),
                changes: VecDeque::new(),
            });
            entry.overlay = change.decide(&self.sessions, entry.overlay.as_ref()).0.snapshot;
            entry.changes.push_back(change);
            self.count.fetch_add(1, Ordering::AcqRel);
            entry.overlay.clone()
        };
        self.arrived.notify_one();
        overlay
    }

    /// How many changes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Carries the changes of `key` to the store now.
    ///
    /// # Errors
    /// Whatever keeps the store from taking them; they go on waiting.
    pub async fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let _order = self.flushing.lock().await;
        self.flush(key).await
    }

    /// Carries changes to the store as they come, until `stop`, and then once more.
    pub async fn run(&self, stop: CancellationToken) {
        let mut pause = TRY_AGAIN.0;
        loop {
            let stopping = stop.is_cancelled();
            let done = self.flush_all().await;
            if stopping {
                if !done {
                    tracing::error!(
                        changes = self.len(),
                        "session changes are lost: the store took none at shutdown"
                    );
                }
                return;
            }
            if done {
                pause = TRY_AGAIN.0;
                tokio::select! {
                    () = self.arrived.notified() => {}
                    () = stop.cancelled() => {}
                }
            } else {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
                pause = (pause * 2).min(TRY_AGAIN.1);
            }
        }
    }

    /// Whether nothing waits any more.
    async fn flush_all(&self) -> bool {
        if self.is_empty() {
            return true;
        }
        let keys: Vec<Key> = self.entries().keys().copied().collect();
        for key in keys {
            let flushed = {
                let _order = self.flushing.lock().await;
                self.flush(&key).await
            };
            if let Err(error) = flushed {
                tracing::warn!(changes = self.len(), %error, "session changes wait for the store");
                return false;
            }
        }
        self.is_empty()
    }

    async fn flush(&self, key: &Key) -> Result<(), StoreError> {
        while let Some(change) = self.first(key) {
            self.metrics.commit_retried();
            match self.carry(key, &change).await {
                Ok(()) => {}
                Err(error @ StoreError::Corrupt(_)) => {
                    self.metrics.commit_abandoned();
                    tracing::error!(install = %key, %error, "a session change is lost");
                }
                Err(error) => return Err(error),
            }
            self.pop(key);
        }
        Ok(())
    }

    /// The request's own lease is long gone: a session that nobody has started meanwhile is stored under a new one.
    async fn carry(&self, key: &Key, change: &Change) -> Result<(), StoreError> {
        let now = self.sessions.load(key).await?;
        if self.sessions.has_session(now.as_deref()) {
            change.store(&self.sessions, &self.metrics, key, now, None).await?;
            return Ok(());
        }
        let token = LeaseToken(Uuid::new_v4().as_u128());
        if let Acquired::Held { .. } = self.sessions.acquire_lease(key, token, LEASE_TTL).await? {
            return Err(StoreError::Unavailable(
                "another request is starting the session".to_owned(),
            ));
        }
        let outcome = change.store(&self.sessions, &self.metrics, key, now, Some(token)).await;
        self.sessions.release_lease(key, token, LeaseEnd::Plain).await?;
        match outcome? {
            Outcome::Settled(_) => Ok(()),
            Outcome::Fenced => Err(StoreError::Unavailable("the lease was lost".to_owned())),
        }
    }

    fn first(&self, key: &Key) -> Option<Change> {
        self.entries().get(key).and_then(|entry| entry.changes.front().cloned())
    }

    fn pop(&self, key: &Key) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(key) {
            if entry.changes.pop_front().is_some() {
                self.count.fetch_sub(1, Ordering::AcqRel);
            }
            if entry.changes.is_empty() {
                entries.remove(key);
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // A panic while the lock is held leaves every entry whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
