//! One connection to the backend, and one exchange on it.

use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::error::UpstreamError;
use super::outgoing::Outgoing;
use super::stream::Stream;
use crate::wire::h1::{HeadScan, Length, read_response};
use crate::wire::message::ResponseHead;
use crate::wire::reading::Reading;
use crate::wire::timer::Timer;

/// The largest response head, in bytes; and the most bytes of informational ones before it, which nothing else bounds where
/// they come as fast as they are read.
const MAX_HEAD: usize = 256 * 1024;

/// An open connection. Dropped, it is closed.
pub(super) struct Connection {
    pub(super) stream: Stream,
    born: Instant,
    /// How many answers were read to their end, since the last one behind which there may be more.
    answers: u32,
    reading: Reading,
    /// What was read and not looked at.
    pub(super) unread: BytesMut,
    scan: HeadScan,
    /// How many bytes of informational responses have come since the last final one.
    informed: usize,
    /// The backend takes no more bytes. Whether it has answered all the same is for the reader to find out: it may refuse
    /// an upload half-way and close, and our next write fails while its answer waits to be read.
    write_failed: bool,
    /// The deadline of the exchange in hand. It stays set from one to the next, which costs less than a new one each.
    pub(super) alarm: Timer,
}

/// A response without its body.
pub(super) struct Head {
    pub(super) response: ResponseHead,
    pub(super) length: Length,
}

/// Without what is sent and read.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("informed", &self.informed)
            .field("write_failed", &self.write_failed)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            born: Instant::now(),
            answers: 0,
            reading: Reading::default(),
            unread: BytesMut::new(),
            scan: HeadScan::default(),
            informed: 0,
            write_failed: false,
            alarm: Timer::default(),
        }
    }

    /// How long ago it was opened, at `now`.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// Whether it is of no more use, as far as is known without asking the kernel.
    pub(super) fn is_known_to_be_spent(&mut self) -> bool {
        !self.unread.is_empty() || self.stream.is_known_to_be_spent()
    }

    /// Whether it can take another request after having been idle for `idle` (F4).
    ///
    /// The runtime learns of a closed connection only when it next looks at its events, which under load is long enough to
    /// write a request into the void; so the kernel is asked. Not where that is next to impossible: the backend has kept
    /// the connection open after each of several answers, and gave the last one only a moment ago, so that it neither
    /// closes after each nor for want of requests. What remains then is little against the time a FIN is in flight.
    pub(super) fn can_go_on(&mut self, idle: Duration) -> bool {
        const PROVEN: u32 = 3;
        const MOMENT: Duration = Duration::from_millis(5);
        if self.answers >= PROVEN && idle < MOMENT {
            !self.is_known_to_be_spent()
        } else {
            self.unread.is_empty() && !self.stream.is_spent()
        }
    }

    /// The answer in hand has no body by rule, whatever its head says. A backend that sends one all the same does so behind
    /// the head: the kernel is asked for some time (F7).
    pub(super) const fn doubt(&mut self) {
        self.answers = 0;
    }

    /// Counts an answer that was read to its end.
    pub(super) const fn answered(&mut self) {
        self.answers = self.answers.saturating_add(1);
    }

    /// Writes of the request what can be written now.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, outgoing: &mut Outgoing) {
        if self.write_failed {
            return;
        }
        if let Poll::Ready(Err(_)) = outgoing.poll_write(cx, &mut self.stream) {
            self.write_failed = true;
        }
    }

    /// Whether the backend has stopped taking the request.
    pub(super) const fn has_failed_to_send(&self) -> bool {
        self.write_failed
    }

    /// Reads the head of the response to a `method` request. `inform` is told of informational ones.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        inform: &mut impl FnMut(ResponseHead),
    ) -> Poll<Result<Head, Failure>> {
        loop {
            while let Some(length) = self.scan.advance(&mut self.unread) {
                let scan = mem::take(&mut self.scan);
                let head = self.unread.split_to(length).freeze();
                let mut response = read_response(head, scan).map_err(|error| Failure::Unreadable(error.to_string()))?;
                let status = response.status;
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    self.informed += length;
                    if self.informed > MAX_HEAD {
                        return Poll::Ready(Err(Failure::Unreadable("it informs without end".to_owned())));
                    }
                    inform(response);
                    continue;
                }
                self.informed = 0;
                let length =
                    Length::settle(method, &mut response).map_err(|error| Failure::Unreadable(error.to_string()))?;
                return Poll::Ready(Ok(Head { response, length }));
            }
            if self.unread.len() >= MAX_HEAD {
                return Poll::Ready(Err(Failure::Unreadable("its head is too large".to_owned())));
            }
            match ready!(self.reading.poll(&mut self.stream, cx, &mut self.unread)) {
                Ok(0) => return Poll::Ready(Err(Failure::Ended("the connection was closed".to_owned()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Failure::Ended(error.to_string()))),
            }
        }
    }

    /// Reads more of a body: `false` at the end of the stream.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.reading
            .poll(&mut self.stream, cx, &mut self.unread)
            .map_ok(|read| read > 0)
    }

    /// All that was read and belongs to the body, at most `limit` bytes.
    pub(super) fn take(&mut self, limit: u64) -> Bytes {
        let length = self.unread.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        if length == self.unread.len() {
            return mem::take(&mut self.unread).freeze();
        }
        self.unread.split_to(length).freeze()
    }
}

/// Why a connection gave no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// It ended before the head was complete.
    Ended(String),
    /// What came is no head that can be used.
    Unreadable(String),
}

impl Failure {
    /// As the requester is told. `arrived`: whether the backend may have seen any of the request.
    pub(super) fn explain(self, arrived: bool) -> UpstreamError {
        match self {
            Self::Ended(detail) => UpstreamError::Reset { detail, arrived },
            Self::Unreadable(what) => UpstreamError::BadResponse(what),
        }
    }
}

/// The connection of a protocol that was switched to, with what had been read of it.
impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(self.unread.get(..length).unwrap_or_default());
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
