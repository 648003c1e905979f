//! Connections that wait for a request, and the places that those in use take.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};

use super::connect;
use super::connection::Connection;
use super::stats::{Counters, Open};
use super::{UPLOADS, UpstreamError, UpstreamOptions};
use crate::moment;

/// How often idle connections are looked at: one that the backend has closed keeps a socket until then.
const SWEEP: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// A place in the pool.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pool: Arc<Pool>,
    /// It is one of those that may wait for clients.
    upload: bool,
}

impl Place {
    /// The request was sent to its end.
    pub(super) fn uploaded(&mut self) {
        if mem::take(&mut self.upload) {
            self.pool.uploads.add_permits(1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.uploaded();
        self.pool.places.add_permits(1);
    }
}

/// The pool. The number of places bounds the connections in use; an idle one holds none, but whoever has a place
/// takes an idle connection before opening another, so that all of them together stay within the same bound.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) options: UpstreamOptions,
    pub(super) counters: Arc<Counters>,
    places: Semaphore,
    /// Those of them that may wait for clients.
    uploads: Semaphore,
    /// The last used is at the end and the first to be used again: the others fall idle and are closed.
    idle: Mutex<Vec<Idle>>,
    sweeping: AtomicBool,
}

impl Pool {
    pub(super) fn new(options: UpstreamOptions) -> Self {
        let places = options.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            counters: Arc::default(),
            places: Semaphore::new(places),
            uploads: Semaphore::new((places / UPLOADS.1 * UPLOADS.0).max(1)),
            idle: Mutex::default(),
            sweeping: AtomicBool::new(false),
            options,
        }
    }

    /// A place, first come, first served, within `connect_timeout`; `upload`: for a request that may wait for its client.
    pub(super) async fn place(self: &Arc<Self>, upload: bool) -> Result<Place, UpstreamError> {
        let mut deadline = None;
        let upload = if upload {
            Some(self.permit(&self.uploads, &mut deadline).await?)
        } else {
            None
        };
        let place = self.permit(&self.places, &mut deadline).await?;
        // From here on the place gives them back.
        place.forget();
        Ok(Place {
            pool: Arc::clone(self),
            upload: upload.map(SemaphorePermit::forget).is_some(),
        })
    }

    /// `deadline`: set by the first who has to wait.
    async fn permit<'a>(
        &self,
        of: &'a Semaphore,
        deadline: &mut Option<Instant>,
    ) -> Result<SemaphorePermit<'a>, UpstreamError> {
        if let Ok(permit) = of.try_acquire() {
            return Ok(permit);
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.options.connect_timeout);
        match timeout_at(deadline, of.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::Overloaded {
                max_connections: self.options.max_connections,
            }),
        }
    }

    /// An idle connection that is still good at `now`, or a new one; `true` for one that was used before.
    pub(super) async fn connection(self: &Arc<Self>, now: Instant) -> Result<(Box<Connection>, bool), UpstreamError> {
        while let Some((mut connection, idle)) = self.take(now) {
            self.counters.reused.fetch_add(1, Ordering::Relaxed);
            if connection.can_go_on(idle) {
                return Ok((connection, true));
            }
            self.counters.retries.fetch_add(1, Ordering::Relaxed);
        }
        // Large and rare: requests that find a connection carry no room for it.
        let opened = Box::pin(connect::stream(&self.options, Open::new(&self.counters))).await;
        let counter = if opened.is_ok() {
            &self.counters.connects
        } else {
            &self.counters.connect_failures
        };
        counter.fetch_add(1, Ordering::Relaxed);
        opened.map(|stream| (Box::new(Connection::new(stream)), false))
    }

    /// The connection that was used last, and how long it has been idle, unless that is too long, or it is too old.
    fn take(&self, now: Instant) -> Option<(Box<Connection>, Duration)> {
        let mut idle = self.idle();
        while let Some(Idle { connection, since }) = idle.pop() {
            let unused = now.saturating_duration_since(since);
            if unused >= self.options.idle_timeout {
                // All those below have been idle for longer.
                idle.clear();
                return None;
            }
            if self.is_young(&connection, now) {
                return Some((connection, unused));
            }
        }
        None
    }

    fn is_young(&self, connection: &Connection, now: Instant) -> bool {
        self.options.max_age.is_none_or(|limit| connection.age(now) < limit)
    }

    /// Takes a connection back whose exchange has ended.
    pub(super) fn put(self: &Arc<Self>, mut connection: Box<Connection>) {
        let now = moment::lately();
        connection.answered();
        if self.is_young(&connection, now) && !connection.is_known_to_be_spent() {
            self.idle().push(Idle { connection, since: now });
            self.start_sweeping();
        }
    }

    /// How many connections are idle.
    pub(super) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes connections that have been idle for too long and those that the backend has closed, while there are any.
    fn start_sweeping(self: &Arc<Self>) {
        if self.sweeping.load(Ordering::Relaxed) || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            self.sweeping.store(false, Ordering::Release);
            return;
        };
        let every = (self.options.idle_timeout / 2).clamp(Duration::from_millis(20), SWEEP);
        runtime.spawn(sweep(Arc::downgrade(self), every));
    }
}

async fn sweep(pool: Weak<Pool>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let limit = pool.options.idle_timeout;
        let keep = |idle: &mut Idle| idle.since.elapsed() < limit && !idle.connection.is_known_to_be_spent();
        let mut idle = pool.idle();
        let gone: Vec<Idle> = idle.extract_if(.., |idle| !keep(idle)).collect();
        let done = idle.is_empty();
        if done {
            // Under the lock: whoever puts one back after this starts another sweeper.
            pool.sweeping.store(false, Ordering::Release);
        }
        drop(idle);
        // Not under the lock.
        drop(gone);
        if done {
            return;
        }
    }
}
