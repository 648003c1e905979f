//! The reading side of a connection: what comes is judged, taken apart, and handed on as it is asked for.
//!
//! One [`Intake`] is shared by the task of the connection, which reads heads and watches for a client that leaves, and by
//! the body of the request in hand, which reads the rest of it. Both are nearly always polled by that one task: the lock is
//! there for the types, and nobody waits for it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Version;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{CLOSING_GRACE, Edge, EdgeRefusal, Informer};
use crate::moment;
use crate::wire::body::Body;
use crate::wire::h1::{Asked, Chunk, Decoder, read_request, write_status_line};
use crate::wire::message::{Peer, ResponseHead};
use crate::wire::reading::Reading;
use crate::wire::strict::{Checker, Position};
use crate::wire::timer::Timer;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How much of informational responses waits for a client that does not take them; beyond it they are left out.
const MAX_INTERIM: usize = 64 * 1024;

/// Up to what size a body is waited for before the service is asked, and how long.
const SMALL_BODY: u64 = 64 * 1024;
const SMALL_BODY_WAIT: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(super) struct Intake<IO> {
    pub(super) io: IO,
    peer: Peer,
    edge: Arc<Edge>,
    reading: Reading,
    checker: Checker,
    /// What was read and not judged: a part of a head, or what follows the request in hand.
    held: BytesMut,
    /// Of the body of the request in hand: judged, and not asked for yet.
    judged: BytesMut,
    /// How the body comes; `None`: as it is.
    chunks: Option<Decoder>,
    /// The body waits for us to say so.
    continue_due: bool,
    /// What goes out before the response.
    interim: BytesMut,
    /// The response to the request in hand has begun: nothing goes out before it any more.
    answered: bool,
    /// Counts requests: a body is of one of them.
    turn: u64,
    /// The body of the request in hand is somewhere.
    body_is_held: bool,
    /// The connection waits until it is not.
    awaits_body: bool,
    /// Why nothing more comes of the body.
    broken: Option<EdgeRefusal>,
    /// The client has said all that it will.
    half_closed: bool,
    /// The connection has failed.
    gone: bool,
    /// Since when a small body is waited for.
    small_since: Option<Instant>,
    /// For what is waited, and since when.
    waiting: Option<(Position, Instant)>,
    read_timer: Timer,
    /// Since when the client takes no bytes.
    blocked: Option<Instant>,
    write_timer: Timer,
    /// The task of the connection.
    task: Option<Waker>,
}

/// What came of waiting for a request.
pub(super) enum Next {
    /// Its head; the body is asked for as it is wanted.
    Request(Asked),
    /// There is none, and here is why.
    Refused(EdgeRefusal),
    /// The client was silent for too long, or the shutdown closes idle connections.
    Left,
    /// The client has closed the connection.
    Closed,
    /// The connection has failed.
    Gone,
}

pub(super) type Shared<IO> = Arc<Mutex<Intake<IO>>>;

/// A panic while the lock is held leaves nothing half done that matters: its request is lost anyway.
pub(super) fn lock<IO>(intake: &Mutex<Intake<IO>>) -> MutexGuard<'_, Intake<IO>> {
    intake.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO> Intake<IO> {
    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Intake<IO> {
    /// `first`: what was read already.
    pub(super) fn new(io: IO, first: BytesMut, peer: Peer, edge: Arc<Edge>) -> Self {
        Self {
            io,
            peer,
            reading: Reading::default(),
            checker: Checker::new(edge.options.max_header_size),
            edge,
            held: first,
            judged: BytesMut::new(),
            chunks: None,
            continue_due: false,
            interim: BytesMut::new(),
            answered: false,
            turn: 0,
            body_is_held: false,
            awaits_body: false,
            broken: None,
            half_closed: false,
            gone: false,
            small_since: None,
            waiting: None,
            read_timer: Timer::default(),
            blocked: None,
            write_timer: Timer::default(),
            task: None,
        }
    }

    /// Waits for the head of the next request.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if !self.held.is_empty() {
                match self.judge_head() {
                    Ok(Some(head)) => return Poll::Ready(Next::Request(head)),
                    Ok(None) => {}
                    Err(refusal) => {
                        refusal.count(&self.edge.stats);
                        return Poll::Ready(Next::Refused(refusal));
                    }
                }
            }
            if self.half_closed {
                return Poll::Ready(Next::Closed);
            }
            match self.reading.poll(&mut self.io, cx, &mut self.held) {
                Poll::Ready(Ok(0)) => self.half_closed = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Gone),
                Poll::Pending => {
                    let position = self.checker.position();
                    ready!(self.poll_deadline(cx, position));
                    if position == Position::Between {
                        return Poll::Ready(Next::Left);
                    }
                    let refusal = EdgeRefusal::RequestTimeout;
                    refusal.count(&self.edge.stats);
                    return Poll::Ready(Next::Refused(refusal));
                }
            }
        }
    }

    fn judge_head(&mut self) -> Result<Option<Asked>, EdgeRefusal> {
        let advance = self.checker.advance(&self.held)?;
        let Some(end) = advance.head else { return Ok(None) };
        self.waiting = None;
        let head = self.held.split_to(end.length).freeze();
        self.judged = self.held.split_to(advance.release - end.length);
        let judged = self.checker.take_judged();
        let head = judged.and_then(|judged| read_request(head, judged, self.peer));
        let head = head.ok_or(EdgeRefusal::BadRequest("an unreadable request head"))?;
        self.chunks = end.chunked.then(Decoder::default);
        self.small_since = None;
        self.continue_due = head.expects_continue && self.judged.is_empty() && !advance.ended;
        Ok(Some(head))
    }

    /// Waits until a small body is here, for a moment at most. So a request takes a connection to the backend when it is
    /// there, not while a client drips: see [`Informer::has_whole_request`]. One that waits to be told to go on is told
    /// when the backend's connection is there.
    pub(super) fn poll_small_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let small = self.checker.sized_rest() + self.judged.len() as u64 <= SMALL_BODY;
        while small && self.chunks.is_none() && !self.continue_due && !self.is_received() {
            match self.poll_more(cx) {
                Poll::Ready(Ok(1..)) => {}
                // Whoever reads the body is told.
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    let since = *self.small_since.get_or_insert_with(moment::lately);
                    return self.read_timer.poll(cx, since + SMALL_BODY_WAIT);
                }
            }
        }
        Poll::Ready(())
    }

    /// The body of the request in hand, once [a small one](Self::poll_small_body) is here, and by which way the client is told
    /// of informational responses to it (RFC 9110 §15.2).
    pub(super) fn begin(&mut self, shared: &Shared<IO>, version: Version) -> (Body, Option<Informer>)
    where
        IO: Send + 'static,
    {
        let informer = (version == Version::HTTP_11).then(|| Informer {
            turn: self.turn,
            connection: Arc::clone(shared) as Arc<dyn Inform>,
            whole: self.is_received(),
        });
        (self.body(shared), informer)
    }

    /// The body of the request in hand: what is here already is handed on as it is.
    fn body(&mut self, shared: &Shared<IO>) -> Body
    where
        IO: Send + 'static,
    {
        if self.is_received() && (self.chunks.is_none() || self.judged.is_empty()) {
            let judged = std::mem::take(&mut self.judged).freeze();
            return if judged.is_empty() {
                Body::empty()
            } else {
                Body::from(judged)
            };
        }
        self.body_is_held = true;
        let length = match &self.chunks {
            None => Some(self.checker.sized_rest() + self.judged.len() as u64),
            Some(_) => None,
        };
        Body::new(RequestBody {
            turn: self.turn,
            intake: Arc::clone(shared),
            left: length,
            ended: false,
        })
    }

    /// Whether all of the request in hand was taken: nothing is left for whoever has its body. Only then may the next one
    /// be read.
    pub(super) fn is_taken(&self) -> bool {
        self.is_received() && self.judged.is_empty()
    }

    /// Whether all of the request in hand is here.
    pub(super) fn is_received(&self) -> bool {
        self.checker.position() == Position::Ended
    }

    /// Whether the client has said all that it will.
    pub(super) const fn is_half_closed(&self) -> bool {
        self.half_closed
    }

    /// Waits until nobody reads the body of the request in hand any more.
    pub(super) fn poll_body_released(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.register(cx);
        self.awaits_body = self.body_is_held && !self.gone && self.broken.is_none();
        if self.awaits_body {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// What broke the body of the request in hand.
    pub(super) const fn broken(&self) -> Option<EdgeRefusal> {
        self.broken
    }

    /// The response is about to begin. Takes the rest of a body that nobody reads, if it is here at once: a connection
    /// need not be lost for it. A client that was not told to go on has not sent one.
    pub(super) fn begin_answer(&mut self, cx: &mut Context<'_>) {
        const WORTHWHILE: usize = 64 * 1024;
        self.answered = true;
        if self.body_is_held {
            return;
        }
        self.judged.clear();
        let mut skipped = 0;
        while !self.is_received() && !self.continue_due && skipped < WORTHWHILE {
            match self.poll_more(cx) {
                Poll::Ready(Ok(1..)) => skipped += self.judged.len(),
                _ => return,
            }
            self.judged.clear();
        }
    }

    /// The response has gone out and the request was taken: on to the next one. Its body may still be somewhere, but has
    /// nothing more to read here.
    pub(super) fn next_message(&mut self) {
        self.checker.next_message();
        self.turn += 1;
        self.body_is_held = false;
        self.answered = false;
        self.judged = BytesMut::new();
        self.continue_due = false;
        self.waiting = None;
        if self.held.is_empty() {
            // What is idle keeps no memory.
            self.held = BytesMut::new();
        }
    }

    /// Has the task of the connection woken by what happens to the body elsewhere.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        match &mut self.task {
            Some(task) => task.clone_from(cx.waker()),
            None => self.task = Some(cx.waker().clone()),
        }
    }

    /// While a request is in hand that was received: ready when the connection has failed. What comes is held, up to a
    /// limit; beyond it the client has to wait. One that has only said all that it will (RFC 9112 §9.6) still wants its
    /// answer.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gone {
            return Poll::Ready(());
        }
        while self.is_received() && !self.half_closed && self.held.len() < self.edge.options.max_header_size {
            match ready!(self.reading.poll(&mut self.io, cx, &mut self.held)) {
                Ok(0) => self.half_closed = true,
                Ok(_) => {}
                Err(_) => {
                    self.gone = true;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// Waits for the deadline of what is waited for. Ready: it has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, position: Position) -> Poll<()> {
        let since = match self.waiting {
            Some((waited_for, since)) if waited_for == position => since,
            _ => self.waiting.insert((position, moment::lately())).1,
        };
        let options = &self.edge.options;
        let deadline = match position {
            Position::Between => {
                let kept = since + options.keep_alive_timeout;
                let closing = self.edge.drain.closing_since();
                closing.map_or(kept, |closing| kept.min(since.max(closing) + CLOSING_GRACE))
            }
            Position::Head => since + options.header_timeout,
            Position::Body | Position::Ended => since + options.stall_timeout,
        };
        self.read_timer.poll(cx, deadline)
    }

    /// Reads more of the body and judges it: how many bytes came, 0 at the end of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.held.is_empty() {
            let read = ready!(self.reading.poll(&mut self.io, cx, &mut self.held))?;
            if read == 0 {
                self.half_closed = true;
                return Poll::Ready(Ok(0));
            }
        }
        self.waiting = None;
        match self.checker.advance(&self.held) {
            Ok(advance) => {
                let fresh = self.held.split_to(advance.release);
                if self.judged.is_empty() {
                    self.judged = fresh;
                } else {
                    self.judged.unsplit(fresh);
                }
                Poll::Ready(Ok(advance.release))
            }
            Err(flaw) => Poll::Ready(Err(self.break_off(flaw.into()))),
        }
    }

    fn break_off(&mut self, refusal: EdgeRefusal) -> io::Error {
        refusal.count(&self.edge.stats);
        self.broken = Some(refusal);
        self.wake();
        io::Error::new(io::ErrorKind::InvalidData, refusal)
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.gone = true;
        self.wake();
        error
    }

    /// The next part of the body of the request in hand; `None` at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match self.take_judged() {
                Ok(Some(part)) => return Poll::Ready(part.map(Ok)),
                Ok(None) => {}
                Err(what) => return Poll::Ready(Some(Err(self.break_off(EdgeRefusal::BadRequest(what))))),
            }
            if self.is_received() && self.broken.is_none() {
                // The judge and the decoder read the same grammar; should they ever differ, nobody waits for it.
                return Poll::Ready(Some(Err(self.break_off(EdgeRefusal::BadRequest("a malformed body")))));
            }
            if let Some(refusal) = self.broken {
                return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, refusal))));
            }
            if self.gone || self.half_closed {
                let error = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the client left in the middle of the body",
                );
                return Poll::Ready(Some(Err(self.fail(error))));
            }
            if let Poll::Ready(Err(error)) = self.poll_continue(cx) {
                return Poll::Ready(Some(Err(self.fail(error))));
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(_)) => self.tell_received(cx),
                Poll::Ready(Err(error)) if self.broken.is_some() => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(self.fail(error)))),
                Poll::Pending => {
                    ready!(self.poll_deadline(cx, Position::Body));
                    return Poll::Ready(Some(Err(self.break_off(EdgeRefusal::RequestTimeout))));
                }
            }
        }
    }

    /// Has the client go on with a body that waits for it.
    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.answered {
            // It would be a part of the response.
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut self.continue_due) {
            self.interim.extend_from_slice(CONTINUE);
        }
        self.poll_interim(cx)
    }

    /// Where another task has read the last of the body, that of the connection has to watch for a client that leaves.
    fn tell_received(&self, cx: &Context<'_>) {
        let elsewhere = |task: &Waker| !task.will_wake(cx.waker());
        if self.is_received() && self.task.as_ref().is_some_and(elsewhere) {
            self.wake();
        }
    }

    /// What is here of the body: a part of it, its end (`Some(None)`), or nothing yet.
    fn take_judged(&mut self) -> Result<Option<Option<Frame<Bytes>>>, &'static str> {
        match &mut self.chunks {
            None if !self.judged.is_empty() => {
                let data = std::mem::take(&mut self.judged).freeze();
                Ok(Some(Some(Frame::data(data))))
            }
            None => Ok(self.is_received().then_some(None)),
            Some(chunks) => Ok(chunks.next(&mut self.judged)?.map(|chunk| match chunk {
                Chunk::Data(data) => Some(Frame::data(data)),
                Chunk::End(trailers) => trailers.map(Frame::trailers),
            })),
        }
    }

    /// Writes what goes out before the response.
    pub(super) fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let attempt = Pin::new(&mut self.io).poll_write(cx, &self.interim);
            let written = ready!(self.poll_progress(cx, attempt))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
            if self.interim.is_empty() {
                self.interim = BytesMut::new();
                let attempt = Pin::new(&mut self.io).poll_flush(cx);
                return self.poll_progress(cx, attempt);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Judges what came of an attempt to write: a client that takes nothing for too long is given up.
    pub(super) fn poll_progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.blocked = None;
            return attempt;
        }
        let since = *self.blocked.get_or_insert_with(moment::lately);
        ready!(self.write_timer.poll(cx, since + self.edge.options.stall_timeout));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Where informational responses go.
pub(super) trait Inform: Send + Sync {
    fn inform(&self, turn: u64, response: &ResponseHead);
    /// Whether all of that request is here.
    fn is_received(&self, turn: u64) -> bool;
}

impl<IO: Send> Inform for Mutex<Intake<IO>> {
    fn inform(&self, turn: u64, response: &ResponseHead) {
        let mut intake = lock(self);
        if intake.turn != turn || intake.answered || intake.interim.len() > MAX_INTERIM {
            return;
        }
        write_status_line(&mut intake.interim, response.status, response.reason.as_deref());
        response.fields.write(&mut intake.interim);
        intake.interim.extend_from_slice(b"\r\n");
        intake.wake();
    }

    fn is_received(&self, turn: u64) -> bool {
        let intake = lock(self);
        intake.turn == turn && intake.checker.position() == Position::Ended
    }
}

/// The body of one request.
pub(super) struct RequestBody<IO> {
    intake: Shared<IO>,
    turn: u64,
    /// How much of it is left, where that was told.
    left: Option<u64>,
    ended: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> http_body::Body for RequestBody<IO> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let mut intake = lock(&this.intake);
        if intake.turn != this.turn {
            this.ended = true;
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        let polled = ready!(intake.poll_body(cx));
        match (&polled, &mut this.left) {
            (Some(Ok(frame)), Some(left)) => {
                *left -= frame.data_ref().map_or(0, |data| data.len() as u64).min(*left);
                this.ended = *left == 0;
            }
            (Some(Ok(frame)), None) => this.ended = frame.is_trailers(),
            (Some(Err(_)) | None, _) => this.ended = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<IO> Drop for RequestBody<IO> {
    fn drop(&mut self) {
        let mut intake = lock(&self.intake);
        if intake.turn == self.turn {
            intake.body_is_held = false;
            if intake.awaits_body {
                intake.wake();
            }
        }
    }
}

/// The connection as it is, without a judge: for another protocol, and for what is left to be said at its end. What was
/// read already comes first.
pub(super) struct Raw<IO>(pub(super) Shared<IO>);

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Raw<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut intake = lock(&self.0);
        if !intake.held.is_empty() {
            let length = intake.held.len().min(buf.remaining());
            buf.put_slice(&intake.held.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut intake.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Raw<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut intake = lock(&self.0);
        let attempt = Pin::new(&mut intake.io).poll_write(cx, bytes);
        intake.poll_progress(cx, attempt)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut intake = lock(&self.0);
        let attempt = Pin::new(&mut intake.io).poll_flush(cx);
        intake.poll_progress(cx, attempt)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut intake = lock(&self.0);
        let attempt = Pin::new(&mut intake.io).poll_shutdown(cx);
        intake.poll_progress(cx, attempt)
    }
}
