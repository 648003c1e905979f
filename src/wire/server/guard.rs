//! The stream that hyper reads a connection from: it lets judged requests through, one at a time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::exchange::{Exchange, Progress};
use super::refusal::encode;
use super::{Edge, EdgeRefusal, linger};
use crate::wire::strict::{Advance, Checker, Position};
use crate::wire::timer::Timer;

/// How long a connection has to have been idle before it is closed by a shutdown, and how long all of them are served
/// on once it closes. A client that uses its connection has a request on the way; it is answered with
/// `Connection: close` instead.
pub const CLOSING_GRACE: Duration = Duration::from_millis(500);

/// The guard of one connection. It outlives hyper where the connection is upgraded.
pub(super) struct Guard<IO> {
    io: IO,
    checker: Checker,
    exchange: Arc<Exchange>,
    edge: Arc<Edge>,
    /// What was read and may not be released yet: a part of a head, or what follows the request in hand.
    held: BytesMut,
    /// How much of `held` may be released all the same, once hyper asks for it.
    judged: usize,
    outcome: Outcome,
    /// All bytes of the response in hand are written.
    flushed: bool,
    /// For what it waits, and since when.
    waiting: Option<(Position, Instant)>,
    read_timer: Timer,
    /// Since when the peer takes no bytes.
    blocked: Option<Instant>,
    write_timer: Timer,
    /// Ends an upgraded connection, on which hyper has no hand any more.
    forced: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: Place,
}

/// How the connection comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It has not, or by hyper's doing.
    Open,
    /// By a refusal that is to be written once hyper has let go.
    Refused(EdgeRefusal),
    /// A body broke; hyper writes the answer.
    Broken,
    /// It was idle for too long.
    Left,
    /// The peer closed it.
    Gone,
}

/// What a connection occupies while it is open.
pub(super) struct Place {
    edge: Arc<Edge>,
    _slot: OwnedSemaphorePermit,
    _hold: TaskTrackerToken,
}

impl Place {
    pub(super) fn take(edge: Arc<Edge>, slot: OwnedSemaphorePermit) -> Self {
        edge.stats.open.fetch_add(1, Ordering::Relaxed);
        let hold = edge.drain.hold();
        Self {
            edge,
            _slot: slot,
            _hold: hold,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.edge.stats.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// `first`: what was read already.
    pub(super) fn new(io: IO, first: BytesMut, exchange: Arc<Exchange>, edge: Arc<Edge>, place: Place) -> Self {
        Self {
            io,
            checker: Checker::new(edge.options.max_header_size),
            exchange,
            edge,
            held: first,
            judged: 0,
            outcome: Outcome::Open,
            flushed: false,
            waiting: None,
            read_timer: Timer::default(),
            blocked: None,
            write_timer: Timer::default(),
            forced: None,
            _place: place,
        }
    }

    /// Closes the connection when hyper is done with it. `orderly`: hyper has written all that it had.
    pub(super) async fn finish(mut self, orderly: bool) {
        self.exchange.end();
        match self.outcome {
            Outcome::Refused(refusal) => {
                let response = (self.edge.render)(refusal);
                let wire = encode(&response, self.edge.clock.now());
                linger::close(&mut self.io, &wire).await;
            }
            Outcome::Open | Outcome::Broken if orderly => linger::close(&mut self.io, b"").await,
            Outcome::Left if orderly => linger::close_idle(&mut self.io).await,
            Outcome::Open | Outcome::Broken | Outcome::Left | Outcome::Gone => {}
        }
    }

    /// Goes on to the next request when the last one was read to its end and its response is on the wire.
    fn end_exchange(&mut self) -> bool {
        let ended = self.flushed && self.checker.position() == Position::Ended;
        if ended {
            self.flushed = false;
            self.checker.next_message();
            self.exchange.end();
            self.waiting = None;
        }
        ended
    }

    fn note_release(&mut self, advance: Advance) {
        if advance.release == 0 {
            return;
        }
        self.waiting = None;
        if self.exchange.progress() == Progress::Idle {
            self.exchange.begin(advance.ended);
        } else if advance.ended {
            self.exchange.set_received();
        }
    }

    /// Refuses what was read. The request in hand, if it was handed over, gets the answer from the service's side.
    fn refuse(&mut self, refusal: EdgeRefusal) -> io::Result<()> {
        refusal.count(&self.edge.stats);
        if self.exchange.progress() == Progress::Idle {
            self.outcome = Outcome::Refused(refusal);
            return Ok(());
        }
        self.outcome = Outcome::Broken;
        self.exchange.break_off(refusal);
        Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
    }

    /// Waits for bytes of the peer, within the deadline of what they are waited for. Ready: it has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let position = self.checker.position();
        let since = match self.waiting {
            Some((waited_for, since)) if waited_for == position => since,
            _ => self.waiting.insert((position, Instant::now())).1,
        };
        let options = &self.edge.options;
        let deadline = match position {
            Position::Between => {
                let kept = since + options.keep_alive_timeout;
                let closing = self.edge.drain.closing_since();
                closing.map_or(kept, |closing| kept.min(since.max(closing) + CLOSING_GRACE))
            }
            Position::Head => since + options.header_timeout,
            Position::Body => since + options.stall_timeout,
            Position::Ended => return Poll::Pending,
        };
        ready!(self.read_timer.poll(cx, deadline));
        if position == Position::Between {
            self.outcome = Outcome::Left;
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.refuse(EdgeRefusal::RequestTimeout))
    }

    /// Reads while a request is in hand, to learn whether the peer hangs up. What comes is held, up to a limit; beyond
    /// it the peer has to wait, and the end of the exchange is what goes on.
    fn poll_watch(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.held.len() < self.edge.options.max_header_size {
            if ready!(self.poll_into_held(cx, buf))? == 0 {
                self.outcome = Outcome::Gone;
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Reads by way of hyper's buffer, which costs no memory while nothing comes.
    fn poll_into_held(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        let read = fresh.len();
        self.held.extend_from_slice(fresh);
        buf.set_filled(before);
        Poll::Ready(Ok(read))
    }

    /// Reads straight into hyper's buffer and judges there. What may not be released yet is taken back out of it.
    fn poll_in_place(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        let read = fresh.len();
        match self.checker.advance(fresh) {
            Ok(advance) => {
                self.held
                    .extend_from_slice(fresh.get(advance.release..).unwrap_or_default());
                buf.set_filled(before + advance.release);
                self.note_release(advance);
            }
            Err(flaw) => {
                buf.set_filled(before);
                self.refuse(flaw.into())?;
            }
        }
        Poll::Ready(Ok(read))
    }

    fn judge_held(&mut self) -> io::Result<()> {
        match self.checker.advance(&self.held) {
            Ok(advance) => {
                self.judged = advance.release;
                self.note_release(advance);
                Ok(())
            }
            Err(flaw) => self.refuse(flaw.into()),
        }
    }

    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.judged.min(buf.remaining());
        buf.put_slice(self.held.get(..length).unwrap_or_default());
        self.held.advance(length);
        self.judged -= length;
        if self.held.is_empty() {
            // Held bytes are rare: an idle connection need not keep the memory for them.
            self.held = BytesMut::new();
        }
    }

    /// Bytes of another protocol, unjudged.
    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            self.judged = self.held.len();
            self.hand_over(buf);
            return Poll::Ready(Ok(()));
        }
        let forced = self.forced.get_or_insert_with(|| Box::pin(self.edge.drain.forced()));
        if forced.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }

    /// Judges what came of an attempt to write: a peer that takes nothing for too long is given up.
    fn poll_progress<T>(&mut self, cx: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.blocked = None;
            return attempt;
        }
        let since = *self.blocked.get_or_insert_with(Instant::now);
        ready!(self.write_timer.poll(cx, since + self.edge.options.stall_timeout));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<IO> {
    /// A refusal or a deadline reads as the end of the stream: hyper is idle then, and lets go in order.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.judged > 0 {
                this.hand_over(buf);
                return Poll::Ready(Ok(()));
            }
            if this.exchange.progress() == Progress::Upgraded {
                return this.poll_raw(cx, buf);
            }
            this.end_exchange();
            if this.outcome != Outcome::Open {
                return Poll::Ready(Ok(()));
            }
            if this.checker.position() == Position::Ended {
                return this.poll_watch(cx, buf);
            }
            if !this.held.is_empty() {
                this.judge_held()?;
                if this.judged > 0 || this.outcome != Outcome::Open {
                    continue;
                }
            }
            let before = buf.filled().len();
            let read = if this.held.is_empty() {
                this.poll_in_place(cx, buf)
            } else {
                this.poll_into_held(cx, buf)
            };
            match read {
                Poll::Pending => return this.poll_deadline(cx),
                Poll::Ready(Ok(0)) => this.outcome = Outcome::Gone,
                Poll::Ready(Ok(_)) if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.poll_progress(cx, attempt)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.poll_progress(cx, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when it has written all it had: the moment at which a response that it has taken is out.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.io).poll_flush(cx);
        ready!(this.poll_progress(cx, attempt))?;
        if this.exchange.progress() == Progress::Answered {
            this.flushed = true;
            // hyper has asked for bytes before and waits to be woken: for those that are held, or by the deadline.
            if this.end_exchange() && (!this.held.is_empty() || this.poll_deadline(cx).is_ready()) {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.outcome, Outcome::Refused(_)) {
            return Poll::Ready(Ok(()));
        }
        let attempt = Pin::new(&mut this.io).poll_shutdown(cx);
        this.poll_progress(cx, attempt)
    }
}
