//! F4: what is sent again, and what is not. Each request carries a number of its own, so that the backend can tell
//! whether one came twice.

use std::collections::HashMap;
use std::sync::Mutex;

use super::*;

const REQUEST: &str = "POST /basket HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_request_that_meets_a_closed_connection_goes_to_another_and_arrives_once() {
    let served = Count::default();
    let seen = served.clone();
    let address = backend(move |mut peer, _| {
        let served = seen.clone();
        async move {
            read_request(&mut peer).await.unwrap();
            served.add(1);
            peer.write_all(OK).await.unwrap();
            // Closes without a word.
        }
    })
    .await;
    let upstream = upstream(address);
    for _ in 0..50 {
        assert_eq!(text(upstream.send(post("hello"), PATIENCE).await.unwrap()).await, "ok");
        // The end is on its way: wait until it is here, as it would be after any real pause.
        until("the connection is closed", || upstream.stats().open == 0).await;
    }
    assert_eq!(served.get(), 50);
}

/// Sends `answers` requests over one connection, has the backend close it, and sends another `after` that. The close is in
/// the kernel, the runtime has not been told: blocking this only thread keeps its events unread.
async fn close_unseen(answers: usize, after: Duration) -> UpstreamStats {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (closed_sender, closed) = std::sync::mpsc::channel();
    let (close, close_receiver) = std::sync::mpsc::channel::<()>();
    let backend = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut bodies = 0;
        for (answers, stream) in [answers, 1].into_iter().zip(listener.incoming()) {
            let mut stream = stream.unwrap();
            for _ in 0..answers {
                let mut request = vec![0; REQUEST.len()];
                stream.read_exact(&mut request).unwrap();
                bodies += usize::from(request.ends_with(b"hello"));
                stream.write_all(OK).unwrap();
            }
            close_receiver.recv().unwrap();
            drop(stream);
            closed_sender.send(()).unwrap();
        }
        bodies
    });
    let upstream = upstream(address);
    for _ in 0..answers {
        assert_eq!(text(upstream.send(post("hello"), PATIENCE).await.unwrap()).await, "ok");
        until("it is idle", || upstream.stats().idle == 1).await;
    }
    close.send(()).unwrap();
    closed.recv().unwrap();
    std::thread::sleep(after);
    assert_eq!(text(upstream.send(post("hello"), PATIENCE).await.unwrap()).await, "ok");
    close.send(()).unwrap();
    assert_eq!(backend.join().unwrap(), answers + 1);
    upstream.stats()
}

#[tokio::test]
async fn a_close_that_the_runtime_has_not_seen_yet_is_found_before_the_request_is_written() {
    // After the very first answer, as a backend closes that keeps none; and of a connection that has been in use for long.
    for (answers, after) in [
        (1, Duration::ZERO),
        (2, Duration::ZERO),
        (20, Duration::from_millis(20)),
    ] {
        let stats = close_unseen(answers, after).await;
        let reused = u64::try_from(answers).unwrap();
        assert_eq!((stats.reused, stats.retries, stats.connects), (reused, 1, 2));
    }
}

/// After a first request that goes well, the backend reads `cut` bytes of the second and closes.
async fn second_request_cut_after(cut: usize, with_reset: bool) -> (UpstreamError, usize) {
    let connections = Count::default();
    let seen = connections.clone();
    let address = backend(move |mut peer, _| {
        let connections = seen.clone();
        async move {
            connections.add(1);
            read_request(&mut peer).await.unwrap();
            peer.write_all(OK).await.unwrap();
            let mut part = vec![0; cut];
            // Wait for the bytes, even for none: the request must have been written.
            peer.fill_buf().await.unwrap();
            peer.read_exact(&mut part).await.unwrap();
            if with_reset {
                reset(peer);
            }
        }
    })
    .await;
    let upstream = upstream(address);
    text(upstream.send(post("hello"), PATIENCE).await.unwrap()).await;
    let error = upstream.send(post("hello"), PATIENCE).await.unwrap_err();
    assert_eq!(upstream.stats().retries, 0);
    (error, connections.get())
}

#[tokio::test]
async fn a_request_of_which_anything_was_written_is_never_sent_again() {
    for with_reset in [false, true] {
        for cut in 0..=REQUEST.len() {
            let (error, connections) = second_request_cut_after(cut, with_reset).await;
            assert!(
                matches!(error, UpstreamError::Reset { arrived: true, .. }),
                "{cut}: {error:?}"
            );
            assert_eq!(error.fault(), Fault::Backend);
            assert_eq!(connections, 1, "cut after {cut} bytes");
        }
    }
}

#[tokio::test]
async fn a_response_cut_at_any_byte_is_an_error_and_never_a_shorter_response() {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for whole in [OK, CHUNKED] {
        let head = whole.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        for cut in 0..whole.len() {
            let address = backend(move |mut peer, _| async move {
                read_request(&mut peer).await.unwrap();
                peer.write_all(&whole[..cut]).await.unwrap();
            })
            .await;
            let upstream = upstream(address);
            match upstream.send(post("hello"), PATIENCE).await {
                Ok(response) => {
                    assert!(cut >= head, "a head of {cut} bytes was taken for one");
                    assert!(response.into_body().collect().await.is_err(), "cut after {cut} bytes");
                }
                Err(error) => {
                    assert!(cut < head, "{cut}: {error}");
                    assert!(
                        matches!(error, UpstreamError::Reset { arrived: true, .. }),
                        "{cut}: {error:?}"
                    );
                }
            }
            until("it is gone", || upstream.stats().open == 0).await;
        }
    }
}

#[tokio::test]
async fn a_fresh_connection_that_is_closed_at_once_is_reported_and_not_tried_for_ever() {
    let connections = Count::default();
    let seen = connections.clone();
    let address = backend(move |peer, _| {
        seen.add(1);
        async move { reset(peer) }
    })
    .await;
    let upstream = upstream(address);
    let error = upstream.send(post("hello"), PATIENCE).await.unwrap_err();
    assert!(
        matches!(error, UpstreamError::Reset { .. } | UpstreamError::Connect(_)),
        "{error:?}"
    );
    assert!(connections.get() <= 1);
}

/// A backend that closes each connection at some moment after its answer, without saying so: the race that cannot be
/// won every time. It must never cost more than the one request, and never send one twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_at_random_moments_never_doubles_a_request() {
    let received: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let seen = Arc::clone(&received);
    let address = backend(move |mut peer, index| {
        let seen = Arc::clone(&seen);
        async move {
            for _ in 0..3 {
                let Some(request) = read_request(&mut peer).await else {
                    return;
                };
                *seen
                    .lock()
                    .unwrap()
                    .entry(String::from_utf8(request.body).unwrap())
                    .or_default() += 1;
                peer.write_all(OK).await.unwrap();
            }
            // From at once to well after the next request.
            tokio::time::sleep(Duration::from_millis(index as u64 % 5)).await;
        }
    })
    .await;
    let upstream = upstream(address);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let mut answered = Vec::new();
                let mut lost = 0;
                for turn in 0..250 {
                    if turn % 3 == 0 {
                        tokio::time::sleep(Duration::from_millis(turn % 7)).await;
                    }
                    let name = format!("{client}/{turn}");
                    match upstream.send(post(name.clone()), PATIENCE).await {
                        Ok(response) => {
                            assert_eq!(text(response).await, "ok");
                            answered.push(name);
                        }
                        Err(UpstreamError::Reset { arrived: true, .. }) => lost += 1,
                        Err(other) => panic!("{other:?}"),
                    }
                }
                (answered, lost)
            })
        })
        .collect();
    let (mut answered, mut lost) = (0, 0);
    for client in clients {
        let (names, client_lost) = client.await.unwrap();
        let received = received.lock().unwrap();
        assert!(names.iter().all(|name| received.get(name) == Some(&1)));
        answered += names.len();
        lost += client_lost;
    }
    assert!(received.lock().unwrap().values().all(|times| *times == 1));
    assert_eq!(answered + lost, 2000);
}
