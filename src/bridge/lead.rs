//! The lead: the right to be the one request that may start the session of an installation (rules S1 to S3).
//!
//! It is a lease in the store, renewed for as long as its holder works and gone within [`LEASE_TTL`] when the holder
//! dies. That time is the same whatever `store.timeout` is: what counts is when a renewal reaches the store, and one is
//! sent every half second, answered or not. What a leader writes carries the lease's token, so that a leader which lost it without noticing is refused by
//! the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;

use super::flights::{Landing, Ticket};
use super::sessions::Sessions;
use crate::metrics::{LeaseEvent, Metrics};
use crate::session::store::{Acquired, Key, LeaseEnd, LeaseToken, StoreError};

/// How long a lease outlives the last sign of life of its holder: what the others wait when a leader is killed.
pub const LEASE_TTL: Duration = Duration::from_millis(2000);

/// How often it is renewed: three renewals may be late or lost before the lease is.
const RENEW_EVERY: Duration = Duration::from_millis(500);

/// How many renewals may wait for their answers at once.
const MAX_RENEWALS: usize = 4;

/// A held lead. Dropped without [`Lead::end`], it is passed on.
pub struct Lead {
    key: Key,
    token: LeaseToken,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    renewal: AbortHandle,
    ticket: Option<Ticket>,
}

impl Lead {
    /// Takes charge of a lease that `token` has just won, and keeps it renewed.
    #[must_use]
    pub fn take(
        key: Key,
        token: LeaseToken,
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        ticket: Ticket,
    ) -> Self {
        metrics.lease(LeaseEvent::Won);
        let renewal = tasks
            .spawn(renew(key, token, Arc::clone(&sessions), Arc::clone(&metrics)))
            .abort_handle();
        Self {
            key,
            token,
            sessions,
            metrics,
            tasks,
            renewal,
            ticket: Some(ticket),
        }
    }

    /// What to show the store with every write.
    #[must_use]
    pub const fn token(&self) -> LeaseToken {
        self.token
    }

    /// Ends the lead without giving the lease back, and frees those who wait here: the session that it started waits
    /// for the store. Until it is there, or the lease has run out, nobody else starts one.
    pub fn leave(mut self, landing: Landing) {
        self.renewal.abort();
        if let Some(ticket) = self.ticket.take() {
            ticket.land(landing);
        }
    }

    /// Ends the lead: gives the lease back and frees those who wait.
    pub async fn end(mut self, landing: Landing) {
        let end = lease_end(&landing);
        if end == LeaseEnd::Barren {
            self.metrics.lease(LeaseEvent::Barren);
        }
        let ticket = self.ticket.take();
        self.renewal.abort();
        release(&self.sessions, &self.key, self.token, end).await;
        if let Some(ticket) = ticket {
            ticket.land(landing);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.renewal.abort();
        let Some(ticket) = self.ticket.take() else { return };
        let (sessions, key, token) = (Arc::clone(&self.sessions), self.key, self.token);
        self.tasks.spawn(async move {
            release(&sessions, &key, token, LeaseEnd::Plain).await;
            drop(ticket);
        });
    }
}

const fn lease_end(landing: &Landing) -> LeaseEnd {
    match landing {
        Landing::Barren(_) => LeaseEnd::Barren,
        Landing::Session(_) | Landing::Failed | Landing::Outage(_) => LeaseEnd::Plain,
    }
}

async fn release(sessions: &Sessions, key: &Key, token: LeaseToken, end: LeaseEnd) {
    if let Err(error) = sessions.release_lease(key, token, end).await {
        tracing::warn!(install = %key, %error, "a lease could not be given back; it runs out by itself");
    }
}

/// What came of a renewal.
enum Kept {
    Yes,
    Again,
    Lost,
}

/// Renews the lease for ever. A renewal that is slow to be answered holds up none after it: the lease lives on what
/// reaches the store, whenever the answer comes.
async fn renew(key: Key, token: LeaseToken, sessions: Arc<Sessions>, metrics: Arc<Metrics>) {
    let ours = Arc::new(AtomicBool::new(true));
    let mut asked = JoinSet::new();
    let mut due = tokio::time::interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let kept = tokio::select! {
            _ = due.tick(), if asked.len() < MAX_RENEWALS => {
                let (sessions, ours) = (Arc::clone(&sessions), Arc::clone(&ours));
                asked.spawn(async move { keep(&key, token, &sessions, &ours).await });
                continue;
            }
            Some(Ok(kept)) = asked.join_next() => kept,
            else => continue,
        };
        match kept {
            Ok(Kept::Yes) => {}
            Ok(Kept::Again) => tracing::warn!(install = %key, "a lease had run out and was taken again"),
            Ok(Kept::Lost) => {
                metrics.lease(LeaseEvent::Lost);
                tracing::warn!(install = %key, "the lease was lost while its request is still under way");
                return;
            }
            Err(error) => tracing::warn!(install = %key, %error, "a lease could not be renewed; trying again"),
        }
    }
}

async fn keep(key: &Key, token: LeaseToken, sessions: &Sessions, ours: &AtomicBool) -> Result<Kept, StoreError> {
    let held = sessions.renew_lease(key, token, LEASE_TTL).await?;
    if held && ours.load(Ordering::Acquire) {
        return Ok(Kept::Yes);
    }
    // Until it is known that nobody else has led meanwhile, holding it again means nothing.
    ours.store(false, Ordering::Release);
    if !take_again(key, token, sessions).await? {
        return Ok(Kept::Lost);
    }
    ours.store(true, Ordering::Release);
    Ok(Kept::Again)
}

/// The lease ran out, or the store was restarted empty. It is taken again only where nobody else leads, and nobody has
/// started a session meanwhile: what this leader writes would be let through otherwise (rule S3).
async fn take_again(key: &Key, token: LeaseToken, sessions: &Sessions) -> Result<bool, StoreError> {
    if let Acquired::Held { .. } = sessions.acquire_lease(key, token, LEASE_TTL).await? {
        return Ok(false);
    }
    let started = sessions.has_session(sessions.load(key).await?.as_deref());
    if started {
        sessions.release_lease(key, token, LeaseEnd::Plain).await?;
    }
    Ok(!started)
}
