//! A connection to Redis: made, watched and replaced in the background.
//!
//! ```text
//!          dialled, and the probe answered
//!   Down ────────────────────────────────▶ Up ──┐ the probe said READONLY: dialled anew, and swapped
//!    ▲ ◀───────────────────────────────────┘ ◀──┘
//!    │     it broke, the probe was not answered in time, or the master is elsewhere
//!  start        Closed: from both, by close(), for good
//! ```
//!
//! * **Who moves it.** The supervisor alone, a task. Callers take a clone of the connection, and say so when
//!   something about it looked wrong ([`Link::suspect`]); the supervisor then asks the probe. Of a connection that was
//!   silent for a second ([`Link::heard`]) it asks it unasked: the peer may have vanished without a word. A caller
//!   never connects, nor waits for more than its own answer.
//! * **Up** means that the probe was answered in time on this very connection: a server that accepts connections and
//!   answers nothing (frozen, paused, too slow for the time-out) is down, and does not come and go.
//! * **Down** is a circuit breaker. A loss is waited out for as long as a call may take; after that calls fail at once
//!   until the supervisor is through. It tries with pauses of random length (full jitter), a quarter of a second at
//!   most. After a connection that was lost within a second of being made there is a pause, too.
//! * **An answer is an answer**: `LOADING`, `NOAUTH`, `MASTERDOWN` and the like come to the callers, by a link that is
//!   up. Only `READONLY` has the server looked up again.
//! * **Told** are the loss and the return, once each; what happens in between is for `debug`. Of connections that come
//!   and go, one in ten seconds is told, with how many they were.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

pub(super) use super::dial::Target;
use super::dial::{Health, Live, dial_and_track};
use super::pipe::Connection;
use super::place::Place;
use super::tracking::{Feed, Tracking};
use crate::session::store::StoreError;

/// The longest pause between two attempts to connect: a Redis that comes back is in use again well within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause after the first failed attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause before one that was lost soon after it was made is replaced: it did work.
const LONGEST_AFTER_LOSS: Duration = Duration::from_millis(50);

/// A connection that was replaced because its server is read-only is not replaced again within this time; one that was
/// lost within it is not replaced at once.
const SETTLE: Duration = Duration::from_secs(1);

/// How often it is told that connections come and go.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How long a connection may be silent before it is asked.
const SILENCE: Duration = Duration::from_secs(1);

/// A connection that is there.
#[derive(Clone)]
pub(super) struct Up {
    /// Tells one connection from the next.
    pub(super) number: u64,
    pub(super) connection: Connection,
    /// Where Redis tells of changes by it, if it does.
    pub(super) feed: Option<Arc<Feed>>,
}

#[derive(Clone)]
enum State {
    Up(Up),
    Down { since: Instant, why: Arc<str> },
    Closed,
}

/// A handle on the connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    supervisor: AbortOnDropHandle<()>,
    timeout: Duration,
}

struct Shared {
    state: watch::Sender<State>,
    suspect: Notify,
    renew: Notify,
    heard: AtomicBool,
    /// How often it came up again.
    reconnects: AtomicU64,
    /// Whether the loss and the return are told.
    told: bool,
    /// Who is told of changes.
    tracking: Option<Tracking>,
}

impl Link {
    /// Starts to connect to this server, or to whichever one the place names, in the background; with `tracking`, Redis
    /// is to tell of changes by it.
    pub(super) fn new(place: impl Into<Place>, tracking: Option<Tracking>) -> Self {
        Self::start(place.into(), true, tracking)
    }

    /// The same beside another link that leads to the same place: the loss and the return are told at `debug` only.
    pub(super) fn beside(place: impl Into<Place>) -> Self {
        Self::start(place.into(), false, None)
    }

    fn start(place: Place, told: bool, tracking: Option<Tracking>) -> Self {
        let timeout = place.timeout();
        let down = State::Down {
            since: Instant::now(),
            why: "not connected yet".into(),
        };
        let shared = Arc::new(Shared {
            state: watch::Sender::new(down),
            suspect: Notify::new(),
            renew: Notify::new(),
            heard: AtomicBool::new(false),
            reconnects: AtomicU64::new(0),
            told,
            tracking,
        });
        let supervisor = AbortOnDropHandle::new(tokio::spawn(supervise(place, Arc::clone(&shared))));
        Self {
            shared,
            supervisor,
            timeout,
        }
    }

    /// The connection and its number, which is higher than `after`. A short loss of it is waited out until `deadline`;
    /// once the loss has lasted longer than a call may take, calls fail at once.
    pub(super) async fn connection(
        &self,
        deadline: Instant,
        after: Option<u64>,
    ) -> Result<(u64, Connection), StoreError> {
        if let State::Up(up) = &*self.shared.state.borrow()
            && Some(up.number) > after
        {
            return Ok((up.number, up.connection.clone()));
        }
        let up = Box::pin(self.wait(deadline, after)).await?;
        Ok((up.number, up.connection))
    }

    /// The same, with what Redis tells by it.
    pub(super) async fn up(&self, deadline: Instant, after: Option<u64>) -> Result<Up, StoreError> {
        if let State::Up(up) = &*self.shared.state.borrow()
            && Some(up.number) > after
        {
            return Ok(up.clone());
        }
        // Seldom: those who find it carry no room for the wait.
        Box::pin(self.wait(deadline, after)).await
    }

    async fn wait(&self, deadline: Instant, after: Option<u64>) -> Result<Up, StoreError> {
        let mut states = self.shared.state.subscribe();
        let until = match &*states.borrow() {
            State::Down { since, .. } => deadline.min(*since + self.timeout),
            State::Up(..) | State::Closed => deadline,
        };
        let waited = states.wait_for(|state| match state {
            State::Up(up) => Some(up.number) > after,
            State::Down { .. } => false,
            State::Closed => true,
        });
        // Whether the wait ended well or not, the state tells.
        let _ = tokio::time::timeout_at(until, waited).await.map(drop);
        match &*self.shared.state.borrow() {
            State::Up(up) => Ok(up.clone()),
            State::Down { why, .. } => Err(StoreError::Unavailable(why.to_string())),
            State::Closed => Err(StoreError::Unavailable("it has been closed".into())),
        }
    }

    /// Has the connection tried out, and replaced if it does not work.
    pub(super) fn suspect(&self) {
        self.shared.suspect.notify_one();
    }

    /// Has the server looked up again and connected to: it said that it takes no writes.
    pub(super) fn renew(&self) {
        self.shared.renew.notify_one();
    }

    /// Notes that an answer came.
    pub(super) fn heard(&self) {
        self.shared.heard.store(true, Ordering::Relaxed);
    }

    /// How often a connection was made after the first one.
    pub(super) fn reconnects(&self) -> u64 {
        self.shared.reconnects.load(Ordering::Relaxed)
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.shared.state.borrow(), State::Up(_))
    }

    /// Lets go of the connection, for good.
    pub(super) fn close(&self) {
        self.supervisor.abort();
        self.shared.state.send_replace(State::Closed);
    }
}

async fn supervise(mut place: Place, shared: Arc<Shared>) {
    let mut number = 0;
    let mut teller = Teller::new(shared.told);
    let mut longest = Duration::ZERO;
    loop {
        let (mut live, target) = connect(&mut place, &shared, longest).await;
        let up_at = Instant::now();
        number += 1;
        if number > 1 {
            shared.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        shared.publish(State::Up(live.up(number)));
        teller.up(&target);
        let (target, why) = watch_over(&mut live, &mut number, &mut place, target, &shared).await;
        let settled = up_at.elapsed() >= SETTLE;
        teller.down(&target, &why, settled);
        longest = if settled {
            Duration::ZERO
        } else {
            longer(longest).min(LONGEST_AFTER_LOSS)
        };
        live.end_feed();
        shared.publish(State::Down {
            since: Instant::now(),
            why: why.into(),
        });
        place.doubt();
    }
}

/// The longest pause after one more attempt that failed.
fn longer(longest: Duration) -> Duration {
    (longest * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Returns where the connection led at last, and why it is of no use any more.
async fn watch_over(
    live: &mut Live,
    number: &mut u64,
    place: &mut Place,
    mut target: Target,
    shared: &Shared,
) -> (Target, String) {
    let mut replaced_at: Option<Instant> = None;
    let mut look_at = Instant::now() + SILENCE;
    loop {
        let health = tokio::select! {
            _ = &mut live.driver => return (target, "the connection was lost".into()),
            () = place.moved() => return (target, "the master is another server now".into()),
            () = shared.renew.notified() => Health::ReadOnly,
            () = shared.suspect.notified() => live.try_out(&target).await,
            () = sleep_until(look_at) => {
                look_at = Instant::now() + SILENCE;
                if shared.heard.swap(false, Ordering::Relaxed) {
                    continue;
                }
                live.try_out(&target).await
            }
        };
        match health {
            Health::Good => {}
            Health::Dead(why) => return (target, why),
            Health::ReadOnly if replaced_at.is_some_and(|at| at.elapsed() < SETTLE) => {}
            Health::ReadOnly => {
                replaced_at = Some(Instant::now());
                place.doubt();
                let made = tokio::select! {
                    biased;
                    made = attempt(place, shared) => made,
                    _ = &mut live.driver => return (target, "the connection was lost".into()),
                };
                if let Ok((next, there)) = made {
                    *number += 1;
                    live.end_feed();
                    shared.publish(State::Up(next.up(*number)));
                    shared.reconnects.fetch_add(1, Ordering::Relaxed);
                    target = there;
                    // The old one serves the calls that are under way, and ends with the last of them.
                    drop(std::mem::replace(live, next).driver.detach());
                }
            }
        }
    }
}

/// Tries until it has a connection that works, at first after a pause of `longest` at most.
async fn connect(place: &mut Place, shared: &Shared, mut longest: Duration) -> (Live, Target) {
    loop {
        // Full jitter: replicas that lost their Redis together do not come back in step.
        tokio::select! {
            () = tokio::time::sleep(longest.mul_f64(fastrand::f64())) => {}
            () = place.moved() => {}
        }
        let here = place.clone();
        let outcome = tokio::select! {
            biased;
            outcome = attempt(&here, shared) => outcome,
            // What hangs on the way to the old place is given up.
            () = place.moved() => {
                longest = Duration::ZERO;
                continue;
            }
        };
        match outcome {
            Ok(made) => return made,
            Err(why) => {
                debug!(why, "cannot connect to Redis");
                shared.still_down(&why);
                place.doubt();
                longest = longer(longest);
            }
        }
    }
}

/// One attempt: a connection to where the server is now, that was seen to work.
async fn attempt(place: &Place, shared: &Shared) -> Result<(Live, Target), String> {
    let target = place.target()?;
    let live = dial_and_track(&target, shared.tracking.as_ref()).await?;
    place.verify(&live).await?;
    match live.try_out(&target).await {
        Health::Good | Health::ReadOnly => Ok((live, target)),
        Health::Dead(why) => Err(why),
    }
}

impl Live {
    /// It as connection number `number`.
    fn up(&self, number: u64) -> Up {
        Up {
            number,
            connection: self.connection.clone(),
            feed: self.feed.clone(),
        }
    }

    /// What is told by it from now on may come too late.
    fn end_feed(&self) {
        if let Some(feed) = &self.feed {
            feed.end();
        }
    }
}

impl Shared {
    fn publish(&self, state: State) {
        self.state.send_if_modified(|now| {
            let open = !matches!(now, State::Closed);
            if open {
                // Nothing has been read by it yet, and Redis tells of what will be: in this order (rule N1).
                if let State::Up(Up { feed: Some(feed), .. }) = &state {
                    feed.arm();
                }
                *now = state;
            }
            open
        });
    }

    /// Notes the latest reason, without waking those who wait for a connection.
    fn still_down(&self, reason: &str) {
        self.state.send_if_modified(|state| {
            if let State::Down { why, .. } = state {
                *why = reason.into();
            }
            false
        });
    }
}

/// Tells the loss and the return.
struct Teller {
    /// Whether at `info` and `warn`, else at `debug`.
    aloud: bool,
    /// The loss that the return belongs to, and whether it was told.
    lost_at: Option<(Instant, bool)>,
    told_at: Option<Instant>,
    /// How many there were since one was told.
    losses: u64,
}

impl Teller {
    const fn new(aloud: bool) -> Self {
        Self {
            aloud,
            lost_at: None,
            told_at: None,
            losses: 0,
        }
    }

    fn up(&mut self, target: &Target) {
        let (host, port) = (&target.host, target.port);
        let Some((at, told)) = self.lost_at.take() else {
            if self.aloud {
                info!(host, port, "connected to Redis");
            }
            return;
        };
        let ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        if told {
            info!(host, port, ms, "connected to Redis again");
        } else {
            debug!(host, port, ms, "connected to Redis again");
        }
    }

    /// `settled`: the connection was not one of those that come and go.
    fn down(&mut self, target: &Target, why: &str, settled: bool) {
        let (host, port) = (&target.host, target.port);
        self.losses += 1;
        let due = settled || self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        let told = self.aloud && due;
        self.lost_at = Some((Instant::now(), told));
        if told {
            let losses = std::mem::take(&mut self.losses);
            self.told_at = Some(Instant::now());
            warn!(host, port, why, losses, "the connection to Redis was lost");
        } else {
            debug!(host, port, why, "the connection to Redis was lost");
        }
    }
}
