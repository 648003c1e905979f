//! How a connection begins: what lies between its acceptance and the first byte of HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::guard::Place;
use super::{ClientAddr, Edge, EdgeService, Secure, connection};
use crate::tls;

/// How long a client that is one too many may take to shake hands before it is let go without a word.
const OVERLOAD_HANDSHAKE: Duration = Duration::from_secs(2);

/// Who is at the other end of a connection, and by which way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    /// Over TLS.
    pub(super) secure: bool,
}

impl Peer {
    /// Says so on a request.
    pub(super) fn introduce(self, extensions: &mut http::Extensions) {
        extensions.insert(ClientAddr(self.addr));
        if self.secure {
            extensions.insert(Secure);
        }
    }
}

/// Serves a connection that has a place.
pub(super) async fn serve<S: EdgeService>(
    io: TcpStream,
    addr: SocketAddr,
    http1: &http1::Builder,
    service: S,
    place: Place,
    edge: Arc<Edge>,
) {
    let Some(tls) = &edge.tls else {
        let peer = Peer { addr, secure: false };
        return connection::run(io, peer, http1, service, place, edge).await;
    };
    let shaken = tokio::select! {
        shaken = shake_hands(io, tls, edge.options.header_timeout) => shaken,
        () = edge.drain.forced() => return,
    };
    match shaken {
        Ok(io) => {
            let peer = Peer { addr, secure: true };
            // The state of TLS is not paid for by connections that have none.
            Box::pin(connection::run(io, peer, http1, service, place, edge)).await;
        }
        Err(error) => {
            edge.stats.tls_failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%addr, %error, "a client did not get through the TLS handshake");
        }
    }
}

/// Answers a connection that is one too many, in the language that it expects.
pub(super) async fn refuse(mut io: TcpStream, edge: &Edge) {
    let Some(tls) = &edge.tls else {
        return connection::refuse(&mut io, edge).await;
    };
    if let Ok(mut io) = shake_hands(io, tls, OVERLOAD_HANDSHAKE.min(edge.options.header_timeout)).await {
        connection::refuse(&mut io, edge).await;
    }
}

/// The stream inside, unless the client takes too long, does not come to terms, or leaves.
async fn shake_hands(io: TcpStream, tls: &tls::Server, limit: Duration) -> io::Result<TlsStream<TcpStream>> {
    let shaken = tokio::time::timeout(limit, tls.accept(io)).await;
    shaken.unwrap_or_else(|_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long")))
}
