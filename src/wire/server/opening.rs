//! The first bytes of a connection in clear text: they say which HTTP is spoken (RFC 9113 §3.3).

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::{CLOSING_GRACE, Edge};

/// What a client that knows the server to speak HTTP/2 begins with (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read at a time: enough for most requests.
const PIECE: usize = 4096;

/// How a connection begins. What was read of it is held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Not with the preface of HTTP/2.
    Http1(BytesMut),
    /// With the preface of HTTP/2.
    Http2(BytesMut),
    /// With nothing, for as long as a connection may be idle.
    Silent,
    /// With a part of the preface, and nothing more in time.
    Stalled,
    /// It has ended, or failed.
    Gone,
}

/// Reads until it is known what is spoken. Costs no buffer while nothing comes.
pub(super) async fn read<IO: AsyncRead + Unpin>(io: &mut IO, edge: &Edge) -> Opening {
    let mut first = BytesMut::new();
    let begun = tokio::select! {
        biased;
        begun = read_into(io, &mut first) => begun,
        () = idled(edge) => return Opening::Silent,
    };
    if !matches!(begun, Ok(1..)) {
        return Opening::Gone;
    }
    let deadline = Instant::now() + edge.options.header_timeout;
    loop {
        if first.starts_with(PREFACE) {
            return Opening::Http2(first);
        }
        if !PREFACE.starts_with(&first) {
            return Opening::Http1(first);
        }
        match timeout_at(deadline, read_into(io, &mut first)).await {
            Ok(Ok(1..)) => {}
            // An end within a head is told by who reads it.
            Ok(Ok(0)) => return Opening::Http1(first),
            Ok(Err(_)) => return Opening::Gone,
            Err(_elapsed) => return Opening::Stalled,
        }
    }
}

/// Waits for as long as a connection may be idle: until it counts as left, or for a moment once the shutdown closes.
async fn idled(edge: &Edge) {
    let closing = async {
        edge.drain.closing().await;
        tokio::time::sleep(CLOSING_GRACE).await;
    };
    // The earlier of the two.
    let _ = tokio::time::timeout(edge.options.keep_alive_timeout, closing).await;
}

async fn read_into<IO: AsyncRead + Unpin>(io: &mut IO, into: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut piece))?;
        into.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    })
    .await
}

/// A stream of which the first bytes were read already.
#[derive(Debug)]
pub(super) struct Reopened<IO> {
    first: BytesMut,
    io: IO,
}

impl<IO> Reopened<IO> {
    pub(super) const fn new(first: BytesMut, io: IO) -> Self {
        Self { first, io }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Reopened<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(self.first.get(..length).unwrap_or_default());
        self.first.advance(length);
        if self.first.is_empty() {
            self.first = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Reopened<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
