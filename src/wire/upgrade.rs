//! Connections that change protocols: WebSocket and the like (H4, RFC 9110 section 7.8).
//!
//! An upgrade takes five steps, each where it belongs: [`requested`] looks at the client's head; [`super::headers`]
//! takes the hop-by-hop fields off and puts the upgrade back on; the backend answers, with a 101 or with an ordinary
//! response that ends the matter; the 101 takes the backend's connection along
//! ([`ResponseHead::upgraded`](super::message::ResponseHead::upgraded)) and goes to the client;
//! [`join`] joins the two connections.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use http::header::HeaderValue;
use http::{Method, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::fields::{Fields, name};
use super::timer::Timer;

/// The protocols that a genuine upgrade request asks for: the value of its `Upgrade` field.
///
/// Genuine: HTTP/1.1, `Connection` names `upgrade`, and `Upgrade` is one line. Upgrades to another HTTP (`h2c`,
/// `HTTP/2.0`) or to TLS are none: tunnelled, they would carry requests past the bridge. A server may leave an upgrade
/// unanswered, so these requests go on as ordinary ones.
#[must_use]
pub fn requested(method: &Method, version: Version, fields: &Fields) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || method == Method::CONNECT {
        return None;
    }
    if fields.all(name::UPGRADE).count() != 1 {
        return None;
    }
    let named = fields
        .members(name::CONNECTION)
        .any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let passable = fields.members(name::UPGRADE).all(is_passable);
    fields.value(name::UPGRADE).filter(|_| named && passable)
}

/// Whether a 101 of the backend changes to one of the protocols that were asked for.
#[must_use]
pub fn agrees(asked: &HeaderValue, response: &Fields) -> bool {
    let mut answered = response.members(name::UPGRADE).peekable();
    let offered = |protocol: &[u8]| {
        asked
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|offer| offer.trim_ascii().eq_ignore_ascii_case(protocol))
    };
    answered.peek().is_some() && answered.all(offered)
}

fn is_passable(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    !name.is_empty()
        && ![&b"h2c"[..], b"h2", b"h3", b"http", b"tls"]
            .iter()
            .any(|no| name.eq_ignore_ascii_case(no))
}

/// The backend's side of a connection that was upgraded: what it says now is no HTTP.
pub struct Upgraded(Box<dyn Stream>);

/// What bytes go through, both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgraded")
    }
}

impl Upgraded {
    /// The stream that a 101 has left. Dropped, it is closed.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(stream))
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Joins two connections that have been upgraded, until both have said all: how many bytes went from `client` to
/// `upstream`, and back.
///
/// An end of the stream on one side is passed to the other, which may go on speaking. Each direction is read only as
/// fast as it is written. A silent tunnel is not closed: the protocol inside has its own pings, and TCP keep-alive
/// finds a peer that is gone. But an upstream that takes nothing of what it is sent for `stall_timeout` is given up; of
/// the client its own stream has to see to that.
///
/// # Errors
/// One of the connections failed, or took nothing for too long.
pub async fn join<C>(client: &mut C, upstream: &mut Upgraded, stall_timeout: Duration) -> io::Result<(u64, u64)>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut upstream = Awaited {
        stream: upstream,
        limit: stall_timeout,
        blocked: None,
        timer: Timer::default(),
    };
    tokio::io::copy_bidirectional(client, &mut upstream).await
}

/// A stream that has to take what it is sent.
struct Awaited<'a> {
    stream: &'a mut Upgraded,
    limit: Duration,
    /// Since when it takes nothing.
    blocked: Option<Instant>,
    timer: Timer,
}

impl Awaited<'_> {
    /// Judges what came of an attempt to write.
    fn judge<T>(&mut self, cx: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.blocked = None;
            return attempt;
        }
        let since = *self.blocked.get_or_insert_with(Instant::now);
        ready!(self.timer.poll(cx, since + self.limit));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Awaited<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Awaited<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut *self.stream).poll_write(cx, bytes);
        self.judge(cx, attempt)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut *self.stream).poll_flush(cx);
        self.judge(cx, attempt)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut *self.stream).poll_shutdown(cx);
        self.judge(cx, attempt)
    }
}

#[cfg(test)]
mod tests;
