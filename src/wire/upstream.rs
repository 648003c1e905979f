//! The way to the backend: a pool of HTTP/1.1 connections with a cap, deadlines and one strict rule for retries.
//!
//! # What is sent again, and what is not (F4)
//!
//! Most requests here are POSTs, so "retry what is idempotent" helps nobody. A request goes to a second connection
//! only if no byte of it was written to the first: hyper hands such a request back. Once a byte has been written, the
//! failure is reported ([`UpstreamError::Reset`], `arrived() == true`), even if the backend had closed the connection
//! a moment before: from here the two cannot be told apart. To make that race rare, connections idle for
//! `idle_timeout` are not used again, the last one used is used first, and before a reused one is written to, the
//! kernel is asked whether it was closed. What remains is the time a FIN is in flight.
//!
//! # What passes, and where
//!
//! * Field names keep their case, in both directions, through an extension of the message: keep the extensions.
//! * `101` comes back with its upgrade handle ([`hyper::upgrade::on`]); the connection counts as in use until the
//!   tunnel ends.
//! * Other informational responses (`100`, `102`, `103`) are read and dropped: the server side of hyper cannot send
//!   them on. Their fields, `Set-Cookie` included, go nowhere.
//! * Trailers come as frames of the body. hyper's server sends them on to clients that sent `TE: trailers`. Trailers of
//!   a request are sent on where its `Trailer` field names them.
//! * The framing is this hop's own: `Transfer-Encoding` is set anew, a `Content-Length` beside one is dropped, and a
//!   repeated one is sent on once. Differing or unreadable lengths, a transfer coding other than `chunked`, and heads
//!   beyond the limits are a [`UpstreamError::BadResponse`]. A body that follows a response to `HEAD`, a 204 or a 304,
//!   or goes on after its length, closes the connection: it is never read as the answer to the next request.
//! * Single field lines that cannot be read are left out; the rest of the response passes.
//! * Over TLS a body without a length ends with the backend's word (`close_notify`): one that a mere end of the
//!   connection cuts off is an error of the body, as nobody knows whether that was all of it.
//! * A connection that answered in HTTP/1.0 is used once.
//! * There is no deadline on a response body: event streams are endless.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use tokio::time::Instant;

mod body;
mod connect;
mod error;
mod mend;
mod pool;
mod socket;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod upload;

pub use body::UpstreamBody;
pub use error::{Fault, UpstreamError};
pub use stats::UpstreamStats;

use body::Lease;
use connect::Connection;
use pool::Pool;
use socket::Link;
use stats::Open;
use upload::{Upload, UploadBody};

use super::headers::members;
use super::timer::Timer;
use crate::tls;

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
    /// The most connections that are open at once, idle and upgraded ones included. At least 1.
    pub max_connections: usize,
}

/// The backend. Clones share one pool.
#[derive(Clone)]
pub struct Upstream {
    pool: Arc<Pool>,
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
        Self {
            pool: Arc::new(Pool::new(options)),
        }
    }

    /// Sends `request` and waits for the head of its response.
    ///
    /// The request must have its `Host` and must be rid of hop-by-hop fields, save `Connection` and `Upgrade` of a
    /// genuine upgrade. Of its URI, path and query are sent as they are; its version does not matter. `CONNECT` is not
    /// for here.
    ///
    /// `response_timeout` bounds how long nothing may move: while the upload goes on, between two pieces of it; after
    /// its end, until the response head. A response that comes before the end of the upload is returned at once, and
    /// the upload goes on.
    ///
    /// Dropping the future closes the connection, unless none was in use yet.
    ///
    /// # Errors
    /// See [`UpstreamError`]; nothing of a request is sent twice.
    pub async fn send(
        &self,
        request: Request<Body>,
        response_timeout: Duration,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let place = self.pool.place().await?;
        let upgrade_asked = request.headers().contains_key(UPGRADE);
        let (mut request, upload) = prepare(request);
        loop {
            let (mut connection, reused) = self.pool.connection().await?;
            if reused {
                connection.link.verify();
            }
            connection.link.expect_head();
            let exchange = Exchange::new(&connection, upload.as_deref(), response_timeout);
            let sent = connection.sender.try_send_request(request);
            let mut failure = match exchange.wait(&mut connection.alarm, sent).await? {
                Ok(response) => {
                    let rest = upload.map(|upload| (upload, response_timeout));
                    let lease = Lease {
                        connection,
                        place,
                        pool: Arc::clone(&self.pool),
                        rest,
                        reusable: false,
                    };
                    return receive(response, lease, upgrade_asked);
                }
                Err(failure) => failure,
            };
            match failure.take_message() {
                // A fresh connection that ends before it is written to is the backend's refusal: not tried again.
                Some(unsent) if reused => {
                    self.pool.counters.retries.fetch_add(1, Ordering::Relaxed);
                    request = unsent;
                }
                _ => return Err(exchange.classify(failure.error())),
            }
        }
    }

    /// Opens a connection within `connect_timeout` and closes it again: whether the backend can be reached.
    ///
    /// # Errors
    /// [`UpstreamError::Connect`] with what stood in the way.
    pub async fn probe(&self) -> Result<(), UpstreamError> {
        let link = Link::new(Open::new(&Arc::default()));
        connect::stream(&self.pool.options, Arc::new(link)).await.map(drop)
    }

    /// What the pool holds and has counted.
    #[must_use]
    pub fn stats(&self) -> UpstreamStats {
        self.pool.counters.snapshot(self.pool.idle_count())
    }
}

/// One request on one connection, until the head of its response.
struct Exchange<'a> {
    upload: Option<&'a Upload>,
    link: Arc<socket::Link>,
    started: Instant,
    written_before: u64,
    timeout: Duration,
}

impl<'a> Exchange<'a> {
    fn new(connection: &Connection, upload: Option<&'a Upload>, timeout: Duration) -> Self {
        let link = Arc::clone(&connection.link);
        Self {
            upload,
            written_before: link.written(),
            link,
            started: Instant::now(),
            timeout,
        }
    }

    /// Waits for as long as something moves.
    async fn wait<T>(&self, alarm: &mut Timer, sent: impl Future<Output = T>) -> Result<T, UpstreamError> {
        let mut sent = pin!(sent);
        poll_fn(|cx| {
            if let Poll::Ready(result) = sent.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            alarm
                .poll(cx, after(self.last_moved(), self.timeout))
                .map(|()| Err(self.timed_out()))
        })
        .await
    }

    fn last_moved(&self) -> Instant {
        let moved = self.started.max(self.link.last_write());
        self.upload.map_or(moved, |upload| moved.max(upload.last_moved()))
    }

    fn arrived(&self) -> bool {
        self.link.written() != self.written_before
    }

    fn timed_out(&self) -> UpstreamError {
        match self.upload {
            Some(upload) if !upload.ended() && upload.awaits_client() => {
                UpstreamError::ClientStalled { waited: self.timeout }
            }
            _ => UpstreamError::Timeout {
                waited: self.timeout,
                arrived: self.arrived(),
            },
        }
    }

    fn classify(&self, error: &hyper::Error) -> UpstreamError {
        error::classify(error, self.upload.is_some_and(Upload::failed), self.arrived())
    }
}

/// The moment `by` after `start`, or one too far off to matter.
fn after(start: Instant, by: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365);
    start + by.min(FAR)
}

/// Gives the request the framing of this hop.
fn prepare(request: Request<Body>) -> (Request<UploadBody>, Option<Arc<Upload>>) {
    let (mut parts, body) = request.into_parts();
    let (body, upload) = UploadBody::new(body);
    parts.version = Version::HTTP_11;
    parts.headers.remove(TRANSFER_ENCODING);
    // Left to itself, hyper drops the body of a GET whose length is not known.
    if upload.is_some() && body.size_hint().exact().is_none() && !parts.headers.contains_key(CONTENT_LENGTH) {
        parts
            .headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if parts.uri.scheme().is_some()
        && let Some(origin_form) = parts.uri.path_and_query().cloned()
    {
        parts.uri = Uri::from(origin_form);
    }
    (Request::from_parts(parts, body), upload)
}

/// Judges a response head and ties the body to its connection.
fn receive(
    response: Response<Incoming>,
    mut lease: Lease,
    upgrade_asked: bool,
) -> Result<Response<UpstreamBody>, UpstreamError> {
    let (mut parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade_asked {
            return Err(UpstreamError::BadResponse(
                "it switches protocols without being asked to".to_owned(),
            ));
        }
        lease.connection.link.park(lease.place);
        lease.connection.release();
        return Ok(Response::from_parts(parts, UpstreamBody::without_lease(incoming)));
    }
    settle_framing(&mut parts.headers)?;
    lease.reusable = parts.version == Version::HTTP_11 && !says_close(&parts.headers);
    Ok(Response::from_parts(parts, UpstreamBody::new(incoming, lease)))
}

/// Leaves one statement of the length, the one that was followed (RFC 9112 section 6.3).
fn settle_framing(headers: &mut HeaderMap) -> Result<(), UpstreamError> {
    if headers.contains_key(TRANSFER_ENCODING) {
        let known = members(headers, &TRANSFER_ENCODING).all(|coding| {
            coding.is_empty() || coding.eq_ignore_ascii_case(b"chunked") || coding.eq_ignore_ascii_case(b"identity")
        });
        if !known {
            return Err(UpstreamError::BadResponse(
                "its transfer coding was not asked for".to_owned(),
            ));
        }
        headers.remove(CONTENT_LENGTH);
        return Ok(());
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(()) };
    if lengths.next().is_none() && !first.as_bytes().contains(&b',') {
        return Ok(());
    }
    // hyper has made sure that all of them say the same, save where there is no body to measure.
    let mut all = members(headers, &CONTENT_LENGTH);
    let first = all
        .next()
        .and_then(|length| std::str::from_utf8(length).ok()?.parse::<u64>().ok());
    let agreed = first.filter(|length| all.all(|other| other == length.to_string().as_bytes()));
    drop(all);
    match agreed {
        Some(length) => headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
        None => headers.remove(CONTENT_LENGTH),
    };
    Ok(())
}

fn says_close(headers: &HeaderMap) -> bool {
    members(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"close"))
}
