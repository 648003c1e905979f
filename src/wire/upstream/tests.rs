//! Raw-socket backends on loopback: each says exactly what a test needs it to say.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::lifecycle::Drain;
use crate::session::clock::SystemClock;
use crate::wire::body::Body;
use crate::wire::message::{self, Peer as From};
use crate::wire::server::{self, Edge, ServerOptions};

mod deadlines;
mod framing;
mod http2;
mod pooling;
mod retry;
mod tls;
mod tunnel;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Generous: only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(10);

type Peer = BufReader<TcpStream>;

/// A backend that runs `serve` for each connection, with the count of those before it.
async fn backend<F, S>(serve: F) -> SocketAddr
where
    F: Fn(Peer, usize) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for index in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(BufReader::new(stream), index));
        }
    });
    address
}

/// A backend that answers every request with `response`, and whatever each connection held, in order.
async fn answering(response: &'static [u8]) -> SocketAddr {
    backend(move |mut peer, _| async move {
        while read_request(&mut peer).await.is_some() {
            peer.write_all(response).await.unwrap();
        }
    })
    .await
}

struct Received {
    head: String,
    body: Vec<u8>,
}

/// Reads one request; `None` at the end of the connection.
async fn read_request(peer: &mut Peer) -> Option<Received> {
    let head = read_head(peer).await?;
    let lower = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
        loop {
            let mut size = String::new();
            peer.read_line(&mut size).await.ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let start = body.len();
            body.resize(start + size, 0);
            peer.read_exact(&mut body[start..]).await.ok()?;
            let mut end = String::new();
            peer.read_line(&mut end).await.ok()?;
            if size == 0 {
                break;
            }
        }
    } else if let Some((_, rest)) = lower.split_once("\r\ncontent-length: ") {
        body.resize(rest.split("\r\n").next().unwrap().parse().unwrap(), 0);
        peer.read_exact(&mut body).await.ok()?;
    }
    Some(Received { head, body })
}

/// Reads up to the empty line, which is part of what is returned.
async fn read_head(peer: &mut Peer) -> Option<String> {
    let mut head = String::new();
    loop {
        match peer.read_line(&mut head).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if head.ends_with("\r\n\r\n") => return Some(head),
            Ok(_) => {}
        }
    }
}

fn options(address: SocketAddr) -> UpstreamOptions {
    UpstreamOptions {
        host: address.ip().to_string(),
        port: address.port(),
        tls: None,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        max_age: None,
        max_connections: 64,
        http2: false,
    }
}

/// Whole exchanges in the messages of the `http` crate.
trait Ask {
    async fn send(&self, request: Request<Body>, patience: Duration) -> Result<Response<UpstreamBody>, UpstreamError>;
}

impl Ask for Upstream {
    async fn send(&self, request: Request<Body>, patience: Duration) -> Result<Response<UpstreamBody>, UpstreamError> {
        let response = self.forward(ours(request), patience, false, |_| {}).await?;
        Ok(response.into_http())
    }
}

fn ours(request: Request<Body>) -> message::Request {
    message::Request::from_http(request, From::at(([127, 0, 0, 1], 1).into()))
}

fn upstream(address: SocketAddr) -> Upstream {
    Upstream::new(options(address))
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("Host", "shop").body(Body::empty()).unwrap()
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/basket")
        .header("Host", "shop")
        .body(body.into())
        .unwrap()
}

/// A body without a known length that says what the other end puts in.
fn channel() -> (tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    });
    (sender, Body::new(axum::body::Body::from_stream(stream)))
}

/// A client of the edge with the pool behind it, as in the bridge: `serve` answers.
async fn front<F, A>(serve: F) -> Peer
where
    F: Fn(message::Request) -> A + Clone + Send + Sync + Unpin + 'static,
    A: Future<Output = message::Response> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let edge = Edge {
        options: ServerOptions {
            max_connections: 16,
            max_header_size: 8 * 1024,
            header_timeout: PATIENCE,
            keep_alive_timeout: PATIENCE,
            stall_timeout: PATIENCE,
        },
        tls: None,
        proxy_protocol: None,
        render: Arc::new(|refusal| {
            let mut response = Response::new(Bytes::from(refusal.to_string()));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }),
        drain: Drain::new(),
        clock: Arc::new(SystemClock),
        stats: Arc::default(),
    };
    // Each request in a task of its own: it outlives a client that hangs up.
    let service = move |request, _came| {
        let answer = tokio::spawn(serve(request));
        async { answer.await.unwrap() }
    };
    tokio::spawn(server::serve(listener, edge, service));
    BufReader::new(TcpStream::connect(address).await.unwrap())
}

async fn text(response: Response<UpstreamBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Waits until `holds`, or fails.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Counts, shared between a backend and its test.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Count {
    fn add(&self, by: usize) -> usize {
        self.0.fetch_add(by, Ordering::SeqCst) + by
    }

    fn sub(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Closes with a reset instead of an orderly end.
fn reset(peer: Peer) {
    let stream = peer.into_inner();
    stream.set_zero_linger().unwrap();
    drop(stream);
}
