//! Connections: lent to one call at a time, made when they are needed, up to a limit.
//!
//! What is not given back is closed: a call that ran out of time leaves no connection behind on which its answer could
//! still come, and no place taken. While the database is away, one attempt at a time is made to reach it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::connection::{self, Connection, Row, Value};
use super::options::SqlOptions;
use crate::session::store::StoreError;
use crate::store::patience::within;

/// An unused connection is closed after that: before a firewall between has forgotten it, say.
const IDLE: Duration = Duration::from_secs(60);

/// How long the making of a connection may take, if `store.timeout` is not longer: whoever asked has given up by then,
/// and the next one finds it made.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How long to wait between two attempts to reach a database that is away.
const PACE: Duration = Duration::from_millis(50);

/// How long the farewell to the server may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// The connections.
pub(super) struct Pool {
    options: SqlOptions,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    connects: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Those that nobody uses, the one that was used last at the end.
    idle: Vec<(Connection, Instant)>,
    outage: Option<Outage>,
    closed: bool,
}

/// The database cannot be reached.
struct Outage {
    since: Instant,
    tried: Instant,
    why: String,
}

/// A connection, or the place for one where none could be made.
type Dialed = Result<Lent, OwnedSemaphorePermit>;

/// What is to be done about a connection that is not there.
enum Step {
    Dial,
    Wait(Instant, String),
    GiveUp(String),
}

impl Pool {
    pub(super) fn new(options: SqlOptions) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(options.max_connections.max(1))),
            options,
            state: Mutex::default(),
            connects: AtomicU64::new(0),
        })
    }

    /// A connection for one call.
    pub(super) async fn take(self: &Arc<Self>, by: Instant) -> Result<Lent, StoreError> {
        let permit = within(by, Arc::clone(&self.permits).acquire_owned()).await;
        let mut permit = match permit {
            Some(Ok(permit)) => permit,
            Some(Err(_)) => return Err(closed()),
            None => {
                let all = self.options.max_connections;
                return Err(StoreError::Unavailable(format!("all {all} connections are in use")));
            }
        };
        loop {
            let step = {
                let mut state = self.state();
                if state.closed {
                    return Err(closed());
                }
                if let Some((connection, _)) = state.idle.pop() {
                    return Ok(self.lend(connection, permit));
                }
                state.step(self.options.timeout)
            };
            match step {
                Step::GiveUp(why) => return Err(StoreError::Unavailable(why)),
                Step::Wait(until, why) if until >= by => {
                    tokio::time::sleep_until(by).await;
                    return Err(StoreError::Unavailable(why));
                }
                Step::Wait(until, _) => tokio::time::sleep_until(until).await,
                Step::Dial => match within(by, self.dial(permit)).await {
                    Some(Ok(Ok(lent))) => return Ok(lent),
                    Some(Ok(Err(returned))) => permit = returned,
                    Some(Err(_)) => return Err(closed()),
                    None => return Err(StoreError::Unavailable("no connection could be made in time".into())),
                },
            }
        }
    }

    /// Makes a connection in a task of its own: it is of use to others when this call cannot wait for it. Gives back the
    /// permit when that fails.
    fn dial(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> oneshot::Receiver<Dialed> {
        let (told, made) = oneshot::channel();
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let within = CONNECT_WITHIN.max(pool.options.timeout);
            let connected = tokio::time::timeout(within, pool.options.connect()).await;
            let outcome = match connected {
                Ok(Ok(connection)) => {
                    pool.connects.fetch_add(1, Ordering::Relaxed);
                    pool.state().outage = None;
                    Ok(pool.lend(connection, permit))
                }
                Ok(Err(error)) => {
                    pool.state().failed(connection::reason(&error));
                    Err(permit)
                }
                Err(_) => {
                    pool.state().failed("the database does not answer".into());
                    Err(permit)
                }
            };
            if let Err(Ok(unclaimed)) = told.send(outcome) {
                unclaimed.give_back();
            }
        });
        made
    }

    fn lend(self: &Arc<Self>, connection: Connection, permit: OwnedSemaphorePermit) -> Lent {
        Lent {
            pool: Arc::clone(self),
            connection,
            _permit: permit,
        }
    }

    /// Closes the idle connections: they are likely to be as dead as one of them was.
    pub(super) fn forget_idle(&self) {
        let dead = std::mem::take(&mut self.state().idle);
        drop(dead);
    }

    /// Closes those that nobody has used for a while.
    pub(super) fn close_unused(&self) {
        let now = Instant::now();
        self.state()
            .idle
            .retain(|(_, since)| now.saturating_duration_since(*since) < IDLE);
    }

    /// Connections made in place of others: all but as many as there may be at once.
    pub(super) fn reconnects(&self) -> u64 {
        let most = u64::try_from(self.options.max_connections).unwrap_or(u64::MAX);
        self.connects.load(Ordering::Relaxed).saturating_sub(most)
    }

    pub(super) async fn close(&self) {
        let idle = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        self.permits.close();
        let farewells = async {
            for (connection, _) in idle {
                // There is nothing to lose: every change is answered, or its asker was told that it may not be done.
                let _ = connection.close().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, farewells).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// One attempt at a time while the database is away; who comes when it has been away for longer than a call may take is
    /// told so at once.
    fn step(&mut self, timeout: Duration) -> Step {
        let now = Instant::now();
        match &mut self.outage {
            None => Step::Dial,
            Some(outage) if now >= outage.tried + PACE => {
                outage.tried = now;
                Step::Dial
            }
            Some(outage) if now.saturating_duration_since(outage.since) > timeout => Step::GiveUp(outage.why.clone()),
            Some(outage) => Step::Wait(outage.tried + PACE, outage.why.clone()),
        }
    }

    fn failed(&mut self, why: String) {
        let now = Instant::now();
        match &mut self.outage {
            Some(outage) => {
                outage.tried = now;
                outage.why = why;
            }
            None => {
                self.outage = Some(Outage {
                    since: now,
                    tried: now,
                    why,
                });
            }
        }
    }
}

/// A connection that one call has. Dropped, it is closed.
pub(super) struct Lent {
    pool: Arc<Pool>,
    connection: Connection,
    _permit: OwnedSemaphorePermit,
}

impl Lent {
    pub(super) async fn execute(&mut self, statement: &'static str, values: &[Value<'_>]) -> sqlx::Result<u64> {
        self.connection.execute(statement, values).await
    }

    pub(super) async fn fetch(&mut self, statement: &'static str, values: &[Value<'_>]) -> sqlx::Result<Option<Row>> {
        self.connection.fetch(statement, values).await
    }

    pub(super) async fn fetch_all(&mut self, statement: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<Row>> {
        self.connection.fetch_all(statement, values).await
    }

    pub(super) async fn run(&mut self, statements: &'static str) -> sqlx::Result<()> {
        self.connection.run(statements).await
    }

    /// For the next call: all that was asked on it has been answered.
    pub(super) fn give_back(self) {
        let Self { pool, connection, .. } = self;
        let mut state = pool.state();
        if !state.closed {
            state.idle.push((connection, Instant::now()));
        }
    }

    /// After an error: it is kept if that was the answer, and closed if not.
    pub(super) fn settle(self, error: &sqlx::Error) {
        if !connection::is_broken(error) {
            self.give_back();
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it has been closed".into())
}
