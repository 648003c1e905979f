//! The streams of one connection: each is a task, counted and watched.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use tokio::time::Instant;

use super::super::{Edge, EdgeRefusal};
use crate::wire::body::Body;
use crate::wire::timer::Timer;

/// How much of a response is handed to the library at a time: a client that takes this much within the deadline is
/// not stalled, however large the pieces are in which the backend sends.
const PIECE: usize = 16 * 1024;

/// How many requests of one connection may be worked on at once, those included that the client has reset: they are seen
/// through all the same (S4), and a client that resets what it has asked for is not held by the number of its streams.
const MOST_WORK: usize = 2 * super::MAX_STREAMS as usize;

/// All of a connection.
pub(super) struct Streams {
    open: AtomicUsize,
    idle_since: Mutex<Instant>,
    /// The one whose task the library starts next: right after the request was handed over, in the same poll.
    next: Mutex<Option<Arc<Stream>>>,
    /// Requests that are worked on.
    work: AtomicUsize,
}

/// An extension of requests, to be kept for as long as one is worked on, its client there or not.
#[derive(Clone)]
pub struct UnderWay {
    _work: Arc<Work>,
}

struct Work(Arc<Streams>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.work.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One of them, from the request to the end of the response. Dropped when its task has ended.
pub(crate) struct Stream {
    streams: Arc<Streams>,
    edge: Arc<Edge>,
    /// Since when the library has a piece of the response and has asked for no more.
    taken: Mutex<Option<Instant>>,
    broken: OnceLock<EdgeRefusal>,
}

impl Streams {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            next: Mutex::new(None),
            work: AtomicUsize::new(0),
        })
    }

    /// A request has come.
    pub(super) fn open(self: &Arc<Self>, edge: &Arc<Edge>) -> Arc<Stream> {
        self.open.fetch_add(1, Ordering::AcqRel);
        edge.stats.requests.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream {
            streams: Arc::clone(self),
            edge: Arc::clone(edge),
            taken: Mutex::new(None),
            broken: OnceLock::new(),
        });
        *lock(&self.next) = Some(Arc::clone(&stream));
        stream
    }

    /// Since when there is none; `None` while there is one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.open.load(Ordering::Acquire) == 0).then(|| *lock(&self.idle_since))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *lock(&self.streams.idle_since) = Instant::now();
        self.streams.open.fetch_sub(1, Ordering::AcqRel);
        self.edge.stats.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream {
    /// The work on its request begins; `None` where the client has given us too much to do already.
    pub(super) fn begin(&self) -> Option<UnderWay> {
        let before = self.streams.work.fetch_add(1, Ordering::AcqRel);
        let work = Arc::new(Work(Arc::clone(&self.streams)));
        (before < MOST_WORK).then_some(UnderWay { _work: work })
    }

    /// What its body turned out to be, if that is to be refused.
    pub(super) fn broken(&self) -> Option<EdgeRefusal> {
        self.broken.get().copied()
    }

    /// Ready when the client has taken nothing of the response for too long.
    fn poll_stalled(&self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
        match *lock(&self.taken) {
            Some(since) => timer.poll(cx, since + self.edge.options.stall_timeout),
            None => Poll::Pending,
        }
    }
}

/// Starts the tasks of a connection's streams.
#[derive(Clone)]
pub(super) struct Spawner {
    streams: Arc<Streams>,
    edge: Arc<Edge>,
}

impl Spawner {
    pub(super) fn new(streams: &Arc<Streams>, edge: &Arc<Edge>) -> Self {
        Self {
            streams: Arc::clone(streams),
            edge: Arc::clone(edge),
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, work: F) {
        let stream = lock(&self.streams.next).take();
        self.edge.drain.spawn(async move {
            let (mut work, mut timer) = (pin!(work), Timer::default());
            poll_fn(|cx| {
                if work.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let Some(stream) = &stream else { return Poll::Pending };
                ready!(stream.poll_stalled(cx, &mut timer));
                tracing::debug!("a client took nothing of a response for too long: it is reset");
                Poll::Ready(())
            })
            .await;
        });
    }
}

/// The body of a response.
pub(super) struct StreamBody {
    inner: Body,
    /// What the backend has sent and the library has not asked for.
    rest: Bytes,
    stream: Arc<Stream>,
}

impl StreamBody {
    pub(super) const fn new(inner: Body, stream: Arc<Stream>) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            stream,
        }
    }

    fn piece(&mut self) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        *lock(&self.stream.taken) = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        *lock(&self.stream.taken) = None;
        if !self.rest.is_empty() {
            return self.piece();
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    self.piece()
                }
                Err(other) => Poll::Ready(Some(Ok(other))),
            },
            end => Poll::Ready(end),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// The body of a request, which has to come while it is waited for.
pub(crate) struct StreamUpload {
    inner: Incoming,
    stream: Arc<Stream>,
    timer: Timer,
    waiting: Option<Instant>,
}

impl StreamUpload {
    pub(crate) fn new(inner: Incoming, stream: Arc<Stream>) -> Self {
        Self {
            inner,
            stream,
            timer: Timer::default(),
            waiting: None,
        }
    }
}

impl http_body::Body for StreamUpload {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let since = *this.waiting.get_or_insert_with(Instant::now);
        ready!(this.timer.poll(cx, since + this.stream.edge.options.stall_timeout));
        let refusal = EdgeRefusal::RequestTimeout;
        if this.stream.broken.set(refusal).is_ok() {
            refusal.count(&this.stream.edge.stats);
        }
        Poll::Ready(Some(Err(refusal.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
