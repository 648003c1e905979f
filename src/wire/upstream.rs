//! The way to the backend: a pool of HTTP/1.1 connections with a cap, deadlines and one strict rule for retries. What
//! is different where the backend speaks HTTP/2 is told in `http2`.
//!
//! # What is sent again, and what is not (F4)
//!
//! Most requests here are POSTs, so "retry what is idempotent" helps nobody. A request goes to a second connection
//! only if no byte of it was written to the first. Once a byte has been written, the
//! failure is reported ([`UpstreamError::Reset`], `arrived() == true`), even if the backend had closed the connection
//! a moment before: from here the two cannot be told apart. To make that race rare, connections idle for
//! `idle_timeout` are not used again, the last one used is used first, and before one is written to that is not in use
//! all the time, the kernel is asked whether it was closed (see `Connection::can_go_on`). What remains is the time a FIN is in
//! flight.
//!
//! # What passes, and where
//!
//! * Field names keep their case, in both directions.
//! * `101` takes its connection along ([`ResponseHead::upgraded`]), which counts as in use until the tunnel ends.
//! * Other informational responses (`102`, `103`) are told of as they come, see [`Upstream::forward`].
//! * Trailers come as frames of the body. Trailers of
//!   a request are sent on where its `Trailer` field names them.
//! * The framing is this hop's own: `Transfer-Encoding` is set anew, a `Content-Length` beside one is dropped, and a
//!   repeated one is sent on once. Differing or unreadable lengths, a transfer coding other than `chunked`, and heads
//!   beyond the limits are a [`UpstreamError::BadResponse`]. A body that follows a response to `HEAD`, a 204 or a 304,
//!   or goes on after its length, closes the connection: what is here of it by then is not read as the answer to the next
//!   request.
//! * Single field lines that cannot be read are left out; the rest of the response passes.
//! * Over TLS a body without a length ends with the backend's word (`close_notify`): one that a mere end of the
//!   connection cuts off is an error of the body, as nobody knows whether that was all of it.
//! * A connection that answered in HTTP/1.0 is used once.
//! * There is no deadline on a response body: event streams are endless.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{StatusCode, Version};
use tokio::time::Instant;

mod body;
mod connect;
mod connection;
mod error;
mod http2;
mod outgoing;
mod pool;
mod race;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod tunnel;

pub use body::{BodyError, UpstreamBody};
pub use error::{Fault, UpstreamError};
pub use stats::UpstreamStats;

use body::Lease;
use connection::{Connection, Failure, Head};
use http2::{Http2, Sent};
use outgoing::Outgoing;
use pool::Pool;
use stats::Open;
use tunnel::Tunnel;

use super::fields::{Fields, name};
use super::h1::Length;
use super::message::{Request, Response, ResponseHead};
use super::upgrade::Upgraded;
use crate::tls;

/// The share of [`UpstreamOptions::max_connections`] that requests may take whose body has yet to come: three of four. The
/// rest is for those that are here, however many clients drip.
pub const UPLOADS: (usize, usize) = (3, 4);

/// Where the backend is, and how its connections are kept.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// A name, resolved anew for each connection, or an address; IPv6 with or without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Who the backend must be, and who we are, where it is spoken to over TLS: its certificate must be for `host`,
    /// whatever `Host` a request has.
    pub tls: Option<tls::Client>,
    /// How long opening a connection may take, resolving and the TLS handshake included; and, before that, the wait for a place in the pool.
    pub connect_timeout: Duration,
    /// A connection that was unused for this long is not used again. To stay below the backend's own keep-alive.
    pub idle_timeout: Duration,
    /// A connection that was opened this long ago is not used again: without it one that is always in use would stay with
    /// an address that the name has long left. `None`: no limit.
    pub max_age: Option<Duration>,
    /// The most connections that are open at once, idle and upgraded ones included; over HTTP/2, the most requests. At least 1.
    pub max_connections: usize,
    /// Speak HTTP/2 to the backend: over TLS if it agrees, in clear text in any case.
    pub http2: bool,
}

/// The backend. Clones share one pool.
#[derive(Clone)]
pub struct Upstream {
    pool: Arc<Pool>,
    http2: Option<Http2>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("options", &self.pool.options)
            .field("stats", &self.stats())
            .finish()
    }
}

impl Upstream {
    /// A pool without connections: the first request opens one.
    #[must_use]
    pub fn new(options: UpstreamOptions) -> Self {
        if !options.http2 {
            return Self {
                pool: Arc::new(Pool::new(options)),
                http2: None,
            };
        }
        Self {
            pool: Arc::new(Pool::new(http2::for_http1(&options))),
            http2: Some(Http2::new(options)),
        }
    }

    /// Sends `request` and waits for the head of its response. `inform` is told of informational responses (1xx) as they
    /// come, ahead of the final one.
    ///
    /// The request must have its `Host` and must be rid of hop-by-hop fields, save `Connection` and `Upgrade` of a
    /// genuine upgrade. Of its URI, path and query are sent as they are. Its version is that of the client, which does not
    /// need to announce trailers in HTTP/2: they are to be fit for the backend then. `CONNECT` is not for here.
    ///
    /// `response_timeout` bounds how long nothing may move: while the upload goes on, between two pieces of it; after
    /// its end, until the response head. A response that comes before the end of the upload is returned at once, and
    /// the upload goes on. `at_hand`: all of the request's body is there, so that it takes no longer than the backend
    /// does. Of those whose body has yet to come there are at most [`UPLOADS`] at once, as they may take as long as their
    /// clients like.
    ///
    /// Dropping the future closes the connection, unless none was in use yet.
    ///
    /// # Errors
    /// See [`UpstreamError`]; nothing of a request is sent twice.
    pub async fn forward(
        &self,
        request: Request,
        response_timeout: Duration,
        at_hand: bool,
        mut inform: impl FnMut(ResponseHead),
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let waits_for_client = !at_hand && !http_body::Body::is_end_stream(&request.body);
        let mut place = self.pool.place(waits_for_client).await?;
        let upgrade_asked = request.head.fields.contains(name::UPGRADE);
        let mut request = request;
        // HTTP/2 cannot switch protocols.
        if let Some(http2) = self.http2.as_ref().filter(|_| !upgrade_asked) {
            let sent = Box::pin(http2.send(&self.pool, request, place, response_timeout, &mut inform)).await?;
            (request, place) = match sent {
                Sent::Answered(response) => return Ok(response),
                Sent::Http1(request, place) => (request, place),
            };
        }
        let mut outgoing = Outgoing::new(request);
        loop {
            let (mut connection, reused) = self.pool.connection(outgoing.last_moved()).await?;
            if !reused {
                // Opening it has taken time that is not the backend's.
                outgoing.restart_clock();
            }
            let written_before = connection.stream.written();
            let result = exchange(&mut connection, &mut outgoing, response_timeout, &mut inform).await;
            let arrived = connection.stream.written() != written_before;
            let failure = match result {
                Ok(head) => {
                    let lease = Lease {
                        connection,
                        place,
                        reusable: false,
                    };
                    return receive(head, lease, outgoing, response_timeout, upgrade_asked);
                }
                Err(failure) => failure,
            };
            // A fresh connection that ends before it is written to is the backend's refusal: not tried again.
            let unsent = reused && !arrived && matches!(failure, Broken::Connection(Failure::Ended(_)));
            if unsent && outgoing.rewind() {
                self.pool
                    .counters
                    .retries
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                continue;
            }
            return Err(failure.explain(arrived, response_timeout));
        }
    }

    /// Opens a connection within `connect_timeout` and closes it again: whether the backend can be reached, and speaks
    /// HTTP/2 where it must.
    ///
    /// # Errors
    /// [`UpstreamError::Connect`] with what stood in the way.
    pub async fn probe(&self) -> Result<(), UpstreamError> {
        if let Some(http2) = &self.http2 {
            return http2.probe().await;
        }
        connect::stream(&self.pool.options, Open::new(&Arc::default()))
            .await
            .map(drop)
    }

    /// What the pool holds and has counted.
    #[must_use]
    pub fn stats(&self) -> UpstreamStats {
        let streamless = self.http2.as_ref().map_or(0, Http2::idle_count);
        self.pool.counters.snapshot(self.pool.idle_count() + streamless)
    }
}

/// Why an exchange has no response.
enum Broken {
    Connection(Failure),
    /// The client broke its upload off.
    Client(String),
    /// Nothing moved for too long: `true` where it is the client that has to send.
    Quiet(bool),
}

impl Broken {
    fn explain(self, arrived: bool, waited: Duration) -> UpstreamError {
        match self {
            Self::Connection(failure) => failure.explain(arrived),
            Self::Client(what) => UpstreamError::ClientBody(what),
            Self::Quiet(true) => UpstreamError::ClientStalled { waited },
            Self::Quiet(false) => UpstreamError::Timeout { waited, arrived },
        }
    }
}

/// One request on one connection, until the head of its response, for as long as something moves.
async fn exchange(
    connection: &mut Connection,
    outgoing: &mut Outgoing,
    timeout: Duration,
    inform: &mut impl FnMut(ResponseHead),
) -> Result<Head, Broken> {
    let method = outgoing.method.clone();
    poll_fn(|cx| {
        connection.poll_send(cx, outgoing);
        if let Some(what) = outgoing.failure() {
            return Poll::Ready(Err(Broken::Client(what.to_owned())));
        }
        if let Poll::Ready(head) = connection.poll_head(cx, &method, inform) {
            return Poll::Ready(head.map_err(Broken::Connection));
        }
        ready!(connection.alarm.poll(cx, after(outgoing.last_moved(), timeout)));
        Poll::Ready(Err(Broken::Quiet(outgoing.awaits_client())))
    })
    .await
}

/// The moment `by` after `start`, or one too far off to matter.
fn after(start: Instant, by: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365);
    start + by.min(FAR)
}

/// Judges a response head and ties the body to its connection.
fn receive(
    head: Head,
    mut lease: Lease,
    outgoing: Outgoing,
    quiet: Duration,
    upgrade_asked: bool,
) -> Result<Response<UpstreamBody>, UpstreamError> {
    let Head { response, length } = head;
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade_asked {
            return Err(UpstreamError::BadResponse(
                "it switches protocols without being asked to".to_owned(),
            ));
        }
        if !outgoing.is_sent() {
            // The rest of the request would be the first words of the other protocol (RFC 9110 §7.8).
            return Err(UpstreamError::BadResponse(
                "it switches protocols in the middle of the request".to_owned(),
            ));
        }
        return Ok(Response {
            head: ResponseHead {
                upgraded: Some(Upgraded::new(Tunnel::new(lease))),
                ..response
            },
            body: UpstreamBody::empty(),
        });
    }
    let sent = outgoing.is_sent();
    if sent {
        lease.place.uploaded();
    }
    lease.reusable = response.version == Version::HTTP_11
        && !says_close(&response.fields)
        && !may_have_a_body_in_spite(&response)
        && !lease.connection.has_failed_to_send();
    if matches!(length, Length::Sized(0)) && response.fields.get(name::CONTENT_LENGTH) != Some(b"0") {
        lease.connection.doubt();
    }
    let unsent = (!sent && !lease.connection.has_failed_to_send()).then_some((outgoing, quiet));
    Ok(Response {
        head: response,
        body: UpstreamBody::new(length, lease, unsent),
    })
}

/// Whether a response that has no body tells the length of one (RFC 9110 §8.6): a server that does so may send it too, as
/// the beginning of the next response.
fn may_have_a_body_in_spite(response: &ResponseHead) -> bool {
    let fields = &response.fields;
    let told = fields.get(name::CONTENT_LENGTH).is_some_and(|length| length != b"0");
    response.status == StatusCode::NO_CONTENT && (told || fields.contains(name::TRANSFER_ENCODING))
}

fn says_close(fields: &Fields) -> bool {
    fields
        .members(name::CONNECTION)
        .any(|option| option.eq_ignore_ascii_case(b"close"))
}
