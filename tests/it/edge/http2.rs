//! HTTP/2 towards clients: with curl and h2load as they are, and with a client that can do what they cannot.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{OK, SOON, connect, curl, run, with_tls};
use crate::support::bridge::Bridge;
use crate::support::client::{Answer, Call};
use crate::support::pki::Authority;
use crate::support::raw::RawBackend;
use crate::support::shop::Shop;
use crate::support::{InstallId, scaled};

type Body = BoxBody<Bytes, Infallible>;

/// A connection of HTTP/2 in clear text, by prior knowledge.
async fn client(bridge: &Bridge) -> SendRequest<Body> {
    let stream = TcpStream::connect(bridge.traffic).await.expect("a connection");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (client, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

fn post(path: &str, id: &InstallId) -> http::request::Builder {
    Request::post(format!("http://shop.example{path}"))
        .header("x-install-id", id.as_str())
        .header("content-type", "application/json")
}

async fn send(client: &mut SendRequest<Body>, request: Request<Body>) -> Response<Incoming> {
    let sent = tokio::time::timeout(SOON, client.send_request(request)).await;
    sent.expect("a response in time").expect("a response")
}

async fn whole(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.collect().await.expect("a whole body").to_bytes(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http_2_by_alpn_and_the_backend_hears_http_1() {
    let (backend, authority) = (RawBackend::answering(OK).await, Authority::new("ours"));
    let bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .start()
        .await;
    for options in [&["--http2"][..], &["--http1.1"]] {
        let told = ["-w", " over %{http_version}", "-b", "a=1; b=2"];
        let options = [options, &told].concat();
        let version = if options[0] == "--http2" { "2" } else { "1.1" };
        let said = curl(&bridge, &authority, &options).await.expect("an answer");
        assert_eq!(said, format!("ok over {version}"));
        let seen = backend.seen().pop().expect("a request").head;
        assert_eq!(seen.first, "GET /a HTTP/1.1");
        let host = format!("shop.example:{}", bridge.traffic.port());
        assert_eq!((seen.one("Host"), seen.one("X-Forwarded-Host")), (&*host, &*host));
        assert_eq!(seen.one("X-Forwarded-Proto"), "https");
        assert_eq!(seen.one("Via"), format!("{version} session-bridge"));
        assert!(seen.all("Cookie").is_empty(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_with_prior_knowledge_has_a_session() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]).start().await;
    let id = InstallId::random();
    let url = format!("http://{}/basket/add", bridge.traffic);
    let header = format!("X-Install-Id: {}", id.as_str());
    let options = [
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--http2-prior-knowledge",
        "-i",
        "-d",
        "{}",
    ];
    for basket in 1..=3 {
        let output = run("curl", "curl", &[&options[..], &["-H", &header, &url]].concat()).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("HTTP/2 200") && !said.contains("set-cookie"), "{said}");
        assert!(said.contains(&format!("\"basket\":{basket}")), "{said}");
    }
    let over_http_1 = bridge.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(over_http_1["basket"], 3, "the same session");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_has_no_request_fail() {
    let (shop, authority) = (Shop::start().await, Authority::new("ours"));
    let bridge = Bridge::before(&shop.url()).start().await;
    let secure = with_tls(&shop.url(), &authority.issue(&["shop.example"])).start().await;
    let requests = scaled(3000, 100_000).to_string();
    for url in [
        format!("http://{}/basket", bridge.traffic),
        format!("https://{}/basket", secure.traffic),
    ] {
        let arguments = [
            "-n",
            &requests,
            "-c",
            "8",
            "-m",
            "32",
            "-H",
            "x-install-id: 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c",
            &url,
        ];
        let output = run("h2load", "nghttp2-client", &arguments).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let clean = format!(
            "requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
        );
        assert!(said.contains(&clean), "{url}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways_and_carry_no_cookies() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                   2\r\nok\r\n0\r\nX-Sum: 7\r\nSet-Cookie: sid=stolen\r\nConnection: close\r\n\r\n";
    let backend = RawBackend::scripted_before_body(move |request, mut stream| async move {
        let mut body = Vec::new();
        assert!(request.head.one("Transfer-Encoding") == "chunked", "{request:?}");
        while !body.ends_with(b"\r\n\r\n") {
            body.extend(stream.bytes(1).await);
        }
        let text = String::from_utf8_lossy(&body).to_lowercase();
        assert!(text.contains("\r\nx-up: 1\r\n") && !text.contains("cookie"), "{text}");
        stream.write(chunked).await;
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = client(&bridge).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-up", HeaderValue::from_static("1"));
    trailers.insert("cookie", HeaderValue::from_static("sid=mine"));
    let frames = [Frame::data(Bytes::from_static(b"{}")), Frame::trailers(trailers)];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = post("/", &InstallId::random())
        .header("te", "trailers")
        .header("trailer", "x-up, cookie")
        .body(body.boxed())
        .unwrap();
    let response = send(&mut client, request).await;
    assert_eq!(response.version(), http::Version::HTTP_2);
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().expect("trailers");
    assert_eq!(collected.to_bytes(), "ok");
    assert_eq!(trailers["x-sum"], "7");
    assert!(!trailers.contains_key("set-cookie") && !trailers.contains_key("connection"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_problems_and_crumbs_of_cookies_are_dropped() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).start().await;
    let mut client = client(&bridge).await;
    let id = InstallId::random();
    let crumbs = post("/basket/add", &id).header("cookie", "a=1").header("cookie", "b=2");
    let answer = whole(send(&mut client, crumbs.body(full("{}")).unwrap()).await).await;
    assert_eq!(answer.json()["cookies"], "", "the client's own are not passed on");
    for (request, status, slug) in [
        (
            Request::get("http://shop.example/x").body(full("")),
            400,
            "install-id-missing",
        ),
        (
            post("/x", &id).header("host", "other.example").body(full("")),
            400,
            "bad-request",
        ),
        (
            post("/x", &id).header("x", "y".repeat(33 << 10)).body(full("")),
            431,
            "header-too-large",
        ),
    ] {
        let answer = whole(send(&mut client, request.unwrap()).await).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, slug));
    }
    let health = Request::get("http://shop.example/healthz").body(full("")).unwrap();
    assert_eq!(send(&mut client, health).await.status(), 200);
    let mut asterisk = http::uri::Parts::default();
    asterisk.scheme = Some(http::uri::Scheme::HTTP);
    asterisk.authority = Some("shop.example".parse().unwrap());
    asterisk.path_and_query = Some("*".parse().unwrap());
    let options = Request::options(http::Uri::from_parts(asterisk).unwrap()).header("x-install-id", id.as_str());
    assert!(send(&mut client, options.body(full("")).unwrap()).await.status() != 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_passed_on_as_they_come_and_other_streams_go_on_beside() {
    let backend = RawBackend::scripted(|request, mut stream| async move {
        if request.head.first.contains("/events") {
            stream
                .write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                .await;
            stream.rest().await;
        } else {
            stream.write(OK).await;
        }
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = client(&bridge).await;
    let id = InstallId::random();
    let mut events = send(&mut client, post("/events", &id).body(full("{}")).unwrap())
        .await
        .into_body();
    let first = tokio::time::timeout(SOON, events.frame())
        .await
        .expect("an event at once");
    assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    let beside = send(&mut client, post("/", &id).body(full("{}")).unwrap()).await;
    assert_eq!(whole(beside).await.text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_request_whose_client_resets_it_is_seen_through() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]).start().await;
    let id = InstallId::random();
    let mut client = client(&bridge).await;
    let slow = post("/basket/add?after=500", &id).body(full("{}")).unwrap();
    let sent = tokio::spawn(client.send_request(slow));
    shop.wait_for("/basket/add").await;
    sent.abort();
    let _ = sent.await;
    let next = whole(send(&mut client, post("/basket", &id).body(full("{}")).unwrap()).await).await;
    assert_eq!(
        next.json()["basket"],
        1,
        "the session that it started was kept: {}",
        next.text()
    );
}

/// CVE-2023-44487, in the slow form: each request is reset only once the backend has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_what_it_asks_for_gets_no_more_of_the_backend_than_its_share() {
    const SHARE: usize = 256;
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]).start().await;
    let mut hostile = client(&bridge).await;
    let mut refused = 0;
    for n in 0..SHARE + 50 {
        let path = format!("/basket/add?after=20000&tag={n}.");
        let slow = post(&path, &InstallId::random()).body(full("{}")).unwrap();
        let (sent, tag) = (hostile.send_request(slow), format!("{n}."));
        tokio::select! {
            answer = sent => {
                assert_eq!(answer.expect("an answer").status(), 503);
                refused += 1;
            }
            // From here on it is seen through.
            () = shop.wait_for_tag(&tag) => {}
        }
    }
    assert_eq!((shop.most_in_flight(), refused), (SHARE, 50));
    let mut another = client(&bridge).await;
    let basket = post("/basket", &InstallId::random()).body(full("{}")).unwrap();
    assert_eq!(send(&mut another, basket).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_offers_no_alpn_is_served_http_1_over_tls() {
    let (backend, authority) = (RawBackend::answering(OK).await, Authority::new("ours"));
    let bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .start()
        .await;
    let stream = connect(&authority, bridge.traffic).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", "shop.example")
        .header("x-install-id", InstallId::random().as_str());
    let response = client.send_request(request.body(full("")).unwrap()).await.unwrap();
    assert_eq!(
        (response.version(), response.status().as_u16()),
        (http::Version::HTTP_11, 200)
    );
}
