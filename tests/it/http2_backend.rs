//! `upstream.http2`: sessions, streams and upgrades with a backend that speaks HTTP/2.

mod grpc;
mod load;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::pki::Authority;
use crate::support::raw::{RawBackend, RawStream};
use crate::support::shop::Shop;
use crate::support::{InstallId, local};

const SOON: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, Infallible>;

/// A bridge that speaks HTTP/2 to the backend at `url`.
fn before(url: &str) -> BridgeBuilder {
    Bridge::before(url).set("upstream.http2", true)
}

/// A backend of HTTP/2 that answers by `answer`.
async fn serving<F>(answer: fn(Request<Incoming>) -> F) -> SocketAddr
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind(local(0)).await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(request).await) });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// TLS before `shop`: HTTP/2 and HTTP/1.1 by ALPN.
async fn secured(shop: SocketAddr, authority: &Authority) -> SocketAddr {
    let identity = authority.issue(&["127.0.0.1"]);
    let read = |path| std::fs::read_to_string(path).expect("a PEM file");
    let tls = session_bridge::tls::Server::new(&read(&identity.cert), &read(&identity.key)).expect("an identity");
    let listener = TcpListener::bind(local(0)).await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(mut outer) = tls.accept(stream).await else {
                    return;
                };
                let mut inner = TcpStream::connect(shop).await.expect("the shop");
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    address
}

/// A client of HTTP/2, by prior knowledge.
async fn client(bridge: &Bridge) -> SendRequest<Body> {
    let stream = TcpStream::connect(bridge.traffic).await.expect("a connection");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (client, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

fn post(bridge: &Bridge, path: &str, id: &InstallId) -> Request<Body> {
    // Cookies belong to one host.
    Request::post(format!("http://{}{path}", bridge.traffic))
        .header("x-install-id", id.as_str())
        .body(Full::new(Bytes::from_static(b"{}")).boxed())
        .expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_kept_over_it_in_clear_and_over_tls() {
    let (shop, authority) = (Shop::start().await, Authority::new("ours"));
    let secure = secured(shop.address(), &authority).await;
    let ca = authority.file().to_str().expect("UTF-8").to_owned();
    for bridge in [
        before(&shop.url()),
        before(&format!("https://{secure}")).set("upstream.tls.ca", ca),
    ] {
        let bridge = bridge.id_cookies(&["sid"]).start().await;
        let started = shop.sessions_started();
        let id = InstallId::random();
        // First requests that come together start one session, as over HTTP/1.1.
        let first = futures_util::future::join_all((0..20).map(|_| bridge.ok(Call::post("/basket/add").of(&id)))).await;
        assert_eq!(first.len(), 20);
        let mut http2 = client(&bridge).await;
        let answer = http2
            .send_request(post(&bridge, "/basket", &id))
            .await
            .expect("an answer");
        assert!(!answer.headers().contains_key("set-cookie"));
        assert_eq!(answer.headers()["via"], "2 session-bridge");
        let basket = answer.into_body().collect().await.expect("a body").to_bytes();
        let basket: serde_json::Value = serde_json::from_slice(&basket).expect("JSON");
        assert_eq!(
            (basket["basket"].as_u64(), shop.sessions_started() - started),
            (Some(20), 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_prefetched_over_it() {
    let backend = serving(|request| async move {
        let cookie = request.headers().get("cookie").cloned();
        let mut response = Response::new(Full::default().boxed());
        match cookie {
            None => response
                .headers_mut()
                .insert("set-cookie", HeaderValue::from_static("sid=1")),
            Some(cookie) => response.headers_mut().insert("x-cookie", cookie),
        };
        response
    })
    .await;
    let bridge = before(&format!("http://{backend}"))
        .id_cookies(&["sid"])
        .set("session.create", "prefetch")
        .start()
        .await;
    let answer = bridge.send(Call::post("/").of(&InstallId::random())).await;
    assert_eq!(
        (answer.status, &answer.headers["x-cookie"]),
        (200, &HeaderValue::from_static("sid=1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_request_whose_client_has_left_is_seen_through() {
    let shop = Shop::start().await;
    let bridge = before(&shop.url()).id_cookies(&["sid"]).start().await;
    let id = InstallId::random();
    let mut leaving = client(&bridge).await;
    let sent = tokio::spawn(leaving.send_request(post(&bridge, "/basket/add?after=500", &id)));
    shop.wait_for("/basket/add").await;
    sent.abort();
    let _ = sent.await;
    let next = bridge.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(next["basket"], 1, "the session that it started was kept: {next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_passed_on_as_they_come() {
    let backend = serving(|request| async move {
        let body = if request.uri().path() == "/events" {
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))]);
            http_body_util::BodyExt::boxed(StreamBody::new(first.chain(futures_util::stream::pending())))
        } else {
            Full::from("beside").boxed()
        };
        Response::new(body)
    })
    .await;
    let bridge = before(&format!("http://{backend}")).start().await;
    let id = InstallId::random();
    let mut client = client(&bridge).await;
    let mut events = client
        .send_request(post(&bridge, "/events", &id))
        .await
        .expect("an answer")
        .into_body();
    let first = tokio::time::timeout(SOON, events.frame())
        .await
        .expect("an event at once");
    assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    let beside = client.send_request(post(&bridge, "/", &id)).await.expect("an answer");
    assert_eq!(beside.into_body().collect().await.unwrap().to_bytes(), "beside");
}

/// A port on which two backends are: those that begin with the preface of HTTP/2 come to the one, all others to the other.
async fn either(http2: SocketAddr, http1: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(local(0)).await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut outer, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0; 3];
                let _ = outer.peek(&mut first).await;
                let to = if &first == b"PRI" { http2 } else { http1 };
                let mut inner = TcpStream::connect(to).await.expect("a backend");
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_over_http_1_beside_it() {
    let echo = RawBackend::scripted(|request, mut stream| async move {
        assert_eq!(request.head.one("Upgrade"), "websocket");
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write(head).await;
        let mut echo = stream.bytes(4).await;
        echo.reverse();
        stream.write(echo).await;
    })
    .await;
    let (shop, authority) = (Shop::start().await, Authority::new("ours"));
    let both = either(shop.address(), echo.address()).await;
    let secure = secured(both, &authority).await;
    let ca = authority.file().to_str().expect("UTF-8").to_owned();
    for bridge in [
        before(&format!("http://{both}")),
        before(&format!("https://{secure}")).set("upstream.tls.ca", ca),
    ] {
        let (bridge, id) = (bridge.start().await, InstallId::random());
        assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["basket"], 1);
        let mut socket = RawStream::connect(bridge.traffic).await;
        let head = format!(
            "GET /socket HTTP/1.1\r\nHost: shop.example\r\nX-Install-Id: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            id.as_str()
        );
        socket.write(head).await;
        assert_eq!(socket.head().await.expect("a head").status(), 101);
        socket.write(b"\x81ab\x00").await;
        assert_eq!(socket.rest().await, b"\x00ba\x81");
        assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["basket"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_speak_it_is_told_by_check_and_refused() {
    let backend =
        RawBackend::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
    let bridge = before(&backend.url()).start().await;
    let answer = bridge.send(Call::post("/").of(&InstallId::random())).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (502, "upstream-unreachable")
    );
    let mut check = Command::new(env!("CARGO_BIN_EXE_session-bridge"));
    check.arg("check").env("SESSION_BRIDGE_UPSTREAM__HTTP2", "true");
    check.env("SESSION_BRIDGE_UPSTREAM__URL", backend.url());
    check.env("SESSION_BRIDGE_STORE__URL", "memory:");
    let output = check.output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("does not speak HTTP/2"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_pass_without_being_announced_and_carry_no_cookies() {
    let backend = serving(|request| async move {
        let trailers = request.into_body().collect().await.expect("a body").trailers().cloned();
        let mut response = Response::new(Full::default().boxed());
        *response.headers_mut() = trailers.expect("trailers");
        response
    })
    .await;
    let bridge = before(&format!("http://{backend}")).start().await;
    let mut trailers = http::HeaderMap::new();
    for name in ["x-sum", "cookie", "x-forwarded-for", "x-request-id"] {
        trailers.insert(name, HeaderValue::from_static("mine"));
    }
    let frames = [Frame::data(Bytes::from_static(b"{}")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = post(&bridge, "/", &InstallId::random()).map(|_| http_body_util::BodyExt::boxed(body));
    let answer = client(&bridge).await.send_request(request).await.expect("an answer");
    assert_eq!(answer.headers()["x-sum"], "mine");
    for name in ["cookie", "x-forwarded-for"] {
        assert!(!answer.headers().contains_key(name), "{answer:?}");
    }
    assert_ne!(answer.headers()["x-request-id"], "mine");
}
