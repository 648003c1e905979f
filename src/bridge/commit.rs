//! Stage 5: the changes of a response, stored before its head goes to the client (rules S4, C1 to C3, F3).

use std::sync::Arc;

use tokio::time::Instant;

use super::change::{Change, Outcome, Settled, tell_dropped};
use super::flights::Landing;
use super::lead::{Fence, LEASE_TTL, Lead};
use super::pending::{Pending, Postponed};
use super::sessions::Sessions;
use crate::metrics::{Abandoned, CookieDrop, Metrics};
use crate::session::merge::Effect;
use crate::session::record::Snapshot;
use crate::session::store::{Acquired, Key, LeaseToken, StoreError};

/// What a commit came to.
#[derive(Debug)]
pub struct Committed {
    /// The record after it.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What happened to the session.
    pub effect: Effect,
    /// The change waits for the store, where a lead's lease keeps its place.
    pub waits: bool,
    /// What the response said could not be kept.
    lost: bool,
    /// When it began: the record is no older.
    asked: Instant,
}

impl Committed {
    /// The change is lost.
    fn lost(sent: Option<Arc<Snapshot>>) -> Self {
        Self {
            lost: true,
            ..Self::of(sent, Effect::None)
        }
    }

    fn of(snapshot: Option<Arc<Snapshot>>, effect: Effect) -> Self {
        Self {
            snapshot,
            effect,
            waits: false,
            lost: false,
            asked: Instant::now(),
        }
    }

    /// What it means to those who wait for the leader whose change it was. One that started a session which could not be
    /// kept has freed nobody (rule S2): the next one leads.
    #[must_use]
    pub fn landing(&self, sessions: &Sessions) -> Landing {
        match &self.snapshot {
            Some(snapshot) if sessions.has_session(Some(snapshot)) => {
                Landing::Session(Arc::clone(snapshot), self.asked)
            }
            _ if self.lost => Landing::Failed,
            snapshot => Landing::Barren(snapshot.clone()),
        }
    }
}

/// Stores what responses change. Cheap to clone.
#[derive(Clone)]
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

    /// Whether changes of `key` wait for the store.
    #[must_use]
    pub fn waits(&self, key: &Key) -> bool {
        self.pending.waits(key)
    }

    /// Stores `change`. It never fails: what the store cannot take now is kept and tried again.
    pub async fn commit(&self, key: &Key, change: Change, lead: Option<&Lead>) -> Committed {
        let asked = Instant::now();
        if change.said.cookies.is_empty() {
            return Committed {
                snapshot: change.sent,
                effect: Effect::None,
                waits: false,
                lost: false,
                asked,
            };
        }
        // Large, and most responses change nothing: requests carry no room for it.
        let attempt = Box::pin(self.attempt(key, change, lead));
        Committed { asked, ..attempt.await }
    }

    async fn attempt(&self, key: &Key, change: Change, lead: Option<&Lead>) -> Committed {
        let lease = lead.map(Lead::token);
        if self.pending.overlay(key).is_some() {
            return self.postpone(key, change, lease);
        }
        if lead.is_some_and(|lead| !lead.is_held()) {
            return self.lost_lease(key, change, lead).await;
        }
        let (now, fence) = (change.sent.clone(), lead.map(Lead::fence));
        match change.store(&self.sessions, &self.metrics, key, now, fence).await {
            Ok(Outcome::Settled(settled)) => self.settled(key, settled),
            Ok(Outcome::Fenced) => self.lost_lease(key, change, lead).await,
            Err(error @ (StoreError::Corrupt(_) | StoreError::Unreadable(_))) => {
                tracing::error!(install = %key, %error, "a session change is lost");
                self.metrics.commits_abandoned(Abandoned::Unreadable, 1);
                Committed::lost(change.sent)
            }
            Err(error @ StoreError::TooLarge(_)) => {
                tracing::error!(install = %key, %error, "a session change is lost");
                self.metrics.commits_abandoned(Abandoned::TooLarge, 1);
                Committed::lost(change.sent)
            }
            Err(error) => self.not_yet(key, change, lease, &error),
        }
    }

    /// A leader that lost its lease is refused. Only where nobody else leads, and nobody has started a session since, so
    /// that there is nothing it could overwrite, may it take the lease again.
    async fn lost_lease(&self, key: &Key, change: Change, lead: Option<&Lead>) -> Committed {
        if let Some(lead) = lead {
            match self.store_again(key, &change, lead.token()).await {
                Ok(Some(settled)) => return self.settled(key, settled),
                Ok(None) => {}
                Err(error) => return self.not_yet(key, change, Some(lead.token()), &error),
            }
        }
        tracing::warn!(install = %key, "a session was not stored: its request had lost the lease");
        for cookie in &change.said.cookies {
            tell_dropped(&self.metrics, key, cookie.name(), CookieDrop::Fenced);
        }
        Committed::lost(change.sent)
    }

    /// `None` when somebody else leads or has led to a session.
    async fn store_again(&self, key: &Key, change: &Change, token: LeaseToken) -> Result<Option<Settled>, StoreError> {
        if let Acquired::Held { .. } = self.sessions.acquire_lease(key, token, LEASE_TTL).await? {
            return Ok(None);
        }
        let now = self.sessions.load(key).await?;
        if self.sessions.has_session(now.as_deref()) {
            return Ok(None);
        }
        let fence = Some(Fence::retaken(token));
        let outcome = change.store(&self.sessions, &self.metrics, key, now, fence).await?;
        Ok(match outcome {
            Outcome::Settled(settled) => Some(settled),
            Outcome::Fenced => None,
        })
    }

    fn not_yet(&self, key: &Key, change: Change, lease: Option<LeaseToken>, error: &StoreError) -> Committed {
        // In an outage there may be thousands: those who carry them tell how many.
        tracing::debug!(install = %key, %error, "a session change could not be stored yet; trying again");
        self.postpone(key, change, lease)
    }

    /// What is given up, as too much waits already, has changed nothing.
    fn postpone(&self, key: &Key, change: Change, lease: Option<LeaseToken>) -> Committed {
        let sent = change.sent.clone();
        match self.pending.push(key, change, lease) {
            Some(Postponed { snapshot, effect }) => Committed {
                waits: true,
                ..self.committed(snapshot, effect)
            },
            None => Committed::lost(sent),
        }
    }

    fn settled(&self, key: &Key, settled: Settled) -> Committed {
        settled.tell(&self.metrics, key);
        self.committed(settled.snapshot, settled.effect)
    }

    fn committed(&self, snapshot: Option<Arc<Snapshot>>, effect: Effect) -> Committed {
        match effect {
            Effect::None => {}
            Effect::Created => self.metrics.session_created(),
            Effect::Replaced => self.metrics.session_replaced(),
            Effect::Ended => self.metrics.session_ended(),
        }
        Committed::of(snapshot, effect)
    }
}
