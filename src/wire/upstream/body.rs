//! The response body, which holds its connection until it ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io, mem};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::after;
use super::connection::Connection;
use super::http2::StreamBody;
use super::outgoing::Outgoing;
use super::pool::Place;
use crate::wire::h1::{Chunk, Decoder, Length};
use crate::wire::timer::Timer;

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Box<Connection>,
    pub(super) place: Place,
    /// Whether it can take another request after this one.
    pub(super) reusable: bool,
}

impl Lease {
    /// The response has been read to its end, and the request sent to its.
    fn finish(self) {
        if self.reusable && self.connection.unread.is_empty() {
            self.place.pool.put(self.connection);
        }
        drop(self.place);
    }
}

/// A response body as it comes from the backend: data and trailers, frame by frame, read only as fast as it is asked
/// for.
///
/// A body that is cut short ends with an error, never with a clean end. Read to its end, it puts the connection back
/// into the pool; dropped before, it closes the connection.
#[derive(Debug)]
pub struct UpstreamBody {
    rest: Rest,
    held: Held,
}

/// What is left to be read.
#[derive(Debug)]
enum Rest {
    Sized(u64),
    Chunked(Decoder),
    UntilClose,
    Ended,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Own(Lease),
    /// The request is still being sent, by a task of its own.
    Shared(Sharing),
    /// A stream of HTTP/2.
    Stream(Box<StreamBody>),
}

/// Why a body cannot be read to its end. Says nothing of what it holds.
#[derive(Debug)]
pub enum BodyError {
    /// The connection ended or failed before it.
    Cut(io::Error),
    /// Its chunks are malformed.
    Malformed(&'static str),
    /// The client did not finish its request.
    Request,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(error) => write!(f, "the upstream's response was cut short: {error}"),
            Self::Malformed(what) => write!(f, "the upstream's response is malformed: {what}"),
            Self::Request => f.write_str("the client did not finish its request"),
        }
    }
}

impl std::error::Error for BodyError {}

impl UpstreamBody {
    /// A body of that length. `unsent`: what of the request is still to be sent, and how long that may stand still.
    pub(super) fn new(length: Length, lease: Lease, unsent: Option<(Outgoing, Duration)>) -> Self {
        let rest = match length {
            Length::Sized(0) => Rest::Ended,
            Length::Sized(length) => Rest::Sized(length),
            Length::Chunked => Rest::Chunked(Decoder::default()),
            Length::UntilClose => Rest::UntilClose,
        };
        let held = match unsent {
            None => Held::Own(lease),
            Some((outgoing, quiet)) => Held::Shared(Sharing::start(lease, outgoing, quiet)),
        };
        let mut body = Self { rest, held };
        if matches!(body.rest, Rest::Ended) {
            body.finish();
        }
        body
    }

    /// That of a stream of HTTP/2.
    pub(super) fn of_stream(body: StreamBody) -> Self {
        Self {
            rest: Rest::UntilClose,
            held: Held::Stream(Box::new(body)),
        }
    }

    /// All of what is left, where that is here already. The body has ended then.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let (Rest::Sized(left), Held::Own(lease)) = (&self.rest, &mut self.held) else {
            return None;
        };
        let whole = lease.connection.unread.len() as u64 >= *left;
        let data = whole.then(|| lease.connection.take(*left))?;
        self.finish();
        Some(data)
    }

    /// A body that is complete and holds nothing.
    pub(super) const fn empty() -> Self {
        Self {
            rest: Rest::Ended,
            held: Held::Nothing,
        }
    }

    fn finish(&mut self) {
        self.rest = Rest::Ended;
        match mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing | Held::Stream(_) => {}
            Held::Own(lease) => lease.finish(),
            Held::Shared(sharing) => sharing.finish(),
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.rest = Rest::Ended;
        self.held = Held::Nothing;
        Poll::Ready(Some(Err(error)))
    }
}

impl HttpBody for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.held {
            Held::Nothing => return Poll::Ready(None),
            Held::Stream(stream) => return stream.poll_frame(cx),
            Held::Own(lease) => ready!(this.rest.poll(cx, &mut lease.connection)),
            Held::Shared(sharing) => {
                let mut shared = lock(&sharing.shared);
                if shared.upload == Upload::Failed {
                    Err(BodyError::Request)
                } else {
                    shared.reader = Some(cx.waker().clone());
                    ready!(this.rest.poll(cx, &mut shared.lease.connection))
                }
            }
        };
        match polled {
            Ok(Some(frame)) => {
                if matches!(this.rest, Rest::Ended) {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Err(error) => this.fail(error),
        }
    }

    fn is_end_stream(&self) -> bool {
        if let Held::Stream(stream) = &self.held {
            return stream.is_end_stream();
        }
        matches!(self.rest, Rest::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        if let Held::Stream(stream) = &self.held {
            return stream.size_hint();
        }
        match self.rest {
            Rest::Sized(length) => SizeHint::with_exact(length),
            Rest::Ended => SizeHint::with_exact(0),
            Rest::Chunked(_) | Rest::UntilClose => SizeHint::default(),
        }
    }
}

impl Rest {
    /// The next frame; `None` at the end, of which `Ended` tells with the last frame where that is known.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
    ) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        loop {
            match self {
                Self::Ended => return Poll::Ready(Ok(None)),
                Self::Sized(left) if !connection.unread.is_empty() => {
                    let data = connection.take(*left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *self = Self::Ended;
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                Self::UntilClose if !connection.unread.is_empty() => {
                    return Poll::Ready(Ok(Some(Frame::data(connection.take(u64::MAX)))));
                }
                Self::Chunked(decoder) => match decoder.next(&mut connection.unread).map_err(BodyError::Malformed)? {
                    Some(Chunk::Data(data)) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                    Some(Chunk::End(trailers)) => {
                        *self = Self::Ended;
                        return Poll::Ready(Ok(trailers.map(Frame::trailers)));
                    }
                    None => {}
                },
                Self::Sized(_) | Self::UntilClose => {}
            }
            match ready!(connection.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) if matches!(self, Self::UntilClose) => {
                    *self = Self::Ended;
                    return Poll::Ready(Ok(None));
                }
                Ok(false) => return Poll::Ready(Err(BodyError::Cut(io::ErrorKind::UnexpectedEof.into()))),
                Err(error) => return Poll::Ready(Err(BodyError::Cut(error))),
            }
        }
    }
}

/// The reader's half of a connection on which a request is still being sent.
#[derive(Debug)]
struct Sharing {
    shared: Arc<Mutex<Shared>>,
    sender: AbortHandle,
    /// The response was read to its end: the sender goes on without a reader.
    finished: bool,
}

#[derive(Debug)]
struct Shared {
    lease: Lease,
    upload: Upload,
    reader: Option<std::task::Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    Running,
    Sent,
    Failed,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sharing {
    fn start(lease: Lease, outgoing: Outgoing, quiet: Duration) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            lease,
            upload: Upload::Running,
            reader: None,
        }));
        let sender = tokio::spawn(send_rest(Arc::clone(&shared), outgoing, quiet)).abort_handle();
        Self {
            shared,
            sender,
            finished: false,
        }
    }

    fn finish(mut self) {
        self.finished = true;
        give_back(Arc::clone(&self.shared), self);
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        if !self.finished {
            self.sender.abort();
        }
    }
}

/// Lets go of `shared`, and of `other` that holds it too; the last one to do so has the connection put back.
fn give_back(shared: Arc<Mutex<Shared>>, other: impl Sized) {
    drop(other);
    let Some(shared) = Arc::into_inner(shared) else { return };
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    if shared.upload == Upload::Sent {
        shared.lease.finish();
    }
}

/// Sends the rest of a request that was answered before its end. The backend may still want it, and has to be told where
/// it ends before it can be sent another.
async fn send_rest(shared: Arc<Mutex<Shared>>, mut outgoing: Outgoing, quiet: Duration) {
    let mut alarm = Timer::default();
    let sent = std::future::poll_fn(|cx| {
        let mut shared = lock(&shared);
        shared.lease.connection.poll_send(cx, &mut outgoing);
        if outgoing.failure().is_some() {
            return Poll::Ready(Upload::Failed);
        }
        if outgoing.is_sent() {
            return Poll::Ready(Upload::Sent);
        }
        if shared.lease.connection.has_failed_to_send() {
            // The backend wants no more of it: what it answers is read to its end all the same.
            shared.lease.reusable = false;
            return Poll::Ready(Upload::Sent);
        }
        alarm
            .poll(cx, after(outgoing.last_moved(), quiet))
            .map(|()| Upload::Failed)
    })
    .await;
    // The client's body first: the connection to the client may wait for that.
    drop(outgoing);
    {
        let mut shared = lock(&shared);
        shared.upload = sent;
        shared.lease.place.uploaded();
        if let Some(reader) = shared.reader.take() {
            reader.wake();
        }
    }
    give_back(shared, ());
}
