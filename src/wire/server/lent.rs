//! A stream that is lent to hyper and comes back when hyper lets go of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// The stream, in hyper's hands. On some ways hyper drops what it was given, such as with an upgrade that was asked
/// for and declined; the connection is still to be closed in order then, or to be told why it is refused.
pub(super) struct Lent<IO> {
    io: Option<IO>,
    owner: Option<oneshot::Sender<IO>>,
}

impl<IO> Lent<IO> {
    /// Lends `io`; the receiver gets it back.
    pub(super) fn new(io: IO) -> (Self, oneshot::Receiver<IO>) {
        let (owner, returned) = oneshot::channel();
        (
            Self {
                io: Some(io),
                owner: Some(owner),
            },
            returned,
        )
    }
}

impl<IO: Unpin> Lent<IO> {
    /// The stream, which is there until the drop.
    fn io(self: Pin<&mut Self>) -> io::Result<Pin<&mut IO>> {
        self.get_mut()
            .io
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<IO> Drop for Lent<IO> {
    fn drop(&mut self) {
        if let (Some(io), Some(owner)) = (self.io.take(), self.owner.take()) {
            // Nobody wants it back after an upgrade: it is dropped here then.
            let _ = owner.send(io);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Lent<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Lent<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }
}
