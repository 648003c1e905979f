//! The typed front of the store: records instead of bytes, every call timed and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::unreadable::{OnUnreadable, Watch};
use crate::metrics::{Metrics, StoreOp, StoreResult};
use crate::moment;
use crate::session::clock::{Clock, Timestamp};
use crate::session::copies::{AtHand, Copies};
use crate::session::newest::Newest;
use crate::session::past::Past;
use crate::session::quota::{Place, Quota, Taken};
use crate::session::record::{CookiePolicy, Lifetime, Record, Snapshot};
use crate::session::removal::{REMEMBERED, Removal};
use crate::session::store::{
    Acquired, Created, Key, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced, SessionStore, StoreError,
    Stored, Unreadable, Version,
};

/// How often noting a removal may lose against other removals of the same installation.
const MAX_REMEMBER: usize = 16;

/// How long a request waits for what the store has told to be taken in: then it asks.
const CATCH_UP: Duration = Duration::from_millis(50);

/// What the stages that touch sessions share.
pub struct Sessions {
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// The last call did not get an answer.
    failing: AtomicBool,
    recovered: Notify,
    unreadable: Watch,
    on_unreadable: OnUnreadable,
    copies: Option<Arc<dyn Copies>>,
    /// Which cookies matter.
    pub policy: CookiePolicy,
    /// How long records live.
    pub lifetime: Lifetime,
}

/// What came of an attempt to write or remove a record.
#[derive(Debug)]
pub enum Written {
    /// It is done.
    Done,
    /// Somebody else's change came first; this is what is there now.
    Conflict(Option<Arc<Snapshot>>),
    /// The lease is not held any more.
    Fenced,
}

impl Sessions {
    /// Fronts `store`. Records that cannot be read are left alone, see [`Sessions::on_unreadable`].
    #[must_use]
    pub fn new(
        store: Arc<dyn SessionStore>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        policy: CookiePolicy,
        lifetime: Lifetime,
    ) -> Self {
        Self {
            store,
            clock,
            unreadable: Watch::new(Arc::clone(&metrics)),
            on_unreadable: OnUnreadable::default(),
            copies: None,
            metrics,
            failing: AtomicBool::new(false),
            recovered: Notify::new(),
            policy,
            lifetime,
        }
    }

    /// The same with another policy for records that cannot be read.
    #[must_use]
    pub fn on_unreadable(self, on_unreadable: OnUnreadable) -> Self {
        Self { on_unreadable, ..self }
    }

    /// The same with copies of what is read, which the store keeps true.
    #[must_use]
    pub fn with_copies(self, copies: Option<Arc<dyn Copies>>) -> Self {
        Self { copies, ..self }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The present moment or one just before, see [`moment`]: enough to tell what has expired.
    #[must_use]
    pub fn lately(&self) -> Timestamp {
        Timestamp::after_epoch(self.wall_lately())
    }

    /// The same, as exactly as the clock knows it: how long ago the Unix epoch was.
    #[must_use]
    pub fn wall_lately(&self) -> Duration {
        moment::wall_lately(&*self.clock)
    }

    /// Whether that record, if any, has a session.
    #[must_use]
    pub fn has_session(&self, snapshot: Option<&Snapshot>) -> bool {
        snapshot.is_some_and(|snapshot| self.has_session_at(snapshot, self.now()))
    }

    /// The same at `now`, for one who has looked at the clock already.
    #[must_use]
    pub fn has_session_at(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        self.policy.has_session(snapshot.record.jar(), now)
    }

    /// How long a record written or used now is to live from now on; at least a millisecond.
    #[must_use]
    pub fn ttl(&self, record: &Record, now: Timestamp) -> Duration {
        record
            .expiry(now, &self.lifetime)
            .since(now)
            .max(Duration::from_millis(1))
    }

    /// Waits until the store answers after it did not. For one who waits.
    pub async fn recovered(&self) {
        self.recovered.notified().await;
    }

    /// Whether the store can serve.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.timed(StoreOp::Ping, self.store.ping()).await
    }

    /// Whether copies are kept of what is read.
    #[must_use]
    pub fn has_copies(&self) -> bool {
        self.copies.is_some()
    }

    /// The record of `key`, where it is known in this process to be what the store holds. What decides about a change
    /// does not go by it: it may be as old as news of a change are under way.
    pub async fn at_hand(&self, key: &Key) -> Option<Arc<Snapshot>> {
        let copies = self.copies.as_deref()?;
        let mut until = None;
        loop {
            match copies.at_hand(key) {
                AtHand::True(snapshot) => return Some(snapshot),
                AtHand::Nothing => return None,
                AtHand::Unsure(promise) => {
                    let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + CATCH_UP);
                    tokio::time::timeout_at(until, promise.caught_up()).await.ok()?;
                }
            }
        }
    }

    /// The record of `key` as it was known last, for when the store cannot be asked (rule N4).
    #[must_use]
    pub fn last_known(&self, key: &Key) -> Option<Arc<Snapshot>> {
        self.copies.as_deref()?.last_known(key)
    }

    /// The record of `key` and the present moment, where the store has it in this process. `None` says nothing: ask by
    /// [`Sessions::load`].
    #[must_use]
    pub fn at_once(&self, key: &Key) -> Option<(Arc<Snapshot>, Timestamp)> {
        let store = self.store.at_once()?;
        let (now, started) = (self.now(), moment::lately());
        let snapshot = store.read(key, now).ok()??;
        self.answered(StoreOp::Load, StoreResult::Ok, started);
        Some((snapshot, now))
    }

    /// The record of `key`.
    ///
    /// # Errors
    /// Whatever keeps the store from answering, or a record that cannot be read and is to stay.
    pub async fn load(&self, key: &Key) -> Result<Option<Arc<Snapshot>>, StoreError> {
        match self.inspect(key).await {
            Err(StoreError::Unreadable(unreadable)) => self.treat(key, unreadable).await,
            other => other,
        }
    }

    /// The record of `key`, for somebody who only looks: what cannot be read stays, whatever the policy.
    ///
    /// # Errors
    /// As [`Sessions::load`].
    pub async fn inspect(&self, key: &Key) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let Some(copies) = self.copies.as_deref() else {
            let stored = self.timed(StoreOp::Load, self.store.load(key)).await?;
            return Ok(stored.as_ref().map(Snapshot::read).transpose()?);
        };
        let (stored, pass) = self.timed(StoreOp::Load, self.store.load_to_keep(key)).await?;
        let snapshot = stored.as_ref().map(Snapshot::read).transpose()?;
        if let Some(pass) = pass {
            copies.keep(key, &pass, snapshot.as_ref());
        }
        Ok(snapshot)
    }

    /// The record of `key` and the state of its lease.
    ///
    /// # Errors
    /// As [`Sessions::load`].
    pub async fn observe(&self, key: &Key) -> Result<(Option<Arc<Snapshot>>, LeaseState), StoreError> {
        let look = async || {
            let (stored, lease) = self.timed(StoreOp::Observe, self.store.observe(key)).await?;
            Ok((stored.as_ref().map(Snapshot::read).transpose()?, lease))
        };
        match look().await {
            Err(StoreError::Unreadable(unreadable)) => {
                self.treat(key, unreadable).await?;
                look().await
            }
            other => other,
        }
    }

    /// Writes `record` as `version`: over the record of version `over`, or where there is none.
    ///
    /// # Errors
    /// [`StoreError::Ambiguous`] when it may have happened; otherwise it has not.
    pub async fn write(
        &self,
        key: &Key,
        over: Option<Version>,
        version: Version,
        record: &Record,
        fence: Option<LeaseToken>,
    ) -> Result<Written, StoreError> {
        let new = NewRecord {
            version,
            ttl: self.ttl(record, self.now()),
            payload: record.encode()?,
        };
        let there = match over {
            None => {
                let created = self.timed(StoreOp::Create, self.store.create(key, new, fence));
                match created.await {
                    Ok(Created::Won) => return Ok(Written::Done),
                    Ok(Created::Fenced) => return Ok(Written::Fenced),
                    Ok(Created::Lost(stored)) => Ok(Some(stored)),
                    Err(error) => Err(error),
                }
            }
            Some(over) => {
                let replaced = self.timed(StoreOp::Replace, self.store.replace(key, over, new, fence));
                match replaced.await {
                    Ok(Replaced::Done) => return Ok(Written::Done),
                    Ok(Replaced::Fenced) => return Ok(Written::Fenced),
                    Ok(Replaced::Conflict(stored)) => Ok(stored),
                    Err(error) => Err(error),
                }
            }
        };
        self.conflict(key, there).await
    }

    /// Removes `record`, if it is still the one. A young one is remembered as removed first, see [`Removal`].
    ///
    /// # Errors
    /// As [`Sessions::write`].
    pub async fn remove(&self, key: &Key, record: &Snapshot) -> Result<Written, StoreError> {
        self.note_removal(key, record).await?;
        self.remove_noted(key, record).await
    }

    /// The same where it matters more that the record goes than that it is noted: a store that has no room for the note,
    /// or whose part for it is away, does not keep a session alive that was ended.
    ///
    /// # Errors
    /// As [`Sessions::write`].
    pub async fn remove_even_unnoted(&self, key: &Key, record: &Snapshot) -> Result<Written, StoreError> {
        let noted = self.note_removal(key, record).await;
        let removed = self.remove_noted(key, record).await;
        if let (Err(error), Ok(Written::Done)) = (noted, &removed) {
            tracing::warn!(install = %key, %error, "a session was ended, and that could not be noted");
        }
        removed
    }

    async fn note_removal(&self, key: &Key, record: &Snapshot) -> Result<(), StoreError> {
        match Removal::of(record, self.now()) {
            Some(removal) => self.remember(&Removal::key(key), removal).await,
            None => Ok(()),
        }
    }

    async fn remove_noted(&self, key: &Key, record: &Snapshot) -> Result<Written, StoreError> {
        match self
            .timed(StoreOp::Remove, self.store.remove(key, record.version))
            .await
        {
            Ok(Removed::Done) => Ok(Written::Done),
            Ok(Removed::Conflict(stored)) => self.conflict(key, Ok(stored)).await,
            Err(error) => self.conflict(key, Err(error)).await,
        }
    }

    /// Removes a record that could not be read, unless another one has taken its place. `true` when it did.
    ///
    /// # Errors
    /// Whatever keeps the store from answering, or that what has taken its place cannot be read either.
    pub async fn discard(&self, key: &Key, unreadable: &Unreadable) -> Result<bool, StoreError> {
        match unreadable.version {
            Some(version) => {
                let removed = self.timed(StoreOp::Remove, self.store.remove(key, version)).await?;
                Ok(removed == Removed::Done)
            }
            None => self.timed(StoreOp::Discard, self.store.discard(key)).await,
        }
    }

    /// What stood in the way of a write.
    async fn conflict(&self, key: &Key, there: Result<Option<Stored>, StoreError>) -> Result<Written, StoreError> {
        let read = there.and_then(|stored| Ok(stored.as_ref().map(Snapshot::read).transpose()?));
        match read {
            Err(StoreError::Unreadable(unreadable)) => self.treat(key, unreadable).await,
            other => other,
        }
        .map(Written::Conflict)
    }

    /// Treats a record that cannot be read by the policy. Where that removes it, looks again: another replica may have
    /// been quicker, and have started a session since.
    pub(super) async fn treat(&self, key: &Key, unreadable: Unreadable) -> Result<Option<Arc<Snapshot>>, StoreError> {
        self.unreadable.met(key, &unreadable, self.on_unreadable);
        match self.on_unreadable {
            OnUnreadable::Reject => Err(unreadable.into()),
            OnUnreadable::Replace => {
                self.discard(key, &unreadable).await?;
                self.inspect(key).await
            }
        }
    }

    /// The last removal of a record of `key`, where it is remembered.
    ///
    /// # Errors
    /// As [`Sessions::load`]: what cannot be read is treated by the same policy.
    pub async fn removal(&self, key: &Key) -> Result<Option<Removal>, StoreError> {
        let place = Removal::key(key);
        let read = async || {
            let stored = self.timed(StoreOp::Load, self.store.load(&place)).await?;
            let read = |stored: Stored| Removal::decode(&stored.payload).map_err(|flaw| flaw.of(stored.version));
            Ok(stored.map(read).transpose()?)
        };
        match read().await {
            Err(StoreError::Unreadable(unreadable)) => {
                self.unreadable.met(key, &unreadable, self.on_unreadable);
                if self.on_unreadable == OnUnreadable::Reject {
                    return Err(unreadable.into());
                }
                self.discard(&place, &unreadable).await?;
                // Another replica may have noted one meanwhile.
                read().await
            }
            other => other,
        }
    }

    /// The last removal counts: it takes the place of one before, also of one that cannot be read.
    async fn remember(&self, key: &Key, removal: Removal) -> Result<(), StoreError> {
        let new = NewRecord {
            version: removal.version(),
            ttl: REMEMBERED,
            payload: removal.encode()?,
        };
        for _ in 0..MAX_REMEMBER {
            let create = self.store.create(key, new.clone(), None);
            let before = match self.timed(StoreOp::Create, create).await {
                Ok(Created::Lost(before)) => before,
                Ok(Created::Won | Created::Fenced) => return Ok(()),
                Err(StoreError::Unreadable(unreadable)) => {
                    self.discard(key, &unreadable).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Somebody else removes the same one; it was removed when they said so first.
            if before.version == new.version {
                return Ok(());
            }
            let replace = self.store.replace(key, before.version, new.clone(), None);
            if let Replaced::Done = self.timed(StoreOp::Replace, replace).await? {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("a removal could not be noted".to_owned()))
    }

    /// Moves the expiry of the record that was read as `snapshot`.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn touch(&self, key: &Key, snapshot: &Snapshot) -> Result<bool, StoreError> {
        let ttl = self.ttl(&snapshot.record, self.now());
        self.timed(StoreOp::Touch, self.store.touch(key, snapshot.version, ttl))
            .await
    }

    /// Takes the lease.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn acquire_lease(&self, key: &Key, token: LeaseToken, ttl: Duration) -> Result<Acquired, StoreError> {
        self.timed(StoreOp::AcquireLease, self.store.acquire_lease(key, token, ttl))
            .await
    }

    /// Renews the lease.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn renew_lease(&self, key: &Key, token: LeaseToken, ttl: Duration) -> Result<bool, StoreError> {
        self.timed(StoreOp::RenewLease, self.store.renew_lease(key, token, ttl))
            .await
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn release_lease(&self, key: &Key, token: LeaseToken, end: LeaseEnd) -> Result<(), StoreError> {
        self.timed(StoreOp::ReleaseLease, self.store.release_lease(key, token, end))
            .await
    }

    /// The sessions that are noted under `place`, which no installation has.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn newest(&self, place: &Key) -> Result<Newest, StoreError> {
        let stored = self.timed(StoreOp::Load, self.store.load(place)).await?;
        Ok(stored.map(|stored| Newest::decode(&stored.payload)).unwrap_or_default())
    }

    /// Notes the session of `key` there, for `window`; of no more than `most`.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn add_newest(
        &self,
        place: &Key,
        key: Key,
        at: Timestamp,
        most: usize,
        window: Duration,
    ) -> Result<(), StoreError> {
        let mut there = self.timed(StoreOp::Load, self.store.load(place)).await?;
        for _ in 0..MAX_REMEMBER {
            let mut newest = there
                .as_ref()
                .map(|there| Newest::decode(&there.payload))
                .unwrap_or_default();
            newest.add(key, at, most);
            let before = there.as_ref().map(|there| there.version);
            let new = NewRecord {
                version: Version {
                    seq: before.map_or(1, |before| before.seq.saturating_add(1)),
                    nonce: fastrand::u32(..),
                },
                ttl: window,
                payload: newest.encode(),
            };
            there = match before {
                None => match self.timed(StoreOp::Create, self.store.create(place, new, None)).await? {
                    Created::Lost(there) => Some(there),
                    Created::Won | Created::Fenced => return Ok(()),
                },
                Some(before) => {
                    let replace = self.store.replace(place, before, new, None);
                    match self.timed(StoreOp::Replace, replace).await? {
                        Replaced::Conflict(there) => there,
                        Replaced::Done | Replaced::Fenced => return Ok(()),
                    }
                }
            };
        }
        Err(StoreError::Unavailable(
            "too many sessions are started at once".to_owned(),
        ))
    }

    /// Notes in the record of `key`, which was read as `snapshot`, that something is at stake in its session from now on
    /// (rule B2), and returns it.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn stake(&self, key: &Key, snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>, StoreError> {
        let mut now = Arc::clone(&snapshot);
        for _ in 0..MAX_REMEMBER {
            let Some(past) = now.record.past().filter(|past| past.calm) else {
                return Ok(now);
            };
            let mut record = now.record.clone();
            record.set_past(Past { calm: false, ..past });
            let version = Version {
                seq: now.version.seq.saturating_add(1),
                nonce: fastrand::u32(..),
            };
            match self.write(key, Some(now.version), version, &record, None).await? {
                Written::Done => {
                    return Ok(Arc::new(Snapshot {
                        version,
                        record,
                        ..Snapshot::clone(&now)
                    }));
                }
                Written::Conflict(Some(there)) => now = there,
                // It has ended meanwhile: nobody can adopt it.
                Written::Conflict(None) | Written::Fenced => return Ok(snapshot),
            }
        }
        Err(StoreError::Unavailable("a session changes too often".to_owned()))
    }

    /// Takes a place of `quota` under `key`, which no installation has.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn take_place(&self, key: &Key, quota: Quota) -> Result<Taken, StoreError> {
        let taken = self.store.take_place(key, quota, self.now());
        self.timed(StoreOp::TakePlace, taken).await
    }

    /// Gives it back.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn give_back(&self, key: &Key, quota: Quota, place: Place) -> Result<(), StoreError> {
        self.timed(StoreOp::GiveBack, self.store.give_back(key, quota, place))
            .await
    }

    async fn timed<T>(
        &self,
        operation: StoreOp,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let started = moment::lately();
        let result = call.await;
        let outcome = StoreResult::from(&result);
        match &result {
            Ok(_) | Err(StoreError::Corrupt(_) | StoreError::Unreadable(_) | StoreError::TooLarge(_)) => {
                self.answered(operation, outcome, started);
            }
            Err(_) => {
                self.metrics
                    .store_operation(operation, outcome, moment::lately() - started);
                self.failing.store(true, Ordering::Release);
            }
        }
        result
    }

    /// The store has answered a call that `started` then, with `outcome`.
    fn answered(&self, operation: StoreOp, outcome: StoreResult, started: Instant) {
        self.metrics
            .store_operation(operation, outcome, moment::lately() - started);
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::AcqRel) {
            self.recovered.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
