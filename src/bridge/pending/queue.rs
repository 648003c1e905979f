//! The changes that wait, by record: their order, their bounds, and the record as it is with them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::change::{Change, Settled};
use crate::bridge::sessions::Sessions;
use crate::metrics::Abandoned;
use crate::session::clock::Timestamp;
use crate::session::lineage::{Chain, Landed, Lineage};
use crate::session::merge::Effect;
use crate::session::record::{IN_FLIGHT_HORIZON, Snapshot};
use crate::session::removal::REMEMBERED;
use crate::session::store::{Key, LeaseToken, Version};

/// The most changes that wait.
pub const MAX_CHANGES: usize = 10_000;

/// The most memory that they take, in bytes, as far as it is counted: cookies, and the records they were sent with.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The longest that a change waits, counted from the first change of its chain: what all of a chain builds on was read
/// from the store before that. A record remembers for [`IN_FLIGHT_HORIZON`] who changed it, and for [`REMEMBERED`] that
/// it was removed; a change that were stored later could overwrite what it knows nothing of. Half of the horizon is left
/// for the request itself.
pub const MAX_AGE: Duration = Duration::from_secs(30 * 60);

const _: () = assert!(MAX_AGE.as_secs() * 2 <= IN_FLIGHT_HORIZON.as_secs() && MAX_AGE.as_secs() < REMEMBERED.as_secs());

/// A change on its way to the store, and the lease of its request if that had the lead: it keeps others from starting a
/// session meanwhile.
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) change: Change,
    pub(super) lease: Option<LeaseToken>,
    /// Its number in its chain.
    number: u64,
    chain: Arc<Chain>,
    bytes: usize,
    /// It starts a session, or ends one: what comes after it is judged by that.
    decisive: bool,
    /// It was tried already, and may be in the store.
    tried: bool,
}

/// The changes of one record.
struct Entry {
    lineage: Lineage,
    /// The beginning of the stored record that they build on.
    born: Option<Version>,
    /// The record as it is with all of them: what this replica serves.
    overlay: Option<Arc<Snapshot>>,
    /// When the overlay is to be forgotten if nobody uses it.
    expires_at: Timestamp,
    changes: VecDeque<Waiting>,
}

/// What came of adding a change.
pub(super) struct Pushed {
    /// The record with it.
    pub(super) overlay: Option<Arc<Snapshot>>,
    pub(super) effect: Effect,
    /// How many earlier changes it made needless.
    pub(super) superseded: usize,
}

/// What the overlay of a record is.
pub(super) enum Overlay {
    /// No change of it waits.
    Absent,
    /// The record, or that it is gone.
    Present(Option<Arc<Snapshot>>),
    /// It had run out, and so many changes were given up with it.
    Expired(usize),
}

/// All changes that wait.
#[derive(Default)]
pub(super) struct Queue {
    /// In a fixed order, which is as good as any.
    entries: BTreeMap<Key, Entry>,
    count: usize,
    bytes: usize,
}

impl Queue {
    /// The record of `key` with what waits; it is used now, and its expiry slides (rule T1).
    pub(super) fn serve(&mut self, key: &Key, sessions: &Sessions) -> Overlay {
        let Some(entry) = self.entries.get_mut(key) else {
            return Overlay::Absent;
        };
        if entry.has_expired(sessions.now()) {
            return Overlay::Expired(self.drop_entry(key));
        }
        entry.used(sessions);
        Overlay::Present(entry.overlay.clone())
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// Adds a change, unless the bounds forbid it: then it tells which.
    pub(super) fn push(
        &mut self,
        key: &Key,
        change: Change,
        lease: Option<LeaseToken>,
        sessions: &Sessions,
    ) -> Result<Pushed, Abandoned> {
        let now = sessions.now();
        let bytes = change.size();
        let there = self.entries.get(key);
        let (superseded, freed) = there.map_or((0, 0), |entry| entry.supersedes(&change));
        if self.count - superseded >= MAX_CHANGES || (self.bytes - freed).saturating_add(bytes) > MAX_BYTES {
            return Err(Abandoned::Full);
        }
        let lineage = there.map_or_else(
            || Lineage::over(change.sent.as_deref(), change.said.at),
            |entry| entry.lineage.clone(),
        );
        if now.since(lineage.since()) >= MAX_AGE {
            return Err(Abandoned::TooOld);
        }
        let entry = self
            .entries
            .entry(*key)
            .or_insert_with(|| Entry::over(change.sent.clone(), lineage));
        entry.changes.truncate(entry.changes.len() - superseded);
        let (overlay, effect) = entry.add(change, lease, bytes, sessions);
        self.count = self.count - superseded + 1;
        self.bytes = self.bytes - freed + bytes;
        Ok(Pushed {
            overlay,
            effect,
            superseded,
        })
    }

    /// The change of `key` that is to be stored next.
    pub(super) fn first(&mut self, key: &Key) -> Option<Waiting> {
        let first = self.entries.get_mut(key)?.changes.front_mut()?;
        first.tried = true;
        Some(first.clone())
    }

    /// `done` need not wait any more; it lies there in the store, if it does.
    pub(super) fn pop(&mut self, key: &Key, done: &Waiting, landed: Option<Landed>) {
        if let Some(landed) = landed {
            done.chain.land(done.number, landed);
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        let is_it = |first: &Waiting| first.number == done.number && Arc::ptr_eq(&first.chain, &done.chain);
        if entry.changes.front().is_some_and(is_it) {
            entry.changes.pop_front();
            self.count -= 1;
            self.bytes -= done.bytes;
        }
        if entry.changes.is_empty() {
            self.entries.remove(key);
        }
    }

    /// Gives up what has waited for too long, and what has run out meanwhile.
    pub(super) fn drop_overdue(&mut self, now: Timestamp) -> Vec<(Key, Abandoned, usize)> {
        let overdue = self.entries.iter().filter_map(|(key, entry)| {
            let reason = if now.since(entry.lineage.since()) >= MAX_AGE {
                Abandoned::TooOld
            } else if entry.has_expired(now) {
                Abandoned::Expired
            } else {
                return None;
            };
            Some((*key, reason))
        });
        let overdue: Vec<_> = overdue.collect();
        let drop = |(key, reason)| (key, reason, self.drop_entry(&key));
        overdue.into_iter().map(drop).collect()
    }

    fn drop_entry(&mut self, key: &Key) -> usize {
        let changes = self.entries.remove(key).map(|entry| entry.changes).unwrap_or_default();
        self.count -= changes.len();
        self.bytes -= changes.iter().map(|waiting| waiting.bytes).sum::<usize>();
        changes.len()
    }

    /// Forgets everything, and tells how many changes that were.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(self).count
    }

    /// All keys, in their order, but those behind `first` first.
    pub(super) fn keys_after(&self, first: Option<Key>) -> Vec<Key> {
        let mut keys: Vec<Key> = self.entries.keys().copied().collect();
        let behind = keys.partition_point(|key| first.is_some_and(|first| *key <= first));
        keys.rotate_left(behind);
        keys
    }

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest change was made.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let first = |entry: &Entry| entry.changes.front().map(|waiting| waiting.change.said.at);
        self.entries.values().filter_map(first).min()
    }
}

impl Entry {
    fn over(sent: Option<Arc<Snapshot>>, lineage: Lineage) -> Self {
        Self {
            born: sent.as_ref().map(|sent| sent.record.born()),
            lineage,
            overlay: sent,
            expires_at: Timestamp::MAX,
            changes: VecDeque::new(),
        }
    }

    /// How many of the last changes `next` makes needless, and their bytes: it was sent knowing them, speaks of all their
    /// cookies, and weighs no less. A change that was tried may be in the store, and what starts or ends a session decides
    /// how those after it are judged: they stay.
    fn supersedes(&self, next: &Change) -> (usize, usize) {
        let knows = |waiting: &Waiting| {
            let lineage = next.sent.as_ref().and_then(|sent| sent.lineage.as_ref());
            lineage.is_some_and(|lineage| lineage.knows(&waiting.chain, waiting.number))
        };
        let speaks_of_all = |waiting: &Waiting| {
            let mut earlier = waiting.change.said.cookies.iter();
            earlier.all(|cookie| next.said.cookies.iter().any(|newer| newer.same_key(cookie)))
        };
        let needless = self.changes.iter().rev().take_while(|waiting| {
            !waiting.tried
                && !waiting.decisive
                && next.said.rank >= waiting.change.said.rank
                && knows(waiting)
                && speaks_of_all(waiting)
        });
        needless.fold((0, 0), |(count, bytes), waiting| (count + 1, bytes + waiting.bytes))
    }

    fn add(
        &mut self,
        change: Change,
        lease: Option<LeaseToken>,
        bytes: usize,
        sessions: &Sessions,
    ) -> (Option<Arc<Snapshot>>, Effect) {
        self.build_on(change.sent.as_ref(), sessions);
        let before = self.overlay.take();
        let Settled { snapshot, effect, .. } = change.decide(sessions, before.as_ref()).0;
        let (lineage, number) = self.lineage.with_next();
        self.overlay = snapshot.map(|snapshot| with_lineage(snapshot, &lineage));
        self.lineage = lineage;
        self.changes.push_back(Waiting {
            lease: lease.filter(|_| effect == Effect::Created),
            number,
            chain: Arc::clone(self.lineage.chain()),
            bytes,
            decisive: before.is_none() || matches!(effect, Effect::Created | Effect::Ended),
            tried: change.is_unsure(),
            change,
        });
        self.expires_at = Timestamp::MAX;
        self.used(sessions);
        (self.overlay.clone(), effect)
    }

    /// A request that was sent with a newer record of the store than the one that the changes build on shows what others
    /// have changed: the overlay is built again, on that.
    fn build_on(&mut self, sent: Option<&Arc<Snapshot>>, sessions: &Sessions) {
        let stored = sent.filter(|sent| sent.lineage.is_none());
        let newer = stored.filter(|sent| match self.born {
            Some(born) => sent.record.born() == born && sent.version.seq > self.lineage.base(),
            None => true,
        });
        let Some(newer) = newer else { return };
        self.born = Some(newer.record.born());
        self.lineage = self.lineage.rebased(newer);
        let mut overlay = Some(Arc::clone(newer));
        for waiting in &self.changes {
            overlay = waiting.change.decide(sessions, overlay.as_ref()).0.snapshot;
        }
        self.overlay = overlay;
    }

    fn used(&mut self, sessions: &Sessions) {
        if let Some(overlay) = &self.overlay {
            self.expires_at = overlay.record.expiry(sessions.now(), &sessions.lifetime);
        }
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.overlay.is_some() && self.expires_at <= now
    }
}

fn with_lineage(snapshot: Arc<Snapshot>, lineage: &Lineage) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        lineage: Some(lineage.clone()),
        ..Arc::unwrap_or_clone(snapshot)
    })
}
