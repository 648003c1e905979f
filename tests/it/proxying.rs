//! The HTTP that goes through, byte by byte (H1 to H4, J4, J5), and who may send it (I1, I2, I3, I5).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::support::bridge::Bridge;
use crate::support::client::Call;
use crate::support::raw::{RawBackend, RawHead, RawStream};
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A request head with an Install ID, as far as the end of the fields.
fn head(first: &str, fields: &str) -> String {
    let id = InstallId::random();
    format!(
        "{first} HTTP/1.1\r\nHost: shop.example\r\nX-Install-Id: {}\r\n{fields}",
        id.as_str()
    )
}

/// Sends one request on a connection of its own.
async fn send(bridge: &Bridge, request: impl AsRef<[u8]>) -> (RawHead, Vec<u8>) {
    RawStream::connect(bridge.traffic).await.exchange(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn method_path_and_query_arrive_byte_for_byte() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    for first in [
        "POST /a%2Fb/../c//d;p=1/./?q=%zz&x=a+b&&y=[1]|{2}&z=%E2%82%AC?",
        "PROPFIND /",
        "OPTIONS *",
        "GET //double//slash/",
        "GET /?",
        "DELETE /UPPER/lower%7euser",
    ] {
        let sent = backend.seen().len();
        let (response, _) = send(&bridge, format!("{}\r\n", head(first, ""))).await;
        assert_eq!(response.status(), 200, "{first}");
        assert_eq!(backend.seen()[sent].head.first, format!("{first} HTTP/1.1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_arrives_byte_for_byte_whatever_was_found_in_it() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let id = "9e201bab-1ccf-47d1-82e0-90d71ee5fd2c";
    let binary: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let bodies: [Vec<u8>; 4] = [
        format!("{{\"installId\":\"{id}\"}}").into(),
        format!(" \r\n{{ \"a\" : 1.0e5,, \"installId\"\t:\"{id}\" , \"b\": \"\\u00e9\\/\"  }}\n\n").into(),
        format!("{{\"items\":[{}1], \"installId\":\"{id}\"}}", "1, ".repeat(30_000)).into(),
        [format!("{{\"installId\":\"{id}\", ").as_bytes(), &binary].concat(),
    ];
    for body in bodies {
        let sent = backend.seen().len();
        let head = format!(
            "POST /basket HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (response, text) = send(&bridge, [head.as_bytes(), &body].concat()).await;
        assert_eq!(response.status(), 200, "{}", String::from_utf8_lossy(&text));
        let seen = &backend.seen()[sent];
        assert!(seen.body == body, "a body of {} bytes was changed", body.len());
        assert_eq!(
            seen.head.one("content-length"),
            body.len().to_string(),
            "the length is still told"
        );
    }
    // A body that nothing is looked for in, in chunks.
    let sent = backend.seen().len();
    let chunks = [b"2710\r\n".as_slice(), &binary[..10_000], b"\r\n1\r\n\x00\r\n0\r\n\r\n"].concat();
    let head = head(
        "PUT /file",
        "Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(send(&bridge, [head.as_bytes(), &chunks].concat()).await.0.status(), 200);
    assert!(backend.seen()[sent].body == [&binary[..10_000], b"\x00"].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn field_names_keep_their_case_both_ways() {
    let response = "HTTP/1.1 200 OK\r\nContent-length: 0\r\nX-SeRvEr: 1\r\nETag: \"x\"\r\nX-SeRvEr: 2\r\nConnection: close\r\n\r\n";
    let backend = RawBackend::answering(response).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let request = head(
        "GET /",
        "Authorization: Basic eA==\r\nX-CuStOm: 1\r\nx-lower: 2\r\nX-CuStOm: 3\r\n\r\n",
    );
    let (answer, _) = send(&bridge, request).await;
    let seen = backend.only().head;
    for name in ["Authorization", "X-CuStOm", "x-lower", "Host", "X-Install-Id"] {
        assert!(seen.spelled(name), "{name} is spelled otherwise: {seen:?}");
    }
    assert_eq!(seen.all("X-CuStOm"), ["1", "3"], "in their order");
    assert!(answer.spelled("X-SeRvEr") && answer.spelled("ETag"), "{answer:?}");
    assert_eq!(answer.all("x-server"), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_fields_end_at_the_bridge() {
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close, X-Back-Hop\r\nX-Back-Hop: 1\r\n\
                    Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-End: 1\r\n\r\n";
    let backend = RawBackend::answering(response).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let fields = "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 300\r\nProxy-Connection: keep-alive\r\n\
                  Proxy-Authorization: Basic eA==\r\nTE: gzip\r\nX-End: 1\r\n\r\n";
    let (answer, _) = send(&bridge, head("GET /", fields)).await;
    let seen = backend.only().head;
    for name in [
        "X-Hop",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "TE",
        "Upgrade",
    ] {
        assert!(seen.all(name).is_empty(), "{name} went on to the backend: {seen:?}");
    }
    for name in ["X-Back-Hop", "Keep-Alive", "Proxy-Authenticate"] {
        assert!(answer.all(name).is_empty(), "{name} went on to the client: {answer:?}");
    }
    assert_eq!((seen.one("X-End"), answer.one("X-End")), ("1", "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_fields_are_replaced_for_strangers_and_appended_for_trusted_proxies() {
    let backend = RawBackend::answering(OK).await;
    let fields = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: app.example\r\n\
                  Forwarded: for=203.0.113.9\r\n\r\n";

    let bridge = Bridge::before(&backend.url()).start().await;
    send(&bridge, head("GET /stranger", fields)).await;
    let seen = backend.only().head;
    assert_eq!(seen.one("X-Forwarded-For"), "127.0.0.1");
    assert_eq!(seen.one("X-Forwarded-Proto"), "http");
    assert_eq!(seen.one("X-Forwarded-Host"), "shop.example");
    assert!(!seen.one("Forwarded").contains("203.0.113.9"), "{seen:?}");
    assert_eq!(seen.one("Host"), "shop.example");

    let proxies = vec![toml::Value::from("127.0.0.0/8")];
    let bridge = Bridge::before(&backend.url())
        .set("server.trusted_proxies", proxies)
        .start()
        .await;
    send(&bridge, head("GET /trusted", fields)).await;
    let seen = &backend.seen()[1].head;
    let addresses: Vec<_> = seen
        .all("X-Forwarded-For")
        .join(",")
        .split(',')
        .map(|a| a.trim().to_owned())
        .collect();
    assert_eq!(addresses, ["203.0.113.9", "127.0.0.1"]);
    assert_eq!(seen.one("X-Forwarded-Proto"), "https");
    assert_eq!(seen.one("X-Forwarded-Host"), "app.example");
    assert!(
        seen.all("Forwarded").join(",").starts_with("for=203.0.113.9"),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_preserve_host_the_backend_is_told_its_own_name() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url())
        .set("upstream.preserve_host", false)
        .start()
        .await;
    send(&bridge, head("GET /", "\r\n")).await;
    let seen = backend.only().head;
    assert_eq!(seen.one("Host"), backend.address().to_string());
    assert_eq!(seen.one("X-Forwarded-Host"), "shop.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn via_and_the_request_id_are_set_on_both_sides() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let (answer, _) = send(&bridge, head("GET /", "\r\n")).await;
    let seen = backend.only().head;
    assert!(
        seen.one("Via").starts_with("1.1 ") && answer.one("Via").starts_with("1.1 "),
        "{seen:?} {answer:?}"
    );
    let made = answer.one("X-Request-Id");
    assert_eq!(uuid::Uuid::parse_str(made).expect("a UUID").get_version_num(), 7);
    assert_eq!(seen.one("X-Request-Id"), made);

    let (answer, _) = send(&bridge, head("GET /", "X-Request-Id: mine-42\r\n\r\n")).await;
    assert_eq!(
        (answer.one("X-Request-Id"), backend.seen()[1].head.one("X-Request-Id")),
        ("mine-42", "mine-42")
    );
    let long = "x".repeat(4000);
    let (answer, _) = send(&bridge, head("GET /", &format!("X-Request-Id: {long}\r\n\r\n"))).await;
    assert_ne!(answer.one("X-Request-Id"), long, "an insane one is replaced");
}

/// Answers `/{status}` with that status and a cookie named after it.
async fn cookies_on_every_status() -> RawBackend {
    RawBackend::scripted(|request, mut stream| async move {
        let target = request.head.first.split(' ').nth(1).expect("a target").to_owned();
        let status = target.trim_start_matches('/');
        let length = if status == "204" || status == "304" {
            ""
        } else {
            "Content-Length: 0\r\n"
        };
        // The last one cannot be read, and costs the others nothing.
        let cookies =
            format!("Set-Cookie: c{status}=v; Path=/\r\nset-cookie: d{status}=v; Path=/\r\nSet-Cookie: =\r\n");
        let head = format!("HTTP/1.1 {status} X\r\n{length}Location: /\r\n{cookies}Connection: close\r\n\r\n");
        let _ = stream.try_write(head).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_taken_out_of_every_status_and_kept() {
    let backend = cookies_on_every_status().await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let id = InstallId::random();
    let statuses = [200, 201, 204, 301, 302, 304, 400, 401, 404, 500, 503];
    for status in statuses {
        let call = Call::get(&format!("/{status}")).of(&id).header("cookie", "client=1");
        let answer = bridge.send(call).await;
        assert_eq!(
            answer.status, status,
            "the backend's own status goes through, redirects are not followed"
        );
        assert!(
            !answer.headers.contains_key("set-cookie"),
            "{status}: {:?}",
            answer.headers
        );
    }
    bridge.send(Call::get("/200").of(&id)).await;
    let seen = backend.seen();
    let last = seen.last().expect("a request").head.one("Cookie").to_owned();
    for status in statuses {
        assert!(
            last.contains(&format!("c{status}=v")) && last.contains(&format!("d{status}=v")),
            "{status}: {last}"
        );
    }
    for request in &seen {
        assert!(
            !request.head.one("Cookie").contains("client"),
            "the client's cookie came through: {request:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_taken_out_of_informational_responses_and_trailers() {
    let response = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nSet-Cookie: early=needle\r\n\r\n\
                    HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie, X-Sum\r\n\
                    Connection: close\r\n\r\n2\r\nok\r\n0\r\nSet-Cookie: late=needle\r\nX-Sum: 7\r\n\r\n";
    let backend = RawBackend::answering(response).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    client
        .write(head("GET /", "TE: trailers\r\nConnection: TE, close\r\n\r\n"))
        .await;
    let all = String::from_utf8_lossy(&client.rest().await).into_owned();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(all.starts_with(hints) && all.contains("ok"), "{all}");
    assert!(all.to_lowercase().contains("x-sum: 7"), "other trailers pass: {all}");
    assert!(
        !all.contains("needle") && !all.to_lowercase().contains("\nset-cookie"),
        "{all}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_lose_what_its_head_may_not_say() {
    let backend = RawBackend::scripted_before_body(|_, mut stream| async move {
        while !stream.chunk().await.is_empty() {}
        let trailers = stream.head().await.expect("trailers");
        let seen = format!("{trailers:?}").to_lowercase();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{seen}", seen.len());
        let _ = stream.try_write(answer).await;
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let names = [
        "Cookie",
        "X-Forwarded-For",
        "Forwarded",
        "X-Request-Id",
        "Connection",
        "X-Sum",
    ];
    let trailers = names.map(|name| format!("{name}: told\r\n")).concat();
    let request = head(
        "POST /",
        &format!(
            "Transfer-Encoding: chunked\r\nTrailer: {}\r\n\r\n2\r\n{{}}\r\n0\r\n{trailers}\r\n",
            names.join(", ")
        ),
    );
    let (_, seen) = send(&bridge, request).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.contains("x-sum"), "the others pass: {seen}");
    for name in ["cookie", "forwarded", "x-request-id", "connection"] {
        assert!(!seen.contains(name), "{name}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_a_length_is_not_given_one() {
    for framing in ["Transfer-Encoding: chunked\r\n", ""] {
        let backend = RawBackend::answering(format!("HTTP/1.1 200 OK\r\n{framing}Connection: close\r\n\r\n")).await;
        let bridge = Bridge::before(&backend.url()).start().await;
        let mut client = RawStream::connect(bridge.traffic).await;
        for _ in 0..2 {
            client.write(head("HEAD /", "\r\n")).await;
            let answer = client.head().await.expect("a head, at once after the one before");
            assert!(answer.all("Content-Length").is_empty(), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_speaks_http_1_0_does_not_cost_the_client_its_connection() {
    let backend = RawBackend::answering("HTTP/1.0 200 OK\r\n\r\nto the end").await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    for _ in 0..2 {
        let (answer, body) = client.exchange(head("GET /", "\r\n")).await;
        assert_eq!(
            (answer.first.as_str(), body.as_slice()),
            ("HTTP/1.1 200 OK", b"to the end".as_slice())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_whose_body_breaks_at_once_still_has_its_head() {
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kind: cut\r\n\r\nno chunk\r\n";
    let backend = RawBackend::answering(response).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    client.write(head("POST /", "Content-Length: 0\r\n\r\n")).await;
    let answer = client.head().await.expect("the head");
    assert_eq!((answer.status(), answer.one("X-Kind")), (200, "cut"));
    assert!(
        client.rest().await.is_empty(),
        "and no end that would make the body look whole"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stands_still_is_the_client_s_timeout() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url())
        .set("upstream.response_timeout", "300ms")
        .start()
        .await;
    let mut client = RawStream::connect(bridge.traffic).await;
    client.write(head("POST /", "Content-Length: 5\r\n\r\nabc")).await;
    let answer = client.head().await.expect("a refusal");
    let body = client.body(&answer).await;
    assert_eq!(answer.status(), 408);
    assert!(String::from_utf8_lossy(&body).contains("problem:request-timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_drips_while_the_install_id_is_searched_for_is_the_client_s_timeout() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url())
        .set("upstream.response_timeout", "500ms")
        .start()
        .await;
    let mut client = RawStream::connect(bridge.traffic).await;
    let head = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{";
    client.write(head).await;
    // It never stands still for as long as the timeout.
    let answer = loop {
        tokio::select! {
            answer = client.head() => break answer.expect("a refusal"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        client.write(" ").await;
    };
    assert_eq!(answer.status(), 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_cannot_be_read_costs_neither_the_response_nor_the_others() {
    for bad in ["a=\0", "a=1\rb", "a=1\r", "a=\u{1}", "\0", ""] {
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\nSet-Cookie: {bad}\r\nSet-Cookie: good=1\r\n\r\n\0\r\0"
        );
        let backend = RawBackend::answering(response).await;
        let bridge = Bridge::before(&backend.url()).start().await;
        let id = InstallId::random();
        let answer = bridge.send(Call::get("/").of(&id)).await;
        assert_eq!((answer.status, &*answer.body), (200, &b"\0\r\0"[..]), "{bad:?}");
        bridge.send(Call::get("/").of(&id)).await;
        let seen = backend.seen();
        assert_eq!(seen.last().expect("a request").head.one("Cookie"), "good=1", "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_lost_a_cookie_does_not_become_cacheable() {
    let cookie = "Set-Cookie: a=1\r\n";
    for (fields, expected) in [
        (cookie.to_owned(), "private, no-store"),
        (
            format!("{cookie}Cache-Control: public, max-age=60\r\n"),
            "private, no-store",
        ),
        (format!("{cookie}Cache-Control: no-cache\r\n"), "no-cache"),
        (
            format!("{cookie}Cache-Control: max-age=0, private\r\n"),
            "max-age=0, private",
        ),
        ("Cache-Control: public, max-age=60\r\n".to_owned(), "public, max-age=60"),
        (String::new(), ""),
    ] {
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n{fields}\r\n");
        let backend = RawBackend::answering(response).await;
        let bridge = Bridge::before(&backend.url()).start().await;
        let (answer, _) = send(&bridge, head("GET /", "\r\n")).await;
        assert_eq!(answer.all("Cache-Control").join(", "), expected, "after {fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vary_names_the_install_id_in_place_of_the_cookie() {
    for (vary, expected) in [
        ("Cookie", &["x-install-id"][..]),
        ("Accept-Encoding, cookie", &["accept-encoding", "x-install-id"]),
        ("Accept-Language", &["accept-language"]),
    ] {
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nVary: {vary}\r\n\r\n");
        let backend = RawBackend::answering(response).await;
        let bridge = Bridge::before(&backend.url()).start().await;
        let (answer, _) = send(&bridge, head("GET /", "\r\n")).await;
        let mut names: Vec<_> = answer
            .all("Vary")
            .join(",")
            .split(',')
            .map(|name| name.trim().to_lowercase())
            .collect();
        names.sort_unstable();
        assert_eq!(names, expected, "after Vary: {vary}");
    }
}

/// Large enough to fill every buffer on the way several times.
const MEGABYTES: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_in_both_directions() {
    let (half_arrived, event_read) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = (Arc::clone(&half_arrived), Arc::clone(&event_read));
    let backend = RawBackend::scripted_before_body(move |request, mut stream| {
        let (half_arrived, event_read) = told.clone();
        async move {
            assert_eq!(request.head.one("Content-Length"), MEGABYTES.to_string());
            let mut body = stream.bytes(MEGABYTES / 2).await;
            half_arrived.notify_one();
            body.extend(stream.bytes(MEGABYTES / 2).await);
            stream
                .write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            stream.write("7\r\ndata: 1\r\n").await;
            event_read.notified().await;
            stream.write(format!("{MEGABYTES:x}\r\n")).await;
            stream.write(&body).await;
            stream.write("\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let body: Vec<u8> = (0..MEGABYTES).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
    let mut client = RawStream::connect(bridge.traffic).await;
    client
        .write(head("POST /upload", &format!("Content-Length: {MEGABYTES}\r\n\r\n")))
        .await;
    client.write(&body[..MEGABYTES / 2]).await;
    let arrived = tokio::time::timeout(Duration::from_secs(10), half_arrived.notified()).await;
    assert!(
        arrived.is_ok(),
        "the first half reaches the backend before the second is sent"
    );
    client.write(&body[MEGABYTES / 2..]).await;
    assert_eq!(
        client.head().await.expect("a head before the end of the body").status(),
        200
    );
    assert_eq!(
        client.chunk().await,
        b"data: 1",
        "the first event comes before the second is sent"
    );
    event_read.notify_one();
    let mut echoed = Vec::new();
    loop {
        let chunk = client.chunk().await;
        if chunk.is_empty() {
            break;
        }
        echoed.extend(chunk);
    }
    assert!(echoed == body, "{} bytes came back changed", echoed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_read_holds_the_client_back() {
    let backend = RawBackend::scripted_before_body(|_, stream| async move {
        tokio::time::sleep(Duration::from_secs(30)).await;
        drop(stream);
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    let length = 256 << 20;
    client
        .write(head("POST /upload", &format!("Content-Length: {length}\r\n\r\n")))
        .await;
    let megabyte = vec![0; 1 << 20];
    let all = async {
        for _ in 0..length >> 20 {
            client.write(&megabyte).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(3), all).await;
    assert!(outcome.is_err(), "the bridge took 256 MiB that nobody reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_drip_their_bodies_keep_nobody_from_the_backend() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url())
        .set("upstream.max_connections", 4)
        .start()
        .await;
    let mut dripping = Vec::new();
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"].repeat(20) {
        let mut client = RawStream::connect(bridge.traffic).await;
        client
            .write(head("POST /", &format!("{framing}\r\n\r\n5\r\nhello")))
            .await;
        dripping.push(client);
    }
    for _ in 0..20 {
        let answer = bridge.send(Call::post("/").of(&InstallId::random()).body("{}")).await;
        assert_eq!(answer.status, 200);
    }
    drop(dripping);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_passes_after_a_101_without_its_cookies() {
    let backend = RawBackend::scripted(|request, mut stream| async move {
        assert!(request.head.one("Connection").eq_ignore_ascii_case("upgrade"), "{request:?}");
        assert_eq!(request.head.one("Upgrade"), "websocket");
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSet-Cookie: a=needle\r\n\r\n";
        stream.write(head).await;
        let mut echo = stream.bytes(4).await;
        echo.reverse();
        stream.write(echo).await;
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    client
        .write(head("GET /socket", "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
        .await;
    let answer = client.head().await.expect("a head");
    assert_eq!((answer.status(), answer.one("Upgrade")), (101, "websocket"));
    assert!(answer.all("Set-Cookie").is_empty());
    client.write(b"\x81ab\x00").await;
    assert_eq!(
        client.rest().await,
        b"\x00ba\x81",
        "bytes pass both ways, and the end of the backend is the end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_to_a_protocol_that_was_not_asked_for_is_no_answer() {
    for upgrade in ["Connection: Upgrade\r\nUpgrade: h2c\r\n", ""] {
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\nfree speech");
        let backend = RawBackend::answering(switch).await;
        let bridge = Bridge::before(&backend.url()).start().await;
        let request = head("GET /socket", "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let (answer, body) = send(&bridge, request).await;
        assert_eq!(answer.status(), 502, "{upgrade:?}");
        assert!(String::from_utf8_lossy(&body).contains("problem:upstream-bad-response"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_the_backend_declines_is_an_ordinary_response() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let request = head("GET /socket", "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let (answer, body) = send(&bridge, request).await;
    assert_eq!((answer.status(), body.as_slice()), (200, b"ok".as_slice()));
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    client
        .write(head("POST /", "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"))
        .await;
    assert_eq!(client.head().await.expect("an informational response").status(), 100);
    client.write("body").await;
    assert_eq!(client.head().await.expect("a response").status(), 200);
    assert_eq!(backend.only().body, b"body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_answered_without_asking_for_the_body() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nX-Install-Id: nonsense\r\nContent-Length: 400000\r\nExpect: 100-continue\r\n\r\n";
    client.write(head).await;
    assert_eq!(
        client.head().await.expect("a response").status(),
        400,
        "and no 100 before it"
    );
    assert!(backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_responses_pass_as_they_come_to_those_who_take_them() {
    let go_on = Arc::new(Notify::new());
    let released = Arc::clone(&go_on);
    let backend = RawBackend::scripted(move |_, mut stream| {
        let go_on = Arc::clone(&released);
        async move {
            stream.write("HTTP/1.1 102 Processing\r\nX-Step: 1\r\n\r\n").await;
            go_on.notified().await;
            stream.write(format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")).await;
        }
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    client.write(head("GET /", "\r\n")).await;
    let interim = client.head().await.expect("an informational response");
    assert_eq!((interim.status(), interim.one("x-step")), (102, "1"));
    go_on.notify_one();
    assert_eq!(client.head().await.expect("a response").status(), 200);
    // One of HTTP/1.0 would take it for the answer.
    go_on.notify_one();
    let mut old = RawStream::connect(bridge.traffic).await;
    old.write(head("GET /", "\r\n").replace("1.1", "1.0")).await;
    assert_eq!(old.head().await.expect("a response").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_ended_its_side_gets_its_answer() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    client.write(head("POST /", "Content-Length: 4\r\n\r\nbody")).await;
    client.end().await;
    let all = String::from_utf8_lossy(&client.rest().await).into_owned();
    assert!(
        all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("\r\n\r\nok"),
        "{all}"
    );
    assert_eq!(backend.only().body, b"body");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_the_length_and_no_body() {
    let backend = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n").await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut client = RawStream::connect(bridge.traffic).await;
    for _ in 0..2 {
        client.write(head("HEAD /", "\r\n")).await;
        let answer = client.head().await.expect("a head, at once after the one before");
        assert_eq!((answer.status(), answer.one("Content-Length")), (200, "5"));
    }
    client
        .write("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(client.head().await.expect("a refusal").status(), 400);
    assert!(client.rest().await.is_empty(), "a refusal of HEAD has no body either");
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_or_invalid_requests_are_refused_and_never_forwarded() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    for (request, flaw) in [
        (
            head(
                "POST /",
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            "two framings",
        ),
        (
            head("POST /", "Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody"),
            "two lengths",
        ),
        (
            head("POST /", "Content-Length: +4\r\n\r\nbody"),
            "a length that is no number",
        ),
        (head("GET /", "X: a\r\n b\r\n\r\n"), "an obsolete fold"),
        (head("GET /", "X: a\nY: b\r\n\r\n"), "a bare LF"),
        (head("GET /", "X: a\rY: b\r\n\r\n"), "a bare CR"),
        (head("GET /", "X : a\r\n\r\n"), "a space before the colon"),
        (head("GET /", "X: a\0b\r\n\r\n"), "a NUL in a value"),
        (head("GET /", "Host: other\r\n\r\n"), "two hosts"),
    ] {
        let mut client = RawStream::connect(bridge.traffic).await;
        client.write(request).await;
        let answer = client.head().await.unwrap_or_else(|| panic!("{flaw}: no response"));
        assert_eq!(answer.status(), 400, "{flaw}");
        assert_eq!(answer.one("Content-Type"), "application/problem+json", "{flaw}");
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
    let (answer, _) = send(&bridge, head("GET /", &format!("X: {}\r\n\r\n", "x".repeat(40_000)))).await;
    assert_eq!(answer.status(), 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_unread_is_in_the_log_with_the_reason() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).set("log.level", "info").start().await;
    let (answer, _) = send(&bridge, head("GET /", "X : a\r\n\r\n")).await;
    let told = || {
        let logs = bridge.logs();
        let mut lines = logs.lines().map(str::to_owned);
        lines.find(|line| line.contains(answer.one("X-Request-Id")))
    };
    eventually("a line of the refusal", Duration::from_secs(10), async || {
        told().is_some()
    })
    .await;
    let line = told().expect("it is there");
    assert!(
        line.contains("bad-request") && line.contains("whitespace in or behind a field name"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_line_in_the_log() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url()).start().await;
    let call = Call::get("/basket").header("x-install-id", InstallId::random().as_str());
    let answer = bridge.send(call).await;
    assert_eq!(answer.status, 200);
    assert!(bridge.terminate().await.success());
    let (logs, request_id) = (bridge.logs(), answer.header("x-request-id"));
    let lines: Vec<_> = logs.lines().filter(|line| line.contains(request_id)).collect();
    assert_eq!((lines.len(), request_id.len()), (1, 36), "{lines:?}");

    assert!(lines[0].starts_with("{\"timestamp\":\"20"), "{lines:?}");
    let parsed = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let line = parsed(lines[0]);
    // All of one form and in UTC: they are in order as texts, too.
    let ends = (logs.lines().next(), logs.lines().last());
    let [first, last] = [ends.0, ends.1].map(|line| parsed(line.expect("a line"))["timestamp"].to_string());
    let told = line["timestamp"].to_string();
    assert!(first < told && told < last, "{logs}");
    for (field, value) in [
        ("level", "INFO"),
        ("message", "request"),
        ("method", "GET"),
        ("route", "*"),
        ("session", "created"),
        ("target", "session_bridge::bridge::journal"),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert_eq!(line["status"], 200);
    let (all, upstream) = (line["ms"].as_f64(), line["upstream_ms"].as_f64());
    assert!(upstream > Some(0.0) && all >= upstream, "{line}");
    assert_eq!(line["install"].as_str().map(str::len), Some(32));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_installation_is_the_same_in_every_spelling_and_place() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]).start().await;
    let in_body = |text: &str| Call::post("/basket/add").body(format!("{{\"x\": 1,, \"installId\": \"{text}\"}}"));
    let in_header = |text: &str| Call::post("/basket/add").header("x-install-id", text);
    let id = "00650000-0008-0000-ac5d-e021b623c9b7";
    let mut basket = 0;
    for call in [
        in_header(id),
        in_header(&id.to_uppercase()),
        in_header(&id.replace('-', "")),
        in_body(id),
        in_body(&id.to_uppercase()),
        in_body("9e201bab-1ccf-47d1-82e0-90d71ee5fd2c").header("x-install-id", id),
        in_header(id).header("x-install-id", id),
    ] {
        basket += 1;
        assert_eq!(bridge.ok(call).await["basket"], basket);
    }
    assert_eq!(shop.sessions_started(), 1, "and the header is asked before the body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_malformed_install_id_is_refused_and_nothing_is_forwarded() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let id = InstallId::random();
    for call in [
        Call::get("/"),
        Call::post("/"),
        Call::post("/").body("{\"other\": \"9e201bab-1ccf-47d1-82e0-90d71ee5fd2c\"}"),
        Call::post("/").body("not JSON at all"),
    ] {
        let answer = bridge.send(call).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "install-id-missing"));
    }
    for call in [
        Call::get("/").header("x-install-id", "nonsense"),
        Call::get("/").header("x-install-id", ""),
        Call::get("/").header("x-install-id", "00000000-0000-0000-0000-000000000000"),
        Call::get("/").of(&id).of(&InstallId::random()),
        Call::post("/").body("{\"installId\": \"nonsense\"}"),
        Call::post("/")
            .header("x-install-id", "nonsense")
            .body(format!("{{\"installId\": \"{}\"}}", id.as_str())),
    ] {
        let answer = bridge.send(call).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "install-id-malformed")
        );
        assert!(
            !answer.text().contains("nonsense"),
            "a refusal repeats nothing: {}",
            answer.text()
        );
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_install_id_a_request_may_pass_without_a_session() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url())
        .id_cookies(&["sid"])
        .set("install_id.on_missing", "pass")
        .start()
        .await;
    for _ in 0..2 {
        let answer = bridge
            .send(Call::post("/basket/add").header("cookie", "sid=evil"))
            .await;
        assert_eq!((answer.status, answer.json()["cookies"].as_str()), (200, Some("")));
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    assert_eq!(shop.sessions_started(), 2, "nothing is kept for nobody");
    assert_eq!(
        bridge
            .send(Call::get("/").header("x-install-id", "nonsense"))
            .await
            .status,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_do_without_sessions() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]);
    let bridge = bridge.route("path = \"/status/*\"\nsession = \"off\"").start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    let answer = bridge.send(Call::get("/status/200").of(&id)).await;
    assert_eq!(answer.json()["cookies"], "", "no session is sent there");
    assert!(!answer.headers.contains_key("set-cookie"));
    assert_eq!(
        bridge.send(Call::get("/status/200")).await.status,
        200,
        "and no Install ID is asked for"
    );
    assert_eq!(
        bridge.ok(Call::post("/basket").of(&id)).await["basket"],
        1,
        "the session was not touched by it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_api_keys_nothing_happens_without_one() {
    let backend = RawBackend::answering(OK).await;
    let keys = vec![
        toml::Value::from("first-key-of-many"),
        toml::Value::from("second-key-of-many"),
    ];
    let bridge = Bridge::before(&backend.url())
        .set("access.api_keys", keys)
        .start()
        .await;
    let id = InstallId::random();
    for call in [
        Call::get("/").of(&id),
        Call::get("/"),
        Call::get("/")
            .of(&id)
            .header("authorization", "Bearer first-key-of-man"),
        Call::get("/")
            .of(&id)
            .header("authorization", "Basic first-key-of-many"),
        Call::get("/").of(&id).header("key", "first-key-of-manyy"),
        Call::get("/").header("x-install-id", "nonsense"),
    ] {
        let answer = bridge.send(call).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthorized"));
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
    for call in [
        Call::get("/")
            .of(&id)
            .header("authorization", "Bearer first-key-of-many"),
        Call::get("/").of(&id).header("key", "second-key-of-many"),
    ] {
        assert_eq!(bridge.send(call).await.status, 200);
    }
    assert_eq!(
        bridge.send(Call::get("/healthz")).await.status,
        200,
        "a load balancer needs no key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_path_is_answered_by_the_bridge_and_can_be_moved_away() {
    let backend = RawBackend::answering(OK).await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let answer = bridge.send(Call::get("/healthz")).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "application/json")
    );
    assert!(answer.json().is_object());
    assert_eq!(answer.header("x-request-id").len(), 36, "each has one of its own");
    let named = bridge.send(Call::get("/healthz").header("x-request-id", "mine")).await;
    assert_eq!(named.header("x-request-id"), "mine");
    let named = bridge.ops(Call::get("/livez").header("x-request-id", "mine")).await;
    assert_eq!(named.header("x-request-id"), "mine");
    assert!(backend.seen().is_empty());

    let bridge = Bridge::before(&backend.url())
        .set("server.health_path", "")
        .start()
        .await;
    assert_eq!(
        bridge.send(Call::get("/healthz").of(&InstallId::random())).await.body,
        "ok"
    );
    assert_eq!(backend.only().head.first, "GET /healthz HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_prometheus_text_of_our_own_and_name_nobody() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]).start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    let metrics = bridge.metrics().await;
    let samples: Vec<_> = metrics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    assert!(!samples.is_empty());
    for sample in samples {
        assert!(sample.starts_with("session_bridge_"), "{sample}");
        assert!(!sample.contains("/basket") && !sample.contains(id.as_str()), "{sample}");
    }
}
