//! Connections of HTTP/2 (RFC 9113): hyper and h2 serve them, within the limits and deadlines of the edge.
//!
//! # What is whose
//!
//! The library minds the framing, flow control, floods of resets and of header blocks, and what lengths say. Here it is
//! decided how many streams there are and how many requests are worked on, those that were reset included
//! (CVE-2023-44487), what a request must look like ([`admit_http2`]), how long a connection may be
//! idle and a peer take nothing of a response, and when it is left.
//!
//! # Leaving
//!
//! By `GOAWAY` in two steps (RFC 9113 §6.8): the client learns that it should go and has its requests that are on the way
//! answered. So it is from the first moment of a shutdown, and when a connection has had no stream for
//! [`ServerOptions::keep_alive_timeout`](super::ServerOptions::keep_alive_timeout). Who does not answer to that is
//! dropped after [`LINGER_TIME`], once nothing is under way.

mod streams;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::Version;
use http::header::{CONNECTION, UPGRADE};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::lent::Lent;
use super::linger::{self, LINGER_TIME};
use super::place::Place;
use super::{Came, Edge, EdgeRefusal, EdgeService};
use crate::lifecycle::Stage;
use crate::moment;
use crate::wire::body::Body;
use crate::wire::message::{Peer, Request, Response};
use crate::wire::strict::{MAX_FIELDS, admit_http2};
use crate::wire::timer::Timer;
pub use streams::UnderWay;
use streams::{Spawner, Stream, StreamBody, StreamUpload, Streams};

/// How many requests a connection may have under way at once.
const MAX_STREAMS: u32 = 128;

/// How much of one request body is taken before the backend takes it.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same, of all bodies of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How much of one response is kept for a client that does not take it.
const SEND_BUFFER: usize = 64 * 1024;

/// How often a client is asked whether it is still there, and how long it has to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves requests until the connection closes or has to be dropped.
pub(super) async fn run<IO, S>(io: IO, peer: Peer, service: S, place: Place, edge: Arc<Edge>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: EdgeService,
{
    let streams = Streams::new();
    let (lent, returned) = Lent::new(io);
    let mut leaving = Leaving::new(Arc::clone(&streams), edge.clone());
    let builder = builder(&edge, Spawner::new(&streams, &edge));
    let service = {
        let edge = edge.clone();
        service_fn(move |request| {
            let stream = streams.open(&edge);
            let answer = admit(request, peer, &stream, &edge).map(|(request, came)| service.call(request, came));
            respond(answer, stream, edge.clone())
        })
    };
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(lent), service));
    let served = poll_fn(|cx| {
        while let Poll::Ready(departure) = leaving.poll(cx) {
            match departure {
                Departure::Announced => connection.as_mut().graceful_shutdown(),
                Departure::Due => return Poll::Ready(Ok(())),
            }
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended early");
    }
    drop(connection);
    let closing = async {
        // It is back already: the library let go of it right now.
        if let Ok(mut io) = returned.await {
            linger::close(&mut io, b"").await;
        }
    };
    tokio::select! {
        biased;
        () = edge.drain.forced() => {}
        () = closing => {}
    }
    drop(place);
}

fn builder(edge: &Edge, spawner: Spawner) -> Builder<Spawner> {
    let mut http2 = Builder::new(spawner);
    // What is larger than allowed, but not by far, is refused by us, in our words; what is beyond that, by the library.
    // It counts 32 bytes more for each field.
    let list = 2 * edge.options.max_header_size + 32 * MAX_FIELDS;
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    http2
}

/// The request as the service is to see it.
fn admit(
    request: http::Request<Incoming>,
    peer: Peer,
    stream: &Arc<Stream>,
    edge: &Edge,
) -> Result<(Request, Came), EdgeRefusal> {
    let (mut head, body) = request.into_parts();
    if let Err(flaw) = admit_http2(&mut head, edge.options.max_header_size) {
        let refusal = EdgeRefusal::from(flaw);
        refusal.count(&edge.stats);
        return Err(refusal);
    }
    let Some(under_way) = stream.begin() else {
        EdgeRefusal::Overloaded.count(&edge.stats);
        return Err(EdgeRefusal::Overloaded);
    };
    let came = Came {
        informer: None,
        under_way: Some(under_way),
    };
    let body = Body::new(StreamUpload::new(body, Arc::clone(stream)));
    let request = http::Request::from_parts(head, body);
    Ok((Request::from_http(request, peer), came))
}

/// The service's answer, or the refusal where there is none or the body broke before there was one.
async fn respond<F>(
    answer: Result<F, EdgeRefusal>,
    stream: Arc<Stream>,
    edge: Arc<Edge>,
) -> Result<http::Response<StreamBody>, Infallible>
where
    F: Future<Output = Response>,
{
    let answered = match answer {
        Ok(answer) => {
            let mut answer = pin!(answer);
            poll_fn(|cx| {
                let polled = moment::one_poll(|| answer.as_mut().poll(cx)).map(Ok);
                // What the service makes of a broken body is not what broke it.
                stream.broken().map_or(polled, |refusal| Poll::Ready(Err(refusal)))
            })
            .await
        }
        Err(refusal) => Err(refusal),
    };
    let answered = answered.unwrap_or_else(|refusal| refusal.response(&edge));
    let mut response = answered.into_http();
    *response.version_mut() = Version::HTTP_2;
    // A 426 has these; HTTP/2 has no such fields (RFC 9113 §8.2.2).
    response.headers_mut().remove(CONNECTION);
    response.headers_mut().remove(UPGRADE);
    Ok(response.map(|body| StreamBody::new(body, stream)))
}

/// When a connection is to be left.
struct Leaving {
    streams: Arc<Streams>,
    edge: Arc<Edge>,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    forced: Pin<Box<dyn Future<Output = ()> + Send>>,
    registered: Option<Waker>,
    timer: Timer,
    /// Since when the client knows.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    /// The client is to be told to go.
    Announced,
    /// Nothing more is waited for.
    Due,
}

impl Leaving {
    fn new(streams: Arc<Streams>, edge: Arc<Edge>) -> Self {
        Self {
            streams,
            draining: Box::pin(edge.drain.draining()),
            forced: Box::pin(edge.drain.forced()),
            edge,
            registered: None,
            timer: Timer::default(),
            since: None,
        }
    }

    /// Ready when something is to be done; to be asked again then.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Departure> {
        self.register(cx);
        let stage = self.edge.drain.stage();
        if stage == Stage::Forced {
            return Poll::Ready(Departure::Due);
        }
        if stage >= Stage::Draining && self.since.is_none() {
            return self.announce();
        }
        loop {
            let limit = self.since.map_or(self.edge.options.keep_alive_timeout, |_| LINGER_TIME);
            let idle = self.streams.idle_since();
            // While there are streams, it is looked again from time to time.
            let from = idle.unwrap_or_else(Instant::now);
            ready!(
                self.timer
                    .poll(cx, self.since.map_or(from, |since| since.max(from)) + limit)
            );
            match (idle, self.since) {
                (None, _) => {}
                (Some(_), None) => return self.announce(),
                (Some(_), Some(_)) => return Poll::Ready(Departure::Due),
            }
        }
    }

    fn announce(&mut self) -> Poll<Departure> {
        self.since = Some(Instant::now());
        Poll::Ready(Departure::Announced)
    }

    /// Has the task woken by the shutdown, without asking the shared tokens at every poll.
    fn register(&mut self, cx: &mut Context<'_>) {
        if self
            .registered
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return;
        }
        self.registered = Some(cx.waker().clone());
        if self.draining.as_mut().poll(cx).is_ready() {
            self.draining = Box::pin(std::future::pending());
        }
        if self.forced.as_mut().poll(cx).is_ready() {
            self.forced = Box::pin(std::future::pending());
        }
    }
}

/// Tells a client that is one too many to go elsewhere: none of its requests was looked at (RFC 9113 §6.8).
pub(super) async fn refuse<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, edge: &Edge) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GO_AWAY: [u8; 9] = [0, 0, 8, 7, 0, 0, 0, 0, 0];
    const NO_STREAM_BUT_CALM: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0xb];
    EdgeRefusal::Overloaded.count(&edge.stats);
    let wire = [&SETTINGS[..], &GO_AWAY, &NO_STREAM_BUT_CALM].concat();
    linger::close(io, &wire).await;
}
