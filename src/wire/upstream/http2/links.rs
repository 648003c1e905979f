//! The connections of HTTP/2: a stream for each request, over as few of them as the backend allows.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::MAX_STREAMS;
use super::link::{Link, NotOpened, Slot};
use crate::wire::upstream::connection::Connection;
use crate::wire::upstream::pool::Pool;
use crate::wire::upstream::stats::{Counters, Open};
use crate::wire::upstream::stream::Stream;
use crate::wire::upstream::{UpstreamError, UpstreamOptions, connect};

/// How long a backend that chose HTTP/1.1 is not asked again.
const CHOICE: Duration = Duration::from_secs(60);

/// How many connections are opened, one after another, to a backend that leaves each before it was asked anything.
const MOST_DIALS: usize = 5;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Links {
    /// Those of the pool, but for what TLS offers.
    options: UpstreamOptions,
    state: Mutex<State>,
    changed: Notify,
    /// Itself, for what it hands out.
    this: Weak<Self>,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    open: Vec<Arc<Link>>,
    /// Requests that wait for a stream.
    waiting: usize,
    dials: usize,
    /// Attempts to open one that have failed, and why the last one did.
    failures: u64,
    failure: Option<UpstreamError>,
    /// The backend chose HTTP/1.1: until when that holds.
    http1_until: Option<Instant>,
}

/// What a request is to go over.
pub(super) enum Found {
    Stream(Slot),
    /// The backend chose HTTP/1.1.
    Http1,
}

/// What the backend chose on a new connection.
enum Opened {
    Http2(Arc<Link>),
    Http1(Stream),
}

/// A request that waits, counted.
struct Waiting<'a> {
    links: &'a Links,
    /// The failures there had been when it began.
    failures: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.failures.is_some() {
            self.links.state().waiting -= 1;
        }
    }
}

impl Links {
    pub(super) fn new(options: UpstreamOptions) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            options,
            state: Mutex::default(),
            changed: Notify::new(),
            this: Weak::clone(this),
        })
    }

    pub(super) const fn idle_timeout(&self) -> Duration {
        self.options.idle_timeout
    }

    pub(super) const fn is_tls(&self) -> bool {
        self.options.tls.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of a connection that has one to give, or of a new one.
    ///
    /// # Errors
    /// No connection came about, or none with room, within `connect_timeout`.
    pub(super) async fn acquire(&self, pool: &Arc<Pool>) -> Result<Found, UpstreamError> {
        let mut waiting = Waiting {
            links: self,
            failures: None,
        };
        if let Some(found) = self.find(&mut waiting, pool)? {
            return Ok(found);
        }
        let deadline = Instant::now() + self.options.connect_timeout;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = self.find(&mut waiting, pool)? {
                return Ok(found);
            }
            if timeout_at(deadline, changed).await.is_err() {
                if !self.state().open.is_empty() {
                    return Err(UpstreamError::Overloaded {
                        max_connections: self.options.max_connections,
                    });
                }
                return Err(UpstreamError::Connect(format!(
                    "{}: no connection of HTTP/2 had room within {:?}",
                    self.options.host, self.options.connect_timeout
                )));
            }
        }
    }

    fn find(&self, waiting: &mut Waiting<'_>, pool: &Arc<Pool>) -> Result<Option<Found>, UpstreamError> {
        let mut state = self.state();
        let gone = state.drop_spent(self.options.max_age);
        let slot = state
            .open
            .iter()
            .find_map(|link| link.take(&self.this, self.options.idle_timeout));
        if let Some(slot) = slot {
            drop(state);
            drop(gone);
            return Ok(Some(Found::Stream(slot)));
        }
        if state.http1_until.is_some_and(|until| Instant::now() < until) {
            return Ok(Some(Found::Http1));
        }
        let mut may_dial = true;
        match waiting.failures {
            Some(before) if before != state.failures => {
                if let Some(failure) = state.failure.as_ref().filter(|_| state.open.is_empty()) {
                    return Err(failure.clone());
                }
                // There are others, of which a stream may become free: not tried again for this one.
                may_dial = false;
            }
            Some(_) => {}
            None => {
                waiting.failures = Some(state.failures);
                state.waiting += 1;
            }
        }
        // As many connections as those who wait will fill, going by what the last one could carry.
        // A backend that allows none for now would allow none on another.
        let room = state.open.last().map_or(MAX_STREAMS, |link| link.room());
        if may_dial && room > 0 && state.dials * room < state.waiting {
            state.dials += 1;
            if let Some(this) = self.this.upgrade() {
                tokio::spawn(this.dial(Arc::clone(pool)));
            }
        }
        drop(state);
        drop(gone);
        Ok(None)
    }

    /// Opens a connection, for all who wait.
    async fn dial(self: Arc<Self>, pool: Arc<Pool>) {
        let dialled = self.connect(&pool).await;
        let counters = &pool.counters;
        let counter = if dialled.is_ok() {
            &counters.connects
        } else {
            &counters.connect_failures
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.dials -= 1;
        match dialled {
            Ok(Some(link)) => {
                state.open.push(link);
                state.http1_until = None;
            }
            Ok(None) => state.http1_until = Some(Instant::now() + CHOICE),
            Err(error) => {
                state.failures += 1;
                state.failure = Some(error);
            }
        }
        drop(state);
        self.has_changed();
    }

    /// A connection, or `None` where the backend chose HTTP/1.1: then it waits in the pool.
    async fn connect(self: &Arc<Self>, pool: &Arc<Pool>) -> Result<Option<Arc<Link>>, UpstreamError> {
        match self.open(&pool.counters).await? {
            Opened::Http2(link) => Ok(Some(link)),
            Opened::Http1(stream) => {
                pool.put(Box::new(Connection::new(stream)));
                Ok(None)
            }
        }
    }

    /// Opens a connection and closes it again.
    ///
    /// # Errors
    /// None can be had, or the backend does not speak what it is to speak.
    pub(super) async fn probe(self: &Arc<Self>) -> Result<(), UpstreamError> {
        self.open(&Arc::default()).await.map(drop)
    }

    async fn open(self: &Arc<Self>, counters: &Arc<Counters>) -> Result<Opened, UpstreamError> {
        let deadline = Instant::now() + self.options.connect_timeout;
        let host = &self.options.host;
        for left in (0..MOST_DIALS).rev() {
            let stream = connect::stream(&self.options, Open::new(counters)).await?;
            if stream.is_tls() && !stream.speaks_http2() {
                return Ok(Opened::Http1(stream));
            }
            match timeout_at(deadline, Link::open(stream, self)).await {
                Ok(Ok(link)) => return Ok(Opened::Http2(link)),
                Ok(Err(NotOpened::Left(_))) if left > 0 => {}
                Ok(Err(NotOpened::Left(why) | NotOpened::Failed(why))) => {
                    return Err(UpstreamError::Connect(format!("{host}: {why}")));
                }
                Err(_) => break,
            }
        }
        Err(UpstreamError::Connect(format!(
            "{host}: it did not begin HTTP/2 within {:?}",
            self.options.connect_timeout
        )))
    }

    /// A stream has become free, or there is another connection, or one less.
    pub(super) fn has_changed(&self) {
        self.changed.notify_waiters();
    }

    /// Lets go of connections that are idle for too long, and of those that take no more streams.
    pub(super) fn sweep(&self) {
        let mut state = self.state();
        let mut gone = state.drop_spent(self.options.max_age);
        let idle_timeout = self.options.idle_timeout;
        gone.extend(state.open.extract_if(.., |link| link.is_idle_for(idle_timeout)));
        drop(state);
        // Not under the lock.
        drop(gone);
    }

    /// How many connections carry no stream.
    pub(super) fn idle_count(&self) -> usize {
        let state = self.state();
        state.open.iter().filter(|link| link.is_idle()).count()
    }
}

impl State {
    fn drop_spent(&mut self, max_age: Option<Duration>) -> Vec<Arc<Link>> {
        self.open.extract_if(.., |link| link.is_spent(max_age)).collect()
    }
}
