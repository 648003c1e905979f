//! How a connection begins: what lies between its acceptance and the first byte of HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::opening::{self, Opening, PREFACE, Reopened};
use super::place::Place;
use super::proxy_protocol::{self, HeaderError};
use super::refusal::encode;
use super::{Edge, EdgeRefusal, EdgeService, connection, http2, linger};
use crate::tls;
use crate::wire::message::Peer;

/// How long a connection that is one too many may take to say whose it is, and to shake hands, before it is let go without a word.
const OVERLOAD_HANDSHAKE: Duration = Duration::from_secs(2);

/// How long a connection that is one too many may take to send something, before it is answered all the same.
const FIRST_BYTES: Duration = Duration::from_secs(1);

/// Serves a connection that has a place.
pub(super) async fn serve<S: EdgeService>(
    mut io: TcpStream,
    addr: SocketAddr,
    service: S,
    place: Place,
    edge: Arc<Edge>,
) {
    let peer = tokio::select! {
        biased;
        peer = introduced(&mut io, addr, &edge, edge.options.header_timeout) => peer,
        () = edge.drain.forced() => return,
    };
    let Some(peer) = peer else { return };
    if edge.tls.is_some() {
        // The state of TLS is not paid for by connections that have none.
        return Box::pin(serve_secure(io, peer, service, place, edge)).await;
    }
    if let Some((io, opening)) = open(io, &edge).await {
        match opening {
            Opening::Http2(first) => Box::pin(http2::run(Reopened::new(first, io), peer, service, place, edge)).await,
            Opening::Http1(first) => connection::run(io, first, peer, service, place, edge).await,
            Opening::Silent | Opening::Stalled | Opening::Gone => {}
        }
    }
}

/// Who is there: the other end, or whom it names, where it is a balancer that has to say; `None` when it does not.
async fn introduced(io: &mut TcpStream, addr: SocketAddr, edge: &Edge, limit: Duration) -> Option<Peer> {
    let spoken = edge
        .proxy_protocol
        .as_ref()
        .filter(|protocol| protocol.is_spoken_by(addr.ip()));
    let Some(protocol) = spoken else {
        return Some(Peer::at(addr));
    };
    match proxy_protocol::receive(io, limit).await {
        Ok(told) => Some(Peer {
            addr: told.client.unwrap_or(addr),
            unnamed: told.unnamed,
            secure: told.secure,
        }),
        Err(HeaderError::Nothing) => None,
        Err(error) => {
            edge.stats.proxy_failed.fetch_add(1, Ordering::Relaxed);
            protocol.complain(addr, &error);
            None
        }
    }
}

/// The connection and what it speaks; `None` when it was closed for speaking nothing.
async fn open(mut io: TcpStream, edge: &Edge) -> Option<(TcpStream, Opening)> {
    let opened = async {
        let opening = opening::read(&mut io, edge).await;
        match opening {
            Opening::Silent => linger::close_idle(&mut io).await,
            Opening::Stalled => {
                EdgeRefusal::RequestTimeout.count(&edge.stats);
                let wire = encode(&(edge.render)(EdgeRefusal::RequestTimeout), edge.clock.now());
                linger::close(&mut io, &wire).await;
            }
            Opening::Http1(_) | Opening::Http2(_) | Opening::Gone => {}
        }
        opening
    };
    let opening = tokio::select! {
        biased;
        opening = opened => opening,
        () = edge.drain.forced() => return None,
    };
    Some((io, opening))
}

async fn serve_secure<S: EdgeService>(io: TcpStream, peer: Peer, service: S, place: Place, edge: Arc<Edge>) {
    let Some(tls) = &edge.tls else { return };
    let shaken = tokio::select! {
        shaken = shake_hands(io, tls, edge.options.header_timeout) => shaken,
        () = edge.drain.forced() => return,
    };
    let peer = Peer { secure: true, ..peer };
    match shaken {
        Ok(io) if speaks_http2(&io) => Box::pin(http2::run(io, peer, service, place, edge)).await,
        Ok(io) => connection::run(io, BytesMut::new(), peer, service, place, edge).await,
        Err(error) => {
            edge.stats.tls_failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(client = %peer.addr, %error, "a client did not get through the TLS handshake");
        }
    }
}

/// What was agreed on by ALPN.
fn speaks_http2(io: &TlsStream<TcpStream>) -> bool {
    io.get_ref().1.alpn_protocol() == Some(tls::HTTP2)
}

/// Answers a connection that is one too many, in the language that it expects, once it has asked something.
pub(super) async fn refuse(mut io: TcpStream, addr: SocketAddr, edge: &Edge) {
    let limit = OVERLOAD_HANDSHAKE.min(edge.options.header_timeout);
    if introduced(&mut io, addr, edge, limit).await.is_none() {
        return;
    }
    let Some(tls) = &edge.tls else {
        return refuse_in_clear(&mut io, edge).await;
    };
    match shake_hands(io, tls, limit).await {
        Ok(mut io) if speaks_http2(&io) => http2::refuse(&mut io, edge).await,
        Ok(mut io) => refuse_in_clear(&mut io, edge).await,
        Err(_) => {}
    }
}

async fn refuse_in_clear<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, edge: &Edge) {
    let mut first = [0; PREFACE.len()];
    let asked = tokio::time::timeout(FIRST_BYTES, io.read(&mut first)).await;
    let read = match asked {
        Ok(Ok(0) | Err(_)) => return,
        Ok(Ok(read)) => first.get(..read).unwrap_or_default(),
        Err(_elapsed) => &[],
    };
    if read.starts_with(b"PRI ") && PREFACE.starts_with(read) {
        return http2::refuse(io, edge).await;
    }
    EdgeRefusal::Overloaded.count(&edge.stats);
    let wire = encode(&(edge.render)(EdgeRefusal::Overloaded), edge.clock.now());
    linger::close(io, &wire).await;
}

/// The stream inside, unless the client takes too long, does not come to terms, or leaves.
async fn shake_hands(io: TcpStream, tls: &tls::Server, limit: Duration) -> io::Result<TlsStream<TcpStream>> {
    let shaken = tokio::time::timeout(limit, tls.accept(io)).await;
    shaken.unwrap_or_else(|_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long")))
}
