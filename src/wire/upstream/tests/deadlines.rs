//! Deadlines, blame, and back pressure in both directions.

use std::task::Poll;

use super::*;

const SHORT: Duration = Duration::from_millis(300);

/// A backend that reads nothing and says nothing, but keeps the connection.
async fn mute() -> SocketAddr {
    backend(|peer, _| async move {
        let _keep = peer;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_timed_out_and_its_connection_closed() {
    let upstream = upstream(mute().await);
    let started = Instant::now();
    let error = upstream.send(get("/"), SHORT).await.unwrap_err();
    assert_eq!(
        error,
        UpstreamError::Timeout {
            waited: SHORT,
            arrived: true
        }
    );
    assert_eq!(error.fault(), Fault::Backend);
    assert!(started.elapsed() >= SHORT && started.elapsed() < PATIENCE);
    until("the connection is closed", || upstream.stats().open == 0).await;
}

#[tokio::test]
async fn the_deadline_runs_from_the_end_of_the_upload() {
    let upstream = upstream(answering(OK).await);
    let (sender, body) = channel();
    let upload = tokio::spawn(async move {
        for _ in 0..6 {
            tokio::time::sleep(SHORT / 2).await;
            sender.send(Ok(Bytes::from_static(b"piece "))).await.unwrap();
        }
    });
    let started = Instant::now();
    assert_eq!(text(upstream.send(post(body), SHORT).await.unwrap()).await, "ok");
    upload.await.unwrap();
    assert!(
        started.elapsed() > SHORT * 2,
        "the upload was meant to be slower than the deadline"
    );
}

#[tokio::test]
async fn after_a_long_upload_the_backend_has_the_whole_deadline_and_no_more() {
    let address = backend(|mut peer, _| async move {
        read_request(&mut peer).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let upstream = upstream(address);
    let (sender, body) = channel();
    let upload = tokio::spawn(async move {
        for _ in 0..3 {
            tokio::time::sleep(SHORT / 2).await;
            sender.send(Ok(Bytes::from_static(b"piece "))).await.unwrap();
        }
        drop(sender);
        Instant::now()
    });
    let error = upstream.send(post(body), SHORT).await.unwrap_err();
    let waited = upload.await.unwrap().elapsed();
    assert!(
        matches!(error, UpstreamError::Timeout { arrived: true, .. }),
        "{error:?}"
    );
    assert!(waited >= SHORT - Duration::from_millis(5), "{waited:?}");
    assert!(waited < SHORT * 8, "{waited:?}");
}

#[tokio::test]
async fn an_upload_that_stands_still_is_blamed_on_the_client() {
    let upstream = upstream(answering(OK).await);
    let (sender, body) = channel();
    sender.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    let error = upstream.send(post(body), SHORT).await.unwrap_err();
    assert_eq!(error, UpstreamError::ClientStalled { waited: SHORT });
    assert_eq!(error.fault(), Fault::Client);
    drop(sender);
}

#[tokio::test]
async fn an_upload_that_the_client_breaks_off_is_blamed_on_the_client() {
    let whole = Count::default();
    let seen = whole.clone();
    let address = backend(move |mut peer, _| {
        let whole = seen.clone();
        async move {
            if read_request(&mut peer).await.is_some() {
                whole.add(1);
            }
        }
    })
    .await;
    let upstream = upstream(address);
    let (sender, body) = channel();
    tokio::spawn(async move {
        sender.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
        sender.send(Err(std::io::Error::other("hung up"))).await.unwrap();
    });
    let error = upstream.send(post(body), PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, UpstreamError::ClientBody(why) if why.contains("hung up")),
        "{error:?}"
    );
    until("the connection is closed", || upstream.stats().open == 0).await;
    assert_eq!(whole.get(), 0, "a body cut short must not look whole");
}

#[tokio::test]
async fn an_upload_shorter_than_its_length_never_looks_whole() {
    let upstream = upstream(answering(OK).await);
    let (sender, body) = channel();
    tokio::spawn(async move { sender.send(Ok(Bytes::from_static(b"half"))).await });
    let mut request = post(body);
    request
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("8"));
    let error = upstream.send(request, PATIENCE).await.unwrap_err();
    assert!(matches!(error, UpstreamError::ClientBody(_)), "{error:?}");
}

#[tokio::test]
async fn a_backend_that_stops_reading_holds_the_client_back_and_is_timed_out() {
    let upstream = upstream(mute().await);
    let taken = Count::default();
    let counted = taken.clone();
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    let stream = futures_util::stream::repeat_with(move || {
        counted.add(piece.len());
        Ok::<_, std::io::Error>(piece.clone())
    });
    let error = upstream
        .send(post(Body::new(axum::body::Body::from_stream(stream))), SHORT)
        .await
        .unwrap_err();
    assert!(
        matches!(error, UpstreamError::Timeout { arrived: true, .. }),
        "{error:?}"
    );
    // The buffers of two sockets and of hyper, not the endless body.
    assert!(
        taken.get() < 32 << 20,
        "{} bytes were taken from the client",
        taken.get()
    );
    until("the connection is closed", || upstream.stats().open == 0).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_the_backend_back() {
    let written = Count::default();
    let counted = written.clone();
    let address = backend(move |mut peer, _| {
        let written = counted.clone();
        async move {
            read_request(&mut peer).await.unwrap();
            peer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let piece = vec![b'x'; 64 * 1024];
            while peer.write_all(&piece).await.is_ok() {
                written.add(piece.len());
            }
        }
    })
    .await;
    let mut body = upstream(address).send(get("/"), PATIENCE).await.unwrap().into_body();
    // Wait until the backend gets no further.
    let mut before = usize::MAX;
    while before != written.get() {
        before = written.get();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        before < 32 << 20,
        "{before} bytes were buffered for a client that reads nothing"
    );
    let mut read = 0;
    while read < before + (1 << 20) {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert!(written.get() > before, "reading lets the backend go on");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_passed_on_and_the_upload_goes_on() {
    let whole = Count::default();
    let seen = whole.clone();
    let address = backend(move |mut peer, _| {
        let whole = seen.clone();
        async move {
            loop {
                let Some(head) = read_head(&mut peer).await else { return };
                assert!(head.starts_with("POST"));
                peer.write_all(OK).await.unwrap();
                let mut rest = Vec::new();
                while !rest.ends_with(b"0\r\n\r\n") {
                    rest.push(peer.read_u8().await.unwrap());
                }
                whole.add(1);
            }
        }
    })
    .await;
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 1,
        ..options(address)
    });
    for turn in 1..=2 {
        let (sender, body) = channel();
        sender.send(Ok(Bytes::from_static(b"first "))).await.unwrap();
        assert_eq!(text(upstream.send(post(body), PATIENCE).await.unwrap()).await, "ok");
        assert_eq!(
            (upstream.stats().idle, upstream.stats().open),
            (0, 1),
            "in use until the upload ends"
        );
        sender.send(Ok(Bytes::from_static(b"second"))).await.unwrap();
        drop(sender);
        until("the upload arrives", || whole.get() == turn).await;
        until("the connection is idle", || upstream.stats().idle == 1).await;
    }
    assert_eq!(upstream.stats().connects, 1);
}

#[tokio::test]
async fn an_upload_that_stands_still_after_the_answer_gives_its_place_up() {
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 1,
        ..options(early().await)
    });
    let (sender, body) = channel();
    assert_eq!(text(upstream.send(post(body), SHORT).await.unwrap()).await, "ok");
    until("it is closed", || upstream.stats().open == 0).await;
    drop(sender);
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
}

/// A backend that answers when it has the head.
async fn early() -> SocketAddr {
    backend(|mut peer, _| async move {
        if read_head(&mut peer).await.is_some() {
            peer.write_all(OK).await.unwrap();
            let _ = peer.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

/// A body whose second piece comes when the backend has refused and reset the connection, which the runtime has not
/// been told: this only thread waits for it. So the next write fails while the refusal lies unread.
#[tokio::test]
async fn a_refusal_in_mid_upload_is_passed_on_though_the_connection_is_reset() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (refused_sender, refused) = std::sync::mpsc::channel();
    let (proceed, proceed_receiver) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        proceed_receiver.recv().unwrap();
        let refusal = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig";
        stream.write_all(refusal).unwrap();
        // The request lies unread: closing makes the kernel send a reset after the answer.
        drop(stream);
        refused_sender.send(()).unwrap();
    });
    let mut pieces = 0;
    let (mut proceed, mut refused) = (Some(proceed), Some(refused));
    let stream = futures_util::stream::poll_fn(move |cx| {
        pieces += 1;
        match pieces {
            1 => Poll::Ready(Some(Ok::<_, std::io::Error>(Bytes::from_static(b"first")))),
            // Lets what was said so far go out.
            2 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            3 => {
                proceed.take().unwrap().send(()).unwrap();
                refused.take().unwrap().recv().unwrap();
                Poll::Ready(Some(Ok(Bytes::from_static(b"second"))))
            }
            _ => Poll::Pending,
        }
    });
    let response = upstream(address)
        .send(post(Body::new(axum::body::Body::from_stream(stream))), PATIENCE)
        .await
        .unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(text(response).await, "big");
}
