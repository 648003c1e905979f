//! TLS towards clients: with curl and openssl as they are, and by hand.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::{OK, REQUEST, SOON, connect, curl, rest, run, with_tls};
use crate::support::eventually;
use crate::support::pki::Authority;
use crate::support::raw::{RawBackend, RawStream};

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served_over_tls_1_2_and_1_3_and_the_backend_is_told_https() {
    let (backend, authority) = (RawBackend::answering(OK).await, Authority::new("ours"));
    let bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .start()
        .await;
    for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        let options = [&version[..], &["--http1.1"]].concat();
        assert_eq!(
            curl(&bridge, &authority, &options).await.as_deref(),
            Ok("ok"),
            "{version:?}"
        );
    }
    for request in backend.seen() {
        let head = request.head;
        assert_eq!(head.one("X-Forwarded-Proto"), "https");
        assert!(head.one("Forwarded").ends_with(";proto=https"), "{head:?}");
        let host = format!("shop.example:{}", bridge.traffic.port());
        assert_eq!((head.one("Host"), head.one("X-Forwarded-Host")), (&*host, &*host));
    }
    assert_eq!(backend.seen().len(), 2);
    let stranger = curl(&bridge, &Authority::new("theirs"), &[]).await.unwrap_err();
    assert!(stranger.contains("certificate"), "{stranger}");
    eventually("the failure to be counted", SOON, async || {
        let metrics = bridge.metrics().await;
        metrics.contains("session_bridge_client_tls_failures_total 1\n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again_and_its_session_is_resumed() {
    let (backend, authority) = (RawBackend::answering(OK).await, Authority::new("ours"));
    let bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .start()
        .await;
    let mut stream = connect(&authority, bridge.traffic).await.unwrap();
    for _ in 0..3 {
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
    let address = bridge.traffic.to_string();
    let mut arguments = vec!["s_client", "-connect", &address, "-reconnect", "-tls1_2", "-alpn"];
    arguments.push("http/1.1");
    let output = run("openssl", "openssl", &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("Reused, TLSv1.2").count(), 5, "{said}");
    assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_in_the_handshake_or_speaks_no_tls_is_let_go_and_harms_nobody() {
    let (backend, authority) = (RawBackend::answering(OK).await, Authority::new("ours"));
    let bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .set("server.header_timeout", "2s")
        .start()
        .await;
    let start = Instant::now();
    let mut silent = RawStream::connect(bridge.traffic).await;
    let mut halfway = RawStream::connect(bridge.traffic).await;
    halfway.write([0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await;
    let mut clear = RawStream::connect(bridge.traffic).await;
    clear.write(REQUEST).await;
    clear.rest().await;
    assert!(start.elapsed() < Duration::from_millis(1500), "no TLS is told at once");
    silent.rest().await;
    halfway.rest().await;
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert_eq!(curl(&bridge, &authority, &[]).await.as_deref(), Ok("ok"));
    assert_eq!(backend.seen().len(), 1);
    let metrics = bridge.metrics().await;
    assert!(
        metrics.contains("session_bridge_client_tls_failures_total 3\n"),
        "{metrics}"
    );
    assert!(bridge.ready().await == Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_without_a_restart_and_a_bad_one_is_told_and_not_shown() {
    let backend = RawBackend::answering(OK).await;
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let shown = old.issue(&["shop.example"]);
    let bridge = with_tls(&backend.url(), &shown).start().await;
    let mut kept = connect(&old, bridge.traffic).await.unwrap();

    let next = new.issue(&["shop.example"]);
    std::fs::copy(&next.cert, &shown.cert).unwrap();
    eventually("the bridge to complain", SOON, async || {
        let logs = bridge.logs();
        logs.contains("the certificate was not replaced") && logs.contains("is not the key of the certificate in cert")
    })
    .await;
    assert!(!bridge.logs().contains("BEGIN"), "no key in the log");
    connect(&old, bridge.traffic).await.unwrap();

    std::fs::copy(&next.key, &shown.key).unwrap();
    eventually("the new certificate", SOON, async || {
        connect(&new, bridge.traffic).await.is_ok()
    })
    .await;
    connect(&old, bridge.traffic).await.unwrap_err();
    assert!(bridge.logs().contains("the certificate of server.tls was replaced"));

    let close = REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    kept.write_all(close.as_bytes()).await.unwrap();
    assert!(rest(&mut kept).await.ends_with("ok"), "connections there are stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_and_the_end_of_the_bridge_are_told_inside_tls() {
    let (backend, authority) = (RawBackend::answering(OK).await, Authority::new("ours"));
    let mut bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .set("server.max_connections", 1)
        .start()
        .await;
    let mut idle = connect(&authority, bridge.traffic).await.unwrap();
    let mut surplus = connect(&authority, bridge.traffic).await.unwrap();
    surplus.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = rest(&mut surplus).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("problem:overloaded"),
        "{answer}"
    );

    idle.write_all(b"GET / HTTP/1.1\n\n").await.unwrap();
    let answer = rest(&mut idle).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("problem:bad-request"),
        "{answer}"
    );
    drop(idle);

    let mut idle = None;
    eventually("the place to be free again", SOON, async || {
        let mut stream = connect(&authority, bridge.traffic).await.unwrap();
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") && stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
        idle = answer.starts_with(b"HTTP/1.1 200 ").then_some(stream);
        idle.is_some()
    })
    .await;
    bridge.signal("TERM");
    assert_eq!(
        rest(&mut idle.unwrap()).await,
        "",
        "an idle connection is closed in order"
    );
    assert!(bridge.exit(SOON).await.success());
    assert!(backend.seen().len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_does_not_end_in_order() {
    const CUT: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\npiece\r\n";
    let (backend, authority) = (RawBackend::answering(CUT).await, Authority::new("ours"));
    let bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .start()
        .await;
    // To HTTP/1.0 only the end of the connection tells that of the response.
    for (version, kind) in [
        ("1.0", std::io::ErrorKind::ConnectionReset),
        ("1.1", std::io::ErrorKind::UnexpectedEof),
    ] {
        let mut stream = connect(&authority, bridge.traffic).await.unwrap();
        let request = REQUEST.replace("1.1", version);
        stream.write_all(request.as_bytes()).await.unwrap();
        let error = tokio::time::timeout(SOON, stream.read_to_end(&mut Vec::new()))
            .await
            .expect("an end")
            .unwrap_err();
        assert_eq!(error.kind(), kind, "HTTP/{version}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_goes_over_tls_both_ways() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n";
    let backend = RawBackend::scripted(move |_, mut stream| async move {
        stream.write(switch).await;
        let asked = stream.bytes(4).await;
        stream.write(asked.to_ascii_uppercase()).await;
        assert!(stream.rest().await.is_empty(), "it hears of the end");
        stream.write("bye").await;
    })
    .await;
    let authority = Authority::new("ours");
    let bridge = with_tls(&backend.url(), &authority.issue(&["shop.example"]))
        .start()
        .await;
    let mut stream = connect(&authority, bridge.traffic).await.unwrap();
    let upgrade = REQUEST.replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n");
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"PING");
    stream.shutdown().await.unwrap();
    assert_eq!(
        rest(&mut stream).await,
        "bye",
        "the end of one way leaves the other open"
    );
}
