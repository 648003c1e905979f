//! One connection of HTTP/2: how it is opened, how many streams it carries, and the task that moves its frames.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::links::Links;
use super::watch::{Watch, Watched};
use super::{LARGEST_HEAD, MAX_STREAMS, STREAM_WINDOW};
use crate::wire::upstream::stream::Stream;

/// How much of one upload is kept for a backend that does not take it.
const SEND_BUFFER: usize = 64 * 1024;

/// How many streams that were reset are remembered, and for how long.
const RESETS: usize = 1024;
const RESET_FOR: Duration = Duration::from_secs(30);

/// A backend that owes an answer and has said nothing for this long is asked whether it is still there.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long it has to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing new happens is asked again after this long only: servers of gRPC take more than one ping
/// in five minutes for abuse.
const PING_AGAIN: Duration = Duration::from_secs(330);

/// How often a connection is looked at: whether it is idle for too long, or silent.
const TICK: Duration = Duration::from_millis(250);

/// How long a connection that nobody uses any more may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// What all that have to do with a connection know of it.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) watch: Arc<Watch>,
    /// How many streams the backend allows at once.
    room: AtomicUsize,
    uses: Mutex<Uses>,
    /// Why it was given up, where that was our decision.
    verdict: OnceLock<&'static str>,
}

#[derive(Debug)]
struct Uses {
    /// Streams that are open.
    live: usize,
    /// When the last one was begun, and when the last one ended.
    begun: Option<Instant>,
    idle_since: Instant,
    /// Nobody can use it any more.
    released: Option<Instant>,
    ended: bool,
}

impl Status {
    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the connection was given up by us.
    pub(super) fn verdict(&self) -> Option<&'static str> {
        self.verdict.get().copied()
    }
}

/// A connection that streams can be opened on. When the last holder lets go of it, the backend is told and it is closed.
#[derive(Debug)]
pub(super) struct Link {
    sender: SendRequest<Bytes>,
    pub(super) status: Arc<Status>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.status.uses().released = Some(Instant::now());
    }
}

/// A stream of a connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) link: Arc<Link>,
    links: Weak<Links>,
    /// The connection had been used before.
    pub(super) reused: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut uses = self.link.status.uses();
            uses.live -= 1;
            if uses.live == 0 {
                uses.idle_since = Instant::now();
            }
        }
        if let Some(links) = self.links.upgrade() {
            links.has_changed();
        }
    }
}

impl Link {
    /// Speaks HTTP/2 over `stream` and waits for the backend's first word: until then nothing of a request is sent, and
    /// its limits are not known.
    ///
    /// # Errors
    /// In words for operators.
    pub(super) async fn open(stream: Stream, links: &Arc<Links>) -> Result<Arc<Self>, String> {
        let watch = Arc::new(Watch::new());
        let io = Watched::new(stream, Arc::clone(&watch));
        let (sender, mut connection) = builder().handshake(io).await.map_err(|error| error.to_string())?;
        let greeted = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err("the connection was closed".to_owned())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
            Poll::Pending if watch.is_settled() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        greeted.await.map_err(|error| {
            if watch.is_settled() {
                error
            } else {
                format!("it does not speak HTTP/2, which upstream.http2 asks for: {error}")
            }
        })?;
        if watch.is_leaving() {
            return Err("it wants no requests on a new connection of HTTP/2 (GOAWAY)".to_owned());
        }
        let status = Arc::new(Status {
            watch,
            room: AtomicUsize::new(connection.max_concurrent_send_streams()),
            uses: Mutex::new(Uses {
                live: 0,
                begun: None,
                idle_since: Instant::now(),
                released: None,
                ended: false,
            }),
            verdict: OnceLock::new(),
        });
        let driver = Driver::new(connection, Arc::clone(&status), links);
        tokio::spawn(driver.run());
        Ok(Arc::new(Self { sender, status }))
    }

    /// Takes one of its streams, where it has one to give.
    pub(super) fn take(self: &Arc<Self>, links: &Weak<Links>, idle_timeout: Duration) -> Option<Slot> {
        let mut uses = self.status.uses();
        let room = self.status.room.load(Ordering::Acquire).min(MAX_STREAMS);
        let rested = uses.live == 0 && uses.begun.is_some() && uses.idle_since.elapsed() >= idle_timeout;
        if uses.ended || rested || uses.live >= room || self.status.watch.is_leaving() {
            return None;
        }
        uses.live += 1;
        let reused = uses.begun.replace(Instant::now()).is_some();
        drop(uses);
        Some(Slot {
            link: Arc::clone(self),
            links: Weak::clone(links),
            reused,
        })
    }

    /// Whether nothing can be begun on it any more, now or later.
    pub(super) fn is_spent(&self, max_age: Option<Duration>) -> bool {
        let is_old = max_age.is_some_and(|limit| self.status.watch.born().elapsed() >= limit);
        is_old || self.status.watch.is_leaving() || self.status.uses().ended
    }

    /// Whether it has had no stream for that long.
    pub(super) fn is_idle_for(&self, time: Duration) -> bool {
        let uses = self.status.uses();
        // One that was just opened is waited for by those who had it opened.
        let time = if uses.begun.is_some() { time } else { time.max(GOODBYE) };
        uses.live == 0 && uses.idle_since.elapsed() >= time
    }

    /// Whether it carries no stream.
    pub(super) fn is_idle(&self) -> bool {
        self.status.uses().live == 0
    }

    /// How many streams it can carry.
    pub(super) fn room(&self) -> usize {
        self.status.room.load(Ordering::Acquire).min(MAX_STREAMS)
    }

    /// Begins a stream with this head.
    ///
    /// # Errors
    /// The connection takes none any more; nothing was sent.
    pub(super) fn begin(
        &self,
        head: Request<()>,
        is_all: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // Each of them is queued by itself: the library keeps a place for one in each handle.
        self.sender.clone().send_request(head, is_all)
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    let all = STREAM_WINDOW.saturating_mul(u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX));
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(all)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(LARGEST_HEAD)
        // What the backend had sent for streams that were reset is thrown away in silence, however many clients leave.
        .max_concurrent_reset_streams(RESETS)
        .reset_stream_duration(RESET_FOR)
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

/// Moves the frames of a connection, for as long as it lives.
struct Driver {
    connection: Connection<Watched<Stream>, Bytes>,
    pings: Option<PingPong>,
    status: Arc<Status>,
    links: Weak<Links>,
    tick: Interval,
    /// When the backend was last asked, and whether it has yet to answer.
    asked: Option<Instant>,
    owes_pong: bool,
}

impl Driver {
    fn new(mut connection: Connection<Watched<Stream>, Bytes>, status: Arc<Status>, links: &Arc<Links>) -> Self {
        let mut tick = interval((links.idle_timeout() / 2).clamp(Duration::from_millis(20), TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            pings: connection.ping_pong(),
            connection,
            status,
            links: Arc::downgrade(links),
            tick,
            asked: None,
            owes_pong: false,
        }
    }

    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        self.status.uses().ended = true;
        let links = self.links.upgrade();
        // Ends what is still open.
        drop(self);
        if let Some(links) = links {
            links.has_changed();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of HTTP/2 to the upstream ended");
            }
            return Poll::Ready(());
        }
        let room = self.connection.max_concurrent_send_streams();
        let had = self.status.room.swap(room, Ordering::AcqRel);
        if (room > had || self.status.watch.is_leaving())
            && let Some(links) = self.links.upgrade()
        {
            links.has_changed();
        }
        if let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            self.owes_pong = false;
        }
        while self.tick.poll_tick(cx).is_ready() {
            if let Some(links) = self.links.upgrade() {
                links.sweep();
            }
            if self.is_done(Instant::now()) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Looks after a silent backend, and a goodbye that takes too long: `true` when the connection is to be dropped.
    fn is_done(&mut self, now: Instant) -> bool {
        let uses = self.status.uses();
        let (live, begun, released) = (uses.live, uses.begun, uses.released);
        drop(uses);
        if released.is_some_and(|since| now.duration_since(since) >= GOODBYE) {
            return true;
        }
        let heard = self.status.watch.heard();
        if self.owes_pong {
            let asked = self.asked.unwrap_or(now);
            let is_dead = now.duration_since(asked.max(heard)) >= PING_TIMEOUT;
            if is_dead {
                let _ = self.status.verdict.set("it did not answer to a ping");
            }
            return is_dead;
        }
        let news = begun.map_or(heard, |begun| begun.max(heard));
        let due = match self.asked {
            Some(asked) if asked >= news => asked + PING_AGAIN,
            _ => news + PING_AFTER,
        };
        if live > 0
            && now >= due
            && let Some(pings) = &mut self.pings
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            (self.asked, self.owes_pong) = (Some(now), true);
        }
        false
    }
}
