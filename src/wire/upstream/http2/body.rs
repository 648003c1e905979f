//! The body of a response, which holds its stream until both have ended.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;

use super::failure::cut;
use super::link::Slot;
use super::upload::Upload;
use crate::wire::timer::Timer;
use crate::wire::upstream::after;
use crate::wire::upstream::body::BodyError;
use crate::wire::upstream::pool::Place;

/// What a request takes until it is over.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) slot: Slot,
    pub(super) place: Mutex<Place>,
}

/// See the [module](self). Dropped before its end, it resets the stream.
pub(in crate::wire::upstream) struct StreamBody {
    /// `None` once it has ended.
    open: Option<Open>,
    /// What is left of the length that was told.
    left: Option<u64>,
}

struct Open {
    receiving: RecvStream,
    held: Arc<Held>,
    sending: Option<Sending>,
    has_data: bool,
}

impl fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBody")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl StreamBody {
    /// `rest`: what of the request is still to be sent, and how long that may stand still.
    pub(super) fn new(
        receiving: RecvStream,
        left: Option<u64>,
        held: Held,
        rest: Option<(Upload, SendStream<Bytes>, Duration)>,
    ) -> Self {
        let held = Arc::new(held);
        let sending = rest.map(|(upload, stream, quiet)| Sending::start(&held, upload, stream, quiet));
        let mut body = Self {
            left,
            open: Some(Open {
                receiving,
                held,
                sending,
                has_data: true,
            }),
        };
        body.end_if_read();
        body
    }

    pub(in crate::wire::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(open) = &mut self.open else {
            return Poll::Ready(None);
        };
        let next = ready!(open.poll_frame(cx));
        match &next {
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                if frame.is_trailers() {
                    self.end();
                } else {
                    self.end_if_read();
                }
            }
            Some(Err(_)) => self.open = None,
            None => self.end(),
        }
        Poll::Ready(next)
    }

    pub(in crate::wire::upstream) const fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    pub(in crate::wire::upstream) fn size_hint(&self) -> SizeHint {
        match (&self.open, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(left)) => SizeHint::with_exact(left),
            (Some(_), None) => SizeHint::default(),
        }
    }

    fn end_if_read(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.receiving.is_end_stream()) {
            self.end();
        }
    }

    /// All of it was read: the upload goes on without a reader.
    fn end(&mut self) {
        if let Some(sending) = self.open.take().and_then(|open| open.sending) {
            sending.leave();
        }
    }
}

impl Open {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(sending) = &self.sending
            && sending.has_failed(cx)
        {
            return Poll::Ready(Some(Err(BodyError::Request)));
        }
        while self.has_data {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Taken: the backend may send as much more.
                    let _ = self.receiving.flow_control().release_capacity(data.len());
                    if !data.is_empty() || self.receiving.is_end_stream() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.cut(&error)))),
                None => self.has_data = false,
            }
        }
        match ready!(self.receiving.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(self.cut(&error)))),
        }
    }

    fn cut(&self, error: &h2::Error) -> BodyError {
        let status = &self.held.slot.link.status;
        BodyError::Cut(std::io::Error::other(cut(error, status)))
    }
}

/// The upload of a request that was answered before its end, by a task of its own.
#[derive(Debug)]
struct Sending {
    shared: Arc<Shared>,
    task: AbortHandle,
    has_reader: bool,
}

#[derive(Debug, Default)]
struct Shared {
    failed: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl Sending {
    fn start(held: &Arc<Held>, upload: Upload, stream: SendStream<Bytes>, quiet: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let rest = send_rest(Arc::clone(held), Arc::clone(&shared), upload, stream, quiet);
        Self {
            task: tokio::spawn(rest).abort_handle(),
            shared,
            has_reader: true,
        }
    }

    fn has_failed(&self, cx: &Context<'_>) -> bool {
        *self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        self.shared.failed.load(Ordering::Acquire)
    }

    fn leave(mut self) {
        self.has_reader = false;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.has_reader {
            self.task.abort();
        }
    }
}

/// Sends the rest of a request, which the backend may still want.
async fn send_rest(
    held: Arc<Held>,
    shared: Arc<Shared>,
    mut upload: Upload,
    mut stream: SendStream<Bytes>,
    quiet: Duration,
) {
    let mut alarm = Timer::default();
    let in_time = std::future::poll_fn(|cx| {
        if upload.poll(cx, &mut stream).is_ready() {
            return Poll::Ready(true);
        }
        alarm.poll(cx, after(upload.last_moved(), quiet)).map(|()| false)
    })
    .await;
    let failed = !in_time || upload.failure().is_some();
    // The client's body first: the connection to the client may wait for that.
    drop(upload);
    if failed {
        shared.failed.store(true, Ordering::Release);
        stream.send_reset(Reason::CANCEL);
    }
    held.place.lock().unwrap_or_else(PoisonError::into_inner).uploaded();
    let reader = shared.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(reader) = reader {
        reader.wake();
    }
}
