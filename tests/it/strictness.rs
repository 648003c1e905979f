//! Nothing ambiguous gets through: malformed requests, written by hand and made by chance, with a backend behind that
//! reads as strictly as the standard allows and keeps what it read.
//!
//! Three things are compared: what a reader of the whole stream makes of it ([`reader`]), what the bridge answered, and
//! what arrived behind it. The reader shares no line with the bridge.

mod corpus;
mod mutate;
mod reader;
mod recorder;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::mutate::Mutator;
use self::reader::{Request, Side, Tail};
use self::recorder::Recorder;
use crate::support::bridge::Bridge;
use crate::support::scaled;

/// No request begins with these: behind whatever is sent, they make the bridge end the connection.
const POISON: [u8; 16] = [0; 16];
const STUCK: Duration = Duration::from_secs(20);
/// How many connections there are at once.
const AT_ONCE: u64 = 48;
/// After how many streams the books are compared.
const BATCH: u64 = 960;

async fn bridge(backend: &Recorder) -> Bridge {
    Bridge::before(&backend.url())
        .set("install_id.on_missing", "pass")
        .start()
        .await
}

/// The statuses of the final responses to a stream, in order.
async fn send(to: SocketAddr, pieces: &[&[u8]], asked: &[Request], tail: Tail) -> Result<Vec<u16>, String> {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    for piece in pieces {
        // It may have been refused, and the connection closed, before all of it is written.
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let (mut answers, mut bytes, mut hung_up) = (Vec::new(), Vec::new(), false);
    loop {
        while let Some(status) = take_response(&mut bytes, asked.get(answers.len())) {
            if status >= 200 {
                answers.push(status);
            }
        }
        // It waits for more of a body that never comes, or, where the last body has swallowed all, for another request.
        if matches!(tail, Tail::Incomplete | Tail::None) && answers.len() == asked.len() && !hung_up {
            hung_up = true;
            let _ = stream.shutdown().await;
        }
        let read = tokio::time::timeout(STUCK, stream.read_buf(&mut bytes)).await;
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Ok(answers),
            Err(_elapsed) => return Err(format!("neither an answer nor the end after {answers:?}")),
        }
    }
}

/// Takes one whole response off the front.
fn take_response(bytes: &mut Vec<u8>, to: Option<&Request>) -> Option<u16> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status: u16 = head.strip_prefix("http/1.")?.get(2..5)?.parse().ok()?;
    let length = head.split("\r\ncontent-length: ").nth(1);
    let length: usize = length.map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().expect("a length"));
    assert!(!head.contains("transfer-encoding"), "{head}");
    let has_body = status >= 200 && to.is_none_or(|request| request.method != "HEAD");
    let whole = end + if has_body { length } else { 0 };
    if bytes.len() < whole {
        return None;
    }
    bytes.drain(..whole);
    Some(status)
}

/// Sends a stream, and checks the answers against what was asked. Returns what has to be found behind.
async fn put(to: SocketAddr, stream: &[u8], cuts: &[usize]) -> Result<(Vec<u16>, Vec<Request>), String> {
    let poisoned = [stream, &POISON].concat();
    let (mut asked, tail) = reader::read_all(&poisoned, Side::FromClient);
    let mut pieces = Vec::new();
    let mut rest = &poisoned[..];
    for cut in cuts {
        let (piece, behind) = rest.split_at(cut % (rest.len() + 1));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    let answers = send(to, &pieces, &asked, tail).await?;
    let good = answers.iter().take_while(|status| **status == 200).count();
    if good > asked.len() {
        return Err(format!(
            "{answers:?} to {} requests that can be told apart",
            asked.len()
        ));
    }
    let after = &answers[good..];
    if !matches!(after, [] | [400 | 408 | 431]) {
        return Err(format!("{answers:?}"));
    }
    asked.truncate(good);
    Ok((answers, asked.into_iter().map(Request::forwarded).collect()))
}

/// What arrived has to be what was answered, to the byte.
fn compare(mut expected: Vec<Request>, backend: &Recorder) -> Result<(), String> {
    let (mut arrived, flaws) = backend.take();
    if !flaws.is_empty() {
        return Err(format!("ambiguous requests were forwarded: {flaws:?}"));
    }
    expected.sort();
    arrived.sort();
    if arrived != expected {
        let missing: Vec<_> = expected.iter().filter(|request| !arrived.contains(request)).collect();
        let extra: Vec<_> = arrived.iter().filter(|request| !expected.contains(request)).collect();
        return Err(format!(
            "{} requests arrived and {} were answered; answered only: {missing:?}; arrived only: {extra:?}",
            arrived.len(),
            expected.len()
        ));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ambiguous_is_refused_and_what_is_not_arrives_as_it_was() {
    let backend = Recorder::start().await;
    let bridge = bridge(&backend).await;
    for (stream, why) in corpus::refused() {
        let (answers, asked) = put(bridge.traffic, &stream, &[]).await.expect(why);
        assert!(
            asked.is_empty(),
            "{why}: {answers:?} to {:?}",
            stream.escape_ascii().to_string()
        );
        assert!(
            matches!(answers[..], [400 | 431]),
            "{why}: {answers:?} to {:?}",
            stream.escape_ascii().to_string()
        );
        compare(asked, &backend).expect(why);
    }
    for (stream, why) in corpus::SERVED {
        let (answers, asked) = put(bridge.traffic, stream.as_bytes(), &[]).await.expect(why);
        let (all, _) = reader::read_all(stream.as_bytes(), Side::FromClient);
        let until_close = if stream.contains("Connection: close") {
            1
        } else {
            all.len()
        };
        assert_eq!(asked.len(), until_close, "{why}: {answers:?} to {stream:?}");
        compare(asked, &backend).unwrap_or_else(|error| panic!("{why}: {error}"));
    }
}

/// One request less behind than answers before, or one more, is a smuggled one. A failure names the seed and the number
/// of the stream; `SESSION_BRIDGE_TEST_SEED=seed` does the same again.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_only_what_is_answered_arrives_and_only_what_is_unambiguous() {
    let seed =
        std::env::var("SESSION_BRIDGE_TEST_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    let count = u64::try_from(scaled(3_840, 1_000_000)).unwrap();
    let backend = Recorder::start().await;
    let bridge = bridge(&backend).await;
    let (mutator, to) = (Arc::new(Mutator::new(seed)), bridge.traffic);
    let (mut streams, mut served, mut refused) = (0, 0, 0);
    while streams < count {
        let workers = (0..AT_ONCE).map(|worker| {
            let mutator = Arc::clone(&mutator);
            tokio::spawn(async move {
                let (mut expected, mut refused) = (Vec::new(), 0);
                for number in (streams + worker..streams + BATCH).step_by(usize::try_from(AT_ONCE).unwrap()) {
                    let (stream, cuts) = mutator.stream(number);
                    match put(to, &stream, &cuts).await {
                        Ok((answers, asked)) => {
                            refused += usize::from(answers.len() > asked.len());
                            expected.extend(asked);
                        }
                        Err(error) => panic!("seed {seed}, stream {number}: {error}\n{}", stream.escape_ascii()),
                    }
                }
                (expected, refused)
            })
        });
        let mut expected = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            let (asked, more) = worker.await.expect("no worker fails");
            expected.extend(asked);
            refused += more;
        }
        served += expected.len();
        let numbers = streams..streams + BATCH;
        compare(expected, &backend)
            .unwrap_or_else(|error| panic!("seed {seed}, among the streams {numbers:?}: {error}"));
        streams += BATCH;
    }
    assert_eq!(bridge.ready().await, Some(200), "it lives");
    eprintln!("{streams} streams, seed {seed}: {served} requests served, {refused} refusals");
    assert!(served > 0 && refused > 0);
}
