//! Stage 2: the session of an installation, found, waited for, or to be started (rules S1 to S3, B3, F2, F3, N1, N4).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Admitted, Denied};
use super::flights::{Flights, Landing, Seat};
use super::lead::{Claim, LEASE_TTL, Lead};
use super::pending::Pending;
use super::sessions::Sessions;
use crate::metrics::{LeaseEvent, Metrics};
use crate::moment;
use crate::session::clock::Timestamp;
use crate::session::record::Snapshot;
use crate::session::store::{Acquired, Key, LeaseState, LeaseToken, StoreError, Version};

/// The first pause between two looks at a lease that another replica holds, and the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(60));

/// With what a request goes to the backend.
pub struct Ready {
    /// The record it is sent with.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The lead, when it may start a session.
    pub lead: Option<Lead>,
    /// Its place among those who may start a session, where that is limited.
    pub place: Option<Admitted>,
    /// Whether it had to wait for another request.
    pub waited: bool,
    /// When it was: what is sent now is sent after that.
    pub at: Timestamp,
}

impl Ready {
    /// Neither the lead nor a place.
    const fn with(snapshot: Option<Arc<Snapshot>>, waited: bool, at: Timestamp) -> Self {
        Self {
            snapshot,
            lead: None,
            place: None,
            waited,
            at,
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asks {
    /// The request's method is safe, so that it may go on without the lead once a leader has come back without a session
    /// (rule S2).
    pub safe: bool,
    /// The client, for those limits that go by its address.
    pub client: IpAddr,
}

/// Why there is none.
#[derive(Debug)]
pub enum AcquireError {
    /// The store did not answer.
    Store(StoreError),
    /// Another request is starting the session, for longer than `session.create_wait`.
    WaitTimeout,
    /// It would have to be started, and too many were lately. When to try again.
    TooMany(Duration),
}

impl From<Denied> for AcquireError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Full(wait) => Self::TooMany(wait),
            Denied::Store(error) => Self::Store(error),
        }
    }
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
    store_timeout: Duration,
    store_patience: Duration,
    admission: Option<Arc<Admission>>,
}

/// What the wait for another replica came to.
enum Wait {
    /// With when it was asked for.
    Session(Arc<Snapshot>, Instant),
    Barren(Option<Arc<Snapshot>>),
    Won(Claim, Option<Arc<Snapshot>>),
    /// Too many sessions were started lately.
    Full(Duration),
}

impl Acquire {
    /// `create_wait`: the longest that a request waits for another one to start the session. `store_timeout`: the
    /// deadline of one call to the store; all calls that it takes to find a session, or to take the lead, are given
    /// three times that together, as many calls as it takes when all is well (rule F2).
    #[must_use]
    pub fn new(
        sessions: Arc<Sessions>,
        pending: Arc<Pending>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        create_wait: Duration,
        store_timeout: Duration,
    ) -> Self {
        Self {
            sessions,
            pending,
            flights: Flights::new(),
            metrics,
            tasks,
            create_wait,
            store_timeout,
            store_patience: store_timeout * 3,
            admission: None,
        }
    }

    /// The same with a limit on how many sessions are started; to count there, too, takes one `store_timeout` at most.
    #[must_use]
    pub fn with_admission(self, admission: Option<Arc<Admission>>) -> Self {
        Self { admission, ..self }
    }

    /// The session of `key`.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire(&self, key: &Key, asks: Asks) -> Result<Ready, AcquireError> {
        if self.pending.is_empty()
            && let Some((snapshot, now)) = self.sessions.at_once(key)
            && self.is_usable_at(&snapshot, now)
        {
            return Ok(Ready::with(Some(snapshot), false, now));
        }
        let began = moment::now();
        let until = began + self.store_patience;
        match self.look(key, began, until).await {
            Ok(Look::Ready(ready)) => Ok(ready),
            // Large and rare: requests that find their session carry no room for it.
            Ok(Look::Unsettled(looked)) => Box::pin(self.take_part(key, asks, looked, until)).await,
            Err(error) => self.go_on(key, error),
        }
    }

    /// Starts the session, or waits for who does.
    async fn take_part(&self, key: &Key, asks: Asks, looked: Looked, until: Instant) -> Result<Ready, AcquireError> {
        let started = Instant::now();
        let outcome = timeout(self.create_wait, self.settle(key, asks, looked, until)).await;
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
        self.admit(ready?, asks).await
    }

    /// Who goes to the backend without a session may start one: that takes a place (rule B3). Who gets none passes the lead
    /// on.
    async fn admit(&self, mut ready: Ready, asks: Asks) -> Result<Ready, AcquireError> {
        let Some(admission) = &self.admission else {
            return Ok(ready);
        };
        if self.sessions.has_session(ready.snapshot.as_deref()) {
            return Ok(ready);
        }
        let admitted = timeout(self.store_timeout, admission.admit(asks.client)).await;
        match admitted.unwrap_or(Err(Denied::Store(StoreError::Timeout))) {
            Ok(place) => {
                ready.place = Some(place);
                Ok(ready)
            }
            Err(denied) => {
                if let Some(lead) = ready.lead {
                    lead.end(match &denied {
                        Denied::Full(_) => Landing::Failed,
                        Denied::Store(error) => Landing::Outage(error.clone()),
                    })
                    .await;
                }
                Err(denied.into())
            }
        }
    }

    /// What this replica serves, or the store holds. `began`: now. Ends by `until`; a single question to the store, by
    /// the store's own deadline, so that it takes no timer.
    async fn look(&self, key: &Key, began: Instant, until: Instant) -> Result<Look, StoreError> {
        let mut at = began;
        if let Some(snapshot) = self.pending.overlay(key) {
            if self.sessions.has_session(snapshot.as_deref()) {
                return Ok(Look::Ready(self.ready(snapshot, false)));
            }
            return in_time(timeout_at(until, Box::pin(self.settle_and_look(key))).await);
        }
        if self.sessions.has_copies() {
            if let Some(snapshot) = self.sessions.at_hand(key).await {
                let now = self.sessions.now();
                if self.is_usable_at(&snapshot, now) {
                    return Ok(Look::Ready(Ready::with(Some(snapshot), false, now)));
                }
            }
            at = Instant::now();
        }
        let snapshot = match self.sessions.inspect(key).await {
            Err(StoreError::Unreadable(unreadable)) => {
                in_time(timeout_at(until, Box::pin(self.sessions.treat(key, unreadable))).await)?
            }
            other => other?,
        };
        Ok(self.judge(snapshot, at))
    }

    /// The same when what waits here says that there is no session: what the store holds is known to be out of date.
    async fn settle_and_look(&self, key: &Key) -> Result<Look, StoreError> {
        self.pending.settle(key).await?;
        let at = Instant::now();
        Ok(self.judge(self.sessions.load(key).await?, at))
    }

    /// What to make of what was asked for at `at`.
    fn judge(&self, snapshot: Option<Arc<Snapshot>>, at: Instant) -> Look {
        if let Some(there) = &snapshot {
            let now = self.sessions.now();
            if self.is_usable_at(there, now) {
                return Look::Ready(Ready::with(snapshot, false, now));
            }
        }
        Look::Unsettled(Looked { snapshot, at })
    }

    /// With the last copy of a session, when the store was asked and is away (rule N4). Not when a change waits for the
    /// store: that is newer, and said that there is none.
    fn go_on(&self, key: &Key, error: StoreError) -> Result<Ready, AcquireError> {
        let away = matches!(error, StoreError::Unavailable(_) | StoreError::Timeout);
        if away
            && !self.pending.waits(key)
            && let Some(snapshot) = self.sessions.last_known(key)
            && self.is_usable(Some(&snapshot))
        {
            return Ok(self.ready(Some(snapshot), false));
        }
        Err(error.into())
    }

    /// Whether `key` has a session, by what this replica serves or the store holds.
    ///
    /// # Errors
    /// Whatever keeps the store from answering.
    pub async fn has_session(&self, key: &Key) -> Result<bool, StoreError> {
        let looked = in_time(timeout(self.store_timeout, self.look_again(key)).await)?;
        Ok(self.sessions.has_session(looked.snapshot.as_deref()))
    }

    /// What this replica serves or the store holds by now.
    async fn look_again(&self, key: &Key) -> Result<Looked, StoreError> {
        let at = Instant::now();
        let snapshot = match self.pending.overlay(key) {
            Some(snapshot) => snapshot,
            None => self.sessions.load(key).await?,
        };
        Ok(Looked { snapshot, at })
    }

    fn ready(&self, snapshot: Option<Arc<Snapshot>>, waited: bool) -> Ready {
        Ready::with(snapshot, waited, self.sessions.now())
    }

    /// Whether requests can go on with it at once: the response that started it has ended, or must have.
    fn is_usable(&self, snapshot: Option<&Snapshot>) -> bool {
        snapshot.is_some_and(|snapshot| self.is_usable_at(snapshot, self.sessions.now()))
    }

    fn is_usable_at(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        self.sessions.has_session_at(snapshot, now) && !snapshot.record.is_settling(now)
    }

    /// Takes part until there is a session, or this request is the one to start it. `until`: when it must know, if it
    /// need not wait for others.
    async fn settle(&self, key: &Key, asks: Asks, mut seen: Looked, until: Instant) -> Result<Ready, AcquireError> {
        let mut waited = false;
        loop {
            match self.flights.join(key) {
                Seat::First(ticket) => match self.wait_for_others(key, asks, &seen, until, &mut waited).await {
                    Err(error) => {
                        ticket.land(Landing::Outage(error.clone()));
                        return Err(error.into());
                    }
                    Ok(Wait::Full(wait)) => {
                        // Of others the addresses may be others, too.
                        ticket.land(Landing::Failed);
                        return Err(AcquireError::TooMany(wait));
                    }
                    Ok(Wait::Session(snapshot, asked)) => {
                        ticket.land(Landing::Session(Arc::clone(&snapshot), asked));
                        return Ok(self.ready(Some(snapshot), waited));
                    }
                    Ok(Wait::Barren(snapshot)) => {
                        ticket.land(Landing::Barren(snapshot.clone()));
                        if asks.safe {
                            return Ok(self.ready(snapshot, waited));
                        }
                    }
                    Ok(Wait::Won(claim, snapshot)) => {
                        return Ok(Ready {
                            lead: Some(Lead::take(claim, ticket)),
                            ..self.ready(snapshot, waited)
                        });
                    }
                },
                Seat::Follower(follower) => {
                    waited = true;
                    self.metrics.lease(LeaseEvent::Waited);
                    let landing = follower.landing().await;
                    if let Some(snapshot) = self.land(key, asks.safe, &mut seen, landing).await? {
                        return Ok(self.ready(snapshot, waited));
                    }
                }
            }
        }
    }

    /// What the request goes on with after `landing`; `None` when it must take part again.
    async fn land(
        &self,
        key: &Key,
        safe: bool,
        seen: &mut Looked,
        landing: Landing,
    ) -> Result<Option<Option<Arc<Snapshot>>>, StoreError> {
        let landed = match landing {
            Landing::Session(snapshot, asked) => {
                let is_news = asked > seen.at || seen.version() == Some(snapshot.version);
                if is_news && self.sessions.has_session(Some(&snapshot)) {
                    return Ok(Some(Some(snapshot)));
                }
                Some(snapshot.version)
            }
            Landing::Barren(_) if safe => None,
            Landing::Outage(error) => return Err(error),
            Landing::Barren(_) | Landing::Failed => return Ok(None),
        };
        // Others may have changed the record since: they had, where the request looked at the store after those who
        // started the session, and may have, where the leader started none.
        *seen = self.look_again(key).await?;
        let goes_on = match &seen.snapshot {
            Some(snapshot) if self.sessions.has_session(Some(snapshot)) => {
                landed == Some(snapshot.version) || self.is_usable(Some(snapshot))
            }
            // A session may have ended meanwhile; then somebody must lead again.
            _ => landed.is_none(),
        };
        Ok(goes_on.then(|| seen.snapshot.clone()))
    }

    /// Speaks to the store for all who wait here, until another replica's leader is done or the lease is ours.
    async fn wait_for_others(
        &self,
        key: &Key,
        asks: Asks,
        seen: &Looked,
        until: Instant,
        waited: &mut bool,
    ) -> Result<Wait, StoreError> {
        let token = LeaseToken::draw();
        let mut pause = LOOK_AGAIN.0;
        let mut barren_before = None;
        // With a session that is settling there is nothing to win: look who is at it. Otherwise try at once.
        let mut lease = LeaseState::default();
        let mut look = self.sessions.has_session(seen.snapshot.as_deref());
        loop {
            let asked = Instant::now();
            let until = if *waited { asked + self.store_patience } else { until };
            if look {
                let (snapshot, state) = in_time(timeout_at(until, self.sessions.observe(key)).await)?;
                if let Some(snapshot) = snapshot.as_ref()
                    && self.sessions.has_session(Some(snapshot))
                    && (!state.held || self.is_usable(Some(snapshot)))
                {
                    return Ok(Wait::Session(Arc::clone(snapshot), asked));
                }
                if barren_before.is_some_and(|before| state.barren > before) {
                    return Ok(Wait::Barren(snapshot));
                }
                barren_before = Some(state.barren);
                lease = state;
            }
            if !lease.held {
                let full = self
                    .admission
                    .as_ref()
                    .and_then(|admission| admission.is_full(asks.client));
                if let Some(wait) = full {
                    if look {
                        return Ok(Wait::Full(wait));
                    }
                    // Somebody else may be at it, whose session is not to be missed.
                    look = true;
                    continue;
                }
                match in_time(timeout_at(until, self.try_win(key, token)).await)? {
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
        let mut claim = Claim::new(
            *key,
            token,
            Arc::clone(&self.sessions),
            Arc::clone(&self.metrics),
            self.tasks.clone(),
        );
        let mut asked_before = false;
        loop {
            let asked = Instant::now();
            match self.sessions.acquire_lease(key, token, LEASE_TTL).await {
                Ok(Acquired::Held { barren }) => {
                    claim.forget();
                    return Ok(Err(barren));
                }
                Ok(Acquired::Won) if asked.elapsed() < LEASE_TTL => {
                    claim.won(asked);
                    break;
                }
                // It may have run out on the way. Taking one's own lease again is no harm: that tells.
                Ok(Acquired::Won) => {}
                // Likewise what became of it.
                Err(StoreError::Ambiguous(_)) if !asked_before => asked_before = true,
                Err(error) => return Err(error),
            }
        }
        let asked = Instant::now();
        let (snapshot, lease) = self.sessions.observe(key).await?;
        if lease.barren > 0 {
            claim.not_alone();
        }
        match snapshot {
            Some(snapshot) if self.sessions.has_session(Some(&snapshot)) => Ok(Ok(Wait::Session(snapshot, asked))),
            snapshot => Ok(Ok(Wait::Won(claim, snapshot))),
        }
    }
}

/// What came of the first look.
enum Look {
    Ready(Ready),
    /// There is no session, or the response that started it has not ended yet.
    Unsettled(Looked),
}

/// What a request saw in the store, and when it asked for it.
struct Looked {
    snapshot: Option<Arc<Snapshot>>,
    at: Instant,
}

impl Looked {
    fn version(&self) -> Option<Version> {
        self.snapshot.as_ref().map(|snapshot| snapshot.version)
    }
}

/// What the store said, unless its time was up.
fn in_time<T>(said: Result<Result<T, StoreError>, Elapsed>) -> Result<T, StoreError> {
    said.unwrap_or(Err(StoreError::Timeout))
}
