//! The store in memory: one process, and gone with it. No call ever waits or fails, short of [`MemoryStore::close`].
//!
//! What is read of the records used most lately is kept beside them (`recent`), for the requests that find their session.
//!
//! It is bounded only by the expiry of what it holds: the number of sessions that are started is for the limits of
//! the bridge to bound.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::recent::Recent;
use super::shards::Shards;
use super::slot::Slot;
use crate::session::clock::{Clock, Timestamp};
use crate::session::copies::AtOnce;
use crate::session::key_hash::KeyHash;
use crate::session::quota::{Place, Quota, Taken};
use crate::session::record::Snapshot;
use crate::session::store::{
    Acquired, Created, Cursor, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced,
    SessionStore, StoreError, StoreFuture, Stored, Version,
};

/// How often the background sweep looks for what has expired.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How much the sweep drops at once, while it holds a lock.
const SWEEP_BATCH: usize = 64;

/// Records and leases in the memory of this process.
pub struct MemoryStore {
    inner: Arc<Inner>,
    /// Ends the sweep with the store.
    _sweep: Option<AbortOnDropHandle<()>>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    shards: Shards<Shard>,
    closed: AtomicBool,
}

/// Invariants: `due` holds exactly one entry for each slot, with the time at which the slot becomes useless; what is in
/// `recent` was read of the record that is in the slot now.
#[derive(Default)]
struct Shard {
    slots: HashMap<Key, Slot, KeyHash>,
    due: BTreeSet<(Timestamp, Key)>,
    recent: Recent,
}

impl MemoryStore {
    /// An empty store that takes the time from `clock`.
    ///
    /// Inside a Tokio runtime a background task drops what has expired, and ends with the store. Outside of one
    /// there is no such task, and expired records are merely never seen.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let inner = Arc::new(Inner {
            clock,
            shards: Shards::new(Shard::default),
            closed: AtomicBool::new(false),
        });
        let sweep = Handle::try_current()
            .ok()
            .map(|runtime| runtime.spawn(sweep(Arc::downgrade(&inner))));
        Self {
            inner,
            _sweep: sweep.map(AbortOnDropHandle::new),
        }
    }

    /// How many keys have something in memory; what has expired counts until it is swept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.shards.each().map(|shard| shard.slots.len()).sum()
    }

    /// Whether nothing is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn look<T>(&self, key: &Key, read: impl FnOnce(&Slot, Timestamp) -> T) -> Result<T, StoreError> {
        let now = self.now()?;
        let shard = self.inner.shards.of(key);
        Ok(match shard.slots.get(key) {
            Some(slot) => read(slot, now),
            None => read(&Slot::default(), now),
        })
    }

    fn change<T>(&self, key: &Key, change: impl FnOnce(&mut Slot, Timestamp) -> T) -> Result<T, StoreError> {
        let now = self.now()?;
        Ok(self.inner.shards.of(key).change(key, |slot| change(slot, now)))
    }

    fn now(&self) -> Result<Timestamp, StoreError> {
        self.is_open().map(|()| self.inner.clock.now())
    }

    fn is_open(&self) -> Result<(), StoreError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(StoreError::Unavailable("it has been closed".into()));
        }
        Ok(())
    }
}

impl Shard {
    fn change<T>(&mut self, key: &Key, change: impl FnOnce(&mut Slot) -> T) -> T {
        self.recent.forget(key);
        let slot = self.slots.entry(*key).or_default();
        let before = slot.useless_at();
        let outcome = change(slot);
        let after = slot.useless_at();
        if before != after {
            before.map(|at| self.due.remove(&(at, *key)));
            after.map(|at| self.due.insert((at, *key)));
        }
        if after.is_none() {
            self.slots.remove(key);
        }
        outcome
    }

    fn read(&mut self, key: &Key, now: Timestamp) -> Result<Option<Arc<Snapshot>>, StoreError> {
        if let Some(snapshot) = self.recent.get(key) {
            return Ok((snapshot.expires_at > now).then(|| Arc::clone(snapshot)));
        }
        let Some(stored) = self.slots.get(key).and_then(|slot| slot.current(now)) else {
            return Ok(None);
        };
        let snapshot = Snapshot::read(stored)?;
        self.recent.put(*key, Arc::clone(&snapshot), self.slots.len());
        Ok(Some(snapshot))
    }

    /// Drops what is useless by `now`, [`SWEEP_BATCH`] slots at most. `true` when there may be more.
    fn sweep(&mut self, now: Timestamp) -> bool {
        for _ in 0..SWEEP_BATCH {
            match self.due.first() {
                Some(&(at, key)) if at <= now => {
                    self.due.remove(&(at, key));
                    self.slots.remove(&key);
                    self.recent.forget(&key);
                }
                _ => return false,
            }
        }
        true
    }
}

async fn sweep(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let mut more = true;
        while more {
            let Some(inner) = inner.upgrade() else { return };
            let now = inner.clock.now();
            more = inner
                .shards
                .each()
                .map(|mut shard| shard.sweep(now))
                .filter(|more| *more)
                .count()
                > 0;
            drop(inner);
            tokio::task::yield_now().await;
        }
    }
}

impl AtOnce for MemoryStore {
    fn read(&self, key: &Key, now: Timestamp) -> Result<Option<Arc<Snapshot>>, StoreError> {
        self.is_open()?;
        self.inner.shards.of(key).read(key, now)
    }
}

impl SessionStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move { self.look(key, |slot, now| slot.current(now).cloned()) })
    }

    fn at_once(&self) -> Option<&dyn AtOnce> {
        Some(self)
    }

    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        Box::pin(async move { self.look(key, |slot, now| (slot.current(now).cloned(), slot.lease.state(now))) })
    }

    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        Box::pin(async move { self.change(key, |slot, now| slot.create(now, new, fence)) })
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move { self.change(key, |slot, now| slot.replace(now, expected, new, fence)) })
    }

    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        Box::pin(async move { self.change(key, |slot, now| slot.remove(now, expected)) })
    }

    fn discard<'a>(&'a self, _: &'a Key) -> StoreFuture<'a, bool> {
        // What lies here was never anything but a record.
        Box::pin(async move { self.now().map(|_| false) })
    }

    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move { self.change(key, |slot, now| slot.touch(now, expected, ttl)) })
    }

    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        Box::pin(async move { self.change(key, |slot, now| slot.lease.acquire(now, token, ttl)) })
    }

    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move { self.change(key, |slot, now| slot.lease.renew(now, token, ttl)) })
    }

    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.change(key, |slot, now| slot.lease.release(now, token, end)) })
    }

    fn take_place<'a>(&'a self, key: &'a Key, quota: Quota, _: Timestamp) -> StoreFuture<'a, Taken> {
        Box::pin(async move { self.change(key, |slot, now| slot.take_place(now, quota)) })
    }

    fn give_back<'a>(&'a self, key: &'a Key, quota: Quota, place: Place) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.change(key, |slot, now| slot.give_back(now, quota, place)) })
    }

    fn keys(&self, _: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        Box::pin(async move {
            self.now()?;
            let shards = self.inner.shards.each();
            let keys = shards.flat_map(|shard| shard.slots.keys().copied().collect::<Vec<_>>());
            Ok(KeyPage {
                keys: keys.collect(),
                next: None,
            })
        })
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move { self.now().map(drop) })
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.inner.closed.store(true, Ordering::Release);
            self.inner.shards.each().for_each(|mut shard| *shard = Shard::default());
            Ok(())
        })
    }
}
