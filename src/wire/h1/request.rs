//! Heads of requests: read when they were judged, and written.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, EXPECT, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method, Request, Uri, Version};

use super::spelling::{Spelling, write_fields};
use crate::wire::strict::trim;

/// The head of a request, and what it says of its connection.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// The request, whose extensions hold the [`Spelling`].
    pub(crate) request: Request<()>,
    /// Whether the connection goes on after it, as far as the client is concerned (RFC 9112 §9.3).
    pub(crate) persistent: bool,
    /// Whether the body waits for a `100 Continue` (RFC 9110 §10.1.1).
    pub(crate) expects_continue: bool,
    /// Whether the client takes trailers (RFC 9110 §10.1.4).
    pub(crate) takes_trailers: bool,
}

/// Reads a head that [`strict`](crate::wire::strict) has judged, with an empty line before it where there was one.
/// `None` where it cannot be held in these types: it is malformed then, in a way that was not judged.
pub(crate) fn read_request(head: Bytes) -> Option<RequestHead> {
    let mut at = if head.starts_with(b"\r\n") { 2 } else { 0 };
    let (line, next) = line(&head, at)?;
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return None,
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(target)).ok()?;
    *request.version_mut() = version;
    let mut spelt = Vec::with_capacity(16);
    let mut fields = HeaderMap::with_capacity(16);
    at = next;
    loop {
        let (line, next) = self::line(&head, at)?;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        let value = trim(value.get(1..)?);
        spelt.push((u32::try_from(at).ok()?, u32::try_from(colon).ok()?));
        fields.append(
            HeaderName::from_bytes(name).ok()?,
            HeaderValue::from_maybe_shared(head.slice_ref(value)).ok()?,
        );
        at = next;
    }
    let options = Options::of(&fields);
    let persistent = if version == Version::HTTP_11 {
        !options.close
    } else {
        options.keep_alive && !options.close
    };
    let expects_continue = version == Version::HTTP_11
        && fields
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let takes_trailers =
        crate::wire::headers::members(&fields, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    *request.headers_mut() = fields;
    request.extensions_mut().insert(Spelling::new(head, spelt));
    Some(RequestHead {
        request,
        persistent,
        expects_continue,
        takes_trailers,
    })
}

/// The line that begins at `at`, without its CRLF, and where the next one begins.
fn line(head: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = head.get(at..)?;
    let length = memchr::memchr(b'\r', rest)?;
    Some((rest.get(..length)?, at + length + 2))
}

/// What `Connection` says of the connection.
struct Options {
    close: bool,
    keep_alive: bool,
}

impl Options {
    fn of(fields: &HeaderMap) -> Self {
        let mut options = Self {
            close: false,
            keep_alive: false,
        };
        for option in crate::wire::headers::members(fields, &CONNECTION) {
            options.close |= option.eq_ignore_ascii_case(b"close");
            options.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        options
    }
}

/// Writes the head of an HTTP/1.1 request, its target in origin-form, or `*`.
pub(crate) fn write_request<B>(wire: &mut BytesMut, request: &Request<B>) {
    wire.extend_from_slice(request.method().as_str().as_bytes());
    wire.extend_from_slice(b" ");
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    if target.starts_with('?') {
        // Of an absolute form without a path.
        wire.extend_from_slice(b"/");
    }
    wire.extend_from_slice(target.as_bytes());
    wire.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(wire, request.headers(), request.extensions().get::<Spelling>());
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_and_written_back_byte_for_byte() {
        let head = b"POST /a%2f/../b?c=[d]&| HTTP/1.1\r\nhOST: shop\r\nx-Empty: \r\nX-a: 1\r\nX-A: b \x80 c\r\n\r\n";
        let read = read_request(Bytes::from_static(head)).unwrap();
        assert_eq!(read.request.method(), "POST");
        assert_eq!(read.request.headers()["x-empty"], "");
        assert!(read.persistent && !read.expects_continue && !read.takes_trailers);
        let mut wire = BytesMut::new();
        write_request(&mut wire, &read.request);
        assert_eq!(wire.escape_ascii().to_string(), head.escape_ascii().to_string());
    }

    #[test]
    fn an_absolute_form_becomes_the_origin_form() {
        for (target, written) in [
            ("http://a/x?y", "/x?y"),
            ("http://a", "/"),
            ("http://a?x", "/?x"),
            ("*", "*"),
        ] {
            let mut wire = BytesMut::new();
            write_request(&mut wire, &Request::get(target).body(()).unwrap());
            let wire = String::from_utf8(wire.to_vec()).unwrap();
            assert!(wire.starts_with(&format!("GET {written} HTTP/1.1\r\n")), "{wire}");
        }
    }

    #[test]
    fn what_a_head_says_of_its_connection_is_told() {
        for (version, fields, persistent) in [
            ("1.1", "", true),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.1", "Connection: a\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = format!("\r\nGET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            let read = read_request(Bytes::from(head)).unwrap();
            assert_eq!(read.persistent, persistent, "{version} {fields}");
        }
        let head = "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTE: gzip, Trailers\r\n\r\n";
        let read = read_request(Bytes::from(head)).unwrap();
        assert!(read.expects_continue && read.takes_trailers);
        let old = read_request(Bytes::from(head.replace("1.1", "1.0"))).unwrap();
        assert!(!old.expects_continue);
    }
}
