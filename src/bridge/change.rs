//! One response's change to one record, carried to the store: merge, write if nobody came first, else merge again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::lead::Fence;
use super::sessions::{Sessions, Written};
use crate::metrics::{CookieDrop, Metrics};
use crate::session::clock::Timestamp;
use crate::session::cookie::{Cookie, CookieKey};
use crate::session::lineage::Landed;
use crate::session::merge::{self, Action, Effect, Said, merge};
use crate::session::past::{By, Past};
use crate::session::record::{Rank, Record, Snapshot};
use crate::session::removal::Attempt;
use crate::session::store::{Key, LeaseToken, StoreError, Version};

/// How often a write may lose against others before it is left to the background.
const MAX_ATTEMPTS: usize = 64;

/// How long that may go on: the response waits for it.
const MAX_ROUNDS: Duration = Duration::from_secs(1);

/// How long a log-out waits for a store that does not take the note of it (see [`Sessions::remove_even_unnoted`]).
const MAX_UNNOTED: Duration = Duration::from_secs(10);

/// A response's change.
#[derive(Clone, Debug)]
pub struct Change {
    /// What the request was sent with.
    pub sent: Option<Arc<Snapshot>>,
    /// When it was sent.
    sent_at: Timestamp,
    /// What the response says.
    pub said: Said,
    /// How long the response may be under way after its head, should it have started the session (rule S1).
    pub settle: Option<Duration>,
    /// Who made the request, where records remember that.
    by: Option<By>,
    /// See [`Change::whole`].
    whole: bool,
    /// Part of the version of whatever it writes. Drawn once, so that the record which waits for the store, and which
    /// further requests are sent with, has the same version as the one that is stored in the end.
    nonce: u32,
    /// Its last write whose answer was lost, shared with those who try it again.
    unsure: Arc<Mutex<Option<Attempt>>>,
}

/// What became of it.
#[derive(Debug)]
pub enum Outcome {
    /// The record is as it should be.
    Settled(Settled),
    /// The lease was lost: nothing was written.
    Fenced,
}

/// A change that is settled: the record after it, and what that meant.
#[derive(Debug)]
pub struct Settled {
    /// The record now.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What happened to the session.
    pub effect: Effect,
    /// Cookies that were not kept, and why.
    pub dropped: Vec<(CookieKey, merge::Drop)>,
    /// How many cookies had to make room in the jar.
    pub evicted: usize,
    /// Where the change lies in the store, if it is known to be there.
    pub landed: Option<Landed>,
}

impl Settled {
    /// Counts and logs the cookies that were not kept (rule C1).
    pub fn tell(&self, metrics: &Metrics, key: &Key) {
        for (cookie, reason) in &self.dropped {
            tell_dropped(metrics, key, &cookie.name, (*reason).into());
        }
        if self.evicted > 0 {
            tracing::warn!(install = %key, cookies = self.evicted, "the jar is full: cookies had to make room");
        }
        (0..self.evicted).for_each(|_| metrics.cookie_dropped(CookieDrop::Evicted));
    }
}

/// Counts and logs a cookie that was not kept.
pub fn tell_dropped(metrics: &Metrics, key: &Key, name: &[u8], reason: CookieDrop) {
    metrics.cookie_dropped(reason);
    let cookie = name.escape_ascii();
    tracing::info!(install = %key, %cookie, reason = reason.text(), "a cookie was not kept");
}

impl From<merge::Drop> for CookieDrop {
    fn from(reason: merge::Drop) -> Self {
        match reason {
            merge::Drop::Stale => Self::Stale,
            merge::Drop::Conflict => Self::Lost,
            merge::Drop::OtherSession => Self::OtherSession,
            merge::Drop::Removed => Self::Removed,
        }
    }
}

impl Change {
    /// What the response `said` changes, to a request that was sent with `sent` at `sent_at`. `settle`: see
    /// [`Change::settle`].
    #[must_use]
    pub fn new(sent: Option<Arc<Snapshot>>, sent_at: Timestamp, said: Said, settle: Option<Duration>) -> Self {
        Self {
            sent,
            sent_at,
            said,
            settle,
            by: None,
            whole: false,
            nonce: fastrand::u32(..),
            unsure: Arc::default(),
        }
    }

    /// The same, where records remember who made the request.
    #[must_use]
    pub fn by(self, by: Option<By>) -> Self {
        Self { by, ..self }
    }

    /// The same where it is all or nothing: nothing, as soon as one of the cookies is not any more what the request was sent
    /// with.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { whole: true, ..self }
    }

    /// Whether a cookie that this is about is another one now.
    fn is_of_another(&self, now: &Snapshot) -> bool {
        let value = |snapshot: Option<&Snapshot>, cookie: &Cookie| {
            let held = snapshot.and_then(|snapshot| snapshot.record.jar().get(&cookie.key()));
            held.map(|held| held.value().to_vec())
        };
        let mut cookies = self.said.cookies.iter();
        cookies.any(|cookie| value(Some(now), cookie) != value(self.sent.as_deref(), cookie))
    }

    /// About how many bytes of memory it takes, what the request was sent with included.
    #[must_use]
    pub fn size(&self) -> usize {
        let cookies = self.said.cookies.iter().map(Cookie::footprint).sum::<usize>();
        cookies + self.sent.as_ref().map_or(0, |sent| sent.record.size()) + size_of::<Self>()
    }

    /// Whether it may be in the store already.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.unsure().is_some()
    }

    /// Carries the change out, beginning with the assumption that the record is still what was sent.
    ///
    /// # Errors
    /// Whatever keeps the store from answering. The change may then be carried out again: doing it twice is doing it
    /// once.
    pub async fn store(
        &self,
        sessions: &Sessions,
        metrics: &Metrics,
        key: &Key,
        mut now: Option<Arc<Snapshot>>,
        fence: Option<Fence>,
    ) -> Result<Outcome, StoreError> {
        let alone = fence.is_some_and(|fence| fence.alone);
        let began = Instant::now();
        for attempt in 0..MAX_ATTEMPTS {
            if began.elapsed() >= MAX_ROUNDS {
                break;
            }
            if self.was_ended(sessions, key, now.as_deref()).await? {
                return Ok(Outcome::Settled(self.gone_with(now)));
            }
            let (mut settled, action, next) = self.decide(sessions, now.as_ref());
            let alone = alone && attempt == 0;
            if !alone
                && self
                    .comes_after_a_removal(sessions, key, now.as_deref(), &settled)
                    .await?
            {
                return Ok(Outcome::Settled(self.gone_with(now)));
            }
            let doubt = self.note(settled.snapshot.as_deref());
            if action == Action::Keep {
                self.is_sure(doubt);
                let ours = now.filter(|now| now.version.nonce == self.nonce);
                settled.landed = ours.as_deref().map(landed);
                return Ok(Outcome::Settled(settled));
            }
            let token = fence.map(|fence| fence.token);
            let written = self
                .carry_out(sessions, key, now.as_deref(), &action, next, token)
                .await;
            if !matches!(written, Err(StoreError::Ambiguous(_))) {
                self.is_sure(doubt);
            }
            settled.landed = settled.snapshot.as_deref().map(landed);
            now = match written {
                Ok(Written::Done) => return Ok(Outcome::Settled(settled)),
                Ok(Written::Fenced) => return Ok(Outcome::Fenced),
                Ok(Written::Conflict(latest)) => {
                    metrics.commit_conflict();
                    latest
                }
                Err(StoreError::Ambiguous(_)) => {
                    let latest = sessions.load(key).await?;
                    let wanted = settled.snapshot.as_ref().map(|snapshot| snapshot.version);
                    if latest.as_ref().map(|latest| latest.version) == wanted {
                        return Ok(Outcome::Settled(settled));
                    }
                    latest
                }
                Err(error) => return Err(error),
            };
        }
        Err(StoreError::Unavailable(
            "too many writes in a row came too late".to_owned(),
        ))
    }

    async fn carry_out(
        &self,
        sessions: &Sessions,
        key: &Key,
        now: Option<&Snapshot>,
        action: &Action,
        next: Version,
        token: Option<LeaseToken>,
    ) -> Result<Written, StoreError> {
        match (action, now) {
            (Action::Write(record), now) => {
                let over = now.map(|now| now.version);
                sessions.write(key, over, next, record, token).await
            }
            (Action::Remove, Some(now)) if sessions.now().since(self.said.at) >= MAX_UNNOTED => {
                sessions.remove_even_unnoted(key, now).await
            }
            (Action::Remove, Some(now)) => sessions.remove(key, now).await,
            (Action::Keep, _) | (Action::Remove, None) => Ok(Written::Done),
        }
    }

    /// Remembers that `written` may be in the store from now on, whatever becomes of this call. Returns what was noted
    /// before.
    fn note(&self, written: Option<&Snapshot>) -> Option<Attempt> {
        let mut unsure = self.unsure();
        let before = *unsure;
        if let Some(written) = written {
            *unsure = Some(Attempt {
                born: written.record.born(),
                version: written.version,
                at: self.said.at,
            });
        }
        before
    }

    /// What was noted last is known to be there or not: what was in doubt before is so still.
    fn is_sure(&self, doubt: Option<Attempt>) {
        *self.unsure() = doubt;
    }

    /// Whether a record would begin with it although one was removed since the request was sent, with none (rule C3).
    /// To have led alone is proof enough that none was, but for one that a log-in sent with an earlier session had brought
    /// back beside the lease. Otherwise it is asked, and the clocks of the replicas are compared.
    async fn comes_after_a_removal(
        &self,
        sessions: &Sessions,
        key: &Key,
        now: Option<&Snapshot>,
        settled: &Settled,
    ) -> Result<bool, StoreError> {
        let logs_in = self.said.rank == Rank::Auth && settled.effect == Effect::Created;
        if self.sent.is_some() || now.is_some() || settled.snapshot.is_none() || logs_in {
            return Ok(false);
        }
        let removal = sessions.removal(key).await?;
        Ok(removal.is_some_and(|removal| removal.is_after(self.sent_at)))
    }

    /// Whether an earlier attempt may have been stored after all, and the session been ended since: by `now` the record
    /// that was written is gone. Then it must not be stored again (rule C3).
    async fn was_ended(&self, sessions: &Sessions, key: &Key, now: Option<&Snapshot>) -> Result<bool, StoreError> {
        let Some(attempt) = *self.unsure() else {
            return Ok(false);
        };
        if now.is_some_and(|now| now.record.born() == attempt.born) {
            return Ok(false);
        }
        let removal = sessions.removal(key).await?;
        Ok(removal.is_some_and(|removal| removal.may_be_of(&attempt)))
    }

    fn unsure(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing of the change is kept: its session has been ended.
    fn gone_with(&self, now: Option<Arc<Snapshot>>) -> Settled {
        let cookies = self.said.cookies.iter();
        Settled {
            snapshot: now,
            effect: Effect::None,
            dropped: cookies.map(|cookie| (cookie.key(), merge::Drop::Removed)).collect(),
            evicted: 0,
            landed: None,
        }
    }

    /// What the change would do to `now`, without a store.
    #[must_use]
    pub fn decide(&self, sessions: &Sessions, now: Option<&Arc<Snapshot>>) -> (Settled, Action, Version) {
        if let (Some(by), Some(now)) = (&self.by, now)
            && now.record.past().is_some_and(|past| !past.admits(by.address))
        {
            // It was begun meanwhile, by a client of another network (rule B1).
            return (self.gone_with(Some(Arc::clone(now))), Action::Keep, now.version);
        }
        if self.whole
            && let Some(now) = now.filter(|now| self.is_of_another(now))
        {
            return (self.gone_with(Some(Arc::clone(now))), Action::Keep, now.version);
        }
        // Where the store went back in time, the number does not.
        let sent = self
            .sent
            .as_ref()
            .zip(now)
            .filter(|(sent, now)| sent.record.born() == now.record.born());
        let before = now.map_or(0, |now| now.version.seq);
        let next = Version {
            seq: before.max(sent.map_or(0, |(sent, _)| sent.base())).saturating_add(1),
            nonce: self.nonce,
        };
        let mut merged = merge(
            self.sent.as_deref(),
            now.map(AsRef::as_ref),
            &self.said,
            &sessions.policy,
            next,
        );
        if merged.effect == Effect::Created
            && let Action::Write(record) = &mut merged.action
        {
            record.settle_until(self.settle.map(|wait| self.said.at.saturating_add(wait)));
        }
        if let (Some(by), Action::Write(record)) = (&self.by, &mut merged.action) {
            let rank = self.said.rank;
            let past = match record.past() {
                Some(past) => past.after(by, rank),
                None if now.is_none() => Past::begun(by, rank),
                None => Past::default().after(by, rank),
            };
            if past != Past::default() || record.past().is_some() {
                record.set_past(past);
            }
        }
        let snapshot = match &merged.action {
            Action::Keep => now.cloned(),
            Action::Write(record) => Some(Arc::new(written(sessions, record, next))),
            Action::Remove => None,
        };
        let settled = Settled {
            snapshot,
            effect: merged.effect,
            dropped: merged.dropped,
            evicted: merged.evicted,
            landed: None,
        };
        (settled, merged.action, next)
    }
}

fn written(sessions: &Sessions, record: &Record, version: Version) -> Snapshot {
    let now = sessions.now();
    Snapshot {
        version,
        expires_at: now.saturating_add(sessions.ttl(record, now)),
        record: record.clone(),
        lineage: None,
    }
}

const fn landed(stored: &Snapshot) -> Landed {
    Landed {
        born: stored.record.born(),
        seq: stored.version.seq,
    }
}
