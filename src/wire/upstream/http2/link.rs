//! One connection of HTTP/2: how it is opened, and how many streams it carries.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::Request;
use tokio::time::Instant;

use super::driver::Driver;
use super::links::Links;
use super::watch::{Watch, Watched};
use super::{LARGEST_HEAD, MAX_STREAMS, STREAM_WINDOW};
use crate::wire::upstream::stream::Stream;

/// How much of one upload is kept for a backend that does not take it.
const SEND_BUFFER: usize = 64 * 1024;

/// How many streams that were reset are remembered, and for how long.
const RESETS: usize = 1024;
const RESET_FOR: Duration = Duration::from_secs(30);

/// How long a connection that nobody uses any more may take to say goodbye.
pub(super) const GOODBYE: Duration = Duration::from_secs(5);

/// What all that have to do with a connection know of it.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) watch: Arc<Watch>,
    /// How many streams the backend allows at once.
    pub(super) room: AtomicUsize,
    uses: Mutex<Uses>,
    /// Why it was given up, where that was our decision.
    pub(super) verdict: OnceLock<&'static str>,
}

#[derive(Debug)]
pub(super) struct Uses {
    /// Streams that are open.
    pub(super) live: usize,
    /// When the last one was begun, and when the last one ended.
    pub(super) begun: Option<Instant>,
    idle_since: Instant,
    /// Nobody can use it any more.
    pub(super) released: Option<Instant>,
    pub(super) ended: bool,
}

impl Status {
    pub(super) fn uses(&self) -> MutexGuard<'_, Uses> {
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

/// Why a connection cannot be used.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// The backend spoke HTTP/2 and left before it was asked anything, as it may at any time: another may serve.
    Left(String),
    Failed(String),
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
    pub(super) async fn open(stream: Stream, links: &Arc<Links>) -> Result<Arc<Self>, NotOpened> {
        let watch = Arc::new(Watch::new());
        let io = Watched::new(stream, Arc::clone(&watch));
        let not_opened = |why: String| {
            if watch.is_settled() {
                NotOpened::Left(why)
            } else {
                NotOpened::Failed(format!(
                    "it does not speak HTTP/2, which upstream.http2 asks for: {why}"
                ))
            }
        };
        let handshake = builder().handshake(io).await;
        let (sender, mut connection) = handshake.map_err(|error| not_opened(error.to_string()))?;
        let greeted = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err("the connection was closed".to_owned())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
            Poll::Pending if watch.is_settled() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        greeted.await.map_err(not_opened)?;
        if watch.is_leaving() {
            return Err(NotOpened::Left("it left a new connection at once (GOAWAY)".to_owned()));
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
