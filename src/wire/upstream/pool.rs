//! Connections that wait for a request, and the places that those in use take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::connect::{self, Connection};
use super::stats::Counters;
use super::upload::Upload;
use super::{UpstreamError, UpstreamOptions};

/// A connection that was put back an instant ago may have to come to rest: its own task has yet to run. One that does
/// not in this time is closed: its backend answered without ever reading the end of the request.
const SETTLE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// The pool. The number of places bounds the connections in use; an idle one holds none, but whoever has a place
/// takes an idle connection before opening another, so that all of them together stay within the same bound.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) options: UpstreamOptions,
    pub(super) counters: Arc<Counters>,
    places: Arc<Semaphore>,
    /// The last used is at the end and the first to be used again: the others fall idle and are closed.
    idle: Mutex<Vec<Idle>>,
    sweeping: AtomicBool,
}

impl Pool {
    pub(super) fn new(options: UpstreamOptions) -> Self {
        let places = options.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            counters: Arc::default(),
            places: Arc::new(Semaphore::new(places)),
            idle: Mutex::default(),
            sweeping: AtomicBool::new(false),
            options,
        }
    }

    /// A place, first come, first served.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let overloaded = UpstreamError::Overloaded {
            max_connections: self.options.max_connections,
        };
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(permit);
        }
        match timeout(self.options.connect_timeout, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(overloaded),
        }
    }

    /// An idle connection that is still good, or a new one; `true` for one that was used before.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<(Connection, bool), UpstreamError> {
        while let Some(mut connection) = self.take() {
            let ready =
                connection.sender.is_ready() || matches!(timeout(SETTLE, connection.sender.ready()).await, Ok(Ok(())));
            if ready {
                self.counters.reused.fetch_add(1, Ordering::Relaxed);
                return Ok((connection, true));
            }
        }
        let opened = connect::open(&self.options, &self.counters).await;
        let counter = if opened.is_ok() {
            &self.counters.connects
        } else {
            &self.counters.connect_failures
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.start_sweeping();
        opened.map(|connection| (connection, false))
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(last) = idle.pop() {
            if last.since.elapsed() >= self.options.idle_timeout {
                // All those below have been idle for longer.
                idle.clear();
                return None;
            }
            if self.may_be_used_again(&last.connection) {
                return Some(last.connection);
            }
        }
        None
    }

    /// A connection whose response has been read to its end. Its place is given up when it is back in the pool, or
    /// gone; a backend that answered before the end of the upload keeps both busy until then.
    pub(super) fn finish(
        self: &Arc<Self>,
        connection: Connection,
        place: OwnedSemaphorePermit,
        rest: Option<(Arc<Upload>, Duration)>,
        reusable: bool,
    ) {
        match rest {
            Some((upload, quiet)) if !upload.ended() => {
                let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                    return;
                };
                let pool = Arc::clone(self);
                runtime.spawn(async move {
                    if let Some(connection) = see_through(connection, &upload, quiet).await
                        && reusable
                    {
                        pool.put(connection);
                    }
                    drop(place);
                });
            }
            Some(_) | None => {
                if reusable {
                    self.put(connection);
                }
                drop(place);
            }
        }
    }

    fn may_be_used_again(&self, connection: &Connection) -> bool {
        let is_young = |most| connection.link.age() < most;
        !connection.sender.is_closed() && self.options.max_age.is_none_or(is_young)
    }

    fn put(&self, connection: Connection) {
        if self.may_be_used_again(&connection) {
            self.idle().push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// How many connections are idle.
    pub(super) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes connections that have been idle for too long and forgets those that the backend has closed (their
    /// sockets are closed already: hyper drops a socket when it reads the end of an idle connection).
    fn start_sweeping(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let every = (self.options.idle_timeout / 2).clamp(Duration::from_millis(50), Duration::from_secs(30));
        let pool = Arc::downgrade(self);
        tokio::spawn(sweep(pool, every));
    }
}

async fn sweep(pool: Weak<Pool>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let limit = pool.options.idle_timeout;
        let keep = |idle: &Idle| idle.since.elapsed() < limit && !idle.connection.sender.is_closed();
        let gone: Vec<Idle> = pool.idle().extract_if(.., |idle| !keep(idle)).collect();
        // Dropped here, not under the lock.
        drop(gone);
    }
}

/// Lets an upload end whose response has been read already. `None` when it failed or stood still for `quiet`.
async fn see_through(mut connection: Connection, upload: &Upload, quiet: Duration) -> Option<Connection> {
    loop {
        let deadline = super::after(upload.last_moved().max(connection.link.last_write()), quiet);
        if deadline <= Instant::now() {
            return None;
        }
        match tokio::time::timeout_at(deadline, connection.sender.ready()).await {
            Ok(Ok(())) => return Some(connection),
            Ok(Err(_)) => return None,
            Err(_) => {}
        }
    }
}
