//! The deciding of stores that can do no more for us than *compare and set* one cell at a time: SQL servers and
//! Memcached.
//!
//! All that concerns one installation, the record and the lease, lies in **one cell**, which the server gives a new tag
//! with each write. A change is
//!
//! 1. a read of the cell, its tag and the time by the server's clock;
//! 2. a decision in this process, by the same code (`slot`) as that of the stores which have the truth in memory;
//! 3. a write of the whole cell, which the server carries out only if the tag is still the one that was read, and, where
//!    it can judge that, if nothing that was decided upon has run out since. If not, all begins anew, until the deadline.
//!
//! So each change takes place at one moment, between changes of others; a lease, its fence and the record cannot come
//! apart, though there are no transactions: a leader whose lease was taken over finds another tag, and then another
//! token. A write that makes no difference is left out. No lock is held on the way, so that whoever dies holds nobody up.
//!
//! Times that decide are of the server's clock. The expiry that is shown ([`Stored::expires_at`]) is by the clock of the
//! replica that wrote or touched the record last, which its peers compare with their own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::patience::within;
use super::slot::Slot;
use crate::session::clock::{Clock, Timestamp};
use crate::session::quota::{Place, Quota, Taken};
use crate::session::store::{
    Acquired, Created, Cursor, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced,
    SessionStore, StoreError, StoreFuture, StoreStats, Stored, Unreadable, Version,
};

/// What lies under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    /// The record and the lease, with times of the server's clock.
    pub(super) slot: Slot,
    /// When the record expires by the clock of the replica that wrote or touched it last.
    pub(super) told: Timestamp,
}

/// A cell as it was read.
pub(super) struct Reading<Tag> {
    /// What lies there; an empty cell where nothing does.
    pub(super) cell: Result<Cell, Unreadable>,
    /// Changes with each write; `None` where nothing lies there.
    pub(super) tag: Option<Tag>,
    /// The time by the server's clock.
    pub(super) now: Timestamp,
}

/// A server that compares and sets. Every call ends by `by`.
pub(super) trait Cells: Send + Sync + 'static {
    /// What changes with each write.
    type Tag: Send + Sync;

    /// The cell of `key`.
    fn read(&self, key: &Key, by: Instant) -> impl Future<Output = Result<Reading<Self::Tag>, StoreError>> + Send;

    /// Puts `cell` in the place of what was `read` there, or takes that away where `cell` is `None`, if it is still there
    /// (or if there is still nothing, where nothing was), and if it is not `until` yet by the server's clock. `false`:
    /// nothing was done.
    fn write(
        &self,
        key: &Key,
        read: Option<&Self::Tag>,
        cell: Option<&Cell>,
        until: Timestamp,
        by: Instant,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// See [`SessionStore::keys`].
    fn keys(&self, after: Option<Cursor>, by: Instant) -> impl Future<Output = Result<KeyPage, StoreError>> + Send;

    /// See [`SessionStore::ping`].
    fn ping(&self, by: Instant) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// See [`SessionStore::kind`].
    fn kind(&self) -> &'static str;

    /// See [`SessionStore::stats`].
    fn stats(&self) -> StoreStats;

    /// Lets go of all connections; nothing is asked afterwards.
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// A time to live as this server can keep it: never shorter.
    fn kept(&self, ttl: Duration) -> Duration {
        ttl
    }
}

/// A [`SessionStore`] made of [`Cells`].
pub(super) struct CellStore<C> {
    cells: C,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    closed: AtomicBool,
    /// Whose turn it is to count: many do at once in one cell, and would outdo one another over and over.
    counting: Box<[Mutex<()>]>,
}

/// How many cells may be counted in at once by this process, at most.
const COUNTERS: usize = 64;

impl<C: Cells> CellStore<C> {
    /// `clock` tells the `expires_at` of records, nothing else. `timeout` is the deadline of every call.
    pub(super) fn new(cells: C, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self {
            cells,
            clock,
            timeout,
            closed: AtomicBool::new(false),
            counting: (0..COUNTERS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Changes the tally of `key`, one call of this process after the other.
    async fn count<T: Send>(
        &self,
        key: &Key,
        quota: Quota,
        decide: impl Fn(&mut Slot, Timestamp, Quota) -> T + Send + Sync,
    ) -> Result<T, StoreError> {
        let by = self.deadline()?;
        // What is kept for too short a time would let more pass than the quota does.
        let quota = Quota {
            within: self.cells.kept(quota.within),
            ..quota
        };
        let [.., last] = key.as_bytes();
        let Some(counter) = self.counting.get(usize::from(*last) % COUNTERS) else {
            return Err(StoreError::Unavailable("there is no counter".into()));
        };
        let Some(_turn) = within(by, counter.lock()).await else {
            return Err(StoreError::Unavailable("too many count at once".into()));
        };
        let ttl = Some(quota.memory());
        let decide = |slot: &mut Slot, now| decide(slot, now, quota);
        self.change_by(by, key, ttl, decide).await.map(|(outcome, _)| outcome)
    }

    fn deadline(&self) -> Result<Instant, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("it has been closed".into()));
        }
        Ok(Instant::now() + self.timeout)
    }

    async fn see<T: Send>(&self, key: &Key, see: impl FnOnce(&Cell, Timestamp) -> T + Send) -> Result<T, StoreError> {
        let reading = self.cells.read(key, self.deadline()?).await?;
        Ok(see(&reading.cell?, reading.now))
    }

    /// Has `decide` change the slot of `key`; `ttl` is that of the record which it may write or touch.
    async fn change<T: Send>(
        &self,
        key: &Key,
        ttl: Option<Duration>,
        decide: impl Fn(&mut Slot, Timestamp) -> T + Send + Sync,
    ) -> Result<(T, Timestamp), StoreError> {
        self.change_by(self.deadline()?, key, ttl, decide).await
    }

    async fn change_by<T: Send>(
        &self,
        by: Instant,
        key: &Key,
        ttl: Option<Duration>,
        decide: impl Fn(&mut Slot, Timestamp) -> T + Send + Sync,
    ) -> Result<(T, Timestamp), StoreError> {
        loop {
            let reading = self
                .cells
                .read(key, by)
                .await
                .map_err(|error| not_done(error, self.timeout))?;
            let before = reading.cell?;
            let mut cell = before.clone();
            let outcome = decide(&mut cell.slot, reading.now);
            if cell.slot == before.slot {
                return Ok((outcome, before.told));
            }
            if cell.slot.current(reading.now).is_none() {
                // What has expired is not carried on.
                cell.slot.record = None;
            }
            if let Some(ttl) = ttl.filter(|_| cell.slot.record != before.slot.record) {
                cell.told = self.clock.now().saturating_add(ttl);
            }
            let of_use = cell.slot.useless_at().is_some_and(|at| at > reading.now);
            let until = before.slot.holds_until(reading.now);
            let (tag, cell) = (reading.tag.as_ref(), of_use.then_some(&cell));
            if self.cells.write(key, tag, cell, until, by).await? {
                return Ok((outcome, before.told));
            }
            if Instant::now() >= by {
                return Err(StoreError::Unavailable("others changed it all the time".into()));
            }
        }
    }
}

/// A change that came to nothing before anything was written.
fn not_done(error: StoreError, timeout: Duration) -> StoreError {
    match error {
        StoreError::Timeout => StoreError::Unavailable(format!("no answer within {} ms", timeout.as_millis())),
        other => other,
    }
}

/// The record as it is shown.
fn shown(record: Option<Stored>, told: Timestamp) -> Option<Stored> {
    record.map(|record| Stored {
        expires_at: told,
        ..record
    })
}

impl Cell {
    fn record(&self, now: Timestamp) -> Option<Stored> {
        shown(self.slot.current(now).cloned(), self.told)
    }
}

impl<C: Cells> SessionStore for CellStore<C> {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(self.see(key, Cell::record))
    }

    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        Box::pin(self.see(key, |cell, now| (cell.record(now), cell.slot.lease.state(now))))
    }

    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        Box::pin(async move {
            let kept = self.kept(&new);
            let decide = |slot: &mut Slot, now| slot.create(now, kept.clone(), fence);
            let (outcome, told) = self.change(key, Some(new.ttl), decide).await?;
            Ok(match outcome {
                Created::Lost(there) => Created::Lost(Stored {
                    expires_at: told,
                    ..there
                }),
                other => other,
            })
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let kept = self.kept(&new);
            let decide = |slot: &mut Slot, now| slot.replace(now, expected, kept.clone(), fence);
            let (outcome, told) = self.change(key, Some(new.ttl), decide).await?;
            Ok(match outcome {
                Replaced::Conflict(there) => Replaced::Conflict(shown(there, told)),
                other => other,
            })
        })
    }

    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            let (outcome, told) = self.change(key, None, |slot, now| slot.remove(now, expected)).await?;
            Ok(match outcome {
                Removed::Conflict(there) => Removed::Conflict(shown(there, told)),
                Removed::Done => Removed::Done,
            })
        })
    }

    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let by = self.deadline()?;
            loop {
                let read = self.cells.read(key, by).await;
                let reading = read.map_err(|error| not_done(error, self.timeout))?;
                if reading.cell.is_ok() {
                    return Ok(false);
                }
                let taken = self.cells.write(key, reading.tag.as_ref(), None, Timestamp::MAX, by);
                if taken.await? {
                    return Ok(true);
                }
            }
        })
    }

    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let kept = self.cells.kept(ttl);
            let decide = |slot: &mut Slot, now| slot.touch(now, expected, kept);
            self.change(key, Some(ttl), decide).await.map(|(outcome, _)| outcome)
        })
    }

    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        Box::pin(async move {
            let kept = self.cells.kept(ttl);
            let decide = |slot: &mut Slot, now| slot.lease.acquire(now, token, kept);
            self.change(key, None, decide).await.map(|(outcome, _)| outcome)
        })
    }

    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let kept = self.cells.kept(ttl);
            let decide = |slot: &mut Slot, now| slot.lease.renew(now, token, kept);
            self.change(key, None, decide).await.map(|(outcome, _)| outcome)
        })
    }

    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let decide = |slot: &mut Slot, now| slot.lease.release(now, token, end);
            self.change(key, None, decide).await.map(drop)
        })
    }

    fn take_place<'a>(&'a self, key: &'a Key, quota: Quota, _: Timestamp) -> StoreFuture<'a, Taken> {
        Box::pin(self.count(key, quota, Slot::take_place))
    }

    fn give_back<'a>(&'a self, key: &'a Key, quota: Quota, place: Place) -> StoreFuture<'a, ()> {
        Box::pin(self.count(key, quota, move |slot, now, quota| slot.give_back(now, quota, place)))
    }

    fn keys(&self, after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        Box::pin(async move { self.cells.keys(after, self.deadline()?).await })
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move { self.cells.ping(self.deadline()?).await })
    }

    fn kind(&self) -> &'static str {
        self.cells.kind()
    }

    fn stats(&self) -> StoreStats {
        self.cells.stats()
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            if !self.closed.swap(true, Ordering::AcqRel) {
                self.cells.close().await;
            }
            Ok(())
        })
    }
}

impl<C: Cells> CellStore<C> {
    fn kept(&self, new: &NewRecord) -> NewRecord {
        NewRecord {
            ttl: self.cells.kept(new.ttl),
            ..new.clone()
        }
    }
}
