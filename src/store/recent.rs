//! What was read of the records used most lately, ready to be used again.
//!
//! Bounded by the number of places, and no part of the truth: whoever changes a record has it forgotten here, under the
//! same lock. A place is found by the bits of the key, without a map: a hit costs one look at one row.

use std::sync::Arc;

use crate::session::record::Snapshot;
use crate::session::store::Key;

/// The keys that share these places are those whose rows are one.
const ROW: usize = 4;

/// How many rows there are at first, and at most: a few hundred bytes, and some 100 kB.
const ROWS: (usize, usize) = (4, 1024);

type Row = [Option<(Key, Arc<Snapshot>)>; ROW];

/// See the [module](self).
#[derive(Default)]
pub(super) struct Recent {
    /// None at first, then a power of two.
    rows: Vec<Row>,
    /// Which place of a full row is taken next.
    turn: usize,
}

impl Recent {
    /// The most that is kept.
    #[cfg(test)]
    pub(super) const MOST: usize = ROW * ROWS.1;

    /// What was read of the record of `key`, and not forgotten since.
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Snapshot>> {
        let row = self.rows.get(self.row_of(key))?;
        row.iter()
            .flatten()
            .find_map(|(other, snapshot)| (other == key).then_some(snapshot))
    }

    /// Keeps what was read of the record of `key`, one of `records` that there are.
    pub(super) fn put(&mut self, key: Key, snapshot: Arc<Snapshot>, records: usize) {
        // As many places as records, twice over, so that few of them meet.
        let wanted = (records / ROW * 2).clamp(ROWS.0, ROWS.1).next_power_of_two();
        if self.rows.len() < wanted {
            self.rows = std::iter::repeat_with(Row::default).take(wanted).collect();
        }
        self.forget(&key);
        self.turn = (self.turn + 1) % ROW;
        let (at, turn) = (self.row_of(&key), self.turn);
        let Some(row) = self.rows.get_mut(at) else { return };
        let place = row.iter().position(Option::is_none).unwrap_or(turn);
        if let Some(place) = row.get_mut(place) {
            *place = Some((key, snapshot));
        }
    }

    /// The record of `key` is about to change, or has gone.
    pub(super) fn forget(&mut self, key: &Key) {
        let at = self.row_of(key);
        for place in self.rows.get_mut(at).into_iter().flatten() {
            if place.as_ref().is_some_and(|(other, _)| other == key) {
                *place = None;
            }
        }
    }

    fn row_of(&self, key: &Key) -> usize {
        // Keys are digests: their bytes are evenly spread. The last one has chosen the part of the store already.
        let [.., first, second, _] = key.as_bytes();
        usize::from(u16::from_be_bytes([*first, *second])) & self.rows.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::clock::Timestamp;
    use crate::session::record::{Rank, Record};
    use crate::session::store::Version;

    fn key(number: u32) -> Key {
        let mut digest = [0; 16];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        digest[13..15].copy_from_slice(&(number as u16).to_be_bytes());
        Key::from_digest(digest)
    }

    fn snapshot(seq: u64) -> Arc<Snapshot> {
        let version = Version { seq, nonce: 0 };
        Arc::new(Snapshot {
            version,
            expires_at: Timestamp::MAX,
            record: Record::begin(version, Rank::Safe, Timestamp::from_millis(0)),
            lineage: None,
        })
    }

    #[test]
    fn what_was_put_is_got_until_it_is_forgotten_or_another_takes_its_place() {
        let mut recent = Recent::default();
        assert_eq!(recent.get(&key(1)), None);
        recent.put(key(1), snapshot(1), 2);
        recent.put(key(2), snapshot(2), 2);
        assert_eq!(recent.get(&key(1)), Some(&snapshot(1)));
        recent.put(key(1), snapshot(3), 2);
        assert_eq!(recent.get(&key(1)), Some(&snapshot(3)));
        recent.forget(&key(1));
        assert_eq!((recent.get(&key(1)), recent.get(&key(2))), (None, Some(&snapshot(2))));
        for meets in 1..=8 {
            recent.put(key(meets << 16), snapshot(u64::from(meets)), 2);
        }
        let kept = (1..=8).filter(|meets| recent.get(&key(meets << 16)).is_some()).count();
        assert_eq!(kept, ROW);
        for number in (1..=8).map(|meets| meets << 16) {
            recent.forget(&key(number));
            assert_eq!(recent.get(&key(number)), None);
        }
    }

    #[test]
    fn most_of_as_many_as_it_is_made_for_are_kept_and_never_more_than_it_may() {
        let (few, many) = (1000, 100_000);
        let kept = |records: u32| {
            let mut recent = Recent::default();
            let keys: Vec<_> = (0..records)
                .map(|number| key(number.wrapping_mul(0x9e37_79b9)))
                .collect();
            for _ in 0..2 {
                for key in &keys {
                    recent.put(*key, snapshot(1), records as usize);
                }
            }
            keys.iter().filter(|key| recent.get(key).is_some()).count()
        };
        assert!(kept(few) > 900, "{}", kept(few));
        assert!(kept(many) <= Recent::MOST);
    }
}
