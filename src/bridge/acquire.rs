//! Stage 2: the session of an installation, found, waited for, or to be started (rules S1 to S3, F2, F3).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::flights::{Flights, Landing, Seat, Ticket};
use super::lead::{LEASE_TTL, Lead};
use super::pending::Pending;
use super::sessions::Sessions;
use crate::metrics::{LeaseEvent, Metrics};
use crate::session::record::Snapshot;
use crate::session::store::{Acquired, Key, LeaseEnd, LeaseState, LeaseToken, StoreError};

/// The first pause between two looks at a lease that another replica holds, and the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(60));

/// With what a request goes to the backend.
pub struct Ready {
    /// The record it is sent with.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The lead, when it may start a session.
    pub lead: Option<Lead>,
    /// Whether it had to wait for another request.
    pub waited: bool,
}

/// Why there is none.
#[derive(Debug)]
pub enum AcquireError {
    /// The store did not answer.
    Store(StoreError),
    /// Another request is starting the session, for longer than `session.create_wait`.
    WaitTimeout,
}

impl From<StoreError> for AcquireError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Finds sessions, and settles who may start one.
pub struct Acquire {
    sessions: Arc<Sessions>,
    pending: Arc<Pending>,
    flights: Arc<Flights>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    create_wait: Duration,
}

/// What the wait for another replica came to.
enum Wait {
    Session(Arc<Snapshot>),
    Barren(Option<Arc<Snapshot>>),
    Won(LeaseToken, Option<Arc<Snapshot>>),
}

impl Acquire {
    /// `create_wait`: the longest that a request waits for another one to start the session.
    #[must_use]
    pub fn new(
        sessions: Arc<Sessions>,
        pending: Arc<Pending>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        create_wait: Duration,
    ) -> Self {
        Self {
            sessions,
            pending,
            flights: Flights::new(),
            metrics,
            tasks,
            create_wait,
        }
    }

    /// The session of `key`. `safe`: the request's method is safe, so that it may go on without the lead once a leader
    /// has come back without a session (rule S2).
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire(&self, key: &Key, safe: bool) -> Result<Ready, AcquireError> {
        if let Some(snapshot) = self.pending.overlay(key) {
            if self.sessions.has_session(snapshot.as_deref()) {
                return Ok(Ready {
                    snapshot,
                    lead: None,
                    waited: false,
                });
            }
            // What the store holds is known to be out of date.
            self.pending.settle(key).await?;
        }
        let snapshot = self.sessions.load(key).await?;
        if self.is_usable(snapshot.as_deref()) {
            return Ok(Ready {
                snapshot,
                lead: None,
                waited: false,
            });
        }
        let started = Instant::now();
        let outcome = tokio::time::timeout(self.create_wait, self.settle(key, safe, snapshot)).await;
        let ready = match outcome {
            Ok(ready) => ready,
            Err(_elapsed) => {
                self.metrics.lease(LeaseEvent::Expired);
                Err(AcquireError::WaitTimeout)
            }
        };
        if !matches!(&ready, Ok(Ready { waited: false, .. })) {
            self.metrics.session_wait(started.elapsed());
        }
        ready
    }

    /// Whether requests can go on with it at once: the response that started it has ended, or must have.
    fn is_usable(&self, snapshot: Option<&Snapshot>) -> bool {
        snapshot.is_some_and(|snapshot| {
            self.sessions.has_session(Some(snapshot)) && !snapshot.record.is_settling(self.sessions.now())
        })
    }

    /// Takes part until there is a session, or this request is the one to start it.
    async fn settle(&self, key: &Key, safe: bool, seen: Option<Arc<Snapshot>>) -> Result<Ready, AcquireError> {
        let mut waited = false;
        loop {
            match self.flights.join(key) {
                Seat::First(ticket) => match self.wait_for_others(key, seen.as_deref(), &mut waited).await {
                    Err(error) => {
                        ticket.land(Landing::Outage(error.clone()));
                        return Err(error.into());
                    }
                    Ok(Wait::Session(snapshot)) => {
                        ticket.land(Landing::Session(Arc::clone(&snapshot)));
                        return Ok(Ready {
                            snapshot: Some(snapshot),
                            lead: None,
                            waited,
                        });
                    }
                    Ok(Wait::Barren(snapshot)) => {
                        ticket.land(Landing::Barren(snapshot.clone()));
                        if safe {
                            return Ok(Ready {
                                snapshot,
                                lead: None,
                                waited,
                            });
                        }
                    }
                    Ok(Wait::Won(token, snapshot)) => {
                        return Ok(Ready {
                            snapshot,
                            lead: Some(self.lead(*key, token, ticket)),
                            waited,
                        });
                    }
                },
                Seat::Follower(follower) => {
                    waited = true;
                    self.metrics.lease(LeaseEvent::Waited);
                    match follower.landing().await {
                        Landing::Session(snapshot) => {
                            let snapshot = self.latest(key, seen.as_deref(), Some(snapshot)).await?;
                            // It may have ended meanwhile; then somebody must lead again.
                            if self.sessions.has_session(snapshot.as_deref()) {
                                return Ok(Ready {
                                    snapshot,
                                    lead: None,
                                    waited,
                                });
                            }
                        }
                        Landing::Barren(snapshot) if safe => {
                            return Ok(Ready {
                                snapshot: self.latest(key, seen.as_deref(), snapshot).await?,
                                lead: None,
                                waited,
                            });
                        }
                        Landing::Outage(error) => return Err(error.into()),
                        Landing::Barren(_) | Landing::Failed => {}
                    }
                }
            }
        }
    }

    /// What the request goes on with, when the leader's response left `landed` behind. Others may have changed the
    /// record since: they had, where the request saw another session already when it came, and may have, where the
    /// leader started none.
    async fn latest(
        &self,
        key: &Key,
        seen: Option<&Snapshot>,
        landed: Option<Arc<Snapshot>>,
    ) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let version = |snapshot: &Snapshot| snapshot.version;
        let another = self.sessions.has_session(seen) && seen.map(version) != landed.as_deref().map(version);
        if self.sessions.has_session(landed.as_deref()) && !another {
            return Ok(landed);
        }
        match self.pending.overlay(key) {
            Some(snapshot) => Ok(snapshot),
            None => self.sessions.load(key).await,
        }
    }

    fn lead(&self, key: Key, token: LeaseToken, ticket: Ticket) -> Lead {
        Lead::take(
            key,
            token,
            Arc::clone(&self.sessions),
            Arc::clone(&self.metrics),
            self.tasks.clone(),
            ticket,
        )
    }

    /// Speaks to the store for all who wait here, until another replica's leader is done or the lease is ours.
    async fn wait_for_others(&self, key: &Key, seen: Option<&Snapshot>, waited: &mut bool) -> Result<Wait, StoreError> {
        let token = LeaseToken(Uuid::new_v4().as_u128());
        let mut pause = LOOK_AGAIN.0;
        let mut barren_before = None;
        // With a session that is settling there is nothing to win: look who is at it. Otherwise try at once.
        let mut lease = LeaseState::default();
        let mut look = self.sessions.has_session(seen);
        loop {
            if look {
                let (snapshot, state) = self.sessions.observe(key).await?;
                if let Some(snapshot) = snapshot.as_ref()
                    && self.sessions.has_session(Some(snapshot))
                    && (!state.held || self.is_usable(Some(snapshot)))
                {
                    return Ok(Wait::Session(Arc::clone(snapshot)));
                }
                if barren_before.is_some_and(|before| state.barren > before) {
                    return Ok(Wait::Barren(snapshot));
                }
                barren_before = Some(state.barren);
                lease = state;
            }
            if !lease.held {
                match self.try_win(key, token).await? {
                    Ok(won) => return Ok(won),
                    Err(barren) => barren_before = barren_before.or(Some(barren)),
                }
            }
            *waited = true;
            look = true;
            tokio::time::sleep(pause + Duration::from_micros(fastrand::u64(0..2000))).await;
            pause = (pause * 3 / 2).min(LOOK_AGAIN.1);
        }
    }

    /// Takes the lease, or tells the count of barren leaders so far. Who wins looks again: the session may have been
    /// started, and its lease given back, since this request looked first.
    async fn try_win(&self, key: &Key, token: LeaseToken) -> Result<Result<Wait, u32>, StoreError> {
        let mut claim = Claim {
            key: *key,
            token,
            sessions: Some(Arc::clone(&self.sessions)),
            tasks: self.tasks.clone(),
        };
        let acquired = match self.sessions.acquire_lease(key, token, LEASE_TTL).await {
            // Taking one's own lease again is no harm: this tells what became of it.
            Err(StoreError::Ambiguous(_)) => self.sessions.acquire_lease(key, token, LEASE_TTL).await?,
            other => other?,
        };
        if let Acquired::Held { barren } = acquired {
            claim.keep();
            return Ok(Err(barren));
        }
        match self.sessions.load(key).await? {
            Some(snapshot) if self.sessions.has_session(Some(&snapshot)) => Ok(Ok(Wait::Session(snapshot))),
            snapshot => {
                claim.keep();
                Ok(Ok(Wait::Won(token, snapshot)))
            }
        }
    }
}

/// A lease that may have been won but has no [`Lead`] yet: given back unless it is kept, so that a client which hangs up
/// in between holds nobody up.
struct Claim {
    key: Key,
    token: LeaseToken,
    sessions: Option<Arc<Sessions>>,
    tasks: TaskTracker,
}

impl Claim {
    fn keep(&mut self) {
        self.sessions = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(sessions) = self.sessions.take() else { return };
        let (key, token) = (self.key, self.token);
        self.tasks.spawn(async move {
            if let Err(error) = sessions.release_lease(&key, token, LeaseEnd::Plain).await {
                tracing::debug!(install = %key, %error, "a claim could not be given back; it runs out by itself");
            }
        });
    }
}
