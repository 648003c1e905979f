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

/// The lease that a write shows the store (rule S3).
#[derive(Clone, Copy, Debug)]
pub struct Fence {
    /// Its token.
    pub token: LeaseToken,
    /// It has been held without a break since the request looked for a session, and no leader before had freed others:
    /// nobody else can have started a session meanwhile.
    pub alone: bool,
}

impl Fence {
    /// A lease that was taken after the request was sent, or had to be taken again.
    #[must_use]
    pub const fn retaken(token: LeaseToken) -> Self {
        Self { token, alone: false }
    }
}

/// A lease that may be held, renewed once it is. Dropped, it is given back, so that a client which hangs up before its
/// request leads holds nobody up.
pub struct Claim {
    key: Key,
    token: LeaseToken,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    renewal: Option<AbortHandle>,
    /// It ran out once, or others may start a session beside it.
    shared: Arc<AtomicBool>,
    /// Cleared while it is not known that nobody else has led since a renewal failed.
    held: Arc<AtomicBool>,
    ours: bool,
}

impl Claim {
    /// `token` is about to be shown to the store.
    #[must_use]
    pub fn new(
        key: Key,
        token: LeaseToken,
        sessions: Arc<Sessions>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            key,
            token,
            sessions,
            metrics,
            tasks,
            renewal: None,
            shared: Arc::default(),
            held: Arc::new(AtomicBool::new(true)),
            ours: true,
        }
    }

    /// Another one holds the lease.
    pub fn forget(mut self) {
        self.ours = false;
    }

    /// The lease was won by a call that was sent at `asked`: from then on it runs, and is renewed.
    pub fn won(&mut self, asked: Instant) {
        let renewal = renew(
            self.key,
            self.token,
            asked,
            Arc::clone(&self.sessions),
            Arc::clone(&self.metrics),
            [&self.held, &self.shared].map(Arc::clone),
        );
        self.renewal = Some(self.tasks.spawn(renewal).abort_handle());
    }

    /// A leader before has freed others (rule S2), who may still be under way.
    pub fn not_alone(&self) {
        self.shared.store(true, Ordering::Release);
    }

    fn stop(&mut self) {
        self.ours = false;
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
    }

    async fn give_back(&mut self, end: LeaseEnd) {
        self.stop();
        release(&self.sessions, &self.key, self.token, end).await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let ours = self.ours;
        self.stop();
        if ours {
            let (sessions, key, token) = (Arc::clone(&self.sessions), self.key, self.token);
            self.tasks
                .spawn(async move { release(&sessions, &key, token, LeaseEnd::Plain).await });
        }
    }
}

/// A held lead. Dropped without [`Lead::end`], it is passed on.
///
/// Few requests have one, and all carry room for it: it is small.
pub struct Lead(Box<Led>);

struct Led {
    claim: Claim,
    ticket: Option<Ticket>,
}

impl Lead {
    /// Leads by a lease that was won.
    #[must_use]
    pub fn take(claim: Claim, ticket: Ticket) -> Self {
        claim.metrics.lease(LeaseEvent::Won);
        Self(Box::new(Led {
            claim,
            ticket: Some(ticket),
        }))
    }

    /// The token of the lease.
    #[must_use]
    pub fn token(&self) -> LeaseToken {
        self.0.claim.token
    }

    /// Whether the lease is held, as far as is known: while it is being taken again, a write must not rely on it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.claim.held.load(Ordering::Acquire)
    }

    /// What to show the store with every write.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence {
            token: self.token(),
            alone: !self.0.claim.shared.load(Ordering::Acquire),
        }
    }

    /// Ends the lead without giving the lease back, and frees those who wait here: the session that it started waits
    /// for the store. Until it is there, or the lease has run out, nobody else starts one.
    pub fn leave(mut self, landing: Landing) {
        self.0.claim.stop();
        if let Some(ticket) = self.0.ticket.take() {
            ticket.land(landing);
        }
    }

    /// Ends the lead: gives the lease back and frees those who wait.
    pub async fn end(mut self, landing: Landing) {
        let end = lease_end(&landing);
        if end == LeaseEnd::Barren {
            self.0.claim.metrics.lease(LeaseEvent::Barren);
        }
        let ticket = self.0.ticket.take();
        self.0.claim.give_back(end).await;
        if let Some(ticket) = ticket {
            ticket.land(landing);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let Some(ticket) = self.0.ticket.take() else { return };
        self.0.claim.stop();
        let (sessions, key, token) = (Arc::clone(&self.0.claim.sessions), self.0.claim.key, self.0.claim.token);
        self.0.claim.tasks.spawn(async move {
            release(&sessions, &key, token, LeaseEnd::Plain).await;
            drop(ticket);
        });
    }
}

const fn lease_end(landing: &Landing) -> LeaseEnd {
    match landing {
        Landing::Barren(_) => LeaseEnd::Barren,
        Landing::Session(..) | Landing::Failed | Landing::Outage(_) => LeaseEnd::Plain,
    }
}

async fn release(sessions: &Sessions, key: &Key, token: LeaseToken, end: LeaseEnd) {
    if let Err(error) = sessions.release_lease(key, token, end).await {
        // One for each leader there is, in an outage of which the probes tell.
        tracing::debug!(install = %key, %error, "a lease could not be given back; it runs out by itself");
    }
}

/// What came of a renewal.
enum Kept {
    Yes,
    Again,
    Lost,
}

/// Renews for ever the lease that was asked for at `since`. A renewal that is slow to be answered holds up none after
/// it: the lease lives on what reaches the store, whenever the answer comes.
async fn renew(
    key: Key,
    token: LeaseToken,
    since: Instant,
    sessions: Arc<Sessions>,
    metrics: Arc<Metrics>,
    [ours, shared]: [Arc<AtomicBool>; 2],
) {
    let mut asked = JoinSet::new();
    let mut due = tokio::time::interval_at(since + RENEW_EVERY, RENEW_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let kept = tokio::select! {
            biased;
            _ = due.tick(), if asked.len() < MAX_RENEWALS => {
                let (sessions, ours, shared) = (Arc::clone(&sessions), Arc::clone(&ours), Arc::clone(&shared));
                asked.spawn(async move { keep(&key, token, &sessions, &ours, &shared).await });
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
            Err(error) => tracing::debug!(install = %key, %error, "a lease could not be renewed; trying again"),
        }
    }
}

async fn keep(
    key: &Key,
    token: LeaseToken,
    sessions: &Sessions,
    ours: &AtomicBool,
    shared: &AtomicBool,
) -> Result<Kept, StoreError> {
    let held = sessions.renew_lease(key, token, LEASE_TTL).await?;
    if held && ours.load(Ordering::Acquire) {
        return Ok(Kept::Yes);
    }
    // Until it is known that nobody else has led meanwhile, holding it again means nothing.
    ours.store(false, Ordering::Release);
    shared.store(true, Ordering::Release);
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
