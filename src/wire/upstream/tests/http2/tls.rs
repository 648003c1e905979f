//! HTTP/2 by ALPN.

use std::sync::Mutex;

use super::super::tls::{Authority, acceptor, offering};
use super::*;
use crate::tls;

/// A backend that speaks both, and notes what was agreed on by whom: `h2`, `http/1.1` or nothing.
async fn both(offers: &[&[u8]], ca: &Authority) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let acceptor = offering(&acceptor(&ca.good(), None), offers);
    let agreed = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&agreed);
    let address = backend(move |peer, _| {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        async move {
            let Ok(stream) = acceptor.accept(peer.into_inner()).await else {
                return;
            };
            let name = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
            seen.lock().unwrap().push(String::from_utf8(name.clone()).unwrap());
            if name == tls::HTTP2 {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok(asked)) = connection.accept().await {
                    tokio::spawn(ok(asked));
                }
                return;
            }
            let mut stream = BufReader::new(stream);
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if !matches!(stream.read_line(&mut head).await, Ok(1..)) {
                        return;
                    }
                }
                let upgrade = head.to_lowercase().contains("\r\nupgrade: x\r\n");
                let answer: &[u8] = if upgrade {
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
                } else {
                    OK
                };
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    (address, agreed)
}

fn client(address: SocketAddr, ca: &Authority) -> Upstream {
    Upstream::new(UpstreamOptions {
        tls: Some(tls::Client::new(Some(ca.pem()), None).unwrap()),
        ..options(address)
    })
}

#[tokio::test]
async fn what_the_backend_chooses_is_spoken() {
    let ca = Authority::new();
    let none: &[&[u8]] = &[];
    for (offers, version, name) in [
        (&[tls::HTTP2, tls::HTTP1][..], Version::HTTP_2, "h2"),
        (&[tls::HTTP1, tls::HTTP2], Version::HTTP_11, "http/1.1"),
        (&[tls::HTTP1], Version::HTTP_11, "http/1.1"),
        (none, Version::HTTP_11, ""),
    ] {
        let (address, agreed) = both(offers, &ca).await;
        let upstream = client(address, &ca);
        for _ in 0..5 {
            let response = upstream.send(get("/"), PATIENCE).await.unwrap();
            assert_eq!(response.version(), version, "{offers:?}");
            assert_eq!(text(response).await, "ok");
        }
        // The connection that told is used.
        assert_eq!(*agreed.lock().unwrap(), [name], "{offers:?}");
        assert_eq!(upstream.stats().connects, 1);
    }
}

#[tokio::test]
async fn many_at_once_learn_of_the_choice_together() {
    let ca = Authority::new();
    let (address, _) = both(&[tls::HTTP1], &ca).await;
    let upstream = client(address, &ca);
    let all = (0..20).map(|_| {
        let upstream = upstream.clone();
        tokio::spawn(async move { text(upstream.send(get("/"), PATIENCE).await.unwrap()).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn a_request_that_switches_protocols_goes_over_http_1_beside_the_others() {
    let ca = Authority::new();
    let (address, agreed) = both(&[tls::HTTP2, tls::HTTP1], &ca).await;
    let upstream = client(address, &ca);
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    let mut upgrade = get("/chat");
    upgrade
        .headers_mut()
        .insert("connection", HeaderValue::from_static("Upgrade"));
    upgrade.headers_mut().insert("upgrade", HeaderValue::from_static("x"));
    let response = upstream.send(upgrade, PATIENCE).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(text(upstream.send(get("/"), PATIENCE).await.unwrap()).await, "ok");
    assert_eq!(*agreed.lock().unwrap(), ["h2", "http/1.1"]);
}
