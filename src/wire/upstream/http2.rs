//! The way to a backend that speaks HTTP/2 (RFC 9113): many requests over few connections.
//!
//! Over TLS it is agreed on by ALPN, and a backend that chooses HTTP/1.1 is spoken to as any other; in clear text it is
//! taken for granted ("prior knowledge"). A request that asks to switch protocols goes over HTTP/1.1 in both cases, since
//! HTTP/2 has no `101`.
//!
//! # What is sent again (F4)
//!
//! HTTP/2 lets the backend say what it has not looked at. A request of any method is sent once more where nothing of it
//! was written; where the backend's `GOAWAY` names an earlier stream as the last (RFC 9113 §6.8); where it reset the
//! stream with `REFUSED_STREAM` (§8.7). In all other cases the failure is reported. What was taken of the request's body is kept
//! up to a limit for that; beyond it the request is not sent again.
//!
//! # Limits
//!
//! * A request takes a place of the pool, as over HTTP/1.1: there are at most `max_connections` at once. A connection
//!   carries as many as the backend allows, and at most [`MAX_STREAMS`].
//! * A body is read ahead of its client by at most [`STREAM_WINDOW`]. All of a connection may use theirs at once, so that a client that
//!   does not read holds up nobody else.
//! * A connection on which an answer is due and nothing comes is asked for a sign of life, and dropped without one.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{Method, Response, StatusCode};

use super::body::UpstreamBody;
use super::pool::{Place, Pool};
use super::{UpstreamError, UpstreamOptions, after};
use crate::tls::{HTTP1, HTTP2};
use crate::wire::fields::name;
use crate::wire::message::{self, Request, ResponseHead};
use crate::wire::timer::Timer;
use body::Held;
use failure::{Failure, Fate};
use link::Slot;
use links::{Found, Links};
use request::Head;
use upload::Upload;

mod body;
mod driver;
mod failure;
mod link;
mod links;
mod request;
mod upload;
mod watch;

pub(super) use body::StreamBody;

/// How many requests a connection carries at once, where the backend allows that many: the least that RFC 9113 §6.5.2
/// wants backends to allow.
const MAX_STREAMS: usize = 100;

/// How much of one response body is taken before the client takes it.
const STREAM_WINDOW: u32 = 128 * 1024;

/// The largest response head, as the library counts it; and the most of informational ones before it.
const LARGEST_HEAD: u32 = 256 * 1024;

/// How often a request is sent again that was not seen. Each time others were: a backend that closes its connections often
/// needs a few.
const MOST_LOSSES: usize = 10;
/// How often one is that was refused: the backend has too much to do.
const MOST_REFUSALS: usize = 2;

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    links: Arc<Links>,
}

/// What became of a request.
pub(super) enum Sent {
    Answered(message::Response<UpstreamBody>),
    /// The backend chose HTTP/1.1. Nothing was done with it.
    Http1(Request, Place),
}

/// The same options for the requests that go over HTTP/1.1 all the same: nothing else is offered for them.
pub(super) fn for_http1(options: &UpstreamOptions) -> UpstreamOptions {
    let mut options = options.clone();
    options.tls = options.tls.map(|tls| tls.offering(&[HTTP1]));
    options
}

impl Http2 {
    pub(super) fn new(mut options: UpstreamOptions) -> Self {
        options.tls = options.tls.map(|tls| tls.offering(&[HTTP2, HTTP1]));
        Self {
            links: Links::new(options),
        }
    }

    /// Whether a connection can be had, and HTTP/2 is spoken over it where it must be.
    pub(super) async fn probe(&self) -> Result<(), UpstreamError> {
        self.links.probe().await
    }

    /// How many connections carry no request.
    pub(super) fn idle_count(&self) -> usize {
        self.links.idle_count()
    }

    /// Sends `request`, as [`Upstream::forward`](super::Upstream::forward) does.
    pub(super) async fn send(
        &self,
        pool: &Arc<Pool>,
        request: Request,
        place: Place,
        timeout: Duration,
        inform: &mut impl FnMut(ResponseHead),
    ) -> Result<Sent, UpstreamError> {
        let mut slot = match self.links.acquire(pool).await? {
            Found::Stream(slot) => slot,
            Found::Http1 => return Ok(Sent::Http1(request, place)),
        };
        let (head, source) = request::split(request, self.links.is_tls());
        let mut upload = Upload::new(source);
        let (mut losses, mut refusals) = (0, 0);
        loop {
            if slot.reused {
                pool.counters.reused.fetch_add(1, Ordering::Relaxed);
            }
            let failure = match exchange(&slot, &head, &mut upload, timeout, inform).await {
                Ok(answer) => {
                    let held = (slot, place);
                    let response = receive(answer, head.method(), held, upload, timeout);
                    return Ok(Sent::Answered(response));
                }
                Err(Broken::Stream(failure)) => failure,
                Err(Broken::Other(error)) => return Err(error),
            };
            let (count, most) = match failure.fate {
                Fate::Unseen => (&mut losses, MOST_LOSSES),
                Fate::Refused => (&mut refusals, MOST_REFUSALS),
                Fate::Seen | Fate::Unreadable => return Err(failure.explain()),
            };
            *count += 1;
            if *count > most || !upload.rewind() {
                return Err(failure.explain());
            }
            drop(slot);
            slot = match self.links.acquire(pool).await? {
                Found::Stream(slot) => slot,
                // It has just changed its mind: the next request will find it so.
                Found::Http1 => return Err(failure.explain()),
            };
            pool.counters.retries.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Why an exchange has no response.
enum Broken {
    Stream(Failure),
    Other(UpstreamError),
}

struct Answer {
    response: Response<RecvStream>,
    sending: SendStream<Bytes>,
}

/// One request on one stream, until the head of its response, for as long as something moves.
async fn exchange(
    slot: &Slot,
    head: &Head,
    upload: &mut Upload,
    timeout: Duration,
    inform: &mut impl FnMut(ResponseHead),
) -> Result<Answer, Broken> {
    let (link, status) = (&slot.link, &slot.link.status);
    let (mut answer, mut sending) = link
        .begin(head.of_stream(), upload.is_over())
        .map_err(|error| Broken::Stream(Failure::unopened(&error)))?;
    let stream = answer.stream_id().as_u32();
    upload.restart_clock();
    let mut alarm = Timer::default();
    let mut informed = 0;
    let response = poll_fn(|cx| {
        let _ = upload.poll(cx, &mut sending);
        if let Some(what) = upload.failure() {
            return Poll::Ready(Err(Broken::Other(UpstreamError::ClientBody(what.to_owned()))));
        }
        match poll_head(&mut answer, cx, &mut informed, inform) {
            Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
            Poll::Ready(Err(NoHead::Unreadable(what))) => {
                return Poll::Ready(Err(Broken::Stream(Failure::unreadable(what))));
            }
            Poll::Ready(Err(NoHead::Error(error))) => {
                let failure = Failure::of(&error, stream, status);
                // Who informs has looked at the request, whatever is said later.
                let failure = if informed > 0 { failure.seen() } else { failure };
                return Poll::Ready(Err(Broken::Stream(failure)));
            }
            Poll::Pending => {}
        }
        ready!(alarm.poll(cx, after(upload.last_moved(), timeout)));
        let waited = timeout;
        Poll::Ready(Err(Broken::Other(if upload.awaits_client() {
            UpstreamError::ClientStalled { waited }
        } else {
            let arrived = status.watch.has_written(stream);
            UpstreamError::Timeout { waited, arrived }
        })))
    })
    .await?;
    Ok(Answer { response, sending })
}

/// Why there is no head of a response.
enum NoHead {
    Error(h2::Error),
    Unreadable(&'static str),
}

/// The head of the response, and `inform` told of those before it.
fn poll_head(
    answer: &mut ResponseFuture,
    cx: &mut Context<'_>,
    informed: &mut usize,
    inform: &mut impl FnMut(ResponseHead),
) -> Poll<Result<Response<RecvStream>, NoHead>> {
    while let Poll::Ready(Some(interim)) = answer.poll_informational(cx) {
        let interim = interim.map_err(NoHead::Error)?;
        if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
            // The library takes it for one more that informs; a client would take it for the last (RFC 9113 §8.6).
            return Poll::Ready(Err(NoHead::Unreadable("it switches protocols, which HTTP/2 cannot")));
        }
        let fields = interim.headers().iter();
        // As the library counts a head (RFC 9113 §6.5.2).
        *informed += fields
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum::<usize>()
            + 42;
        if *informed > LARGEST_HEAD as usize {
            return Poll::Ready(Err(NoHead::Unreadable("it informs without end")));
        }
        inform(message::Response::from(interim).head);
    }
    Pin::new(answer).poll(cx).map_err(NoHead::Error)
}

/// Judges a response head and ties the body to its stream.
fn receive(
    Answer { response, sending }: Answer,
    method: &Method,
    (slot, mut place): (Slot, Place),
    mut upload: Upload,
    quiet: Duration,
) -> message::Response<UpstreamBody> {
    let rest = if upload.is_over() {
        place.uploaded();
        None
    } else {
        upload.source.forget();
        Some((upload, sending, quiet))
    };
    let told = response
        .headers()
        .get(CONTENT_LENGTH)
        .filter(|_| method != Method::HEAD);
    let left = told.and_then(|told| told.to_str().ok()?.parse().ok());
    let held = Held {
        slot,
        place: Mutex::new(place),
    };
    let mut response = message::Response::from(response);
    // The library has seen to it that they agree; the client is told once.
    let fields = &mut response.head.fields;
    if fields.all(name::CONTENT_LENGTH).count() > 1
        && let Some(length) = fields.value(name::CONTENT_LENGTH)
    {
        fields.insert(name::CONTENT_LENGTH, length);
    }
    response.map(|receiving| UpstreamBody::of_stream(StreamBody::new(receiving, left, held, rest)))
}
