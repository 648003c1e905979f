//! Stage 5: the changes of a response, stored before its head goes to the client (rules S4, C1 to C3, F3).

use std::sync::Arc;

use super::change::{Change, Outcome, Settled};
use super::lead::{LEASE_TTL, Lead};
use super::pending::Pending;
use super::sessions::Sessions;
use crate::metrics::{CookieDrop, Metrics};
use crate::session::merge::{self, Effect};
use crate::session::record::Snapshot;
use crate::session::store::{Acquired, Key, StoreError};

/// What a commit came to.
#[derive(Debug)]
pub struct Committed {
    /// The record after it.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What happened to the session.
    pub effect: Effect,
}

/// Stores what responses change.
pub struct Commit {
    sessions: Arc<Sessions>,
    pending: Arc<Pending>,
    metrics: Arc<Metrics>,
}

impl Commit {
    /// Over `sessions`; what the store cannot take goes to `pending`.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, pending: Arc<Pending>, metrics: Arc<Metrics>) -> Self {
        Self {
            sessions,
            pending,
            metrics,
        }
    }

    /// Stores `change`. It never fails: what the store cannot take now is kept and tried again.
    pub async fn commit(&self, key: &Key, change: Change, lead: Option<&Lead>) -> Committed {
        if change.said.cookies.is_empty() {
            return Committed {
                snapshot: change.sent,
                effect: Effect::None,
            };
        }
        if self.pending.overlay(key).is_some() {
            return self.postpone(key, change);
        }
        let fence = lead.map(Lead::token);
        let now = change.sent.clone();
        match change.store(&self.sessions, &self.metrics, key, now, fence).await {
            Ok(Outcome::Settled(settled)) => self.settled(key, settled),
            Ok(Outcome::Fenced) => self.lost_lease(key, change, lead).await,
            Err(error @ StoreError::Corrupt(_)) => {
                tracing::error!(install = %key, %error, "a session change is lost");
                self.metrics.commit_abandoned();
                Committed {
                    snapshot: change.sent,
                    effect: Effect::None,
                }
            }
            Err(error) => {
                tracing::warn!(install = %key, %error, "a session change could not be stored yet; trying again");
                self.postpone(key, change)
            }
        }
    }

    /// A leader that lost its lease is refused. Only where nobody else has led since, so that there is nothing it could
    /// overwrite, may it take the lease again.
    async fn lost_lease(&self, key: &Key, change: Change, lead: Option<&Lead>) -> Committed {
        if let Some(lead) = lead
            && let Ok(Acquired::Won) = self.sessions.acquire_lease(key, lead.token(), LEASE_TTL).await
            && let Ok(None) = self.sessions.load(key).await
            && let Ok(Outcome::Settled(settled)) = change
                .store(&self.sessions, &self.metrics, key, None, Some(lead.token()))
                .await
        {
            return self.settled(key, settled);
        }
        tracing::warn!(install = %key, "a session was not stored: its request had lost the lease");
        for cookie in &change.said.cookies {
            self.dropped(key, cookie.name(), CookieDrop::Fenced);
        }
        Committed {
            snapshot: change.sent,
            effect: Effect::None,
        }
    }

    fn postpone(&self, key: &Key, change: Change) -> Committed {
        let before = self.pending.overlay(key).unwrap_or_else(|| change.sent.clone());
        let effect = change.decide(&self.sessions, before.as_ref()).0.effect;
        self.committed(self.pending.push(key, change), effect)
    }

    fn settled(&self, key: &Key, settled: Settled) -> Committed {
        for (cookie, reason) in &settled.dropped {
            self.dropped(key, &cookie.name, (*reason).into());
        }
        if settled.evicted > 0 {
            tracing::warn!(install = %key, cookies = settled.evicted, "the jar is full: cookies had to make room");
        }
        (0..settled.evicted).for_each(|_| self.metrics.cookie_dropped(CookieDrop::Evicted));
        self.committed(settled.snapshot, settled.effect)
    }

    fn committed(&self, snapshot: Option<Arc<Snapshot>>, effect: Effect) -> Committed {
        match effect {
            Effect::None => {}
            Effect::Created => self.metrics.session_created(),
            Effect::Replaced => self.metrics.session_replaced(),
            Effect::Ended => self.metrics.session_ended(),
        }
        Committed { snapshot, effect }
    }

    fn dropped(&self, key: &Key, name: &[u8], reason: CookieDrop) {
        self.metrics.cookie_dropped(reason);
        let cookie = name.escape_ascii();
        tracing::info!(install = %key, %cookie, reason = reason.text(), "a cookie was not kept");
    }
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
