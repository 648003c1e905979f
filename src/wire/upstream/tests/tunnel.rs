//! H4: a protocol switch from client to backend, through the server side of hyper as in the bridge.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::wire::headers;
use crate::wire::upgrade::{TunnelEnd, agrees, requested, tunnel};

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

type End = std::io::Result<TunnelEnd>;

/// One client connection served as the bridge does it; how its tunnel ends comes out of the receiver.
async fn front(upstream: Upstream, stop: CancellationToken) -> (Peer, tokio::sync::mpsc::UnboundedReceiver<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ends, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (upstream, stop, ends) = (upstream.clone(), stop.clone(), ends.clone());
            async move { Ok::<_, std::convert::Infallible>(serve(request, upstream, stop, ends).await) }
        });
        let io = hyper_util::rt::TokioIo::new(stream);
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await
    });
    (BufReader::new(TcpStream::connect(address).await.unwrap()), receiver)
}

async fn serve(
    mut request: Request<Incoming>,
    upstream: Upstream,
    stop: CancellationToken,
    ends: tokio::sync::mpsc::UnboundedSender<End>,
) -> Response<UpstreamBody> {
    let asked = requested(request.method(), request.version(), request.headers());
    let client = asked.is_some().then(|| hyper::upgrade::on(&mut request));
    headers::strip_request(request.headers_mut());
    if let Some(protocol) = asked.clone() {
        headers::set_upgrade(request.headers_mut(), protocol);
    }
    let mut response = upstream.send(request.map(Body::new), PATIENCE).await.unwrap();
    if let (101, Some(client)) = (response.status().as_u16(), client) {
        let protocol = response.headers()[UPGRADE].clone();
        assert!(agrees(&asked.unwrap(), response.headers()));
        let backend = hyper::upgrade::on(&mut response);
        headers::strip_response(response.headers_mut());
        headers::set_upgrade(response.headers_mut(), protocol);
        tokio::spawn(async move { ends.send(tunnel(client, backend, stop).await) });
    }
    response
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
    let (mut client, mut ends) = front(upstream.clone(), CancellationToken::new()).await;
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
    let end = ends.recv().await.unwrap().unwrap();
    assert_eq!(
        end,
        TunnelEnd::Finished {
            to_upstream: 130,
            to_client: 5 + 130 + 9
        }
    );
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
    let stop = CancellationToken::new();
    let (mut client, mut ends) = front(upstream.clone(), stop.clone()).await;
    client.write_all(ASK).await.unwrap();
    read_head(&mut client).await.unwrap();
    expect(&mut client, b"hello").await;
    assert_eq!(
        upstream.send(get("/"), PATIENCE).await.unwrap_err().kind(),
        "overloaded"
    );
    stop.cancel();
    assert_eq!(ends.recv().await.unwrap().unwrap(), TunnelEnd::Stopped);
    // Cut: the client sees the end too.
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_or(0), 0);
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
    let (mut client, mut ends) = front(upstream.clone(), CancellationToken::new()).await;
    client.write_all(ASK).await.unwrap();
    read_head(&mut client).await.unwrap();
    client.write_all(b"x").await.unwrap();
    // Goes on talking to a backend that is not there.
    let talker = tokio::spawn(async move {
        while client.write_all(&[0; 4096]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let end = tokio::time::timeout(PATIENCE, ends.recv())
        .await
        .expect("the tunnel ends");
    assert!(end.unwrap().is_err());
    tokio::time::timeout(PATIENCE, talker)
        .await
        .expect("the client sees the end")
        .unwrap();
    assert_eq!(upstream.stats().open, 0);
}

#[tokio::test]
async fn an_upgrade_that_the_backend_declines_is_an_ordinary_exchange() {
    let upstream = upstream(answering(OK).await);
    let (mut client, _ends) = front(upstream.clone(), CancellationToken::new()).await;
    for _ in 0..2 {
        client.write_all(ASK).await.unwrap();
        assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 200 OK"));
        expect(&mut client, b"ok").await;
    }
    assert_eq!(upstream.stats().connects, 1);
}
