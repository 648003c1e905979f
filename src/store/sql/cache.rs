//! What this process remembers of the table, and the leases, which are nowhere else.
//!
//! The writer *pins* a record before it changes it in the table and *publishes* the new one after the commit. Between
//! the two, readers find the pinned one here: none of them can see the new record before all of them do. A reader that
//! missed and read the table comes back to [`Shard::settle`], which tells whether what it read is still of use.

use std::collections::{HashMap, VecDeque};

use crate::session::clock::Timestamp;
use crate::session::store::{Key, Stored};
use crate::store::slot::Lease;

/// What an entry takes up besides its payload, roughly.
const OVERHEAD: usize = 200;

/// One part of the cache: records within `capacity` bytes, and all the leases.
pub(super) struct Shard {
    entries: HashMap<Key, Entry>,
    /// The keys of `entries`, each once, in the order in which they are considered for eviction.
    queue: VecDeque<Key>,
    bytes: usize,
    capacity: usize,
    evictions: u64,
    leases: HashMap<Key, Lease>,
}

struct Entry {
    /// What the table holds; it may have expired.
    record: Option<Stored>,
    /// Read since it was last considered for eviction.
    used: bool,
    /// Being changed.
    pinned: bool,
}

/// What is remembered of a key.
pub(super) enum Lookup {
    /// What the table holds.
    Known(Option<Stored>),
    /// Nothing: the table must be read. The number is for [`Shard::settle`].
    Unknown(u64),
}

impl Shard {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            queue: VecDeque::new(),
            bytes: 0,
            capacity,
            evictions: 0,
            leases: HashMap::new(),
        }
    }

    /// What is remembered of `key`.
    pub(super) fn look(&mut self, key: &Key) -> Lookup {
        match self.entries.get_mut(key) {
            Some(entry) => {
                entry.used = true;
                Lookup::Known(entry.record.clone())
            }
            None => Lookup::Unknown(self.evictions),
        }
    }

    /// Takes in what was `read` from the table after [`Lookup::Unknown`], and says what holds now. `None`: something
    /// was evicted meanwhile, which may have been a change of this very key; look again.
    pub(super) fn settle(&mut self, key: &Key, evictions: u64, read: Option<Stored>) -> Option<Option<Stored>> {
        match self.look(key) {
            Lookup::Known(record) => Some(record),
            Lookup::Unknown(now) if now != evictions => None,
            Lookup::Unknown(_) => {
                self.put(key, read.clone(), false);
                Some(read)
            }
        }
    }

    /// Keeps `before`, which the table holds, until it is published or forgotten.
    pub(super) fn pin(&mut self, key: &Key, before: Option<Stored>) {
        self.put(key, before, true);
    }

    /// Makes `record`, which the table holds now, visible.
    pub(super) fn publish(&mut self, key: &Key, record: Option<Stored>) {
        self.put(key, record, false);
    }

    /// Forgets what the table holds for `key`: it is uncertain.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes = self.bytes.saturating_sub(size(&entry.record));
            self.queue.retain(|queued| queued != key);
            self.evictions += 1;
        }
    }

    /// Notes that the table holds nothing for `key` any more, if anything is remembered of it.
    pub(super) fn swept(&mut self, key: &Key) {
        if self.entries.get(key).is_some_and(|entry| !entry.pinned) {
            self.put(key, None, false);
        }
    }

    /// The lease of `key`.
    pub(super) fn lease(&self, key: &Key) -> Lease {
        self.leases.get(key).copied().unwrap_or_default()
    }

    /// Changes the lease of `key`.
    pub(super) fn set_lease(&mut self, key: &Key, lease: Lease) {
        if lease == Lease::default() {
            self.leases.remove(key);
        } else {
            self.leases.insert(*key, lease);
        }
    }

    /// Drops the leases that are of no use any more.
    pub(super) fn sweep_leases(&mut self, now: Timestamp) {
        self.leases
            .retain(|_, lease| lease.useless_at().is_some_and(|at| at > now));
    }

    fn put(&mut self, key: &Key, record: Option<Stored>, pinned: bool) {
        self.bytes += size(&record);
        match self.entries.get_mut(key) {
            Some(entry) => {
                self.bytes = self.bytes.saturating_sub(size(&entry.record));
                entry.record = record;
                entry.pinned = pinned;
            }
            None => {
                self.entries.insert(
                    *key,
                    Entry {
                        record,
                        used: false,
                        pinned,
                    },
                );
                self.queue.push_back(*key);
            }
        }
        self.evict();
    }

    /// Evicts until all fits: the longest in the queue first, save those that were used since their last turn and
    /// those that are pinned.
    fn evict(&mut self) {
        let mut turns = 2 * self.queue.len();
        while self.bytes > self.capacity && turns > 0 {
            turns -= 1;
            let Some(key) = self.queue.pop_front() else { return };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.used || entry.pinned => {
                    entry.used = false;
                    self.queue.push_back(key);
                }
                Some(entry) => {
                    self.bytes = self.bytes.saturating_sub(size(&entry.record));
                    self.entries.remove(&key);
                    self.evictions += 1;
                }
                None => {}
            }
        }
    }
}

fn size(record: &Option<Stored>) -> usize {
    OVERHEAD + record.as_ref().map_or(0, |record| record.payload.0.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session::store::{Payload, Version};

    fn key(n: u8) -> Key {
        Key::from_digest([n; 16])
    }

    fn record(seq: u64) -> Option<Stored> {
        Some(Stored {
            version: Version { seq, nonce: 0 },
            expires_at: Timestamp::MAX,
            payload: Payload(Bytes::from(vec![0; 100])),
        })
    }

    fn known(shard: &mut Shard, n: u8) -> bool {
        matches!(shard.look(&key(n)), Lookup::Known(_))
    }

    /// Room for three records.
    fn shard() -> Shard {
        Shard::new(3 * (OVERHEAD + 100))
    }

    #[test]
    fn what_was_not_used_is_evicted_first() {
        let mut shard = shard();
        for n in 1..=3 {
            shard.publish(&key(n), record(1));
        }
        assert!(known(&mut shard, 1));
        shard.publish(&key(4), record(1));
        assert!(!known(&mut shard, 2));
        assert!(known(&mut shard, 1) && known(&mut shard, 3) && known(&mut shard, 4));
        assert!(shard.bytes <= shard.capacity);
    }

    #[test]
    fn what_is_pinned_is_never_evicted() {
        let mut shard = shard();
        shard.pin(&key(1), record(1));
        for n in 2..=20 {
            shard.publish(&key(n), record(1));
        }
        assert!(known(&mut shard, 1));
        for n in 21..=40 {
            shard.pin(&key(n), record(1));
        }
        assert!((21..=40).all(|n| known(&mut shard, n)));
    }

    #[test]
    fn a_reader_that_was_overtaken_gets_what_was_published() {
        let mut shard = shard();
        let Lookup::Unknown(mark) = shard.look(&key(1)) else {
            panic!("known")
        };
        shard.pin(&key(1), record(1));
        assert_eq!(shard.settle(&key(1), mark, record(2)), Some(record(1)));
        shard.publish(&key(1), record(2));
        assert_eq!(shard.settle(&key(1), mark, record(1)), Some(record(2)));
    }

    #[test]
    fn a_reader_looks_again_when_the_change_may_have_been_evicted() {
        let mut shard = shard();
        let Lookup::Unknown(mark) = shard.look(&key(1)) else {
            panic!("known")
        };
        shard.publish(&key(1), record(2));
        for n in 2..=9 {
            shard.publish(&key(n), record(1));
        }
        assert_eq!(shard.settle(&key(1), mark, record(1)), None);
        let Lookup::Unknown(mark) = shard.look(&key(1)) else {
            panic!("known")
        };
        assert_eq!(shard.settle(&key(1), mark, record(2)), Some(record(2)));
        shard.forget(&key(1));
        assert_eq!(shard.settle(&key(1), mark, record(2)), None);
    }

    #[test]
    fn bytes_are_counted_right_when_records_change() {
        let mut shard = shard();
        shard.publish(&key(1), record(1));
        shard.publish(&key(1), record(2));
        shard.swept(&key(1));
        assert_eq!(shard.bytes, OVERHEAD);
        shard.forget(&key(1));
        assert_eq!((shard.bytes, shard.queue.len()), (0, 0));
        shard.swept(&key(1));
        assert!(!known(&mut shard, 1));
    }
}
