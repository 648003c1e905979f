//! What goes over a stream, in both directions.

use http::HeaderMap;
use http_body_util::StreamBody;

use super::*;

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_over_one_connection() {
    let address = library(
        |_| {},
        |(mut request, mut answer), index| async move {
            let (head, body) = (request.headers().clone(), request.body_mut());
            let mut seen = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                seen.extend_from_slice(&data);
            }
            let said = format!(
                "{index} {} {} {:?} te={:?} length={:?} connection={} body={}",
                request.method(),
                request.uri(),
                head.get("host"),
                head.get("te"),
                head.get("content-length"),
                head.contains_key("connection"),
                String::from_utf8(seen).unwrap(),
            );
            let mut body = answer.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from(said), true).unwrap();
        },
    )
    .await;
    let upstream = upstream(address);
    for _ in 0..3 {
        let request = Request::post("/a%2Fb?x=%20&y")
            .header("Host", "shop.example:81")
            .header("TE", "trailers")
            .header("Connection", "TE")
            .body(Body::from("hello"))
            .unwrap();
        let response = upstream.send(request, PATIENCE).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        let said = text(response).await;
        assert_eq!(
            said,
            format!(
                "0 POST http://shop.example:81/a%2Fb?x=%20&y None te={:?} length={:?} connection=false body=hello",
                Some("trailers"),
                Some("5")
            )
        );
    }
    let stats = upstream.stats();
    assert_eq!((stats.connects, stats.reused, stats.retries), (1, 2, 0));
}

#[tokio::test]
async fn trailers_pass_both_ways_where_they_may() {
    let address = library(
        |_| {},
        |(mut request, mut answer), _| async move {
            let body = request.body_mut();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let mut body = answer.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"ok"), false).unwrap();
            body.send_trailers(trailers).unwrap();
        },
    )
    .await;
    let upstream = upstream(address);
    for (version, announced, passed) in [
        (Version::HTTP_2, "", "ab"),
        (Version::HTTP_11, "x-a", "a"),
        (Version::HTTP_11, "", ""),
    ] {
        let trailers: HeaderMap = ["x-a", "x-b"]
            .map(|name| (name.parse().unwrap(), HeaderValue::from_static("1")))
            .into_iter()
            .collect();
        let frames = [Frame::data(Bytes::from_static(b"{}")), Frame::trailers(trailers)];
        let frames = futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>));
        let mut request = post(Body::new(StreamBody::new(frames)));
        *request.version_mut() = version;
        request.headers_mut().insert("trailer", announced.parse().unwrap());
        let response = upstream.send(request, PATIENCE).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        for name in ["a", "b"] {
            let came = trailers.contains_key(format!("x-{name}"));
            assert_eq!(came, passed.contains(name), "{version:?} {announced} {name}");
        }
        assert_eq!(collected.to_bytes(), "ok");
    }
}

#[tokio::test]
async fn informational_responses_are_told_of_and_not_without_end() {
    // `:status: 103`, a literal with an indexed name (RFC 7541 §6.2.2).
    const STATUS_103: &[u8] = &[0x08, 3, b'1', b'0', b'3'];
    let address = framed(|mut frames, index| async move {
        let stream = frames.request().await.unwrap();
        let count = if index == 0 { 2 } else { 100_000 };
        for _ in 0..count {
            frames.write(HEADERS, END_HEADERS, stream, STATUS_103).await;
        }
        frames.answer(stream).await;
        frames.next_of(GO_AWAY).await;
    })
    .await;
    let upstream = upstream(address);
    let mut told = Vec::new();
    let inform = |interim: message::ResponseHead| told.push(interim.status.as_u16());
    let response = upstream.forward(ours(get("/")), PATIENCE, true, inform).await.unwrap();
    assert_eq!(
        (text(response.into_http()).await.as_str(), told),
        ("ok", vec![103, 103])
    );

    let endless = super::upstream(address);
    let error = endless.send(get("/"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, UpstreamError::BadResponse(_)), "{error:?}");
}

#[tokio::test]
async fn a_switch_of_protocols_is_no_answer() {
    const STATUS_101: &[u8] = &[0x08, 3, b'1', b'0', b'1'];
    let address = framed(|mut frames, _| async move {
        let stream = frames.request().await.unwrap();
        frames.write(HEADERS, END_HEADERS, stream, STATUS_101).await;
        frames.answer(stream).await;
        frames.next_of(RST_STREAM).await;
    })
    .await;
    let inform = |interim: message::ResponseHead| panic!("told of {interim:?}");
    let answered = upstream(address).forward(ours(get("/")), PATIENCE, true, inform).await;
    let error = answered.map(message::Response::into_http).unwrap_err();
    assert!(matches!(error, UpstreamError::BadResponse(_)), "{error:?}");
}

#[tokio::test]
async fn a_request_that_the_backend_has_spoken_of_is_not_sent_again() {
    const STATUS_103: &[u8] = &[0x08, 3, b'1', b'0', b'3'];
    let asked = Count::default();
    let count = asked.clone();
    let address = framed(move |mut frames, _| {
        let count = count.clone();
        async move {
            while let Some(stream) = frames.request().await {
                count.add(1);
                frames.write(HEADERS, END_HEADERS, stream, STATUS_103).await;
                frames.reset(stream, Reason::REFUSED_STREAM).await;
            }
        }
    })
    .await;
    let error = upstream(address).send(get("/"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Reset { arrived: true, .. }), "{error:?}");
    assert_eq!(asked.get(), 1);
}

#[tokio::test]
async fn a_length_that_is_told_twice_is_passed_on_once() {
    // `content-length: 2` (static table entry 28), twice.
    const HEAD: &[u8] = &[0x88, 0x0f, 13, 1, b'2', 0x0f, 13, 1, b'2'];
    let address = framed(|mut frames, _| async move {
        let stream = frames.request().await.unwrap();
        frames.write(HEADERS, END_HEADERS, stream, HEAD).await;
        frames.write(DATA, END_STREAM, stream, b"ok").await;
        frames.next_of(GO_AWAY).await;
    })
    .await;
    let response = upstream(address).send(get("/"), PATIENCE).await.unwrap();
    assert_eq!(response.headers().get_all("content-length").iter().count(), 1);
    assert_eq!(text(response).await, "ok");
}

/// What the backend does with the stream after "hel" of the body, and whether "hel" is then all of it.
async fn cut_by(end: impl Fn(Frames, u32) -> Fated + Clone + Send + Sync + 'static) -> Result<String, BodyError> {
    let address = framed(move |mut frames, _| {
        let end = end.clone();
        async move {
            let stream = frames.request().await.unwrap();
            frames.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
            frames.write(DATA, 0, stream, b"hel").await;
            end(frames, stream).await;
        }
    })
    .await;
    let response = upstream(address).send(get("/"), PATIENCE).await.unwrap();
    let collected = response.into_body().collect().await?;
    Ok(String::from_utf8(collected.to_bytes().to_vec()).unwrap())
}

type Fated = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[tokio::test]
async fn a_response_that_is_cut_short_is_an_error_and_never_a_shorter_response() {
    for reason in [
        Reason::NO_ERROR,
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::REFUSED_STREAM,
    ] {
        let cut = cut_by(move |mut frames, stream| {
            Box::pin(async move {
                frames.reset(stream, reason).await;
                frames.next_of(GO_AWAY).await;
            })
        })
        .await;
        assert!(matches!(cut, Err(BodyError::Cut(_))), "{reason:?}: {cut:?}");
    }
    let closed = cut_by(|frames, _| Box::pin(async move { drop(frames) })).await;
    assert!(matches!(closed, Err(BodyError::Cut(_))), "{closed:?}");
    let after_goodbye = cut_by(|mut frames, _| Box::pin(async move { frames.go_away(1).await })).await;
    assert!(matches!(after_goodbye, Err(BodyError::Cut(_))), "{after_goodbye:?}");
    let whole = cut_by(|mut frames, stream| {
        Box::pin(async move {
            frames.write(DATA, END_STREAM, stream, b"lo").await;
            frames.next_of(GO_AWAY).await;
        })
    })
    .await;
    assert_eq!(whole.unwrap(), "hello");
}

/// RFC 9113 §8.1: a server that has said all may ask the client to send no more, by a reset without an error.
#[tokio::test]
async fn an_answer_that_ends_before_the_upload_is_whole_and_stops_it() {
    let address = framed(|mut frames, _| async move {
        let stream = frames.next_of(HEADERS).await.unwrap().stream;
        frames.answer(stream).await;
        frames.reset(stream, Reason::NO_ERROR).await;
        frames.next_of(GO_AWAY).await;
    })
    .await;
    let upstream = upstream(address);
    let (sender, body) = channel();
    sender.send(Ok(Bytes::from_static(b"begun"))).await.unwrap();
    let response = upstream.send(post(body), PATIENCE).await.unwrap();
    assert_eq!(text(response).await, "ok");
    // The client is no longer asked for more.
    tokio::time::timeout(PATIENCE, sender.closed()).await.unwrap();
}

#[tokio::test]
async fn both_sides_speak_at_once() {
    let address = library(
        |_| {},
        |(mut request, mut answer), _| async move {
            let mut body = answer.send_response(Response::new(()), false).unwrap();
            while let Some(Ok(data)) = request.body_mut().data().await {
                request.body_mut().flow_control().release_capacity(data.len()).unwrap();
                body.send_data(data, false).unwrap();
            }
            body.send_data(Bytes::new(), true).unwrap();
        },
    )
    .await;
    let upstream = upstream(address);
    let (sender, body) = channel();
    let mut response = upstream.send(post(body), PATIENCE).await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        sender.send(Ok(Bytes::from(word))).await.unwrap();
        let echo = response.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(echo, word);
    }
    drop(sender);
    assert!(
        response
            .frame()
            .await
            .is_none_or(|end| end.unwrap().into_data().unwrap().is_empty())
    );
    until("the stream is over", || upstream.stats().idle == 1).await;
}

#[tokio::test]
async fn an_upload_that_the_client_breaks_off_resets_the_stream_and_cuts_the_answer() {
    let reset = Count::default();
    let seen = reset.clone();
    let address = framed(move |mut frames, index| {
        let seen = seen.clone();
        async move {
            let stream = frames.next_of(HEADERS).await.unwrap().stream;
            if index == 0 {
                frames.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
            }
            let frame = frames.next_of(RST_STREAM).await.unwrap();
            assert_eq!(frame.payload, u32::from(Reason::CANCEL).to_be_bytes());
            seen.add(1);
            frames.next_of(GO_AWAY).await;
        }
    })
    .await;
    let broken = || Err(std::io::Error::other("gone"));
    let (sender, body) = channel();
    let cut = upstream(address);
    let response = cut.send(post(body), PATIENCE).await.unwrap();
    sender.send(broken()).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Request), "{error:?}");

    let (sender, body) = channel();
    sender.send(broken()).await.unwrap();
    let unanswered = upstream(address);
    let error = unanswered.send(post(body), PATIENCE).await.unwrap_err();
    assert!(matches!(error, UpstreamError::ClientBody(_)), "{error:?}");
    until("both were reset", || reset.get() == 2).await;
}

#[tokio::test]
async fn a_body_of_another_length_than_was_told_is_not_sent_to_its_end() {
    let address = library(|_| {}, |asked, _| ok(asked)).await;
    let upstream = upstream(address);
    for told in ["4", "6"] {
        let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"hello"))]);
        let mut request = post(Body::new(axum::body::Body::from_stream(stream)));
        request.headers_mut().insert("content-length", told.parse().unwrap());
        let error = upstream.send(request, PATIENCE).await.unwrap_err();
        assert!(matches!(error, UpstreamError::ClientBody(_)), "{told}: {error:?}");
    }
}

#[tokio::test]
async fn a_response_that_nobody_wants_resets_its_stream_and_leaves_the_connection() {
    let address = framed(|mut frames, _| async move {
        let stream = frames.request().await.unwrap();
        frames.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
        let (mut reset, mut next) = (None, None);
        // In either order: they are of two streams.
        while reset.is_none() || next.is_none() {
            let frame = frames.next().await.unwrap();
            match frame.kind {
                RST_STREAM => reset = Some((frame.stream, frame.payload)),
                HEADERS => next = Some(frame.stream),
                _ => {}
            }
        }
        assert_eq!(reset, Some((stream, u32::from(Reason::CANCEL).to_be_bytes().to_vec())));
        frames.answer(next.unwrap()).await;
        frames.next_of(GO_AWAY).await;
    })
    .await;
    let upstream = upstream(address);
    drop(upstream.send(get("/"), PATIENCE).await.unwrap());
    until("it is idle", || upstream.stats().idle == 1).await;
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    assert_eq!(upstream.stats().connects, 1);
}
