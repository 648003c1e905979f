//! What a key holds, and how each call changes it: the deciding of the stores that decide in this process.
//!
//! Pure: the time is handed in, nothing waits. The caller makes each call atomic.

use std::time::Duration;

use crate::session::clock::Timestamp;
use crate::session::quota::{Place, Quota, Taken, Tally};
use crate::session::store::{
    Acquired, BARREN_MEMORY, Created, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced, Stored, Version,
};

/// The record and the lease of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// The record; it may have expired. Ask [`Slot::current`] for what may be seen.
    pub(super) record: Option<Stored>,
    /// The lease.
    pub(super) lease: Lease,
}

impl Slot {
    /// The record, unless it has expired.
    pub(super) fn current(&self, now: Timestamp) -> Option<&Stored> {
        current(self.record.as_ref(), now)
    }

    /// See [`SessionStore::create`](crate::session::store::SessionStore::create).
    pub(super) fn create(&mut self, now: Timestamp, new: NewRecord, fence: Option<LeaseToken>) -> Created {
        if self.lease.bars(now, fence) {
            return Created::Fenced;
        }
        if let Some(there) = self.current(now) {
            return Created::Lost(there.clone());
        }
        self.record = Some(stored(now, new));
        Created::Won
    }

    /// See [`SessionStore::replace`](crate::session::store::SessionStore::replace).
    pub(super) fn replace(
        &mut self,
        now: Timestamp,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> Replaced {
        if self.lease.bars(now, fence) {
            return Replaced::Fenced;
        }
        match self.current(now) {
            Some(there) if there.version == expected => {
                self.record = Some(stored(now, new));
                Replaced::Done
            }
            other => Replaced::Conflict(other.cloned()),
        }
    }

    /// See [`SessionStore::remove`](crate::session::store::SessionStore::remove).
    pub(super) fn remove(&mut self, now: Timestamp, expected: Version) -> Removed {
        match self.current(now) {
            Some(there) if there.version == expected => {
                self.record = None;
                Removed::Done
            }
            other => Removed::Conflict(other.cloned()),
        }
    }

    /// See [`SessionStore::touch`](crate::session::store::SessionStore::touch).
    pub(super) fn touch(&mut self, now: Timestamp, expected: Version, ttl: Duration) -> bool {
        match &mut self.record {
            Some(there) if there.version == expected && there.expires_at > now => {
                there.expires_at = after(now, ttl);
                true
            }
            _ => false,
        }
    }

    /// See [`SessionStore::take_place`](crate::session::store::SessionStore::take_place).
    pub(super) fn take_place(&mut self, now: Timestamp, quota: Quota) -> Taken {
        let mut tally = self.tally(now);
        let taken = tally.take(&quota, now);
        if let Taken::Place(_) = taken {
            self.set_tally(now, &tally, quota);
        }
        taken
    }

    /// See [`SessionStore::give_back`](crate::session::store::SessionStore::give_back).
    pub(super) fn give_back(&mut self, now: Timestamp, quota: Quota, place: Place) {
        let mut tally = self.tally(now);
        tally.give_back(place);
        self.set_tally(now, &tally, quota);
    }

    fn tally(&self, now: Timestamp) -> Tally {
        self.current(now)
            .map(|there| Tally::decode(&there.payload))
            .unwrap_or_default()
    }

    fn set_tally(&mut self, now: Timestamp, tally: &Tally, quota: Quota) {
        let over = self.current(now).map(|there| there.version);
        self.record = Some(stored(now, NewRecord::tally(tally, over, quota)));
    }

    /// When nothing of this is of any use any more; `None` when that is so already, whatever the time.
    pub(super) fn useless_at(&self) -> Option<Timestamp> {
        self.record
            .as_ref()
            .map(|record| record.expires_at)
            .max(self.lease.useless_at())
    }

    /// The first moment after `now` at which anything of this runs out: what is decided at `now` holds until then.
    pub(super) fn holds_until(&self, now: Timestamp) -> Timestamp {
        let times = [
            self.record.as_ref().map(|record| record.expires_at),
            self.lease.holder.map(|(_, until)| until),
            self.lease.barren.map(|(_, until)| until),
        ];
        let ahead = times.into_iter().flatten().filter(|at| *at > now);
        ahead.min().unwrap_or(Timestamp::MAX)
    }
}

/// The record, unless it has expired.
pub(super) fn current(record: Option<&Stored>, now: Timestamp) -> Option<&Stored> {
    record.filter(|record| record.expires_at > now)
}

fn stored(now: Timestamp, new: NewRecord) -> Stored {
    Stored {
        version: new.version,
        expires_at: after(now, new.ttl),
        payload: new.payload,
    }
}

/// `ttl` from `now`; never `now` itself.
fn after(now: Timestamp, ttl: Duration) -> Timestamp {
    now.saturating_add(ttl.max(Duration::from_millis(1)))
}

/// Who may start a session, and how many could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    /// The holder, and until when; that may have passed.
    pub(super) holder: Option<(LeaseToken, Timestamp)>,
    /// How many leaders ended barren, and until when that is remembered; that may have passed.
    pub(super) barren: Option<(u32, Timestamp)>,
}

impl Lease {
    /// See [`SessionStore::observe`](crate::session::store::SessionStore::observe).
    pub(super) fn state(&self, now: Timestamp) -> LeaseState {
        LeaseState {
            held: self.holder(now).is_some(),
            barren: self.barren(now),
        }
    }

    /// See [`SessionStore::acquire_lease`](crate::session::store::SessionStore::acquire_lease).
    pub(super) fn acquire(&mut self, now: Timestamp, token: LeaseToken, ttl: Duration) -> Acquired {
        if self.holder(now).is_some_and(|holder| holder != token) {
            return Acquired::Held {
                barren: self.barren(now),
            };
        }
        self.holder = Some((token, after(now, ttl)));
        Acquired::Won
    }

    /// See [`SessionStore::renew_lease`](crate::session::store::SessionStore::renew_lease).
    pub(super) fn renew(&mut self, now: Timestamp, token: LeaseToken, ttl: Duration) -> bool {
        let held = self.holder(now) == Some(token);
        if held {
            self.holder = Some((token, after(now, ttl)));
        }
        held
    }

    /// See [`SessionStore::release_lease`](crate::session::store::SessionStore::release_lease).
    pub(super) fn release(&mut self, now: Timestamp, token: LeaseToken, end: LeaseEnd) {
        if self.holder(now) != Some(token) {
            return;
        }
        self.holder = None;
        if end == LeaseEnd::Barren {
            self.barren = Some((self.barren(now).saturating_add(1), after(now, BARREN_MEMORY)));
        }
    }

    /// When nothing of this is of any use any more; `None` when that is so already, whatever the time.
    pub(super) fn useless_at(&self) -> Option<Timestamp> {
        self.holder
            .map(|(_, until)| until)
            .max(self.barren.map(|(_, until)| until))
    }

    /// Whether a write that shows `fence` must not take effect.
    fn bars(&self, now: Timestamp, fence: Option<LeaseToken>) -> bool {
        fence.is_some_and(|token| self.holder(now) != Some(token))
    }

    fn holder(&self, now: Timestamp) -> Option<LeaseToken> {
        self.holder.and_then(|(token, until)| (until > now).then_some(token))
    }

    fn barren(&self, now: Timestamp) -> u32 {
        self.barren
            .map_or(0, |(count, until)| if until > now { count } else { 0 })
    }
}
