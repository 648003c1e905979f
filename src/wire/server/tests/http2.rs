//! HTTP/2, with a client that knows how, and with one that writes frames by hand.

use std::collections::BTreeMap;

use http::{Request, Response};
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::super::opening::PREFACE;
use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const COMPRESSION_ERROR: u32 = 9;
const CALM: u32 = 11;

const GOOD: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
];

type Client = SendRequest<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn client(bench: &Bench) -> (Client, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(bench.connect().await);
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    (client, tokio::spawn(connection))
}

fn full(body: impl Into<Bytes>) -> http_body_util::combinators::BoxBody<Bytes, Infallible> {
    Full::new(body.into()).boxed()
}

fn ask(path: &str, body: impl Into<Bytes>) -> Request<http_body_util::combinators::BoxBody<Bytes, Infallible>> {
    Request::post(format!("http://a{path}")).body(full(body)).unwrap()
}

async fn answered(response: Response<Incoming>) -> (u16, Bytes) {
    let status = response.status().as_u16();
    let body = within(response.into_body().collect()).await.unwrap();
    (status, body.to_bytes())
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A client that knows nothing but what a test says.
struct Raw(TcpStream);

impl Raw {
    async fn connect(bench: &Bench) -> Self {
        let mut raw = Self(bench.connect().await);
        raw.write(PREFACE).await;
        raw.frame(SETTINGS, 0, 0, &[]).await;
        raw
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.write(&frame(kind, flags, stream, payload)).await;
    }

    async fn headers(&mut self, flags: u8, stream: u32, fields: &[(&str, &str)]) {
        self.frame(HEADERS, flags | END_HEADERS, stream, &block(fields)).await;
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            payload,
        })
    }

    /// The next of this kind; others are passed over.
    async fn find(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind && !(kind == SETTINGS && frame.flags == ACK) {
                return Some(frame);
            }
        }
    }

    /// Why the stream was reset, or the connection left.
    async fn refused(&mut self) -> u32 {
        loop {
            let frame = self.next().await.expect("a reset");
            match frame.kind {
                RST_STREAM => return frame.number(0),
                GOAWAY => return frame.number(4),
                _ => {}
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as literals, never indexed (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

/// A good request with some of its fields changed, and more behind them.
fn but(changes: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut fields = GOOD.to_vec();
    for (name, value) in changes {
        match fields
            .iter_mut()
            .find(|(known, _)| known == name && name.starts_with(':'))
        {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields.retain(|(name, value)| !(name.starts_with(':') && value.is_empty()));
    fields
}

#[tokio::test]
async fn both_kinds_of_http_are_served_by_the_first_bytes() {
    let bench = bench(options()).await;
    let (mut client, _) = client(&bench).await;
    for round in 0..3 {
        let body = format!("round {round}");
        let response = within(client.send_request(ask("/x?y", body.clone()))).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert_eq!(answered(response).await, (200, body.into()));
    }
    assert_eq!(*bench.seen.begun.lock().unwrap(), ["POST /x?y"; 3]);
    let mut other = bench.connect().await;
    for piece in [
        &b"P"[..],
        b"OST / HTTP/1.1\r\nHost: a\r\nContent-Le",
        b"ngth: 2\r\n\r\nok",
    ] {
        other.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(response(&mut other).await.ends_with("\r\n\r\nok"));
    until(|| bench.stats.requests.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a_preface_may_come_in_pieces_and_has_to_end_in_time() {
    let bench = bench(ServerOptions {
        header_timeout: Duration::from_millis(300),
        ..options()
    })
    .await;
    let mut whole = Raw(bench.connect().await);
    for piece in PREFACE.chunks(5) {
        whole.write(piece).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    whole.frame(SETTINGS, 0, 0, &[]).await;
    assert!(whole.find(SETTINGS).await.is_some());
    assert!(bench.exchange(&PREFACE[..20]).await.starts_with("HTTP/1.1 408 "));
    assert_eq!(bench.stats.request_timeout.load(Ordering::Relaxed), 1);
    let mut short = bench.connect().await;
    short.write_all(&PREFACE[..3]).await.unwrap();
    short.shutdown().await.unwrap();
    assert_eq!(rest(&mut short).await, "");
    until(|| bench.stats.open.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_malformed_request_reaches_no_service_and_leaves_the_other_streams_alone() {
    let bench = bench(options()).await;
    let mut raw = Raw::connect(&bench).await;
    // By ourselves: 400, which is the entry 12 of the static table.
    for (number, fields) in [
        but(&[(":scheme", "ftp")]),
        but(&[(":path", "/a\"b")]),
        but(&[("host", "b")]),
        but(&[(":authority", "")]),
        but(&[(":authority", "a,b")]),
        but(&[("content_length", "3")]),
        but(&[("content-length", "0"), ("content-length", "0")]),
        but(&[("x", " padded")]),
    ]
    .iter()
    .enumerate()
    {
        let stream = 2 * u32::try_from(number).unwrap() + 1;
        raw.headers(END_STREAM, stream, fields).await;
        let answer = raw.next_but_settings().await;
        assert_eq!(answer.kind, HEADERS, "{fields:?} {answer:?}");
        raw.find(DATA).await;
        assert_eq!((answer.stream, answer.payload[0]), (stream, 0x80 | 12), "{fields:?}");
    }
    assert_eq!(bench.stats.bad_request.load(Ordering::Relaxed), 8);
    // By the library: the stream is reset, or the connection left, as it is the compression that is broken.
    for fields in [
        but(&[("connection", "close")]),
        but(&[("transfer-encoding", "chunked")]),
        but(&[("te", "gzip")]),
        but(&[("Upper", "x")]),
        but(&[("content-length", "3")]),
        but(&[(":path", "")]),
        but(&[(":path", "a")]),
        but(&[(":path", "/\u{0}")]),
        but(&[("x", "a\r\nb")]),
    ] {
        let mut raw = Raw::connect(&bench).await;
        raw.headers(END_STREAM, 1, &fields).await;
        let why = raw.refused().await;
        assert!([PROTOCOL_ERROR, COMPRESSION_ERROR].contains(&why), "{fields:?}: {why}");
    }
    assert_eq!(bench.begun(), 0);
    raw.headers(END_STREAM, 201, &GOOD).await;
    assert_eq!(raw.find(HEADERS).await.expect("an answer").payload[0], 0x88, "200");
    assert_eq!(bench.begun(), 1);
}

#[tokio::test]
async fn a_body_must_be_as_long_as_was_said() {
    let bench = bench(options()).await;
    for (said, sent) in [("3", &b"four"[..]), ("5", b"four")] {
        let mut raw = Raw::connect(&bench).await;
        raw.headers(0, 1, &but(&[("content-length", said)])).await;
        raw.frame(DATA, END_STREAM, 1, sent).await;
        assert_eq!(raw.refused().await, PROTOCOL_ERROR, "{said}");
    }
    until(|| {
        let (broken, dropped) = (&bench.seen.broken_bodies, &bench.seen.dropped);
        broken.load(Ordering::SeqCst) + dropped.load(Ordering::SeqCst) == bench.begun() as u64
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_gets_431_in_http_2() {
    let bench = bench(options()).await;
    let (mut client, _) = client(&bench).await;
    let large = |size: usize| {
        let mut request = ask("/", "");
        let value = http::HeaderValue::from_str(&"y".repeat(size)).unwrap();
        request.headers_mut().insert("x", value);
        request
    };
    let mut many = ask("/", "");
    for _ in 0..101 {
        many.headers_mut().append("x", http::HeaderValue::from_static("y"));
    }
    for request in [large(8 * 1024), many] {
        let (status, body) = answered(within(client.send_request(request)).await.unwrap()).await;
        assert_eq!(
            (status, body.as_ref()),
            (431, &b"edge: the request head is too large"[..])
        );
    }
    let far_too_large = within(client.send_request(large(24 * 1024))).await.unwrap();
    assert_eq!(far_too_large.status(), 431);
    assert_eq!(bench.begun(), 0);
    assert_eq!(
        answered(client.send_request(large(7 * 1024)).await.unwrap()).await.0,
        200
    );
    assert_eq!(bench.stats.header_too_large.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn requests_of_one_connection_do_not_wait_for_each_other_and_there_is_a_limit() {
    let bench = bench(options()).await;
    let mut raw = Raw::connect(&bench).await;
    let settings = raw.find(SETTINGS).await.unwrap().payload;
    let told: BTreeMap<u16, u32> = settings
        .chunks(6)
        .map(|entry| {
            let number = u32::from_be_bytes(entry[2..].try_into().unwrap());
            (u16::from_be_bytes([entry[0], entry[1]]), number)
        })
        .collect();
    assert_eq!(told[&3], 128, "streams at once");
    assert_eq!(told[&6], 2 * 8 * 1024 + 3200, "size of a head");
    for number in 0..128 {
        raw.headers(END_STREAM, 2 * number + 1, &but(&[(":path", "/hold")]))
            .await;
    }
    until(|| bench.begun() == 128).await;
    assert_eq!(bench.stats.requests.load(Ordering::Relaxed), 128);
    raw.headers(END_STREAM, 257, &GOOD).await;
    assert_eq!(raw.refused().await, REFUSED_STREAM);
    // A client that waits its turn gets it.
    bench.seen.release.notify_waiters();
    until(|| bench.stats.requests.load(Ordering::Relaxed) == 0).await;
    raw.headers(END_STREAM, 259, &GOOD).await;
    until(|| bench.begun() == 129).await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let bench = bench(options()).await;
    let (mut client, _) = client(&bench).await;
    let body = within(client.send_request(ask("/big", ""))).await.unwrap();
    assert_eq!(answered(body).await.1.len(), BIG);
    let sent = Bytes::from(vec![b'y'; BIG / 4]);
    let (_, echoed) = answered(within(client.send_request(ask("/", sent.clone()))).await.unwrap()).await;
    assert!(echoed == sent);
}

#[tokio::test]
async fn an_idle_connection_is_left_and_a_client_that_ignores_it_dropped() {
    let bench = bench(ServerOptions {
        keep_alive_timeout: Duration::from_millis(200),
        ..options()
    })
    .await;
    let begun = tokio::time::Instant::now();
    let (mut client, connection) = client(&bench).await;
    within(client.send_request(ask("/", "x"))).await.unwrap();
    within(connection).await.unwrap().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200));

    let mut raw = Raw::connect(&bench).await;
    raw.headers(END_STREAM, 1, &but(&[(":path", "/hold")])).await;
    until(|| bench.begun() == 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    bench.seen.release.notify_one();
    let answer = raw.next_but_settings().await;
    assert_eq!(answer.kind, HEADERS, "one with a request under way is not idle");
    let left = raw.find(GOAWAY).await.unwrap();
    assert_eq!(
        (left.number(0), left.number(4)),
        (i32::MAX as u32, 0),
        "first it is only told"
    );
    assert!(
        raw.find(DATA).await.is_none(),
        "without an answer to the ping it ends all the same"
    );
    until(|| bench.stats.open.load(Ordering::Relaxed) == 0).await;
}

impl Raw {
    async fn next_but_settings(&mut self) -> Frame {
        loop {
            let frame = self.next().await.expect("a frame");
            if ![SETTINGS, WINDOW_UPDATE].contains(&frame.kind) {
                return frame;
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_stalls_gets_408_and_a_response_that_nobody_takes_is_reset() {
    let bench = bench(ServerOptions {
        stall_timeout: Duration::from_millis(200),
        ..options()
    })
    .await;
    let (mut client, _) = client(&bench).await;
    let stuck = StreamBody::new(futures_util::stream::pending::<
        Result<hyper::body::Frame<Bytes>, Infallible>,
    >());
    let request = Request::post("http://a/").body(stuck.boxed()).unwrap();
    let (status, body) = answered(within(client.send_request(request)).await.unwrap()).await;
    assert_eq!(
        (status, body.as_ref()),
        (408, &b"edge: the request did not come in time"[..])
    );
    assert_eq!(bench.stats.request_timeout.load(Ordering::Relaxed), 1);

    let mut raw = Raw::connect(&bench).await;
    raw.headers(END_STREAM, 1, &but(&[(":path", "/big")])).await;
    raw.headers(END_STREAM, 3, &but(&[(":path", "/hold")])).await;
    // Its window is 64 KiB, and it opens no further.
    assert_eq!(raw.refused().await, CANCEL);
    bench.seen.release.notify_one();
    let answer = raw.next_but_settings().await;
    assert_eq!(
        (answer.kind, answer.stream),
        (HEADERS, 3),
        "a response that is waited for is not stalled"
    );
}

#[tokio::test]
async fn a_stream_that_the_client_resets_drops_the_service() {
    let bench = bench(options()).await;
    let mut raw = Raw::connect(&bench).await;
    raw.headers(END_STREAM, 1, &but(&[(":path", "/hold")])).await;
    until(|| bench.begun() == 1).await;
    raw.frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await;
    until(|| bench.seen.dropped.load(Ordering::SeqCst) == 1).await;
    raw.headers(END_STREAM, 3, &but(&[(":path", "/hold")])).await;
    until(|| bench.begun() == 2).await;
    drop(raw);
    until(|| bench.seen.dropped.load(Ordering::SeqCst) == 2).await;
    until(|| bench.stats.open.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_no_other() {
    let bench = bench(options()).await;
    let (mut other, _) = client(&bench).await;
    let mut raw = Raw::connect(&bench).await;
    let mut flood = Vec::new();
    for number in 0..2000 {
        let stream = 2 * number + 1;
        let fields = block(&but(&[(":path", "/hold")]));
        flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields));
        flood.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    }
    // It may be gone before all of it is written.
    let _ = raw.0.write_all(&flood).await;
    let left = raw.find(GOAWAY).await.expect("it is told to go");
    assert_eq!(left.number(4), CALM);
    assert_eq!(
        answered(within(other.send_request(ask("/", "x"))).await.unwrap())
            .await
            .0,
        200
    );
    until(|| bench.stats.open.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_shutdown_is_told_at_once_and_answers_what_is_under_way() {
    let bench = bench(options()).await;
    let mut raw = Raw::connect(&bench).await;
    raw.headers(END_STREAM, 1, &but(&[(":path", "/hold")])).await;
    until(|| bench.begun() == 1).await;
    bench.trigger.fire("test");
    let left = raw.find(GOAWAY).await.unwrap();
    assert_eq!((left.number(0), left.number(4)), (i32::MAX as u32, 0));
    let ping = raw.find(PING).await.unwrap().payload;
    // This one was on its way.
    raw.headers(END_STREAM, 3, &GOOD).await;
    assert_eq!(raw.find(HEADERS).await.unwrap().stream, 3);
    raw.frame(PING, ACK, 0, &ping).await;
    assert_eq!(raw.find(GOAWAY).await.unwrap().number(0), 3, "and no further");
    until(|| bench.drain.stage() == Stage::Closing).await;
    bench.seen.release.notify_one();
    assert_eq!(raw.find(HEADERS).await.unwrap().stream, 1);
    assert!(raw.find(HEADERS).await.is_none());
    assert_eq!(within(bench.shutdown).await.unwrap(), Ended::Clean);
}

#[tokio::test]
async fn a_forced_shutdown_drops_streams() {
    let bench = bench_with_delay(options(), Duration::ZERO).await;
    let (mut client, _connection) = client(&bench).await;
    let held = tokio::spawn(client.send_request(ask("/hold", "")));
    until(|| bench.begun() == 1).await;
    bench.trigger.fire("first");
    until(|| bench.drain.stage() == Stage::Closing).await;
    bench.trigger.fire("second");
    within(held).await.unwrap().unwrap_err();
    assert_eq!(within(bench.shutdown).await.unwrap(), Ended::Dropped);
    assert_eq!(bench.seen.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_is_one_too_many_is_told_to_go_in_its_own_language() {
    let bench = bench(ServerOptions {
        max_connections: 1,
        ..options()
    })
    .await;
    let (_kept, _) = client(&bench).await;
    until(|| bench.stats.open.load(Ordering::Relaxed) == 1).await;
    let mut raw = Raw::connect(&bench).await;
    raw.headers(END_STREAM, 1, &GOOD).await;
    assert_eq!(raw.next().await.unwrap().kind, SETTINGS);
    let left = raw.next().await.unwrap();
    assert_eq!((left.kind, left.number(0), left.number(4)), (GOAWAY, 0, CALM));
    assert!(raw.next().await.is_none());
    assert!(bench.exchange(get("/").as_bytes()).await.starts_with("HTTP/1.1 503 "));
    assert_eq!(bench.stats.overloaded.load(Ordering::Relaxed), 2);
    assert_eq!(bench.begun(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_follows_the_preface_the_connection_ends(
        frames in proptest::collection::vec((0_u8..12, any::<u8>(), 0_u32..8, proptest::collection::vec(any::<u8>(), 0..64)), 0..16),
        noise in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = bench(options()).await;
            let mut raw = Raw::connect(&bench).await;
            let mut wire = Vec::new();
            for (kind, flags, stream, payload) in &frames {
                wire.extend(frame(*kind, *flags, *stream, payload));
            }
            wire.extend(noise);
            let _ = raw.0.write_all(&wire).await;
            let _ = raw.0.shutdown().await;
            while raw.next().await.is_some() {}
            until(|| bench.stats.open.load(Ordering::Relaxed) == 0).await;
            until(|| bench.stats.requests.load(Ordering::Relaxed) == 0).await;
        });
    }
}
