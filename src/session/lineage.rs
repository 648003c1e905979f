//! On what a record builds that is served before it is stored.
//!
//! While the store is away, a replica serves a record with its own changes that wait, under versions that are only
//! predicted: meanwhile another replica may have used the same numbers. So such a [`Snapshot`] carries the number of
//! the last *stored* version that it builds on, and which of the waiting changes it knows. Once those are stored, their
//! real places are told to all who know them, so that they do not count as somebody else's change (rule C1).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::Timestamp;
use super::record::Snapshot;
use super::store::Version;

/// Where a change came to lie in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// The beginning of the record that it is a change of.
    pub born: Version,
    /// The sequence number of the version that it made.
    pub seq: u64,
}

/// The changes of one replica to one record, one after the other, that wait for the store: where those that are stored
/// by now came to lie. Shared by everything that builds on them.
#[derive(Debug, Default)]
pub struct Chain {
    landed: Mutex<Vec<(u64, Landed)>>,
}

impl Chain {
    /// Notes that the change of that number is stored.
    pub fn land(&self, number: u64, at: Landed) {
        self.places().push((number, at));
    }

    fn known(&self, knows: u64) -> Vec<Landed> {
        let places = self.places();
        let known = places.iter().filter(|(number, _)| *number < knows);
        known.map(|(_, at)| *at).collect()
    }

    fn places(&self) -> MutexGuard<'_, Vec<(u64, Landed)>> {
        // A panic while the lock is held leaves the list whole.
        self.landed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The origin of a record that is not stored, or was not when it was served.
#[derive(Clone, Debug)]
pub struct Lineage {
    base: u64,
    since: Timestamp,
    chain: Arc<Chain>,
    knows: u64,
}

impl Lineage {
    /// A chain of changes begins over `sent`, at `at`; it knows what `sent` knew.
    #[must_use]
    pub fn over(sent: Option<&Snapshot>, at: Timestamp) -> Self {
        let earlier = sent.and_then(|sent| sent.lineage.as_ref());
        let known = earlier.map(Self::own).unwrap_or_default();
        let places: Vec<_> = (0..).zip(known).collect();
        Self {
            base: sent.map_or(0, Snapshot::base),
            since: earlier.map_or(at, |earlier| earlier.since),
            knows: places.len() as u64,
            chain: Arc::new(Chain {
                landed: Mutex::new(places),
            }),
        }
    }

    /// The same chain, over `stored`, which is newer than what it began with.
    #[must_use]
    pub fn rebased(&self, stored: &Snapshot) -> Self {
        Self {
            base: stored.base(),
            ..self.clone()
        }
    }

    /// With one change more, and the number of that change.
    #[must_use]
    pub fn with_next(&self) -> (Self, u64) {
        let next = Self {
            knows: self.knows + 1,
            ..self.clone()
        };
        (next, self.knows)
    }

    /// Whether this builds on the change of that number of `chain`.
    #[must_use]
    pub fn knows(&self, chain: &Arc<Chain>, number: u64) -> bool {
        Arc::ptr_eq(&self.chain, chain) && number < self.knows
    }

    /// The changes.
    #[must_use]
    pub const fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// The last stored version that it builds on; 0 for none.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// When the first of the changes was made: what it builds on was read before.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        self.since
    }

    fn own(&self) -> Vec<Landed> {
        self.chain.known(self.knows)
    }
}

impl PartialEq for Lineage {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chain, &other.chain) && (self.base, self.knows) == (other.base, other.knows)
    }
}

impl Eq for Lineage {}

/// What a request knew of a record when it was sent.
pub(super) struct Known {
    /// Every version up to this one.
    after: u64,
    /// And these.
    own: Vec<u64>,
    /// Its beginning.
    pub(super) birth: bool,
}

impl Known {
    /// `None` when `sent` was another record.
    pub(super) fn of(now: &Snapshot, sent: &Snapshot) -> Option<Self> {
        let born = now.record.born();
        let same = sent.record.born() == born;
        if now.lineage.is_some() {
            // Both are of this replica, and so are the numbers, predicted or not.
            return same.then_some(Self {
                after: sent.version.seq,
                own: Vec::new(),
                birth: true,
            });
        }
        let own: Vec<u64> = sent.lineage.as_ref().map_or_else(Vec::new, |lineage| {
            let own = lineage.own().into_iter();
            own.filter(|at| at.born == born).map(|at| at.seq).collect()
        });
        if same {
            return Some(Self {
                after: sent.base(),
                own,
                birth: true,
            });
        }
        (!own.is_empty()).then(|| Self {
            after: 0,
            birth: own.contains(&born.seq),
            own,
        })
    }

    /// Whether it knew that version.
    pub(super) fn has(&self, seq: u64) -> bool {
        seq <= self.after || self.own.contains(&seq)
    }
}
