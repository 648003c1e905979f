//! Changes that the store could not take (rule F3): kept here, tried again in the background until they are stored or
//! superseded, and served by this replica meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
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

/// How often a lasting outage is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

struct Entry {
    /// The record as it is with all the changes: what this replica serves.
    overlay: Option<Arc<Snapshot>>,
    changes: VecDeque<Waiting>,
}

/// A change, and the lease of its request if that had the lead: it keeps others from starting a session meanwhile.
#[derive(Clone)]
struct Waiting {
    change: Change,
    lease: Option<LeaseToken>,
}

/// When an attempt failed last, and why. Who waited for its turn meanwhile need not try too.
type LastFailure = Option<(Instant, StoreError)>;

/// The changes that wait for the store.
pub struct Pending {
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    entries: Mutex<HashMap<Key, Entry>>,
    /// Of changes, over all entries: read on every request, so that the map is not locked while there is none.
    count: AtomicUsize,
    arrived: Notify,
    /// Held while changes are carried to the store, so that those of one record keep their order.
    flushing: tokio::sync::Mutex<LastFailure>,
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
    ///
    /// `lease`: what the request led with. Not given back, it keeps the place of the change in the store for a while.
    pub fn push(&self, key: &Key, change: Change, lease: Option<LeaseToken>) -> Option<Arc<Snapshot>> {
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
            entry.changes.push_back(Waiting { change, lease });
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

    /// Whether changes of `key` wait.
    #[must_use]
    pub fn waits(&self, key: &Key) -> bool {
        self.overlay(key).is_some()
    }

    /// Carries the changes of `key` to the store now, but for those that must wait for another request's lead.
    ///
    /// # Errors
    /// Whatever keeps the store from taking them; they go on waiting.
    pub async fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let asked = Instant::now();
        let mut last_failure = self.flushing.lock().await;
        match &*last_failure {
            Some((at, error)) if *at > asked => Err(error.clone()),
            _ => self.flush(key, &mut last_failure).await,
        }
    }

    /// Carries changes to the store as they come, until `stop`, and then once more.
    pub async fn run(&self, stop: CancellationToken) {
        let mut pause = TRY_AGAIN.0;
        let mut told = None;
        loop {
            let stopping = stop.is_cancelled();
            let flushed = self.flush_all().await;
            self.tell(&flushed, &mut told);
            let done = matches!(flushed, Ok(true));
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

    /// An outage is told when it begins, now and then while it lasts, and when it is over.
    fn tell(&self, flushed: &Result<bool, StoreError>, told: &mut Option<Instant>) {
        match flushed {
            Err(error) if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) => {
                *told = Some(Instant::now());
                tracing::warn!(changes = self.len(), %error, "session changes wait for the store; trying again");
            }
            Ok(true) if told.take().is_some() => tracing::info!("the session changes that waited are stored"),
            _ => {}
        }
    }

    /// Whether nothing waits any more.
    async fn flush_all(&self) -> Result<bool, StoreError> {
        if self.is_empty() {
            return Ok(true);
        }
        let keys: Vec<Key> = self.entries().keys().copied().collect();
        for key in keys {
            let mut last_failure = self.flushing.lock().await;
            self.flush(&key, &mut last_failure).await?;
        }
        Ok(self.is_empty())
    }

    async fn flush(&self, key: &Key, last_failure: &mut LastFailure) -> Result<(), StoreError> {
        while let Some(waiting) = self.first(key) {
            self.metrics.commit_retried();
            match self.carry(key, &waiting).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error @ (StoreError::Corrupt(_) | StoreError::Unreadable(_))) => {
                    self.metrics.commit_abandoned();
                    tracing::error!(install = %key, %error, "a session change is lost");
                }
                Err(error) => {
                    *last_failure = Some((Instant::now(), error.clone()));
                    return Err(error);
                }
            }
            self.pop(key);
        }
        Ok(())
    }

    /// A session that nobody has started meanwhile is stored under a lease: the request's own, which may be held still,
    /// or else a new one. `false` when another request is about to start one: its outcome comes first.
    async fn carry(&self, key: &Key, Waiting { change, lease }: &Waiting) -> Result<bool, StoreError> {
        let now = self.sessions.load(key).await?;
        if self.sessions.has_session(now.as_deref()) {
            return self.store(key, change, now, None).await;
        }
        let token = lease.unwrap_or_else(|| LeaseToken(Uuid::new_v4().as_u128()));
        if let Acquired::Held { .. } = self.sessions.acquire_lease(key, token, LEASE_TTL).await? {
            return Ok(false);
        }
        let stored = self.store(key, change, now, Some(token)).await;
        if lease.is_none() {
            self.sessions.release_lease(key, token, LeaseEnd::Plain).await?;
        }
        stored
    }

    /// `false` when the lease was lost.
    async fn store(
        &self,
        key: &Key,
        change: &Change,
        now: Option<Arc<Snapshot>>,
        fence: Option<LeaseToken>,
    ) -> Result<bool, StoreError> {
        match change.store(&self.sessions, &self.metrics, key, now, fence).await? {
            Outcome::Settled(settled) => {
                settled.tell(&self.metrics, key);
                Ok(true)
            }
            Outcome::Fenced => Ok(false),
        }
    }

    fn first(&self, key: &Key) -> Option<Waiting> {
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
