//! The PROXY protocol: with curl's own header, and by hand.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{OK, REQUEST, SOON, connect_over, curl, rest, with_tls};
use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::eventually;
use crate::support::pki::Authority;
use crate::support::raw::{RawBackend, RawHead, RawStream};

const LINE: &str = "PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn spoken_by(network: &str, bridge: BridgeBuilder) -> BridgeBuilder {
    bridge
        .set("server.proxy_protocol", true)
        .set("server.trusted_proxies", vec![toml::Value::from(network)])
}

/// A header of version 2 for 203.0.113.9, with these TLVs.
fn block(command: u8, tlvs: &[u8]) -> Vec<u8> {
    let addresses = [203, 0, 113, 9, 10, 0, 0, 1, 0xdc, 4, 1, 0xbb];
    let length = u16::try_from(addresses.len() + tlvs.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, 0x11], &length, &addresses, tlvs].concat()
}

/// Sends the pieces one by one and a request behind the last; what the backend was told of it.
async fn told(bridge: &Bridge, backend: &RawBackend, pieces: &[&[u8]], fields: &str) -> RawHead {
    let mut stream = RawStream::connect(bridge.traffic).await;
    let (last, first) = pieces.split_last().unwrap();
    for piece in first {
        stream.write(piece).await;
        tokio::task::yield_now().await;
    }
    let request = REQUEST.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    let (head, _) = stream.exchange([last, request.as_bytes()].concat()).await;
    assert_eq!(head.status(), 200);
    backend.seen().pop().expect("a request").head
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_that_a_balancer_names_is_the_peer() {
    let backend = RawBackend::answering(OK).await;
    let bridge = spoken_by("127.0.0.0/8", Bridge::before(&backend.url())).start().await;
    let claim = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\n";
    let (line, two) = (LINE.as_bytes(), block(0x21, &[]));
    for pieces in [
        &[line][..],
        &[&line[..3], &line[3..14], &line[14..40], &line[40..]],
        &[&two],
        &[&two[..7], &two[7..20], &two[20..]],
    ] {
        let seen = told(&bridge, &backend, pieces, claim).await;
        assert_eq!(seen.one("X-Forwarded-For"), "203.0.113.9", "the client is a stranger");
        assert_eq!(seen.one("X-Forwarded-Proto"), "http");
        assert!(seen.one("Forwarded").starts_with("for=203.0.113.9;"), "{seen:?}");
    }
    let over_tls = block(0x21, &[0x20, 0, 5, 1, 0, 0, 0, 0]);
    let seen = told(&bridge, &backend, &[&over_tls], "").await;
    assert_eq!(
        (seen.one("X-Forwarded-For"), seen.one("X-Forwarded-Proto")),
        ("203.0.113.9", "https")
    );
    for own in [&block(0x20, &[])[..], &[SIGNATURE, &[0x20, 0, 0, 0]].concat()] {
        let seen = told(&bridge, &backend, &[own], claim).await;
        assert_eq!(
            seen.one("X-Forwarded-For"),
            "198.51.100.1, 127.0.0.1",
            "the balancer is believed"
        );
    }
    for unnamed in [
        &b"PROXY UNKNOWN\r\n"[..],
        &[SIGNATURE, &[0x21, 0, 0, 0]].concat(),
        &[SIGNATURE, &[0x21, 0x31, 0, 216], &[0; 216]].concat(),
    ] {
        let claims = format!("{claim}X_Forwarded_For: 198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\n");
        let seen = told(&bridge, &backend, &[unnamed], &claims).await;
        assert_eq!(seen.one("X-Forwarded-For"), "127.0.0.1", "somebody is not");
        assert_eq!(seen.one("X-Forwarded-Proto"), "http");
        assert!(seen.one("Forwarded").starts_with("for=127.0.0.1;"), "{seen:?}");
        assert!(seen.all("X-Real-IP").is_empty() && seen.all("X_Forwarded_For").is_empty());
    }
    let of_our_own = "PROXY TCP4 127.9.9.9 10.0.0.1 1 2\r\n";
    let seen = told(&bridge, &backend, &[of_our_own.as_bytes()], claim).await;
    assert_eq!(
        seen.one("X-Forwarded-For"),
        "198.51.100.1, 127.9.9.9",
        "a proxy before the balancer"
    );
    assert!(
        bridge
            .metrics()
            .await
            .contains("session_bridge_client_proxy_failures_total 0\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_comes_before_tls_and_before_http_2() {
    let (backend, authority) = (RawBackend::answering(OK).await, Authority::new("ours"));
    let bridge = spoken_by(
        "127.0.0.0/8",
        with_tls(&backend.url(), &authority.issue(&["shop.example"])),
    )
    .start()
    .await;
    let mut stream = TcpStream::connect(bridge.traffic).await.unwrap();
    stream.write_all(LINE.as_bytes()).await.unwrap();
    let mut stream = connect_over(&authority, stream).await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
    let seen = backend.only().head;
    assert_eq!(
        (seen.one("X-Forwarded-For"), seen.one("X-Forwarded-Proto")),
        ("203.0.113.9", "https")
    );

    for version in ["--http2", "--http1.1"] {
        let said = curl(&bridge, &authority, &["--haproxy-protocol", version]).await;
        assert_eq!(said.as_deref(), Ok("ok"), "{version}");
        assert_eq!(
            backend
                .seen()
                .pop()
                .unwrap()
                .head
                .one("X-Forwarded-For")
                .split(", ")
                .count(),
            1
        );
    }
    curl(&bridge, &authority, &[]).await.expect_err("without a header");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_does_not_say_who_it_is_for_is_closed_and_counted() {
    let backend = RawBackend::answering(OK).await;
    let bridge = spoken_by("127.0.0.0/8", Bridge::before(&backend.url()))
        .set("server.header_timeout", "1s")
        .start()
        .await;
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let bad_block = block(0x21, &[1, 0, 9]);
    let mut failures = 0;
    for bytes in [
        REQUEST.as_bytes(),
        b"PROXY TCP4 nonsense\r\n",
        long.as_bytes(),
        &bad_block,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = RawStream::connect(bridge.traffic).await;
        stream.write(bytes).await;
        assert!(stream.rest().await.is_empty(), "nothing is answered: {bytes:?}");
        failures += 1;
    }
    for begun in ["", "PROXY TCP4 203.0.113.9"] {
        let start = Instant::now();
        let mut stream = RawStream::connect(bridge.traffic).await;
        stream.write(begun).await;
        assert!(stream.rest().await.is_empty());
        assert!(start.elapsed() >= std::time::Duration::from_secs(1), "{begun:?}");
        failures += 1;
    }
    // A look at the port.
    drop(RawStream::connect(bridge.traffic).await);
    let counted = format!("session_bridge_client_proxy_failures_total {failures}\n");
    eventually("all of them to be counted", SOON, async || {
        bridge.metrics().await.contains(&counted)
    })
    .await;
    assert_eq!(
        bridge.logs().matches("it must begin with a PROXY header").count(),
        1,
        "told once in a while"
    );
    assert!(backend.seen().is_empty());
    told(&bridge, &backend, &[LINE.as_bytes()], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_elsewhere_a_header_is_not_believed_and_none_is_needed() {
    let backend = RawBackend::answering(OK).await;
    let bridge = spoken_by("10.0.0.0/8", Bridge::before(&backend.url())).start().await;
    let seen = told(&bridge, &backend, &[b""], "").await;
    assert_eq!(seen.one("X-Forwarded-For"), "127.0.0.1");
    for header in [LINE.as_bytes(), &block(0x21, &[])] {
        let mut stream = RawStream::connect(bridge.traffic).await;
        stream.write([header, REQUEST.as_bytes()].concat()).await;
        assert_eq!(stream.head().await.expect("an answer").status(), 400);
    }
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so_behind_its_header() {
    let backend = RawBackend::answering(OK).await;
    let bridge = spoken_by("127.0.0.0/8", Bridge::before(&backend.url()))
        .set("server.max_connections", 1)
        .start()
        .await;
    let mut kept = RawStream::connect(bridge.traffic).await;
    let (head, _) = kept.exchange(format!("{LINE}{REQUEST}")).await;
    assert_eq!(head.status(), 200);
    let mut surplus = TcpStream::connect(bridge.traffic).await.unwrap();
    surplus.write_all(format!("{LINE}{REQUEST}").as_bytes()).await.unwrap();
    assert!(rest(&mut surplus).await.starts_with("HTTP/1.1 503 "));
}
