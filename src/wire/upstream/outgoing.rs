//! A request on its way to the backend: its head and what there is of its body, with as few writes as it comes in pieces.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use http_body::Body as _;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::moment;
use crate::wire::body::Body;
use crate::wire::fields::name;
use crate::wire::h1::{LAST_CHUNK, write_chunk_size, write_request, write_trailers};
use crate::wire::message::Request;

/// Up to how much is put together for one write.
const TOGETHER: usize = 16 * 1024;
/// Data of this size is written from where it is rather than copied.
const LARGE: usize = 8 * 1024;

/// See the [module](self).
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// The head, small pieces and framing; then `large`; then `behind`. Kept while nothing has left, for another connection.
    out: BytesMut,
    large: Bytes,
    behind: &'static [u8],
    /// How much of them was written.
    position: usize,
    body: Body,
    framing: Framing,
    /// The trailers that were announced.
    announced: Vec<HeaderName>,
    ended: bool,
    unflushed: bool,
    /// What the client's body failed with.
    failed: Option<String>,
    /// The client has nothing more to give for now.
    awaits_client: bool,
    /// When something last moved.
    moved: Instant,
    /// Something has moved since that was noted.
    has_moved: bool,
    /// It was noted in this very moment: nothing has been waited for since.
    is_fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// What is left of the length that was told.
    Sized(u64),
    Chunked,
}

/// Without what is sent and read.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("method", &self.method)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Gives the request the framing of this hop.
    pub(super) fn new(request: Request) -> Self {
        let Request { mut head, body } = request;
        let fields = &mut head.fields;
        fields.remove(name::TRANSFER_ENCODING);
        let told = fields.get(name::CONTENT_LENGTH);
        let told: Option<u64> = told.and_then(|told| std::str::from_utf8(told).ok()?.parse().ok());
        let framing = match (body.size_hint().exact(), told) {
            _ if body.is_end_stream() => Framing::Sized(told.unwrap_or(0)),
            (Some(length), _) => {
                if told != Some(length) {
                    fields.insert(name::CONTENT_LENGTH, HeaderValue::from(length));
                }
                Framing::Sized(length)
            }
            (None, Some(length)) => Framing::Sized(length),
            (None, None) => {
                fields.insert(name::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                Framing::Chunked
            }
        };
        let announced = fields
            .members(name::TRAILER)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .collect();
        let mut out = BytesMut::with_capacity(2048);
        write_request(&mut out, &head);
        Self {
            method: head.method,
            out,
            large: Bytes::new(),
            behind: b"",
            position: 0,
            ended: framing == Framing::Sized(0),
            body,
            framing,
            announced,
            unflushed: false,
            failed: None,
            awaits_client: false,
            moved: moment::lately(),
            has_moved: false,
            is_fresh: true,
        }
    }

    /// The time for which nothing has moved begins now.
    pub(super) fn restart_clock(&mut self) {
        self.moved = Instant::now();
    }

    /// Begins again on another connection: nothing has left on the first. `false` when that cannot be done.
    pub(super) fn rewind(&mut self) -> bool {
        self.moved = Instant::now();
        self.position = 0;
        self.unflushed = false;
        self.failed.is_none() && !self.out.is_empty()
    }

    /// Whether all of it was written.
    pub(super) fn is_sent(&self) -> bool {
        self.ended && self.left() == 0 && !self.unflushed && self.failed.is_none()
    }

    /// What the client's body failed with, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The backend would take more, the client sends nothing.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client && self.left() == 0
    }

    /// When something of it last moved.
    pub(super) const fn last_moved(&self) -> Instant {
        self.moved
    }

    /// Writes what can be written now. Ready when all of it was, or the client's body has failed.
    ///
    /// # Errors
    /// That of the connection.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let polled = self.poll_parts(cx, io);
        // The clock is read once, however much has moved.
        if std::mem::take(&mut self.has_moved) && !self.is_fresh {
            self.moved = moment::lately();
        }
        self.is_fresh = false;
        polled
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        loop {
            self.gather(cx);
            if self.failed.is_some() {
                return Poll::Ready(Ok(()));
            }
            while self.left() > 0 {
                let written = ready!(self.write_some(cx, io))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.position += written;
                self.unflushed = true;
                self.has_moved = true;
            }
            if self.unflushed {
                ready!(Pin::new(&mut *io).poll_flush(cx))?;
                self.unflushed = false;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            self.forget();
            if self.awaits_client {
                return Poll::Pending;
            }
        }
    }

    fn left(&self) -> usize {
        self.out.len() + self.large.len() + self.behind.len() - self.position
    }

    fn forget(&mut self) {
        self.out.clear();
        self.large = Bytes::new();
        self.behind = b"";
        self.position = 0;
    }

    fn write_some(&self, cx: &mut Context<'_>, io: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<usize>> {
        let (out, skip) = behind(&self.out, self.position);
        if self.large.is_empty() && self.behind.is_empty() {
            return Pin::new(io).poll_write(cx, out);
        }
        let (large, skip) = behind(&self.large, skip);
        let (end, _) = behind(self.behind, skip);
        Pin::new(io).poll_write_vectored(cx, &[out, large, end].map(IoSlice::new))
    }

    /// Asks the client's body for what it has, up to a limit.
    fn gather(&mut self, cx: &mut Context<'_>) {
        self.awaits_client = false;
        // What was begun is written before more is added.
        while !self.ended && self.position == 0 && self.large.is_empty() && self.out.len() < TOGETHER {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    self.awaits_client = true;
                    return;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.has_moved = true;
                    match frame.into_data() {
                        Ok(data) => self.push(data),
                        Err(frame) => self.finish(frame.into_trailers().ok().as_ref()),
                    }
                }
                Poll::Ready(Some(Err(error))) => self.fail(error.to_string()),
                Poll::Ready(None) => self.finish(None),
            }
        }
    }

    fn fail(&mut self, what: String) {
        (self.ended, self.failed) = (true, Some(what));
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let end: &'static [u8] = match &mut self.framing {
            Framing::Sized(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    b""
                }
                None => return self.fail("it is longer than was told".to_owned()),
            },
            Framing::Chunked => {
                write_chunk_size(&mut self.out, data.len());
                b"\r\n"
            }
        };
        if data.len() < LARGE {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(end);
        } else {
            (self.large, self.behind) = (data, end);
        }
        if self.framing == Framing::Sized(0) {
            self.ended = true;
        } else if self.large.is_empty() && self.body.is_end_stream() {
            self.finish(None);
        }
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        self.ended = true;
        match (self.framing, trailers) {
            (Framing::Sized(0), _) => {}
            (Framing::Sized(_), _) => self.fail("it is shorter than was told".to_owned()),
            (Framing::Chunked, None) => self.out.extend_from_slice(LAST_CHUNK),
            (Framing::Chunked, Some(trailers)) => {
                write_trailers(&mut self.out, trailers, |name| self.announced.contains(name));
            }
        }
        self.has_moved = true;
    }
}

/// What of `part` comes after `skip` bytes, and how many bytes are to be skipped behind it.
fn behind(part: &[u8], skip: usize) -> (&[u8], usize) {
    match part.get(skip..) {
        Some(rest) => (rest, 0),
        None => (b"", skip - part.len()),
    }
}
