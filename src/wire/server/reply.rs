//! The writing side of a connection: a response, with as few writes as it comes in pieces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::HeaderValue;
use http::{HeaderMap, Method, StatusCode, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::intake::{Intake, lock};
use crate::session::clock::Clock;
use crate::wire::body::Body;
use crate::wire::fields::name;
use crate::wire::h1::{LAST_CHUNK, decimal, imf_fixdate, write_chunk_size, write_status_line, write_trailers};
use crate::wire::message::{Response, ResponseHead};

/// Up to how much is put together for one write.
const TOGETHER: usize = 16 * 1024;
/// Data of this size is written from where it is rather than copied.
const LARGE: usize = 8 * 1024;

/// How many bytes most heads have at the most.
const HEAD: usize = 448;

/// What the request says of the response to it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) takes_trailers: bool,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is none.
    None,
    /// By its length: what is left of it.
    Sized(u64),
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// One response on its way out.
pub(super) struct Reply {
    /// What is to be written: the head, small pieces, framing; then `large`; then `behind`.
    out: BytesMut,
    large: Bytes,
    behind: &'static [u8],
    body: Body,
    framing: Framing,
    takes_trailers: bool,
    ended: bool,
    unflushed: bool,
    /// The body has failed; what came before goes out.
    failed: bool,
    /// How many bytes were written.
    written: u64,
}

/// How a response ended that could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All of it is out.
    Whole,
    /// It breaks off, which the client sees by the end of the connection, or by its reset.
    CutShort,
}

impl Reply {
    /// The response to `asked`. `close`: the connection ends with it, as it does where the body has no other end, of which
    /// [`Self::closes`] tells.
    pub(super) fn new(response: Response, asked: &Asked, mut close: bool, clock: &dyn Clock) -> Self {
        let Response { mut head, body } = response;
        let framing = framing(&mut head, &body, asked);
        close |= framing == Framing::UntilClose;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            if close {
                head.fields.insert(name::CONNECTION, HeaderValue::from_static("close"));
            } else if asked.version == Version::HTTP_10 {
                head.fields
                    .insert(name::CONNECTION, HeaderValue::from_static("keep-alive"));
            }
        }
        // A small body is put behind the head.
        let small = match framing {
            Framing::Sized(size) => usize::try_from(size).ok().filter(|&size| size < LARGE),
            _ => None,
        };
        let mut out = BytesMut::with_capacity(HEAD + small.unwrap_or(0));
        write_status_line(&mut out, head.status, head.reason.as_deref());
        head.fields.write(&mut out);
        if !head.fields.contains(name::DATE) {
            out.extend_from_slice(b"Date: ");
            out.extend_from_slice(imf_fixdate(clock.now()).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Self {
            out,
            large: Bytes::new(),
            behind: b"",
            ended: framing == Framing::None || framing == Framing::Sized(0),
            body,
            framing,
            takes_trailers: asked.takes_trailers,
            unflushed: false,
            failed: false,
            written: 0,
        }
    }

    /// Whether the end of the connection is the end of the body, so that it may not end in order before.
    pub(super) fn closes(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// Whether the client cannot know how much more is to come.
    pub(super) fn is_open_ended(&self) -> bool {
        matches!(self.framing, Framing::Chunked | Framing::UntilClose)
    }

    /// How many bytes of it were written.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Whether it is the body's turn.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_empty() && !self.ended
    }

    /// Writes the response as it comes, until all is written. Ready with an error when the client takes nothing more.
    pub(super) fn poll<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        intake: &Mutex<Intake<IO>>,
    ) -> Poll<io::Result<Written>> {
        loop {
            // Not under the lock: the body may be made of that of the request.
            self.gather(cx);
            let mut intake = lock(intake);
            if !self.is_empty() {
                ready!(intake.poll_interim(cx))?;
                ready!(self.write(cx, &mut intake))?;
                if !self.ended {
                    continue;
                }
            }
            if std::mem::take(&mut self.unflushed) {
                let attempt = Pin::new(&mut intake.io).poll_flush(cx);
                self.unflushed = attempt.is_pending();
                ready!(intake.poll_progress(cx, attempt))?;
            }
            return match (self.ended, self.failed) {
                (true, false) => Poll::Ready(Ok(Written::Whole)),
                (true, true) => Poll::Ready(Ok(Written::CutShort)),
                (false, _) => Poll::Pending,
            };
        }
    }

    fn is_empty(&self) -> bool {
        self.out.is_empty() && self.large.is_empty() && self.behind.is_empty()
    }

    /// Asks the body for what it has, up to a limit.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.large.is_empty() && self.behind.is_empty() && self.out.len() < TOGETHER {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.push(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.finish(Some(&trailers));
                        }
                    }
                },
                Poll::Ready(Some(Err(_))) => (self.ended, self.failed) = (true, true),
                Poll::Ready(None) => self.finish(None),
            }
        }
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        match &mut self.framing {
            Framing::Sized(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    // More than was told: to the client it would be the next response.
                    (self.ended, self.failed) = (true, true);
                    return;
                }
            },
            Framing::Chunked => {
                write_chunk_size(&mut self.out, data.len());
                self.behind = b"\r\n";
            }
            Framing::UntilClose | Framing::None => {}
        }
        if data.len() < LARGE {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(std::mem::take(&mut self.behind));
        } else {
            self.large = data;
        }
        if self.framing == Framing::Sized(0) {
            self.ended = true;
        } else if self.body.is_end_stream() {
            self.finish(None);
        }
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        self.ended = true;
        match self.framing {
            Framing::Sized(left) => self.failed = left > 0,
            Framing::Chunked => {
                let trailers = trailers.filter(|_| self.takes_trailers);
                match trailers {
                    // Behind large data there is no room for them before it has gone.
                    Some(trailers) => {
                        self.join_large();
                        write_trailers(&mut self.out, trailers, |_| true);
                    }
                    None if self.large.is_empty() => self.out.extend_from_slice(LAST_CHUNK),
                    None => self.behind = LAST_CHUNK_BEHIND,
                }
            }
            Framing::UntilClose | Framing::None => {}
        }
    }

    fn join_large(&mut self) {
        let large = std::mem::take(&mut self.large);
        self.out.extend_from_slice(&large);
        self.out.extend_from_slice(std::mem::take(&mut self.behind));
    }

    /// Writes all that was gathered.
    fn write<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        intake: &mut Intake<IO>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let attempt = if self.large.is_empty() && self.behind.is_empty() {
                Pin::new(&mut intake.io).poll_write(cx, &self.out)
            } else {
                let parts = [&self.out[..], &self.large[..], self.behind].map(IoSlice::new);
                Pin::new(&mut intake.io).poll_write_vectored(cx, &parts)
            };
            let written = ready!(intake.poll_progress(cx, attempt))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.written += written as u64;
            self.forget(written);
        }
        Poll::Ready(Ok(()))
    }

    fn forget(&mut self, written: usize) {
        let of_out = written.min(self.out.len());
        self.out.advance(of_out);
        let of_large = (written - of_out).min(self.large.len());
        self.large.advance(of_large);
        self.behind = self.behind.get(written - of_out - of_large..).unwrap_or_default();
    }
}

/// The end of a chunk, and of the body.
const LAST_CHUNK_BEHIND: &[u8] = b"\r\n0\r\n\r\n";

/// How the end of the body is told (RFC 9112 §6.3).
fn framing(head: &mut ResponseHead, body: &Body, asked: &Asked) -> Framing {
    let fields = &mut head.fields;
    fields.remove(name::TRANSFER_ENCODING);
    let status = head.status;
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        fields.remove(name::CONTENT_LENGTH);
        return Framing::None;
    }
    if asked.method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        // What they tell is the length of another response (RFC 9110 §8.6).
        let size = body.size_hint().exact().filter(|&size| size > 0);
        if let Some(size) = size.filter(|_| !fields.contains(name::CONTENT_LENGTH)) {
            fields.insert(name::CONTENT_LENGTH, HeaderValue::from(size));
        }
        return Framing::None;
    }
    let told = fields.get(name::CONTENT_LENGTH);
    if let Some(told) = told.and_then(decimal) {
        return Framing::Sized(told);
    }
    fields.remove(name::CONTENT_LENGTH);
    if let Some(size) = body.size_hint().exact() {
        fields.insert(name::CONTENT_LENGTH, HeaderValue::from(size));
        return Framing::Sized(size);
    }
    if asked.version == Version::HTTP_11 {
        fields.insert(name::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        Framing::Chunked
    } else {
        Framing::UntilClose
    }
}
