//! The client-facing edge: accepts connections, limits them, and serves what [`strict`](super::strict) has
//! judged (H3, H4, F6, F7).
//!
//! # The life of a connection
//!
//! 1. It is accepted while fewer than [`ServerOptions::max_connections`] are open. One more is told `503 overloaded`
//!    rather than left in the kernel's queue, where it would run into a timeout without a word: the load balancer can
//!    try the next replica at once. Only when [`OVERLOAD_REFUSALS`] such answers are under way is accepting paused.
//!    What it begins with, or what was agreed on by ALPN, says whether it is one of HTTP/1.1, of which this page tells on,
//!    or of HTTP/2 (`server/http2.rs`).
//! 2. One task serves it: it reads a head, has [`strict`](super::strict) judge it, hands the request to the service, whose
//!    future it polls itself, and writes the response. The next request is not looked at before the response of the last is
//!    on the wire, so that pipelined requests are served in turn, and what follows an upgrade is judged only when the
//!    answer was not a 101. A body is read and judged as the service asks for it.
//! 3. A refused request never reaches the service. The responses of earlier ones go out first, then the refusal, then
//!    the connection *lingers*: it reads and discards for a moment, because closing with unread input would reset the
//!    connection and take the answer from the client.
//! 4. A body whose framing breaks was judged too late to keep its head from the service: the body fails, and a response
//!    that has not begun becomes the refusal.
//! 5. A client that has ended its side (a half-closed connection, RFC 9112 §9.6) gets its answer all the same; one whose
//!    connection fails is gone, and the service's future is dropped. Of the former kind cannot be told whether it still
//!    listens: a response without a known end of which nothing comes for two seconds is given up.
//!
//! # Deadlines
//!
//! A header of the PROXY protocol has to come, and a handshake of TLS to be done, within
//! [`ServerOptions::header_timeout`] each. Behind them there are three, told apart: a
//! silent peer between requests is left without a word ([`ServerOptions::keep_alive_timeout`]), a head that has begun
//! and does not end gets `408` ([`ServerOptions::header_timeout`]), and so does a body that stalls
//! ([`ServerOptions::stall_timeout`], which also ends a peer that takes no response bytes).
//!
//! # Draining
//!
//! From the first moment of a shutdown responses say `Connection: close`; a connection of HTTP/2 is told so by `GOAWAY`.
//! Once it is *closing*, what the kernel has accepted already is still served, and an idle connection is closed when it
//! has been idle for [`CLOSING_GRACE`] of that stage: a request that was on its way when the shutdown came is answered.
//! One that crosses the close itself is read by nobody, and its client reads the end of the stream, not a reset: it may
//! send it again. The same holds for connections that are closed by [`ServerOptions::keep_alive_timeout`]. Connections
//! that are left when the shutdown is forced are dropped.

mod accept;
mod begin;
mod connection;
mod http2;
mod intake;
mod lent;
mod linger;
mod opening;
mod place;
mod proxy_protocol;
mod refusal;
mod reply;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;

use super::message::{Request, Response, ResponseHead};
use crate::lifecycle::{Drain, Load};
use crate::session::clock::Clock;
use crate::tls;

pub use accept::OVERLOAD_REFUSALS;
pub use http2::UnderWay;
pub use proxy_protocol::ProxyProtocol;
pub use refusal::{EdgeRefusal, RenderRefusal};

/// How long a connection has to have been idle before it is closed by a shutdown, and how long all of them are served
/// on once it closes. A client that uses its connection has a request on the way; it is answered with
/// `Connection: close` instead.
pub const CLOSING_GRACE: Duration = Duration::from_millis(500);

/// Sends informational responses (1xx) ahead of the final one.
#[derive(Clone)]
pub struct Informer {
    connection: Arc<dyn intake::Inform>,
    /// Which of the requests of the connection it belongs to.
    turn: u64,
    /// All of it was here when it was handed on.
    whole: bool,
}

impl Informer {
    /// Sends it, unless the request is no longer in hand.
    pub fn send(&self, response: &ResponseHead) {
        self.connection.inform(self.turn, response);
    }

    /// Whether all of the request has come in, its body included.
    #[must_use]
    pub fn has_whole_request(&self) -> bool {
        self.whole || self.connection.is_received(self.turn)
    }
}

/// The limits of the traffic listener.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// How many connections may be open at once; upgraded ones count. At least one.
    pub max_connections: usize,
    /// The most bytes of a request head, its empty line included.
    pub max_header_size: usize,
    /// From the first byte of a request head to its last; for a header of the PROXY protocol, from the acceptance of
    /// the connection; and for the handshake of TLS.
    pub header_timeout: Duration,
    /// How long a connection may be silent before its first request, and between two.
    pub keep_alive_timeout: Duration,
    /// How long a peer may hold up a body: send nothing of a request body that is waited for, or take nothing of a
    /// response. Upgraded connections may be silent for as long as they like, but both sides have to take what
    /// is sent.
    pub stall_timeout: Duration,
}

/// What the edge counts. All but the first three only grow.
#[derive(Debug, Default)]
pub struct EdgeStats {
    /// Connections that are open now, upgraded and lingering ones included.
    pub open: AtomicU64,
    /// Requests that were handed to the service and whose response is not on the wire yet.
    pub requests: AtomicU64,
    /// Connections that were upgraded.
    pub tunnels: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Errors of `accept`, such as a lack of file descriptors.
    pub accept_errors: AtomicU64,
    /// Requests refused as malformed.
    pub bad_request: AtomicU64,
    /// Requests refused for the size of their head.
    pub header_too_large: AtomicU64,
    /// Requests refused for taking too long to come in.
    pub request_timeout: AtomicU64,
    /// Connections refused for being too many.
    pub overloaded: AtomicU64,
    /// Connections on which the handshake of TLS failed.
    pub tls_failed: AtomicU64,
    /// Connections of trusted proxies that began without a good header of the PROXY protocol.
    pub proxy_failed: AtomicU64,
}

impl EdgeStats {
    /// What is open now.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            connections: self.open.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            tunnels: self.tunnels.load(Ordering::Relaxed),
        }
    }
}

/// What the edge needs besides a listener and a service.
#[derive(Clone)]
pub struct Edge {
    /// The limits.
    pub options: ServerOptions,
    /// What to show to clients; `None`: clear text.
    pub tls: Option<tls::Server>,
    /// Whose connections begin with the PROXY protocol; `None`: nobody's.
    pub proxy_protocol: Option<Arc<ProxyProtocol>>,
    /// Turns a refusal into the response that the client gets.
    pub render: RenderRefusal,
    /// When to stop.
    pub drain: Drain,
    /// For the `Date` of refusals.
    pub clock: Arc<dyn Clock>,
    /// Where it counts.
    pub stats: Arc<EdgeStats>,
}

/// What comes with a request besides the request.
#[derive(Default)]
pub struct Came {
    /// The way back for informational responses, where the client takes them.
    pub informer: Option<Informer>,
    /// To be held until the work on the request is done, which may be after the client has left.
    pub under_way: Option<UnderWay>,
}

/// A service of requests, each with its body as it comes.
pub trait EdgeService: Clone + Send + Sync + Unpin + 'static {
    /// The answer in the making. Dropped when the client is gone.
    type Future: Future<Output = Response> + Send + 'static;

    /// Begins to answer.
    fn call(&self, request: Request, came: Came) -> Self::Future;
}

/// A function is one.
impl<F, A> EdgeService for F
where
    F: Fn(Request, Came) -> A + Clone + Send + Sync + Unpin + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    type Future = A;

    fn call(&self, request: Request, came: Came) -> A {
        self(request, came)
    }
}

/// Serves HTTP/1.1 and HTTP/2 on `listener`, over TLS or in clear text, until the shutdown is closing, then closes the listener and returns.
/// The connections go on in tasks that the [`Drain`] waits for.
///
/// No error ends it: a failing `accept` is logged and tried again after a pause.
pub async fn serve<S: EdgeService>(listener: TcpListener, edge: Edge, service: S) {
    accept::run(listener, Arc::new(edge), service).await;
}

#[cfg(test)]
mod tests;
