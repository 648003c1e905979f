//! A stream that lets commands gather before it writes them.
//!
//! The task that moves the bytes of the connection is run as soon as there is one command, so that under load each
//! would be a write of its own. Here a write first steps back behind the tasks that are ready to run: what they ask of
//! Redis goes out with it, in one call of the kernel on each side. When nothing else is ready it costs one turn of the
//! runtime, and no time.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the [module](self).
pub(super) struct Gather<IO> {
    io: IO,
    /// The others have had their turn.
    stepped_back: bool,
}

impl<IO> Gather<IO> {
    pub(super) const fn new(io: IO) -> Self {
        Self {
            io,
            stepped_back: false,
        }
    }

    fn step_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.stepped_back, true) {
            // Has this task woken once the others have run; polled anew it is ready, which is what the flag stands for.
            return pin!(tokio::task::yield_now()).poll(cx);
        }
        Poll::Ready(())
    }

    fn written<T>(&mut self, attempt: Poll<T>) -> Poll<T> {
        self.stepped_back = attempt.is_pending();
        attempt
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gather<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gather<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.step_back(cx));
        let attempt = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.written(attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.step_back(cx));
        let attempt = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.written(attempt)
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_others_have_to_say_in_the_same_turn_goes_out_with_it() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let queue = Arc::new(Mutex::new(b"first".to_vec()));
        let others: Vec<_> = [&b" second"[..], b" third"]
            .into_iter()
            .map(|command| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move { queue.lock().unwrap().extend_from_slice(command) })
            })
            .collect();
        let mut gather = Gather::new(ours);
        let written = std::future::poll_fn(|cx| {
            let commands = queue.lock().unwrap().clone();
            Pin::new(&mut gather).poll_write(cx, &commands)
        });
        assert_eq!(written.await.unwrap(), b"first second third".len());
        for other in others {
            other.await.unwrap();
        }
        gather.write_all(b" fourth").await.unwrap();
        drop(gather);
        let mut seen = Vec::new();
        theirs.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"first second third fourth");
    }

    #[tokio::test]
    async fn a_write_that_has_to_wait_for_room_steps_back_no_second_time() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut gather = Gather::new(ours);
        gather.write_all(b"full").await.unwrap();
        let waker = std::task::Waker::noop();
        let mut cx = Context::from_waker(waker);
        for _ in 0..2 {
            assert!(Pin::new(&mut gather).poll_write(&mut cx, b"more").is_pending());
        }
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        assert!(Pin::new(&mut gather).poll_write(&mut cx, b"more").is_ready());
    }
}
