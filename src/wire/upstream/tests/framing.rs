//! What goes over the wire, byte for byte, and what becomes of odd answers.

use super::*;

/// Sends `request` and returns what the backend received.
async fn received(request: Request<Body>) -> Received {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = backend(move |mut peer, _| {
        let sender = sender.clone();
        async move {
            while let Some(request) = read_request(&mut peer).await {
                sender.send(request).unwrap();
                peer.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    text(upstream(address).send(request, PATIENCE).await.unwrap()).await;
    receiver.recv().await.unwrap()
}

async fn answered(response: &'static [u8]) -> Result<Response<UpstreamBody>, UpstreamError> {
    upstream(answering(response).await).send(get("/"), PATIENCE).await
}

#[tokio::test]
async fn path_and_query_arrive_byte_for_byte() {
    for target in ["/", "/a%2fb//c/../d;x=1|\"{}\"?q=%zz&r=[|]&s=^`", "/?", "/a?b?c", "*"] {
        let request = Request::options(target)
            .header("Host", "shop")
            .body(Body::empty())
            .unwrap();
        let head = received(request).await.head;
        assert_eq!(head.lines().next().unwrap(), format!("OPTIONS {target} HTTP/1.1"));
    }
    let mut absolute = get("http://elsewhere/x?y");
    *absolute.version_mut() = Version::HTTP_2;
    assert!(received(absolute).await.head.starts_with("GET /x?y HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_body_arrives_whole_whatever_the_method_and_however_its_length_is_told() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST"] {
        let mut exact = post("hello");
        *exact.method_mut() = method.parse().unwrap();
        let (sender, body) = channel();
        tokio::spawn(async move { sender.send(Ok(Bytes::from_static(b"hello"))).await });
        let mut unknown = post(body);
        *unknown.method_mut() = method.parse().unwrap();
        for request in [exact, unknown] {
            let backend_saw = if method == "HEAD" {
                received_head(request).await
            } else {
                received(request).await
            };
            assert_eq!(backend_saw.body, b"hello", "{method}");
        }
    }
    let bare = received(get("/")).await.head.to_ascii_lowercase();
    assert!(
        !bare.contains("content-length") && !bare.contains("transfer-encoding"),
        "{bare}"
    );
}

async fn received_head(request: Request<Body>) -> Received {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = backend(move |mut peer, _| {
        let sender = sender.clone();
        async move {
            while let Some(request) = read_request(&mut peer).await {
                sender.send(request).unwrap();
                peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
                    .await
                    .unwrap();
            }
        }
    })
    .await;
    upstream(address).send(request, PATIENCE).await.unwrap();
    receiver.recv().await.unwrap()
}

/// Client, edge, this pool, backend: as in the bridge.
#[tokio::test]
async fn field_names_keep_their_case_in_both_directions() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = backend(move |mut peer, _| {
        let sender = sender.clone();
        async move {
            while let Some(request) = read_request(&mut peer).await {
                sender.send(request).unwrap();
                peer.write_all(b"HTTP/1.1 299 Odd\r\nX-wEIRD: 1\r\nContent-Length: 0\r\n\r\n")
                    .await
                    .unwrap();
            }
        }
    })
    .await;
    let upstream = upstream(address);
    let (mut client, _failures) = proxied(upstream).await;
    client
        .write_all(b"GET /x HTTP/1.1\r\nhOsT: shop\r\nauthORIZATION: a\r\nX-Y: b\r\nx-y: c\r\n\r\n")
        .await
        .unwrap();
    let answer = read_head(&mut client).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 299 Odd\r\n"), "{answer}");
    assert!(answer.contains("\r\nX-wEIRD: 1\r\n"), "{answer}");
    let head = receiver.recv().await.unwrap().head;
    for line in ["hOsT: shop", "authORIZATION: a", "X-Y: b", "x-y: c", "X-Added: 1"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
    }
}

/// A client with the edge and the pool behind it; failures come out of the receiver.
async fn proxied(upstream: Upstream) -> (Peer, tokio::sync::mpsc::UnboundedReceiver<UpstreamError>) {
    let (failures, receiver) = tokio::sync::mpsc::unbounded_channel();
    let client = front(move |mut request: message::Request| {
        let (upstream, failures) = (upstream.clone(), failures.clone());
        async move {
            let fields = &mut request.head.fields;
            crate::wire::headers::strip_request(fields);
            fields.insert("X-Added", HeaderValue::from_static("1"));
            match upstream.forward(request, PATIENCE, false, |_| {}).await {
                Ok(response) => response.map(Body::new),
                Err(error) => {
                    failures.send(error).unwrap();
                    let response = Response::builder().status(502).body(Body::empty());
                    response.unwrap().into()
                }
            }
        }
    });
    (client.await, receiver)
}

const EXPECTING: &[u8] = b"POST / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[tokio::test]
async fn a_client_that_waits_for_a_100_gets_it_once_the_backend_is_there() {
    let (mut client, _failures) = proxied(upstream(answering(OK).await)).await;
    client.write_all(EXPECTING).await.unwrap();
    assert_eq!(read_head(&mut client).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_client_that_waits_for_a_100_sends_nothing_to_a_backend_that_is_not_there() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (mut client, mut failures) = proxied(upstream(nobody)).await;
    client.write_all(EXPECTING).await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 502 "));
    assert_eq!(failures.recv().await.unwrap().kind(), "connect");
}

#[tokio::test]
async fn a_client_that_hangs_up_in_mid_upload_is_told_from_a_failing_backend() {
    let address = backend(|mut peer, _| async move {
        let _ = peer.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let pool = upstream(address);
    let (mut client, mut failures) = proxied(pool.clone()).await;
    let half = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 50\r\n\r\nhello";
    client.write_all(half).await.unwrap();
    until("the request is under way", || pool.stats().open == 1).await;
    drop(client);
    let error = failures.recv().await.unwrap();
    assert_eq!(error.fault(), Fault::Client, "{error:?}");
    until("the backend's connection is closed", || pool.stats().open == 0).await;
}

#[tokio::test]
async fn trailers_of_a_request_arrive_where_they_are_announced() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let address = backend(move |mut peer, _| {
        let sender = sender.clone();
        async move {
            read_head(&mut peer).await.unwrap();
            sender.send(read_head(&mut peer).await.unwrap()).unwrap();
            peer.write_all(OK).await.unwrap();
        }
    })
    .await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("9"));
    let frames = [
        http_body::Frame::data(Bytes::from_static(b"hello")),
        http_body::Frame::trailers(trailers),
    ];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>)));
    let mut request = post(Body::new(body));
    request
        .headers_mut()
        .insert("trailer", HeaderValue::from_static("X-Sum"));
    assert_eq!(
        text(upstream(address).send(request, PATIENCE).await.unwrap()).await,
        "ok"
    );
    let sent = receiver.recv().await.unwrap().to_ascii_lowercase();
    assert_eq!(sent, "5\r\nhello\r\n0\r\nx-sum: 9\r\n\r\n");
}

#[tokio::test]
async fn a_length_told_twice_is_passed_on_once() {
    for response in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    ] {
        let response = answered(response).await.unwrap();
        let lengths: Vec<_> = response.headers().get_all("content-length").iter().collect();
        assert_eq!(lengths, ["2"]);
        assert_eq!(response.body().size_hint().exact(), Some(2));
        assert_eq!(text(response).await, "ok");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_dropped() {
    let response =
        answered(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .await
            .unwrap();
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn a_response_that_cannot_be_read_safely_is_refused() {
    for response in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
    ] {
        let error = answered(response).await.unwrap_err();
        let shown = String::from_utf8_lossy(response);
        assert!(matches!(error, UpstreamError::BadResponse(_)), "{shown}: {error:?}");
        assert!(error.arrived());
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused_and_a_long_one_passes() {
    let address = backend(|mut peer, _| async move {
        read_request(&mut peer).await.unwrap();
        peer.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while peer
            .write_all(b"X-Long: and on, and on, and on, and on, and on\r\n")
            .await
            .is_ok()
        {}
    })
    .await;
    let error = upstream(address).send(get("/"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, UpstreamError::BadResponse(_)), "{error:?}");

    let address = backend(|mut peer, _| async move {
        read_request(&mut peer).await.unwrap();
        let cookies: String = (0..200)
            .map(|n| format!("Set-Cookie: c{n}={}\r\n", "x".repeat(400)))
            .collect();
        let response = format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 2\r\n\r\nok");
        peer.write_all(response.as_bytes()).await.unwrap();
    })
    .await;
    let response = upstream(address).send(get("/"), PATIENCE).await.unwrap();
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 200);
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn a_line_that_cannot_be_read_costs_only_itself() {
    let response = answered(
        b"HTTP/1.1 200 OK\r\nno colon\r\nX-Bad\x01: 1\r\nX-Space : kept\r\nX-Fold: a\r\n  b\r\nContent-Length: 2\r\n\r\nok",
    )
    .await
    .unwrap();
    assert_eq!(response.headers()["x-space"], "kept");
    assert_eq!(response.headers()["x-fold"], "a b");
    assert_eq!(response.headers().len(), 3, "{:?}", response.headers());
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn informational_responses_are_dropped_and_the_final_one_passes() {
    let response = answered(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nSet-Cookie: a=b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await
    .unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("set-cookie"));
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn what_follows_a_response_is_never_the_answer_to_the_next_request() {
    for first in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"[..],
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ] {
        let address = backend(move |mut peer, index| async move {
            read_request(&mut peer).await.unwrap();
            peer.write_all(if index == 0 { first } else { OK }).await.unwrap();
            let _ = peer.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let upstream = upstream(address);
        let _ = text(upstream.send(get("/"), PATIENCE).await.unwrap()).await;
        assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
        assert_eq!(upstream.stats().connects, 2);
    }
}

/// Reads a request without a body, and blocks for it.
fn take_request(peer: &mut std::net::TcpStream) {
    use std::io::Read as _;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        peer.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
}

#[tokio::test]
async fn what_follows_a_response_without_a_body_is_found_before_the_runtime_tells_of_it() {
    use std::io::Write as _;
    for (method, bodiless) in [
        ("HEAD", &b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n"[..]),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (say_more, more) = std::sync::mpsc::channel();
        let (said_sender, said) = std::sync::mpsc::channel();
        let backend = std::thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            first.set_nodelay(true).unwrap();
            for answer in [OK, OK, OK, OK, bodiless] {
                take_request(&mut first);
                first.write_all(answer).unwrap();
            }
            more.recv().unwrap();
            first
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
                .unwrap();
            said_sender.send(()).unwrap();
            let (mut second, _) = listener.accept().unwrap();
            take_request(&mut second);
            second.write_all(OK).unwrap();
        });
        let upstream = upstream(address);
        // The connection has proven itself.
        for _ in 0..4 {
            assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
        }
        let request = Request::builder().method(method).uri("/").header("Host", "shop");
        let response = upstream.send(request.body(Body::empty()).unwrap(), PATIENCE).await;
        assert_eq!(text(response.unwrap()).await, "");
        // It is in the kernel, and blocking this only thread keeps the events of the runtime unread.
        say_more.send(()).unwrap();
        said.recv().unwrap();
        assert_eq!(
            text(upstream.send(get("/"), PATIENCE).await.unwrap()).await,
            "ok",
            "{method}"
        );
        backend.join().unwrap();
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_read_to_that_end() {
    let address = backend(|mut peer, _| async move {
        read_request(&mut peer).await.unwrap();
        peer.write_all(b"HTTP/1.1 200 OK\r\n\r\nto the end").await.unwrap();
    })
    .await;
    let response = upstream(address).send(get("/"), PATIENCE).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), None);
    assert_eq!(text(response).await, "to the end");
}

#[tokio::test]
async fn informational_responses_without_end_are_refused() {
    let address = backend(|mut peer, _| async move {
        read_head(&mut peer).await;
        while peer.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
    })
    .await;
    let upstream = upstream(address);
    let sent = upstream.send(get("/"), Duration::from_secs(3600));
    let refused = tokio::time::timeout(PATIENCE, sent).await.unwrap();
    assert!(matches!(refused, Err(UpstreamError::BadResponse(_))), "{refused:?}");
}
