//! Backends that speak HTTP/2: some by the library, some frame by frame.

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http_body::Frame;

use super::*;

mod again;
mod limits;
mod streams;
mod tls;

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: &[u8] = &[0x88];

fn upstream(address: SocketAddr) -> Upstream {
    Upstream::new(options(address))
}

fn options(address: SocketAddr) -> UpstreamOptions {
    UpstreamOptions {
        http2: true,
        ..super::options(address)
    }
}

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// A backend by the library: `serve` is run for each request.
async fn library<F, S>(configure: fn(&mut h2::server::Builder), serve: F) -> SocketAddr
where
    F: Fn(Asked, usize) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    backend(move |peer, index| {
        let serve = serve.clone();
        async move {
            let mut builder = h2::server::Builder::new();
            configure(&mut builder);
            let Ok(mut connection) = builder.handshake(peer.into_inner()).await else {
                return;
            };
            while let Some(Ok(asked)) = connection.accept().await {
                tokio::spawn(serve(asked, index));
            }
        }
    })
    .await
}

/// Answers "ok", after the whole request has come.
async fn ok((mut request, mut answer): Asked) {
    while let Some(Ok(data)) = request.body_mut().data().await {
        request.body_mut().flow_control().release_capacity(data.len()).unwrap();
    }
    let _ = request.body_mut().trailers().await;
    let mut body = answer.send_response(Response::new(()), false).unwrap();
    let _ = body.send_data(Bytes::from_static(b"ok"), true);
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Raw {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A backend's end of a connection, frame by frame.
struct Frames(Peer);

impl Frames {
    /// Greets the client; `settings` are a payload.
    async fn greet(mut peer: Peer, settings: &[u8]) -> Self {
        peer.get_ref().set_nodelay(true).unwrap();
        let mut preface = [0; 24];
        peer.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self(peer);
        frames.write(SETTINGS, 0, 0, settings).await;
        frames.write(SETTINGS, ACK, 0, &[]).await;
        frames
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        // The client may have gone.
        let _ = self.0.write_all(&[&head, payload].concat()).await;
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Raw> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Raw {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            payload,
        })
    }

    /// The next frame of that kind, whatever comes before it.
    async fn next_of(&mut self, kind: u8) -> Option<Raw> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind == kind => return Some(frame),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// The stream of the next request, once all of it has come.
    async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next().await?;
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Some(frame.stream);
            }
        }
    }

    async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
        self.write(DATA, END_STREAM, stream, b"ok").await;
    }

    async fn reset(&mut self, stream: u32, reason: Reason) {
        self.write(RST_STREAM, 0, stream, &u32::from(reason).to_be_bytes())
            .await;
    }

    async fn go_away(&mut self, last: u32) {
        let payload = [&last.to_be_bytes()[..], &[0; 4]].concat();
        self.write(GO_AWAY, 0, 0, &payload).await;
    }

    /// Answers all there is.
    async fn serve(mut self) {
        while let Some(stream) = self.request().await {
            self.answer(stream).await;
        }
    }
}

/// A backend that says each connection, with the count of those before it, frame by frame.
async fn framed<F, S>(serve: F) -> SocketAddr
where
    F: Fn(Frames, usize) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    backend(move |peer, index| {
        let serve = serve.clone();
        async move { serve(Frames::greet(peer, &[]).await, index).await }
    })
    .await
}

/// A body of this size that is at no time known to have ended.
fn streamed(size: usize) -> Body {
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    let pieces = (0..size.div_ceil(piece.len())).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
    Body::new(axum::body::Body::from_stream(futures_util::stream::iter(pieces)))
}
