//! The check of a request's framing: one connection's bytes in, and for all that is accepted only one way to read it.

use std::io::BufRead as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http_body_util::BodyExt as _;

use crate::samples::{GOOD, MALFORMED};
use crate::wire::strict::{Checker, Flaw, MAX_FIELDS, Position};

mod onwards;

const MAX_HEADER_SIZE: usize = 4096;

/// Fields that no client may have the backend read.
const FORGED: [&str; 8] = [
    "Cookie: sid=theirs\r\ncOOKIE: sid=theirs",
    "Cookie2: $Version=1\r\nX-Request-Id: 1\r\nX-Request-Id: 2",
    "Connection: close, Cookie, X-Request-Id, Via, X-A\r\nX-A: 1\r\nVia: 1.0 a",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket\r\nHTTP2-Settings: x",
    "Proxy-Authorization: Basic x\r\nKeep-Alive: timeout=5\r\nExpect: 100-continue\r\nTE: trailers",
    "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 198.51.100.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b",
    "X_Forwarded_For: 198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\nX-Forwarded-Port: 1",
    "Forwarded: for=198.51.100.1;host=\"b\r\nForwarded: for=\"[::1]\"",
];

/// The judgement of a connection: the requests that were accepted whole, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Verdict<'a> {
    accepted: Vec<&'a [u8]>,
    end: Result<Position, Flaw>,
}

pub fn check(stream: &[u8]) {
    let whole = judge(stream, [stream]);
    assert_eq!(judge(stream, pieces_of_one(stream)), whole, "cut at every byte");
    assert_eq!(judge(stream, super::pieces(stream)), whole, "cut anywhere");
    for request in whole.accepted {
        let alone = judge(request, [request]);
        assert_eq!(alone.accepted, [request], "what came before matters");
        unambiguous(request);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = GOOD.iter().map(|good| good.as_bytes().to_vec()).collect();
    seeds.extend(MALFORMED.iter().map(|(bad, _)| bad.as_bytes().to_vec()));
    seeds.extend(GOOD.windows(3).map(|three| three.concat().into_bytes()));
    seeds.extend(FORGED.map(|fields| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").into_bytes()));
    seeds
}

fn pieces_of_one(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    stream.chunks(1)
}

/// Feeds the pieces as a connection does: what is not released is shown again with more behind it.
fn judge<'a>(stream: &'a [u8], pieces: impl IntoIterator<Item = &'a [u8]>) -> Verdict<'a> {
    judge_within(MAX_HEADER_SIZE, stream, pieces)
}

fn judge_within<'a>(
    max_header_size: usize,
    stream: &'a [u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Verdict<'a> {
    let mut checker = Checker::new(max_header_size);
    let (mut request_start, mut window_start, mut read) = (0, 0, 0);
    let mut accepted = Vec::new();
    for piece in pieces {
        read += piece.len();
        loop {
            let window = &stream[window_start..read];
            let advance = match checker.advance(window) {
                Ok(advance) => advance,
                Err(flaw) => {
                    assert_eq!(checker.advance(window), Err(flaw), "a flaw is final");
                    return Verdict {
                        accepted,
                        end: Err(flaw),
                    };
                }
            };
            assert!(advance.release <= window.len());
            window_start += advance.release;
            if !advance.ended {
                break;
            }
            assert_eq!(checker.position(), Position::Ended);
            accepted.push(&stream[request_start..window_start]);
            request_start = window_start;
            checker.next_message();
            if window_start == read {
                break;
            }
        }
    }
    Verdict {
        accepted,
        end: Ok(checker.position()),
    }
}

/// Reads an accepted request in several ways that have nothing in common with the checker, or with each other.
fn unambiguous(whole: &[u8]) {
    let request = whole.strip_prefix(b"\r\n").unwrap_or(whole);
    let head_end = find(request, b"\r\n\r\n").expect("the end of the head") + 4;
    let (head, body) = request.split_at(head_end);
    let text = by_lines(head);
    by_httparse(request, head_end, &text);
    let decoded = by_length(&text, body);
    by_hyper(request, &text, &decoded);
    onwards::check(&whole[..whole.len() - body.len()], &text, &decoded);
}

/// A head as it reads for whoever splits it at line ends and colons.
struct Text<'a> {
    method: &'a str,
    target: &'a str,
    version: &'a str,
    fields: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Text<'a> {
    fn all(&self, name: &str) -> Vec<&'a [u8]> {
        let named = self
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| *value).collect()
    }
}

fn by_lines(head: &[u8]) -> Text<'_> {
    let is_control = |byte: &u8| byte.is_ascii_control() && !b"\t\r\n".contains(byte);
    assert!(!head.iter().any(is_control), "a control character in the head");
    let ends = |byte: u8| head.iter().filter(|b| **b == byte).count();
    let pairs = head.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!((ends(b'\r'), ends(b'\n')), (pairs, pairs), "a bare CR or LF");

    let mut lines = head[..head.len() - 4].split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next().unwrap()).expect("a request line of ASCII");
    let words: Vec<&str> = first.trim_end_matches('\r').split_ascii_whitespace().collect();
    let [method, target, version] = words[..] else {
        panic!("no request line: {first:?}")
    };
    assert_eq!(first.trim_end_matches('\r'), format!("{method} {target} {version}"));
    assert!(version == "HTTP/1.1" || version == "HTTP/1.0");
    let fields = lines.map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
        let (name, value) = line.split_at(colon);
        assert!(
            !name.is_empty() && name.iter().all(u8::is_ascii_graphic),
            "a field name"
        );
        (name, value[1..].trim_ascii())
    });
    let text = Text {
        method,
        target,
        version,
        fields: fields.collect(),
    };
    one_of_each(&text);
    text
}

fn one_of_each(text: &Text<'_>) {
    let hosts = text.all("host");
    let lengths = text.all("content-length");
    let codings = text.all("transfer-encoding");
    assert!(lengths.len() + codings.len() <= 1, "two framings");
    assert!(text.all("content_length").is_empty() && text.all("transfer_encoding").is_empty());
    assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")));
    assert!(codings.is_empty() || text.version == "HTTP/1.1");
    assert!(hosts.len() == 1 || (hosts.is_empty() && text.version == "HTTP/1.0"));

    let uri: http::Uri = text.target.parse().expect("a target that the library takes");
    if let Some(host) = hosts.first() {
        let authority = http::uri::Authority::try_from(*host).expect("a host that the library takes");
        assert_eq!(authority.as_str().as_bytes(), *host);
        assert!(!host.contains(&b'@') && !host.contains(&b','));
        if let Some(asked) = uri.authority() {
            assert!(asked.as_str().as_bytes().eq_ignore_ascii_case(host), "two hosts");
        }
    }
    if text.target.starts_with('/') {
        assert_eq!(uri.to_string(), text.target, "a target that the library changes");
    }
    for (name, value) in &text.fields {
        http::HeaderName::from_bytes(name).expect("a name that the library takes");
        http::HeaderValue::from_bytes(value).expect("a value that the library takes");
    }
}

fn by_httparse(request: &[u8], head_end: usize, text: &Text<'_>) {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let status = parsed.parse(request).expect("a head that httparse takes");
    assert_eq!(status, httparse::Status::Complete(head_end));
    assert_eq!((parsed.method, parsed.path), (Some(text.method), Some(text.target)));
    assert_eq!(parsed.version == Some(1), text.version == "HTTP/1.1");
    let fields: Vec<(&[u8], &[u8])> = parsed
        .headers
        .iter()
        .map(|field| (field.name.as_bytes(), field.value))
        .collect();
    assert_eq!(fields, text.fields);
}

/// The body, as a decoder reads it that believes everything. It has to end where the request ends.
fn by_length(text: &Text<'_>, body: &[u8]) -> Vec<u8> {
    if text.all("transfer-encoding").is_empty() {
        let length = text.all("content-length").first().map_or(0, |length| {
            let length = std::str::from_utf8(length).expect("digits");
            assert!(length.bytes().all(|byte| byte.is_ascii_digit()));
            length.parse::<i64>().expect("a length of 63 bits")
        });
        assert_eq!(i64::try_from(body.len()), Ok(length));
        return body.to_vec();
    }
    let (mut rest, mut decoded) = (body, Vec::new());
    loop {
        let size = line(&mut rest);
        let size = size.split(';').next().unwrap().trim();
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        let (chunk, behind) = rest.split_at(size);
        decoded.extend_from_slice(chunk);
        rest = behind.strip_prefix(b"\r\n").expect("the end of a chunk");
    }
    loop {
        let trailer = line(&mut rest);
        let Some((name, _)) = trailer.split_once(':') else {
            assert_eq!((trailer.as_str(), rest), ("", &[][..]), "the end of the trailers");
            return decoded;
        };
        let framing = ["content-length", "transfer-encoding", "host", "trailer"];
        assert!(!framing.iter().any(|framing| name.eq_ignore_ascii_case(framing)));
    }
}

/// A line that any LF ends.
fn line(rest: &mut &[u8]) -> String {
    let mut line = Vec::new();
    rest.read_until(b'\n', &mut line).unwrap();
    let line = line.strip_suffix(b"\n").expect("the end of a line");
    let line = line.strip_suffix(b"\r").expect("no bare LF");
    assert!(!line.contains(&b'\r'), "a bare CR");
    String::from_utf8_lossy(line).into_owned()
}

/// As hyper reads it, on which many a backend is built.
fn by_hyper(request: &[u8], text: &Text<'_>, decoded: &[u8]) {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            seen.borrow_mut()
                .push((head.method.to_string(), head.uri.to_string(), head.headers.len(), body));
            Ok::<_, hyper::Error>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
        }
    });
    let mut http1 = hyper::server::conn::http1::Builder::new();
    // All of it is there before hyper looks: the end of the connection too.
    http1
        .header_read_timeout(None)
        .max_buf_size(400 * 1024)
        .half_close(true);
    let connection = http1.serve_connection(Wire(request), service);
    let outcome = run(connection);
    let seen = seen.borrow();
    let [(method, target, fields, body)] = &seen[..] else {
        panic!("hyper saw {} requests: {outcome:?}", seen.len())
    };
    assert_eq!(
        (method.as_str(), *fields, &body[..]),
        (text.method, text.fields.len(), decoded)
    );
    if text.target.starts_with('/') {
        assert_eq!(target, text.target);
    }
}

/// A connection on which all is there at once, and then the end.
struct Wire<'a>(&'a [u8]);

impl hyper::rt::Read for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (now, later) = self.0.split_at(buffer.remaining().min(self.0.len()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs what never has to wait for anybody.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("it waits although everything is there");
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
