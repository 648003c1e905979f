//! The near cache (rules N1 to N4): copies of records in this process, kept true by a Redis that tells of changes.
//!
//! It lies beside the store, not over it: [`NearCache`] holds what the bridge has read *and decoded*, so that a hit costs
//! no I/O, no unsealing, no decoding and no copy. `redis::tracking` knows how Redis tells; this module knows what may
//! be served. Only the first look of a request is served from here. Whatever decides about a change asks the store, and
//! leases, counts and notes of removals are never kept: nor is the absence of a record.
//!
//! # Why the tracking is on the connection that reads
//!
//! `CLIENT TRACKING` has two modes and two places. What was chosen: the *default mode*, on the connection by which the
//! records are read.
//!
//! * **Order.** What Redis sends on one connection arrives in the order in which it happened. An invalidation that
//!   stands before the answer to a `GET` is of a change that this answer shows already; one that stands behind it is
//!   of a later change. So a fill is overtaken exactly when an invalidation was read after its [`Pass`] was drawn, which
//!   is one comparison (rule N3). With `REDIRECT` to a second connection, either may be late, and a mark would prove nothing.
//! * **One fate.** A connection that breaks takes the answers *and* the promise with it. There is no moment in which one of
//!   two connections is gone and records still come in by the other (rule N1).
//! * **Measure.** `BCAST` with our prefix would tell every replica of every change to every key, leases and counts
//!   too: work that grows with the replicas times the changes. Default mode tells of what this replica has read, once
//!   a reading. Its price is a table in Redis (`tracking-table-max-keys`, a million by default); what falls out of it
//!   is told as a change, which costs a read and nothing else.
//!
//! # What each rule comes down to
//!
//! * **N1** A copy belongs to the [`Promise`] under which it was read, that is, to one connection. It is at hand only
//!   while that stands. On a new connection, tracking is switched on *before* any record is read by it, and all copies of
//!   older connections are dead from the moment that theirs broke: for hits the cache is empty without any sweeping. The loss of a
//!   connection is seen in the kernel at the very request (see N2), and a network that swallows everything by the
//!   silence: after [`BELIEVED_FOR`](crate::store::redis) without a byte from Redis the promise is not believed.
//! * **N2** A change of a record is not answered before a `PING` *on the reading connection* has been, which was sent after
//!   the change was done. Redis serves one command after the other, and puts the invalidations of a command into the
//!   buffers of all connections before it serves the next: when the `PING` is answered, this replica has read its own
//!   invalidation, and Redis has handed out those for the others. On the other replica, a hit first asks the
//!   kernel whether anything of Redis lies unread, and if so waits until it is taken in. So an invalidation that
//!   has arrived at a machine is never overtaken by a request that arrives after it, however busy the process is.
//!   What is left is the network: the way Redis → other replica must not take longer than the way Redis → this replica →
//!   client → other replica, which begins later and is longer. A lost packet on the first can still turn that around
//!   for the time of a retransmission; within one machine it cannot. (Redis 8 and Valkey 8 with `io-threads` write
//!   to connections from several threads, which makes the two ways begin at about the same time.)
//!   A `PING` that is not answered before the deadline of the change does not hold up the response any longer: the copy
//!   of this replica is gone by then, whatever Redis tells, and the connection is tried out, and replaced if it does not answer.
//! * **N3** See "order". `max_age` counts from before the record was asked for; so does the time that the record had to
//!   live, which is asked for with it, so that no clock of this or another replica decides when a copy has expired.
//! * **N4** and N1 speak of different moments. While the store answers, what is not promised is not served: the request
//!   asks the store (N1). When it *did* ask, and the store was not to be reached in time, the last copy is better than
//!   no session (N4): one of a broken promise too, unless it is older than `max_age`, or a change of it was told (or may be
//!   among what lies unread), or was begun by this replica. So copies outlive their promise, in memory, until they are too old or make room.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::session::copies::{AtHand, Copies, Pass, Promise, Standing};
use crate::session::key_hash::KeyHash;
use crate::session::record::Snapshot;
use crate::session::store::Key;

/// How many marks there are besides the first. Keys that share one have fills dropped for each other's changes, which
/// costs a read.
const MORE_MARKS: usize = 4095;

/// What a store tells of changes.
pub trait Listener: Send + Sync + 'static {
    /// Changes with each change of `key` that is told, see [`Pass::mark`].
    fn mark(&self, key: &Key) -> u64;

    /// `key` has changed, or is about to be changed by this process.
    fn changed(&self, key: &Key);

    /// The store says that `key` has changed.
    fn told(&self, key: &Key);

    /// Any record may have changed.
    fn all_changed(&self);

    /// There is one more promise.
    fn promised(&self);

    /// One of the promises is broken.
    fn broken(&self);
}

/// What is counted, from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NearCacheStats {
    /// Looks that found a true copy.
    pub hits: u64,
    /// Looks that had to ask the store.
    pub misses: u64,
    /// Copies served while the store could not be asked.
    pub outage_hits: u64,
    /// Changes of records that the store told.
    pub invalidations: u64,
    /// How often all copies were lost at once: a connection broke, or the store was emptied.
    pub flushes: u64,
    /// Connections by which changes are told now.
    pub armed: u64,
}

/// Copies of records. See the [module](self).
pub struct NearCache<V> {
    entries: Cache<Key, Entry<V>, UnitWeighter, KeyHash>,
    first_mark: Mark,
    more_marks: Box<[Mark]>,
    max_age: Duration,
    counters: Counters,
}

/// Counts the changes told, of the keys that share it.
#[derive(Default)]
struct Mark {
    count: AtomicU64,
    /// Held while a copy is put in or taken out.
    changing: Mutex<()>,
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    promise: Arc<dyn Promise>,
    until: Instant,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    outage_hits: AtomicU64,
    invalidations: AtomicU64,
    flushes: AtomicU64,
    armed: AtomicU64,
}

impl<V: Clone + Send + Sync + 'static> NearCache<V> {
    /// An empty one, for `max_entries` copies at most, of which none is served that is older than `max_age`.
    #[must_use]
    pub fn new(max_entries: usize, max_age: Duration) -> Self {
        Self {
            entries: Cache::with(
                max_entries,
                max_entries as u64,
                UnitWeighter,
                KeyHash::default(),
                DefaultLifecycle::default(),
            ),
            first_mark: Mark::default(),
            more_marks: (0..MORE_MARKS).map(|_| Mark::default()).collect(),
            max_age,
            counters: Counters::default(),
        }
    }

    /// See [`Copies::at_hand`].
    pub fn at_hand(&self, key: &Key) -> AtHand<V> {
        let moment = Instant::now();
        let mark = self.mark_of(key);
        let before = mark.count();
        let Some(entry) = self.young(key, moment) else {
            return self.miss();
        };
        match entry.promise.standing(moment) {
            // News may have been taken in after the copy was found, and before it was seen that none lie unread.
            Standing::Kept if mark.count() == before => {
                count(&self.counters.hits);
                AtHand::True(entry.value)
            }
            Standing::Behind => AtHand::Unsure(entry.promise),
            Standing::Kept | Standing::Broken => self.miss(),
        }
    }

    /// See [`Copies::keep`].
    pub fn keep(&self, key: &Key, pass: &Pass, found: Option<V>) {
        let mark = self.mark_of(key);
        let _changing = mark.lock();
        if mark.count() != pass.mark {
            return;
        }
        match found {
            Some(value) => self.entries.insert(
                *key,
                Entry {
                    value,
                    promise: Arc::clone(&pass.promise),
                    until: pass.asked + pass.lives.map_or(self.max_age, |lives| lives.min(self.max_age)),
                },
            ),
            None => drop(self.entries.remove(key)),
        }
    }

    /// See [`Copies::last_known`].
    pub fn last_known(&self, key: &Key) -> Option<V> {
        let moment = Instant::now();
        let entry = self.young(key, moment)?;
        // The store did tell something: it is this process that is late.
        if entry.promise.standing(moment) == Standing::Behind {
            return None;
        }
        count(&self.counters.outage_hits);
        Some(entry.value)
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> NearCacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NearCacheStats {
            hits: read(&self.counters.hits),
            misses: read(&self.counters.misses),
            outage_hits: read(&self.counters.outage_hits),
            invalidations: read(&self.counters.invalidations),
            flushes: read(&self.counters.flushes),
            armed: read(&self.counters.armed),
        }
    }

    fn young(&self, key: &Key, moment: Instant) -> Option<Entry<V>> {
        let entry = self.entries.get(key)?;
        (moment < entry.until).then_some(entry)
    }

    fn miss(&self) -> AtHand<V> {
        count(&self.counters.misses);
        AtHand::Nothing
    }

    fn move_all_on(&self) {
        for mark in std::iter::once(&self.first_mark).chain(&self.more_marks) {
            let _changing = mark.lock();
            mark.move_on();
        }
    }

    fn mark_of(&self, key: &Key) -> &Mark {
        let [first, second, ..] = key.as_bytes();
        // Keys are digests: their bytes are evenly spread.
        let index = usize::from(u16::from_be_bytes([*first, *second])) % (MORE_MARKS + 1);
        self.more_marks.get(index).unwrap_or(&self.first_mark)
    }
}

impl<V: Clone + Send + Sync + 'static> Listener for NearCache<V> {
    fn mark(&self, key: &Key) -> u64 {
        self.mark_of(key).count()
    }

    fn changed(&self, key: &Key) {
        let mark = self.mark_of(key);
        let _changing = mark.lock();
        // In this order: who finds the copy still there sees the mark move afterwards.
        self.entries.remove(key);
        mark.move_on();
    }

    fn told(&self, key: &Key) {
        count(&self.counters.invalidations);
        self.changed(key);
    }

    fn all_changed(&self) {
        count(&self.counters.flushes);
        // Before, so that nothing is put in that was asked for earlier; behind, as for a single one.
        self.move_all_on();
        self.entries.clear();
        self.move_all_on();
    }

    fn promised(&self) {
        count(&self.counters.armed);
    }

    fn broken(&self) {
        count(&self.counters.flushes);
        self.counters.armed.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Copies for NearCache<Arc<Snapshot>> {
    fn at_hand(&self, key: &Key) -> AtHand<Arc<Snapshot>> {
        self.at_hand(key)
    }

    fn keep(&self, key: &Key, pass: &Pass, found: Option<&Arc<Snapshot>>) {
        self.keep(key, pass, found.map(Arc::clone));
    }

    fn last_known(&self, key: &Key) -> Option<Arc<Snapshot>> {
        self.last_known(key)
    }
}

impl Mark {
    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn move_on(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
