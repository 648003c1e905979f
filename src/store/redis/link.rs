//! The one connection to Redis: made, watched and replaced in the background.
//!
//! The supervisor owns the connection. Callers take a clone of it, and say so when something about it looked wrong;
//! the supervisor then tries it out and replaces it if need be. A caller never connects by itself.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, Value};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::session::store::StoreError;

/// The longest pause between two attempts to connect: a Redis that comes back is in use again well within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The pause after the first failed attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// An attempt to connect and to log in ends after the time-out of calls, but neither before nor after these.
const DIAL_WITHIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// A connection that was replaced because its server is read-only is not replaced again within this time.
const SETTLE: Duration = Duration::from_secs(1);

/// How many commands may wait to be written to the connection; further ones wait to be queued.
const QUEUE: usize = 1024;

/// Where Redis is and how to log in. Secret: it holds the password.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: RedisConnectionInfo,
    pub(super) timeout: Duration,
    /// A write that does no harm: it shows whether the server takes writes.
    pub(super) probe: Cmd,
}

#[derive(Clone)]
enum State {
    /// The number tells one connection from the next.
    Up(u64, MultiplexedConnection),
    Down {
        since: Instant,
        why: Arc<str>,
    },
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
}

impl Link {
    /// Starts to connect, in the background.
    pub(super) fn new(target: Target) -> Self {
        let timeout = target.timeout;
        let down = State::Down {
            since: Instant::now(),
            why: "not connected yet".into(),
        };
        let shared = Arc::new(Shared {
            state: watch::Sender::new(down),
            suspect: Notify::new(),
        });
        let supervisor = AbortOnDropHandle::new(tokio::spawn(supervise(target, Arc::clone(&shared))));
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
    ) -> Result<(u64, MultiplexedConnection), StoreError> {
        if let State::Up(number, connection) = &*self.shared.state.borrow()
            && Some(*number) > after
        {
            return Ok((*number, connection.clone()));
        }
        let mut states = self.shared.state.subscribe();
        let until = match &*states.borrow() {
            State::Down { since, .. } => deadline.min(*since + self.timeout),
            State::Up(..) | State::Closed => deadline,
        };
        let waited = states.wait_for(|state| match state {
            State::Up(number, _) => Some(*number) > after,
            State::Down { .. } => false,
            State::Closed => true,
        });
        // Whether the wait ended well or not, the state tells.
        let _ = tokio::time::timeout_at(until, waited).await.map(drop);
        match &*self.shared.state.borrow() {
            State::Up(number, connection) => Ok((*number, connection.clone())),
            State::Down { why, .. } => Err(StoreError::Unavailable(why.to_string())),
            State::Closed => Err(StoreError::Unavailable("it has been closed".into())),
        }
    }

    /// Has the connection tried out, and replaced if it does not work.
    pub(super) fn suspect(&self) {
        self.shared.suspect.notify_one();
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.shared.state.borrow(), State::Up(..))
    }

    /// Lets go of the connection, for good.
    pub(super) fn close(&self) {
        self.supervisor.abort();
        self.shared.state.send_replace(State::Closed);
    }
}

/// A connection, and the task that moves its bytes: the connection ends with it.
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: AbortOnDropHandle<()>,
}

/// What became of a connection that was tried out.
enum Health {
    Good,
    /// It answers, but takes no writes: the server may have been demoted, and the name may lead elsewhere now.
    ReadOnly,
    Dead,
}

async fn supervise(target: Target, shared: Arc<Shared>) {
    let mut number = 0;
    loop {
        let mut live = connect(&target, &shared).await;
        number += 1;
        shared.publish(State::Up(number, live.connection.clone()));
        info!(host = target.host, port = target.port, "connected to Redis");
        watch_over(&mut live, &mut number, &target, &shared).await;
        shared.publish(State::Down {
            since: Instant::now(),
            why: "the connection was lost".into(),
        });
        warn!(
            host = target.host,
            port = target.port,
            "the connection to Redis was lost"
        );
    }
}

/// Returns when the connection is of no use any more.
async fn watch_over(live: &mut Live, number: &mut u64, target: &Target, shared: &Shared) {
    let mut replaced_at: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = &mut live.driver => return,
            () = shared.suspect.notified() => {}
        }
        match try_out(&live.connection, target).await {
            Health::Good => {}
            Health::Dead => return,
            Health::ReadOnly if replaced_at.is_some_and(|at| at.elapsed() < SETTLE) => {}
            Health::ReadOnly => {
                replaced_at = Some(Instant::now());
                if let Ok(next) = dial(target).await {
                    *number += 1;
                    shared.publish(State::Up(*number, next.connection.clone()));
                    // The old one serves the calls that are under way, and ends with the last of them.
                    drop(std::mem::replace(live, next).driver.detach());
                }
            }
        }
    }
}

async fn try_out(connection: &MultiplexedConnection, target: &Target) -> Health {
    let mut connection = connection.clone();
    match tokio::time::timeout(target.timeout, connection.send_packed_command(&target.probe)).await {
        Ok(Ok(Value::ServerError(error))) if error.code() == "READONLY" => Health::ReadOnly,
        // Any other refusal is an answer all the same: another connection would get it too.
        Ok(Ok(_)) => Health::Good,
        Ok(Err(_)) | Err(_) => Health::Dead,
    }
}

async fn connect(target: &Target, shared: &Shared) -> Live {
    let mut pause = FIRST_PAUSE;
    loop {
        match dial(target).await {
            Ok(live) => return live,
            Err(why) => {
                debug!(host = target.host, port = target.port, why, "cannot connect to Redis");
                shared.still_down(&why);
            }
        }
        // Between half and all of it: replicas that lost their Redis together do not come back in step.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Shared {
    fn publish(&self, state: State) {
        self.state.send_if_modified(|now| {
            let open = !matches!(now, State::Closed);
            if open {
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

/// One attempt; the name is resolved anew. The error is fit to be shown.
pub(super) async fn dial(target: &Target) -> Result<Live, String> {
    let within = target.timeout.clamp(DIAL_WITHIN.0, DIAL_WITHIN.1);
    let attempt = async {
        let stream = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        // Neither is worth failing for: they only make it faster and notice the loss of an idle peer.
        let _ = stream.set_nodelay(true);
        let keep_alive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(15));
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keep_alive);
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let (connection, driver) = MultiplexedConnection::new_with_config(&target.login, stream, config)
            .await
            .map_err(|error| refused_login(&error))?;
        Ok(Live {
            connection,
            driver: AbortOnDropHandle::new(tokio::spawn(driver)),
        })
    };
    match tokio::time::timeout(within, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no connection within {} ms", within.as_millis())),
    }
}

/// Says why the greeting failed, without the server's own words: some servers repeat what they were sent, and that
/// held the password.
fn refused_login(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Io, _) => "the connection was closed during the greeting".into(),
        // The code of most errors: a password where none is set, a user or a database that there is not.
        (_, Some("ERR")) => {
            "the server refused the greeting: are user, password and database of store.url right?".into()
        }
        (_, Some(code)) => format!("the server refused the greeting: {code}"),
        (_, None) => format!("the server refused the greeting: {}", error.category()),
    }
}
