//! F4 over HTTP/2: what is sent again, and what is not.

use super::*;

/// A backend of which each connection first does something to the first request, and later ones answer. Counts answers.
async fn at_first(first: impl Fn(Frames, u32) -> Done + Clone + Send + Sync + 'static) -> (SocketAddr, Count) {
    let answered = Count::default();
    let count = answered.clone();
    let address = framed(move |mut frames, index| {
        let (first, count) = (first.clone(), count.clone());
        async move {
            if index == 0 {
                let stream = frames.next_of(HEADERS).await.unwrap().stream;
                first(frames, stream).await;
                return;
            }
            while let Some(stream) = frames.request().await {
                count.add(1);
                frames.answer(stream).await;
            }
        }
    })
    .await;
    (address, answered)
}

type Done = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[tokio::test]
async fn a_request_that_the_backend_has_gone_away_from_unseen_is_sent_again_whatever_its_method() {
    for closes in [false, true] {
        let (address, answered) = at_first(move |mut frames, _| {
            Box::pin(async move {
                frames.go_away(0).await;
                if !closes {
                    frames.next_of(GO_AWAY).await;
                }
            })
        })
        .await;
        let upstream = upstream(address);
        let response = upstream.send(post("hello"), PATIENCE).await.unwrap();
        assert_eq!(text(response).await, "ok");
        let stats = upstream.stats();
        assert_eq!((stats.retries, stats.connects, answered.get()), (1, 2, 1));
    }
}

#[tokio::test]
async fn a_request_that_the_backend_may_have_seen_is_never_sent_again() {
    for fate in 0..4 {
        let (address, answered) = at_first(move |mut frames, stream| {
            Box::pin(async move {
                match fate {
                    // Closed without a word; or it says that this one is its own, and closes.
                    0 => {}
                    1 => frames.go_away(stream).await,
                    // A first goodbye, that tells of no last one, and closes.
                    2 => frames.go_away(0x7fff_ffff).await,
                    _ => reset(frames.0),
                }
            })
        })
        .await;
        let upstream = upstream(address);
        let error = upstream.send(post("hello"), PATIENCE).await.unwrap_err();
        assert!(
            matches!(error, UpstreamError::Reset { arrived: true, .. }),
            "{fate}: {error:?}"
        );
        assert_eq!((upstream.stats().retries, answered.get()), (0, 0), "{fate}");
    }
}

#[tokio::test]
async fn a_goodbye_in_two_steps_fails_no_request() {
    let address = framed(|mut frames, index| async move {
        let first = frames.request().await.unwrap();
        if index > 0 {
            frames.answer(first).await;
            return frames.serve().await;
        }
        frames.go_away(0x7fff_ffff).await;
        frames.answer(first).await;
        frames.go_away(first).await;
    })
    .await;
    let upstream = upstream(address);
    for _ in 0..3 {
        let response = upstream.send(post("hello"), PATIENCE).await.unwrap();
        assert_eq!(text(response).await, "ok");
    }
    let stats = upstream.stats();
    assert_eq!((stats.connects, stats.retries), (2, 0));
}

#[tokio::test]
async fn a_new_connection_that_the_backend_leaves_at_once_is_followed_by_another_but_not_for_ever() {
    for (leaves, fails) in [(4, false), (usize::MAX, true)] {
        let opened = Count::default();
        let count = opened.clone();
        let address = framed(move |mut frames, index| {
            let count = count.clone();
            async move {
                count.add(1);
                if index < leaves {
                    frames.go_away(0).await;
                } else {
                    frames.serve().await;
                }
            }
        })
        .await;
        let upstream = upstream(address);
        match upstream.send(post("hello"), PATIENCE).await {
            Ok(response) => assert!(!fails && text(response).await == "ok"),
            Err(error) => assert!(fails && matches!(error, UpstreamError::Connect(_)), "{error:?}"),
        }
        assert_eq!(opened.get(), 5);
    }
}

#[tokio::test]
async fn what_was_begun_before_a_goodbye_is_sent_to_its_end() {
    let (left, leaving) = tokio::sync::watch::channel(false);
    let left = Arc::new(left);
    let address = framed(move |mut frames, _| {
        let left = Arc::clone(&left);
        async move {
            let stream = frames.next_of(DATA).await.unwrap().stream;
            frames.go_away(0x7fff_ffff).await;
            left.send_replace(true);
            frames.request().await.unwrap();
            frames.answer(stream).await;
            frames.go_away(stream).await;
        }
    })
    .await;
    let (sender, body) = channel();
    let sending = tokio::spawn(async move {
        sender.send(Ok(Bytes::from_static(b"before"))).await.unwrap();
        let mut leaving = leaving;
        leaving.wait_for(|left| *left).await.unwrap();
        sender.send(Ok(Bytes::from_static(b"after"))).await.unwrap();
    });
    let upstream = upstream(address);
    assert_eq!(text(upstream.send(post(body), PATIENCE).await.unwrap()).await, "ok");
    sending.await.unwrap();
    assert_eq!(upstream.stats().retries, 0);
}

#[tokio::test]
async fn a_backend_that_says_goodbye_after_each_request_fails_none_of_many_at_once() {
    let answered = Count::default();
    let count = answered.clone();
    let address = framed(move |mut frames, _| {
        let count = count.clone();
        async move {
            let stream = frames.request().await.unwrap();
            count.add(1);
            frames.go_away(stream).await;
            frames.answer(stream).await;
            frames.next_of(GO_AWAY).await;
        }
    })
    .await;
    let upstream = upstream(address);
    let all = (0..8).map(|_| {
        let upstream = upstream.clone();
        tokio::spawn(async move { text(upstream.send(post("hello"), PATIENCE).await.unwrap()).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), "ok");
    }
    assert_eq!(answered.get(), 8);
}

/// Resets each of the first `count` streams for `reason`.
async fn resetting(count: usize, reason: Reason) -> (Upstream, Count) {
    let asked = Count::default();
    let seen = asked.clone();
    let address = framed(move |mut frames, _| {
        let seen = seen.clone();
        async move {
            while let Some(stream) = frames.request().await {
                if seen.add(1) <= count {
                    frames.reset(stream, reason).await;
                } else {
                    frames.answer(stream).await;
                }
            }
        }
    })
    .await;
    (upstream(address), asked)
}

#[tokio::test]
async fn a_refused_stream_is_begun_again_but_not_for_ever() {
    for refusals in 1..=2 {
        let (upstream, asked) = resetting(refusals, Reason::REFUSED_STREAM).await;
        let response = upstream.send(post("hello"), PATIENCE).await.unwrap();
        assert_eq!(text(response).await, "ok");
        assert_eq!((asked.get(), upstream.stats().connects), (refusals + 1, 1));
    }
    let (upstream, asked) = resetting(usize::MAX, Reason::REFUSED_STREAM).await;
    let error = upstream.send(post("hello"), PATIENCE).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Reset { arrived: false, .. }),
        "{error:?}"
    );
    assert_eq!(asked.get(), 3);
}

#[tokio::test]
async fn a_stream_that_is_reset_for_another_reason_is_not_begun_again() {
    for reason in [
        Reason::NO_ERROR,
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::PROTOCOL_ERROR,
        Reason::HTTP_1_1_REQUIRED,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        let (upstream, asked) = resetting(1, reason).await;
        for request in [get("/"), post("hello")] {
            let Err(error) = upstream.send(request, PATIENCE).await else {
                break;
            };
            assert!(
                matches!(error, UpstreamError::Reset { arrived: true, .. }),
                "{reason:?}: {error:?}"
            );
        }
        assert_eq!((asked.get(), upstream.stats().retries), (2, 0), "{reason:?}");
    }
}

#[tokio::test]
async fn a_body_is_sent_again_only_where_all_of_it_was_kept() {
    for (size, again) in [(48 * 1024, true), (1024 * 1024, false)] {
        let (address, answered) = at_first(move |mut frames, stream| {
            Box::pin(async move {
                // More than is kept of a body may come.
                for stream in [0, stream] {
                    frames
                        .write(WINDOW_UPDATE, 0, stream, &(1_u32 << 20).to_be_bytes())
                        .await;
                }
                let mut come = 0;
                while come < size.min(128 * 1024) {
                    come += frames.next_of(DATA).await.unwrap().payload.len();
                }
                frames.go_away(0).await;
                frames.next_of(GO_AWAY).await;
            })
        })
        .await;
        let upstream = upstream(address);
        match upstream.send(post(streamed(size)), PATIENCE).await {
            Ok(response) => assert!(again && text(response).await == "ok"),
            Err(error) => {
                assert!(!again, "{error:?}");
                assert!(
                    matches!(error, UpstreamError::Reset { arrived: false, .. }),
                    "{error:?}"
                );
            }
        }
        assert_eq!(answered.get(), usize::from(again));
    }
}
