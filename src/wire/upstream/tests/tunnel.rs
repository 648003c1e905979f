//! H4: a protocol switch from client to backend, through the edge as in the bridge.

use super::*;
use crate::wire::headers;
use crate::wire::upgrade::{agrees, requested};

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// One client connection served as the bridge does it.
async fn proxied(upstream: Upstream) -> Peer {
    front(move |request| serve(request, upstream.clone())).await
}

async fn serve(mut request: message::Request, upstream: Upstream) -> message::Response {
    let head = &mut request.head;
    let asked = requested(&head.method, head.version, &head.fields);
    headers::strip_request(&mut head.fields);
    if let Some(protocol) = asked.clone() {
        headers::set_upgrade(&mut head.fields, protocol);
    }
    let mut response = upstream.forward(request, PATIENCE, false, |_| {}).await.unwrap();
    if let (101, Some(asked)) = (response.head.status.as_u16(), asked) {
        let fields = &mut response.head.fields;
        let protocol = fields.value(name::UPGRADE).unwrap();
        assert!(agrees(&asked, fields));
        headers::strip_response(fields);
        headers::set_upgrade(fields, protocol);
    }
    response.map(Body::new)
}

/// Switches, says hello at once, then says back what it hears, and at the end how much that was.
pub(super) async fn echo() -> SocketAddr {
    backend(|mut peer, _| async move {
        let head = read_head(&mut peer).await.unwrap();
        assert!(head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
        // The first bytes of the new protocol come in one piece with the head.
        peer.write_all(&[SWITCH, b"hello"].concat()).await.unwrap();
        let mut heard = 0;
        let mut buffer = vec![0; 4096];
        loop {
            match peer.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    heard += count;
                    peer.write_all(&buffer[..count]).await.unwrap();
                }
            }
        }
        let _ = peer.write_all(format!("heard {heard}").as_bytes()).await;
    })
    .await
}

async fn expect(client: &mut Peer, said: &[u8]) {
    let mut heard = vec![0; said.len()];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, said);
}

#[tokio::test]
async fn after_a_101_bytes_go_both_ways_until_both_sides_have_ended() {
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 1,
        ..options(echo().await)
    });
    is_joined_both_ways(upstream).await;
}

/// A client and the backend of [`echo`] talk until both have said all.
pub(super) async fn is_joined_both_ways(upstream: Upstream) {
    let mut client = proxied(upstream.clone()).await;
    client.write_all(ASK).await.unwrap();
    let head = read_head(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n"),
        "{head}"
    );
    expect(&mut client, b"hello").await;
    for turn in 0..20 {
        let said = format!("turn {turn}");
        client.write_all(said.as_bytes()).await.unwrap();
        expect(&mut client, said.as_bytes()).await;
    }
    assert_eq!(
        (upstream.stats().open, upstream.stats().idle),
        (1, 0),
        "a tunnel is a connection in use"
    );
    // The client has said all; the backend still has something to say.
    client.get_mut().shutdown().await.unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "heard 130");
    until("its place is free", || upstream.stats().open == 0).await;
}

#[tokio::test]
async fn a_tunnel_takes_one_of_the_places_until_it_ends() {
    let connect_timeout = Duration::from_millis(80);
    let upstream = Upstream::new(UpstreamOptions {
        max_connections: 1,
        connect_timeout,
        ..options(echo().await)
    });
    let mut client = proxied(upstream.clone()).await;
    client.write_all(ASK).await.unwrap();
    read_head(&mut client).await.unwrap();
    expect(&mut client, b"hello").await;
    assert_eq!(
        upstream.send(get("/"), PATIENCE).await.unwrap_err().kind(),
        "overloaded"
    );
    drop(client);
    until("its place is free", || upstream.stats().open == 0).await;
}

#[tokio::test]
async fn a_tunnel_ends_when_its_backend_is_gone() {
    let address = backend(|mut peer, _| async move {
        read_head(&mut peer).await.unwrap();
        peer.write_all(SWITCH).await.unwrap();
        peer.read_u8().await.unwrap();
        reset(peer);
    })
    .await;
    let upstream = upstream(address);
    let mut client = proxied(upstream.clone()).await;
    client.write_all(ASK).await.unwrap();
    read_head(&mut client).await.unwrap();
    client.write_all(b"x").await.unwrap();
    // Goes on talking to a backend that is not there.
    let talker = tokio::spawn(async move {
        while client.write_all(&[0; 4096]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    tokio::time::timeout(PATIENCE, talker)
        .await
        .expect("the client sees the end")
        .unwrap();
    until("its socket is closed", || upstream.stats().open == 0).await;
}

#[tokio::test]
async fn an_upgrade_that_the_backend_declines_is_an_ordinary_exchange() {
    let upstream = upstream(answering(OK).await);
    let mut client = proxied(upstream.clone()).await;
    for _ in 0..2 {
        client.write_all(ASK).await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 OK"));
        expect(&mut client, b"ok").await;
    }
    assert_eq!(upstream.stats().connects, 1);
}

#[tokio::test]
async fn a_101_before_the_end_of_the_request_is_refused() {
    let address = backend(|mut peer, _| async move {
        read_head(&mut peer).await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n";
        peer.write_all(switched).await.unwrap();
        let _ = peer.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (_sender, body) = channel();
    let mut request = post(body);
    request
        .headers_mut()
        .insert("connection", HeaderValue::from_static("upgrade"));
    request.headers_mut().insert("upgrade", HeaderValue::from_static("raw"));
    let refused = upstream(address).send(request, PATIENCE).await;
    assert!(matches!(refused, Err(UpstreamError::BadResponse(_))), "{refused:?}");
}
