//! Which connection a request gets, and how many there are.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again_once_its_response_was_read_to_the_end() {
    let upstream = upstream(answering(OK).await);
    for _ in 0..5 {
        assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    }
    let stats = upstream.stats();
    assert_eq!((stats.connects, stats.reused, stats.idle, stats.open), (1, 4, 1, 1));
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_response_without_a_body_that_nobody_reads() {
    for response in [
        &b"HTTP/1.1 204 No Content\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
    ] {
        let upstream = upstream(answering(response).await);
        for _ in 0..3 {
            drop(upstream.send(get("/"), PATIENCE).await.unwrap());
        }
        assert_eq!(upstream.stats().connects, 1, "{}", String::from_utf8_lossy(response));
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_chunks_and_trailers_and_after_head() {
    let chunks =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n";
    let one = upstream(answering(chunks).await);
    for _ in 0..3 {
        let collected = one
            .send(get("/"), PATIENCE)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "9");
        assert_eq!(collected.to_bytes(), "ok");
    }
    assert_eq!(one.stats().connects, 1);

    let other = upstream(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await);
    for _ in 0..3 {
        let head = Request::head("/").header("Host", "shop").body(Body::empty()).unwrap();
        let response = other.send(head, PATIENCE).await.unwrap();
        assert_eq!(response.headers()["content-length"], "1000");
        assert!(response.body().is_end_stream());
    }
    assert_eq!(other.stats().connects, 1);
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_not_used_again_however_busy_it_is() {
    let max_age = Duration::from_millis(200);
    let upstream = Upstream::new(UpstreamOptions {
        max_age: Some(max_age),
        ..options(answering(OK).await)
    });
    let began = Instant::now();
    while upstream.stats().connects < 3 {
        assert!(began.elapsed() < PATIENCE, "the first connection is used for ever");
        assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    }
    // Two have had their time.
    assert!(began.elapsed() >= 2 * max_age, "{:?}", began.elapsed());
    until("they are closed", || upstream.stats().open == 1).await;
}

#[tokio::test]
async fn a_connection_that_the_backend_means_to_close_is_not_kept() {
    for response in [
        &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"[..],
        b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let upstream = upstream(answering(response).await);
        for _ in 0..3 {
            assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
        }
        assert_eq!(upstream.stats().connects, 3, "{}", String::from_utf8_lossy(response));
        until("all are closed", || upstream.stats().open == 0).await;
    }
}

#[tokio::test]
async fn a_connection_whose_204_tells_the_length_of_a_body_is_not_used_again() {
    for (response, connects) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], 1),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 1),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", 1),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", 3),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 3),
    ] {
        let upstream = upstream(answering(response).await);
        for _ in 0..3 {
            assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "");
        }
        let shown = String::from_utf8_lossy(response);
        assert_eq!(upstream.stats().connects, connects, "{shown}");
    }
}

#[tokio::test]
async fn a_response_that_is_dropped_half_read_closes_its_connection() {
    let closed = Count::default();
    let seen = closed.clone();
    let address = backend(move |mut peer, _| {
        let closed = seen.clone();
        async move {
            read_request(&mut peer).await.unwrap();
            peer.write_all(b"HTTP/1.1 200 OK\r\n\r\nan endless ").await.unwrap();
            while peer.write_all(b"stream ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            closed.add(1);
        }
    })
    .await;
    let upstream = upstream(address);
    let mut body = upstream.send(get("/"), PATIENCE).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    until("the backend sees it", || closed.get() == 1).await;
    until("it is gone", || upstream.stats().open == 0).await;
    assert_eq!(upstream.stats().idle, 0);
}

#[tokio::test]
async fn a_connection_idle_for_too_long_is_closed_and_not_used_again() {
    let closed = Count::default();
    let seen = closed.clone();
    let address = backend(move |mut peer, _| {
        let closed = seen.clone();
        async move {
            while read_request(&mut peer).await.is_some() {
                peer.write_all(OK).await.unwrap();
            }
            closed.add(1);
        }
    })
    .await;
    let upstream = Upstream::new(UpstreamOptions {
        idle_timeout: Duration::from_millis(60),
        ..options(address)
    });
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    until("it is swept", || closed.get() == 1 && upstream.stats().idle == 0).await;
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    assert_eq!(upstream.stats().connects, 2);
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_closes_leaves_no_socket_behind() {
    let address = backend(|mut peer, _| async move {
        read_request(&mut peer).await;
        peer.write_all(OK).await.unwrap();
    })
    .await;
    let upstream = upstream(address);
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    until("the socket is closed", || upstream.stats().open == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_request_is_answered_once_within_the_cap() {
    let (open, most, served) = (Count::default(), Count::default(), Count::default());
    let counts = (open.clone(), most.clone(), served.clone());
    let address = backend(move |mut peer, _| {
        let (open, most, served) = counts.clone();
        async move {
            most.0.fetch_max(open.add(1), Ordering::SeqCst);
            while let Some(request) = read_request(&mut peer).await {
                served.add(1);
                let body = String::from_utf8(request.body).unwrap();
                let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                peer.write_all(response.as_bytes()).await.unwrap();
            }
            open.sub();
        }
    })
    .await;
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 8,
        ..options(address)
    });
    let clients: Vec<_> = (0..64)
        .map(|client| {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                for turn in 0..50 {
                    let said = format!("client {client} turn {turn}");
                    let response = upstream.send(post(said.clone()), PATIENCE).await.unwrap();
                    assert_eq!(text(response).await, said);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(served.get(), 64 * 50);
    assert!(most.get() <= 8, "{} at once", most.get());
    let stats = upstream.stats();
    assert!(stats.connects <= 8, "{stats:?}");
    assert_eq!(stats.retries, 0);
}

#[tokio::test]
async fn a_request_that_finds_no_place_in_time_is_refused_as_overload() {
    let address = backend(|mut peer, _| async move {
        read_request(&mut peer).await;
        peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            .await
            .unwrap();
        let _ = peer.read_u8().await;
    })
    .await;
    let connect_timeout = Duration::from_millis(100);
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 2,
        connect_timeout,
        ..options(address)
    });
    let first = upstream.send(get("/"), PATIENCE).await.unwrap();
    let second = upstream.send(get("/"), PATIENCE).await.unwrap();
    let started = Instant::now();
    let error = upstream.send(get("/"), PATIENCE).await.unwrap_err();
    assert_eq!(error, UpstreamError::Overloaded { max_connections: 2 });
    assert_eq!((error.fault(), error.arrived()), (Fault::Bridge, false));
    assert!(started.elapsed() >= connect_timeout);
    drop(first);
    upstream.send(get("/"), PATIENCE).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn a_backend_that_cannot_be_reached_is_named_with_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reachable = upstream(address);
    reachable.probe().await.unwrap();
    drop(listener);
    let error = reachable.send(get("/"), PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, UpstreamError::Connect(why) if why.contains(&address.to_string())),
        "{error}"
    );
    assert!(!error.arrived());
    assert_eq!(reachable.probe().await.unwrap_err().kind(), "connect");
    assert_eq!(reachable.stats().connect_failures, 1);

    let unknown = Upstream::new(UpstreamOptions {
        host: "no-such-host.invalid".to_owned(),
        ..options(address)
    });
    assert!(
        unknown
            .probe()
            .await
            .unwrap_err()
            .to_string()
            .contains("no-such-host.invalid")
    );
}

#[tokio::test]
async fn a_silent_address_costs_no_more_than_the_connect_timeout() {
    // A listener whose backlog is full answers nothing more.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        fillers.push(stream);
    }
    let connect_timeout = Duration::from_millis(150);
    let upstream = Upstream::new(UpstreamOptions {
        connect_timeout,
        ..options(address)
    });
    let started = Instant::now();
    let error = upstream.send(get("/"), PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), "connect");
    assert!(started.elapsed() >= connect_timeout && started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    let address = answering(OK).await;
    // The name has an IPv6 address on most machines, where nobody listens.
    let upstream = Upstream::new(UpstreamOptions {
        host: "localhost".to_owned(),
        ..options(address)
    });
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
}

#[tokio::test]
async fn uploads_that_wait_for_their_clients_leave_places_for_what_is_here() {
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 4,
        connect_timeout: Duration::from_millis(100),
        ..options(answering(OK).await)
    });
    let mut dripping = Vec::new();
    for _ in 0..3 {
        let (client, body) = channel();
        let upstream = upstream.clone();
        dripping.push((
            client,
            tokio::spawn(async move { upstream.send(post(body), PATIENCE).await }),
        ));
    }
    until("three uploads are under way", || upstream.stats().open == 3).await;
    let (_client, body) = channel();
    let one_more = upstream.send(post(body), PATIENCE).await;
    assert_eq!(one_more.unwrap_err().kind(), "overloaded");
    for _ in 0..3 {
        let here = upstream.forward(ours(post("hello")), PATIENCE, true, |_| {}).await;
        assert_eq!(text(here.unwrap().into_http()).await, "ok");
    }
    for (client, sending) in dripping {
        drop(client);
        assert_eq!(text(sending.await.unwrap().unwrap()).await, "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_waits_for_its_place_no_longer_than_any_other_request() {
    let connect_timeout = Duration::from_secs(1);
    let pool = Arc::new(Pool::new(UpstreamOptions {
        max_connections: 4,
        connect_timeout,
        ..options(([127, 0, 0, 1], 1).into())
    }));
    let mut uploading = pool.place(true).await.unwrap();
    let _others = [
        pool.place(true).await.unwrap(),
        pool.place(true).await.unwrap(),
        pool.place(false).await.unwrap(),
    ];
    let started = tokio::time::Instant::now();
    // Late, it is an upload's turn; but there is no place.
    let done = async {
        tokio::time::sleep(connect_timeout * 3 / 4).await;
        uploading.uploaded();
    };
    let (place, ()) = tokio::join!(pool.place(true), done);
    assert_eq!(place.unwrap_err().kind(), "overloaded");
    let waited = started.elapsed();
    assert!(
        waited >= connect_timeout && waited < connect_timeout * 5 / 4,
        "{waited:?}"
    );
}
