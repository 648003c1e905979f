//! Streams, connections, memory and time: none of it is without a bound.

use super::*;

#[tokio::test]
async fn requests_share_a_connection_and_never_exceed_what_the_backend_allows() {
    for (streams, connections) in [(1, 12), (5, 3), (100, 1)] {
        let open = Count::default();
        let (all_came, all) = tokio::sync::watch::channel(false);
        let (seen, all_came) = (open.clone(), Arc::new(all_came));
        let address = backend(move |peer, _| {
            let (open, all_came, mut all) = (seen.clone(), Arc::clone(&all_came), all.clone());
            async move {
                // SETTINGS_MAX_CONCURRENT_STREAMS.
                let mut frames = Frames::greet(peer, &[0, 3, 0, 0, 0, streams]).await;
                let mut waiting = Vec::new();
                // None is answered before all have come.
                loop {
                    tokio::select! {
                        Some(stream) = frames.request() => waiting.push(stream),
                        _ = all.wait_for(|all| *all) => break,
                    }
                    assert!(waiting.len() <= usize::from(streams));
                    if open.add(1) == 12 {
                        all_came.send_replace(true);
                    }
                }
                for stream in waiting {
                    frames.answer(stream).await;
                }
                frames.next_of(GO_AWAY).await;
            }
        })
        .await;
        let upstream = upstream(address);
        let all = (0..12).map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { text(upstream.send(get("/"), PATIENCE).await.unwrap()).await })
        });
        for one in all.collect::<Vec<_>>() {
            assert_eq!(one.await.unwrap(), "ok");
        }
        assert_eq!((open.get(), upstream.stats().connects), (12, connections), "{streams}");
    }
}

#[tokio::test]
async fn the_places_of_the_pool_bound_the_requests_and_the_wait_for_one() {
    let address = framed(|mut frames, _| async move { while frames.request().await.is_some() {} }).await;
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 1,
        connect_timeout: Duration::from_millis(300),
        ..options(address)
    });
    let first = tokio::spawn({
        let upstream = upstream.clone();
        async move { upstream.send(get("/"), PATIENCE).await.map(drop) }
    });
    until("it is under way", || upstream.stats().connects == 1).await;
    let error = upstream.send(get("/"), PATIENCE).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Overloaded { max_connections: 1 }),
        "{error:?}"
    );
    first.abort();
}

#[tokio::test]
async fn a_backend_that_takes_nothing_stops_the_client_and_one_that_is_not_read_is_stopped() {
    // Nothing is released: the window stays what it was at first.
    let address = library(
        |_| {},
        |(request, mut answer), _| async move {
            let mut body = answer.send_response(Response::new(()), false).unwrap();
            body.reserve_capacity(8 << 20);
            let mut sent = 0;
            while let Some(Ok(room)) = poll_fn(|cx| body.poll_capacity(cx)).await {
                sent += room;
                body.send_data(Bytes::from(vec![b'y'; room]), false).unwrap();
                body.reserve_capacity(8 << 20);
                assert!(sent <= 128 * 1024, "more than the client's window");
            }
            drop(request);
        },
    )
    .await;
    let upstream = upstream(address);
    let taken = Count::default();
    let seen = taken.clone();
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    let endless = futures_util::stream::repeat_with(move || {
        seen.add(16 * 1024);
        Ok::<_, std::io::Error>(piece.clone())
    });
    let quiet = Duration::from_millis(300);
    let response = upstream
        .send(post(Body::new(axum::body::Body::from_stream(endless))), quiet)
        .await
        .unwrap();
    // The upload stands still for so long that it is given up: the response ends with that.
    let mut body = response.into_body();
    tokio::time::sleep(2 * quiet).await;
    let mut error = None;
    while let Some(frame) = body.frame().await {
        error = frame.err();
    }
    assert!(matches!(error, Some(BodyError::Request)), "{error:?}");
    assert!(
        taken.get() <= 65_535 + 64 * 1024 + 64 * 1024,
        "{} bytes were taken",
        taken.get()
    );
}

#[tokio::test]
async fn deadlines_hold_and_tell_whose_fault_it_is() {
    let address = framed(|mut frames, _| async move { while frames.next().await.is_some() {} }).await;
    let upstream = upstream(address);
    let soon = Duration::from_millis(100);
    let error = upstream.send(post("hello"), soon).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Timeout { arrived: true, .. }),
        "{error:?}"
    );
    let (_sender, body) = channel();
    let error = upstream.send(post(body), soon).await.unwrap_err();
    assert!(matches!(error, UpstreamError::ClientStalled { .. }), "{error:?}");
    // More than the window, which is never opened.
    let error = upstream.send(post(vec![b'x'; 1 << 20]), soon).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Timeout { arrived: true, .. }),
        "{error:?}"
    );
    until("no stream is left", || upstream.stats().idle == 1).await;

    // A backend that takes connections and says nothing.
    let silent = backend(|mut peer, _| async move { while peer.read_u8().await.is_ok() {} }).await;
    let upstream = Upstream::new(UpstreamOptions {
        connect_timeout: soon,
        ..options(silent)
    });
    let error = upstream.send(post("hello"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn a_backend_that_speaks_http_1_alone_is_told_in_words() {
    let address = answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let error = upstream(address).send(post("hello"), PATIENCE).await.unwrap_err();
    assert!(
        !error.arrived() && error.to_string().contains("does not speak HTTP/2"),
        "{error}"
    );
    let refused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let all = (0..20).map(|_| {
        let upstream = upstream(refused);
        tokio::spawn(async move { upstream.send(post("hello"), PATIENCE).await.unwrap_err() })
    });
    for error in all.collect::<Vec<_>>() {
        assert!(matches!(error.await.unwrap(), UpstreamError::Connect(_)));
    }
}

#[tokio::test]
async fn a_connection_that_is_idle_or_old_is_left_for_another() {
    let address = library(|_| {}, |asked, _| ok(asked)).await;
    let idle = Upstream::new(UpstreamOptions {
        idle_timeout: Duration::from_millis(50),
        ..options(address)
    });
    let old = Upstream::new(UpstreamOptions {
        max_age: Some(Duration::from_millis(50)),
        ..options(address)
    });
    for upstream in [idle, old] {
        for round in 1..=2 {
            assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
            assert_eq!(upstream.stats().connects, round);
            until("it is closed", || upstream.stats().open == 0).await;
        }
    }
    let never_idle = Upstream::new(UpstreamOptions {
        idle_timeout: Duration::ZERO,
        ..options(address)
    });
    for _ in 0..3 {
        assert_eq!(text(never_idle.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    }
    assert_eq!(never_idle.stats().connects, 3);
}

#[tokio::test]
async fn a_pool_that_is_dropped_says_goodbye() {
    let gone = Count::default();
    let seen = gone.clone();
    let address = framed(move |mut frames, _| {
        let seen = seen.clone();
        async move {
            let stream = frames.request().await.unwrap();
            frames.answer(stream).await;
            frames.next_of(GO_AWAY).await.unwrap();
            seen.add(1);
        }
    })
    .await;
    let upstream = upstream(address);
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    drop(upstream);
    until("it was said", || gone.get() == 1).await;
}

#[tokio::test]
async fn a_backend_that_is_gone_without_a_word_is_found_by_asking_it() {
    let pings = Count::default();
    let seen = pings.clone();
    let address = framed(move |mut frames, _| {
        let seen = seen.clone();
        async move {
            while let Some(frame) = frames.next().await {
                // Never answered.
                seen.add(usize::from(frame.kind == 6));
            }
        }
    })
    .await;
    let upstream = upstream(address);
    let sending = tokio::spawn({
        let upstream = upstream.clone();
        async move {
            upstream
                .send(post("hello"), Duration::from_secs(600))
                .await
                .unwrap_err()
        }
    });
    until("it is under way", || upstream.stats().connects == 1).await;
    tokio::time::pause();
    let asked = Instant::now();
    let error = sending.await.unwrap();
    assert!(
        matches!(&error, UpstreamError::Reset { arrived: true, detail } if detail.contains("ping")),
        "{error:?}"
    );
    assert!(asked.elapsed() < Duration::from_secs(30));
    tokio::time::resume();
    until("it was asked", || pings.get() == 1).await;
}

/// Servers of gRPC count more than one ping in five minutes without data as abuse.
#[tokio::test]
async fn a_quiet_stream_is_asked_after_once_and_then_seldom() {
    let pings = Count::default();
    let seen = pings.clone();
    let address = framed(move |mut frames, _| {
        let seen = seen.clone();
        async move {
            let stream = frames.request().await.unwrap();
            frames.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
            while let Some(frame) = frames.next().await {
                if frame.kind == 6 {
                    seen.add(1);
                    frames.write(6, ACK, 0, &frame.payload).await;
                }
            }
        }
    })
    .await;
    let upstream = upstream(address);
    let _quiet = upstream.send(get("/events"), PATIENCE).await.unwrap();
    tokio::time::pause();
    for _ in 0..400 {
        // Time passes in steps, so that what is said in between can be heard.
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(pings.get(), 2);
    assert_eq!(upstream.stats().open, 1);
}

#[tokio::test]
async fn a_backend_that_allows_no_streams_for_now_is_waited_for_on_one_connection() {
    let address = backend(move |peer, _| async move {
        let mut frames = Frames::greet(peer, &[0, 3, 0, 0, 0, 0]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        frames.write(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).await;
        frames.serve().await;
    })
    .await;
    let upstream = upstream(address);
    let all = (0..5).map(|_| {
        let upstream = upstream.clone();
        tokio::spawn(async move { text(upstream.send(get("/"), PATIENCE).await.unwrap()).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), "ok");
    }
    assert_eq!(upstream.stats().connects, 1);
}

/// What was on its way for streams that were reset is no fault of the backend's.
#[tokio::test]
async fn clients_that_leave_in_great_number_cost_nobody_else_the_connection() {
    let address = framed(|mut frames, _| async move {
        let mut asked = Vec::new();
        while let Some(frame) = frames.next().await {
            match frame.kind {
                HEADERS => {
                    frames.write(HEADERS, END_HEADERS, frame.stream, STATUS_200).await;
                    frames.write(DATA, 0, frame.stream, b"begun").await;
                    asked.push(frame.stream);
                }
                // It had more on the way, and does not stop at once.
                RST_STREAM => frames.write(DATA, END_STREAM, frame.stream, b"late").await,
                _ => {}
            }
        }
    })
    .await;
    let upstream = upstream(address);
    let mut stays = upstream.send(get("/"), PATIENCE).await.unwrap().into_body();
    for _ in 0..2000 {
        drop(upstream.send(get("/"), PATIENCE).await.unwrap());
    }
    assert_eq!(stays.frame().await.unwrap().unwrap().into_data().unwrap(), "begun");
    let next = tokio::time::timeout(Duration::from_millis(200), stays.frame()).await;
    assert!(next.is_err(), "it is still open: {next:?}");
    assert_eq!(upstream.stats().connects, 1);
}

#[tokio::test]
async fn a_connection_that_cannot_be_had_costs_nobody_the_streams_that_there_are() {
    const ONE_STREAM: &[u8] = &[0, 3, 0, 0, 0, 1];
    let (asked, release) = (Count::default(), Arc::new(tokio::sync::Notify::new()));
    let (count, released) = (asked.clone(), Arc::clone(&release));
    let address = backend(move |peer, index| {
        let (count, released) = (count.clone(), Arc::clone(&released));
        async move {
            if index > 0 {
                return reset(peer);
            }
            let mut frames = Frames::greet(peer, ONE_STREAM).await;
            while let Some(stream) = frames.request().await {
                if count.add(1) == 1 {
                    released.notified().await;
                }
                frames.answer(stream).await;
            }
        }
    })
    .await;
    let upstream = upstream(address);
    let send = || {
        let upstream = upstream.clone();
        tokio::spawn(async move { text(upstream.send(get("/"), PATIENCE).await.unwrap()).await })
    };
    let first = send();
    until("the first is under way", || asked.get() == 1).await;
    let others = [send(), send()];
    until("another connection was tried", || upstream.stats().connect_failures > 0).await;
    release.notify_one();
    assert_eq!(first.await.unwrap(), "ok");
    for other in others {
        assert_eq!(other.await.unwrap(), "ok");
    }
    assert!(upstream.stats().connect_failures < 10, "{:?}", upstream.stats());
}
