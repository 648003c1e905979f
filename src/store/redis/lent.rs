//! A stream that is lent to somebody who keeps what he is given, and taken back.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream, until it is taken back; then it is closed for who has it.
pub(super) struct Lent<S>(Arc<Mutex<Option<S>>>);

/// The right to take it back.
pub(super) struct Lender<S>(Arc<Mutex<Option<S>>>);

impl<S> Lent<S> {
    /// The stream to lend, and the right to it.
    pub(super) fn new(stream: S) -> (Self, Lender<S>) {
        let stream = Arc::new(Mutex::new(Some(stream)));
        (Self(Arc::clone(&stream)), Lender(stream))
    }
}

impl<S> Lender<S> {
    /// The stream, unless it was taken back before.
    pub(super) fn take_back(self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<S: Unpin> Lent<S> {
    fn with<T>(&self, poll: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_lent_is_closed_for_the_other_once_it_is_taken_back() {
        let (stream, mut peer) = tokio::io::duplex(64);
        let (mut lent, lender) = Lent::new(stream);
        lent.write_all(b"by the other").await.unwrap();
        let mut stream = lender.take_back().unwrap();
        assert_eq!(
            lent.write_all(b"no").await.unwrap_err().kind(),
            io::ErrorKind::NotConnected
        );
        drop(lent);
        stream.write_all(b", by us").await.unwrap();
        drop(stream);
        let mut written = String::new();
        peer.read_to_string(&mut written).await.unwrap();
        assert_eq!(written, "by the other, by us");
    }
}
