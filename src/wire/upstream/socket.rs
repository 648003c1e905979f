//! The connection to the backend, as hyper sees it: a socket that knows when bytes last moved.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::mend::Mender;
use super::stats::Open;
use super::stream::Stream;

/// What the pool and the socket share about one connection.
#[derive(Debug)]
pub(super) struct Link {
    born: Instant,
    /// Bytes the kernel has taken since the connection was opened.
    written: AtomicU64,
    /// When it last took some: nanoseconds after `born`.
    last_write: AtomicU64,
    /// Set before a request is handed over: the next read asks the kernel, see [`Stream::ask_kernel`].
    verify: AtomicBool,
    /// Set before a request is handed over: what is read next is a response head.
    head_expected: AtomicBool,
    /// The place in the pool of a connection that was upgraded: given back when the tunnel ends.
    parked: Mutex<Option<OwnedSemaphorePermit>>,
    _open: Open,
}

impl Link {
    pub(super) fn new(open: Open) -> Self {
        Self {
            born: Instant::now(),
            written: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
            verify: AtomicBool::new(false),
            head_expected: AtomicBool::new(false),
            parked: Mutex::new(None),
            _open: open,
        }
    }

    /// How long ago the connection was opened.
    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// When bytes were last written (or the connection was opened).
    pub(super) fn last_write(&self) -> Instant {
        self.born + Duration::from_nanos(self.last_write.load(Ordering::Relaxed))
    }

    /// Makes the next read look past what the runtime has been told so far.
    pub(super) fn verify(&self) {
        self.verify.store(true, Ordering::Release);
    }

    /// Tells that a response head comes next.
    pub(super) fn expect_head(&self) {
        self.head_expected.store(true, Ordering::Release);
    }

    /// Keeps `permit` until the socket is closed.
    pub(super) fn park(&self, permit: OwnedSemaphorePermit) {
        *self.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
    }

    pub(super) fn wrote(&self, count: usize) {
        let nanos = u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_write.store(nanos, Ordering::Relaxed);
        self.written.fetch_add(count as u64, Ordering::Release);
    }
}

/// A [`Stream`] with three habits of its own.
///
/// **It asks twice before a reused connection is written to.** The runtime learns of a closed connection only when it
/// next looks at its events, which under load is long enough to write a request into the void. So the first read
/// after [`Link::verify`] goes to the kernel itself. hyper reads before it takes a request, and hands the request
/// back untouched if that read finds the end.
///
/// **A failed write leaves the verdict to the reader.** A backend may refuse an upload half-way: it answers and
/// closes, and our next write fails while its answer waits to be read. The write then stays pending; the reader finds
/// the answer, or the end of the connection.
///
/// **It mends response heads** where one byte would cost all of them, see [`Mender`].
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    link: Arc<Link>,
    write_failed: bool,
    read_ended: bool,
    mender: Mender,
    /// A CR that was read and not handed on yet: what follows it decides.
    kept_cr: bool,
}

impl Socket {
    pub(super) fn new(stream: Stream, link: Arc<Link>) -> Self {
        Self {
            stream,
            link,
            write_failed: false,
            read_ended: false,
            mender: Mender::default(),
            kept_cr: false,
        }
    }

    fn written<T>(&mut self, result: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error)) if closed_by_peer(&error) && !self.read_ended => {
                if !self.write_failed {
                    self.write_failed = true;
                    // The reader must run once more; after that the socket's own events wake it.
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            other => other,
        }
    }
}

fn closed_by_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted)
}

impl Socket {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        let mut result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if result.is_pending() && room && self.link.verify.swap(false, Ordering::AcqRel) {
            result = self.stream.ask_kernel(cx, buf);
        }
        let ended = match &result {
            Poll::Ready(Ok(())) => room && buf.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.read_ended = true;
            if self.write_failed {
                // A writer that was left pending may fail now.
                cx.waker().wake_by_ref();
            }
        }
        result
    }

    /// Reads a part of a response head.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if self.kept_cr {
                buf.put_slice(b"\r");
            }
            let start = buf.filled().len();
            let read = self.poll_bytes(cx, buf);
            if !matches!(read, Poll::Ready(Ok(()))) {
                buf.set_filled(before);
                return read;
            }
            let ended = buf.filled().len() == start;
            self.kept_cr = false;
            let fresh = buf.filled_mut().get_mut(before..).unwrap_or_default();
            if !ended && self.mender.mend(fresh) {
                self.kept_cr = true;
                buf.set_filled(buf.filled().len() - 1);
            }
            if ended || buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.link.head_expected.swap(false, Ordering::AcqRel) {
            this.mender.begin();
        }
        if this.mender.is_reading() && buf.remaining() > 0 {
            this.poll_head(cx, buf)
        } else {
            this.poll_bytes(cx, buf)
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Over TLS this is where what was written may leave.
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
