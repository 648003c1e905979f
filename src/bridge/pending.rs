//! Changes that the store could not take (rule F3): kept here, tried again in the background until they are stored or
//! superseded, and served by this replica meanwhile.
//!
//! They are bounded: in number, in memory and in time, see [`MAX_CHANGES`], [`MAX_BYTES`] and [`MAX_AGE`]. What the bounds make give up is counted by its
//! reason, and told.

mod losses;
mod queue;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::change::Outcome;
use super::change::{Change, Settled};
use super::lead::{Fence, LEASE_TTL};
use super::sessions::Sessions;
use crate::metrics::{Abandoned, Metrics};
use crate::session::merge::Effect;
use crate::session::record::Snapshot;
use crate::session::store::{Acquired, Key, LeaseEnd, LeaseToken, StoreError};

use losses::Losses;
pub use queue::{MAX_AGE, MAX_BYTES, MAX_CHANGES};
use queue::{Overlay, Queue, Waiting};

/// The first pause between two attempts, and the longest. A store that is seen to answer again ends a pause.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// How many records in a row may be refused before a round is given up: the store is away then, and not a part of it.
const MAX_REFUSALS: usize = 4;

/// How often a lasting outage is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How often what has waited for too long is looked for.
const LOOK_FOR_OVERDUE: Duration = Duration::from_secs(1);

/// When an attempt failed last, and why. Who waited for its turn meanwhile need not try too.
type LastFailure = Option<(Instant, StoreError)>;

/// A change that waits now.
#[derive(Debug)]
pub struct Postponed {
    /// The record with it, which this replica serves.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What it does to the session.
    pub effect: Effect,
}

/// The changes that wait for the store.
pub struct Pending {
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    /// Of changes: read on every request, so that the queue is not locked while there is none.
    count: AtomicUsize,
    arrived: Notify,
    /// Where the last round was given up; the next one goes on behind it.
    refused: Mutex<Option<Key>>,
    losses: Losses,
    /// Held while changes are carried to the store, so that those of one record keep their order.
    flushing: tokio::sync::Mutex<LastFailure>,
}

impl Pending {
    /// Nothing waits.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            losses: Losses::new(Arc::clone(&metrics)),
            sessions,
            metrics,
            queue: Mutex::default(),
            count: AtomicUsize::new(0),
            arrived: Notify::new(),
            refused: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
        })
    }

    /// The record of `key` as it is with the changes that wait, where any do. It counts as used (rule T1); one that has
    /// run out is forgotten, and its changes with it.
    #[must_use]
    pub fn overlay(&self, key: &Key) -> Option<Option<Arc<Snapshot>>> {
        if self.is_empty() {
            return None;
        }
        let overlay = self.with_queue(|queue| queue.serve(key, &self.sessions));
        match overlay {
            Overlay::Absent => None,
            Overlay::Present(record) => Some(record),
            Overlay::Expired(changes) => {
                self.losses.tell(Some(key), Abandoned::Expired, changes);
                None
            }
        }
    }

    /// Adds a change, or gives it up where the bounds are reached: `None`.
    ///
    /// `lease`: what the request led with. Not given back, it keeps the place of a session that starts for a while.
    pub fn push(&self, key: &Key, change: Change, lease: Option<LeaseToken>) -> Option<Postponed> {
        match self.with_queue(|queue| queue.push(key, change, lease, &self.sessions)) {
            Ok(pushed) => {
                self.metrics.commits_superseded(pushed.superseded);
                self.arrived.notify_one();
                Some(Postponed {
                    snapshot: pushed.overlay,
                    effect: pushed.effect,
                })
            }
            Err(reason) => {
                self.losses.tell(Some(key), reason, 1);
                None
            }
        }
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

    /// About how much memory they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.queue().bytes()
    }

    /// For how long the oldest of them has waited.
    #[must_use]
    pub fn age(&self) -> Duration {
        let oldest = self.queue().oldest();
        oldest.map_or(Duration::ZERO, |oldest| self.sessions.now().since(oldest))
    }

    /// Whether changes of `key` wait.
    #[must_use]
    pub fn waits(&self, key: &Key) -> bool {
        !self.is_empty() && self.queue().holds(key)
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

    /// Carries changes to the store as they come, until `stop`, and then once more; see [`Pending::drain`].
    pub async fn run(&self, stop: CancellationToken) {
        let mut pause = TRY_AGAIN.0;
        let (mut told, mut looked) = (None, Instant::now());
        loop {
            let stopping = stop.is_cancelled();
            let flushed = self.flush_all().await;
            self.tell(&flushed, &mut told);
            if looked.elapsed() >= LOOK_FOR_OVERDUE {
                looked = Instant::now();
                self.drop_overdue();
            }
            if stopping {
                return;
            }
            if matches!(flushed, Ok(true)) {
                pause = TRY_AGAIN.0;
                tokio::select! {
                    biased;
                    () = self.arrived.notified() => {}
                    () = stop.cancelled() => {}
                }
            } else {
                let back = async {
                    tokio::time::sleep(TRY_AGAIN.0).await;
                    self.sessions.recovered().await;
                };
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(pause) => {}
                    () = back => {}
                    () = stop.cancelled() => {}
                }
                pause = (pause * 2).min(TRY_AGAIN.1);
            }
        }
    }

    /// The last chance of what waits, at shutdown: tries again for as long as `within`, then gives up what is left, and
    /// tells how much that is.
    pub async fn drain(&self, within: Duration) -> usize {
        let all = async {
            while !matches!(self.flush_all().await, Ok(true)) {
                tokio::time::sleep(TRY_AGAIN.0).await;
            }
        };
        // Whether it was in time shows in what is left.
        let _ = tokio::time::timeout(within, all).await;
        let left = self.with_queue(Queue::clear);
        self.losses.tell(None, Abandoned::Shutdown, left);
        left
    }

    fn drop_overdue(&self) {
        let overdue = self.with_queue(|queue| queue.drop_overdue(self.sessions.now()));
        for (key, reason, changes) in overdue {
            self.losses.tell(Some(&key), reason, changes);
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

    /// Whether nothing waits any more. A record whose part of the store is away holds up no other.
    async fn flush_all(&self) -> Result<bool, StoreError> {
        if self.is_empty() {
            return Ok(true);
        }
        let after = self.refused().take();
        let keys = self.queue().keys_after(after);
        let (mut refusal, mut in_a_row) = (None, 0);
        for key in keys {
            let mut last_failure = self.flushing.lock().await;
            let Err(error) = self.flush(&key, &mut last_failure).await else {
                in_a_row = 0;
                continue;
            };
            refusal = Some(error);
            in_a_row += 1;
            if in_a_row == MAX_REFUSALS {
                *self.refused() = Some(key);
                break;
            }
        }
        refusal.map_or_else(|| Ok(self.is_empty()), Err)
    }

    async fn flush(&self, key: &Key, last_failure: &mut LastFailure) -> Result<(), StoreError> {
        while let Some(waiting) = self.with_queue(|queue| queue.first(key)) {
            self.metrics.commit_retried();
            let landed = match self.carry(key, &waiting).await {
                Ok(Some(settled)) => settled.landed,
                Ok(None) => return Ok(()),
                Err(error @ (StoreError::Corrupt(_) | StoreError::Unreadable(_))) => {
                    tracing::error!(install = %key, %error, "what the store holds cannot be read");
                    self.losses.tell(Some(key), Abandoned::Unreadable, 1);
                    None
                }
                Err(error @ StoreError::TooLarge(_)) => {
                    tracing::error!(install = %key, %error, "what waits cannot be stored");
                    self.losses.tell(Some(key), Abandoned::TooLarge, 1);
                    None
                }
                Err(error) => {
                    *last_failure = Some((Instant::now(), error.clone()));
                    return Err(error);
                }
            };
            self.with_queue(|queue| queue.pop(key, &waiting, landed));
        }
        Ok(())
    }

    /// A session that nobody has started meanwhile is stored under a lease: the request's own, which may be held still,
    /// or else a new one. `None` when another request is about to start one: its outcome comes first.
    async fn carry(&self, key: &Key, Waiting { change, lease, .. }: &Waiting) -> Result<Option<Settled>, StoreError> {
        let now = self.sessions.load(key).await?;
        if self.sessions.has_session(now.as_deref()) {
            return self.store(key, change, now, None).await;
        }
        let token = lease.unwrap_or_else(LeaseToken::draw);
        if let Acquired::Held { .. } = self.sessions.acquire_lease(key, token, LEASE_TTL).await? {
            return Ok(None);
        }
        let stored = self.store(key, change, now, Some(Fence::retaken(token))).await;
        if lease.is_none()
            && let Err(error) = self.sessions.release_lease(key, token, LeaseEnd::Plain).await
        {
            tracing::debug!(install = %key, %error, "a lease could not be given back; it runs out by itself");
        }
        stored
    }

    /// `None` when the lease was lost.
    async fn store(
        &self,
        key: &Key,
        change: &Change,
        now: Option<Arc<Snapshot>>,
        fence: Option<Fence>,
    ) -> Result<Option<Settled>, StoreError> {
        match change.store(&self.sessions, &self.metrics, key, now, fence).await? {
            Outcome::Settled(settled) => {
                settled.tell(&self.metrics, key);
                Ok(Some(settled))
            }
            Outcome::Fenced => Ok(None),
        }
    }

    fn with_queue<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue();
        let outcome = change(&mut queue);
        self.count.store(queue.count(), Ordering::Release);
        outcome
    }

    fn refused(&self) -> MutexGuard<'_, Option<Key>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic while the lock is held leaves every entry whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
