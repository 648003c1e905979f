//! Heads of requests: read when they were judged, and written.

use bytes::{Bytes, BytesMut};
use http::{Method, Uri, Version};

use crate::wire::fields::{Fields, name};
use crate::wire::message::{Peer, RequestHead};
use crate::wire::strict::Judged;

/// A request as it was read, and what it says of its connection.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The request.
    pub(crate) head: Box<RequestHead>,
    /// Whether the connection goes on after it, as far as the client is concerned (RFC 9112 §9.3).
    pub(crate) persistent: bool,
    /// Whether the body waits for a `100 Continue` (RFC 9110 §10.1.1).
    pub(crate) expects_continue: bool,
    /// Whether the client takes trailers (RFC 9110 §10.1.4).
    pub(crate) takes_trailers: bool,
}

/// Makes a request of a head in which [`strict`](crate::wire::strict) has found these parts. `None` where it cannot be
/// held in these types: it is malformed then, in a way that was not judged.
pub(crate) fn read_request(head: Bytes, judged: Judged, peer: Peer) -> Option<Asked> {
    let version = if judged.is_http_11 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };
    let method = Method::from_bytes(head.get(judged.method)?).ok()?;
    let target = head.slice_ref(head.get(judged.target)?);
    let uri = Uri::from_maybe_shared(target).ok()?;
    let fields = Fields::of(head, judged.lines);
    let options = Options::of(&fields);
    let persistent = if version == Version::HTTP_11 {
        !options.close
    } else {
        options.keep_alive && !options.close
    };
    let expects_continue = version == Version::HTTP_11
        && fields
            .get(name::EXPECT)
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let takes_trailers = fields
        .members(name::TE)
        .any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    Some(Asked {
        head: Box::new(RequestHead {
            method,
            uri,
            version,
            fields,
            peer,
        }),
        persistent,
        expects_continue,
        takes_trailers,
    })
}

/// What `Connection` says of the connection.
struct Options {
    close: bool,
    keep_alive: bool,
}

impl Options {
    fn of(fields: &Fields) -> Self {
        let mut options = Self {
            close: false,
            keep_alive: false,
        };
        for option in fields.members(name::CONNECTION) {
            options.close |= option.eq_ignore_ascii_case(b"close");
            options.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        options
    }
}

/// Writes the head of an HTTP/1.1 request, its target in origin-form, or `*`.
pub(crate) fn write_request(wire: &mut BytesMut, head: &RequestHead) {
    wire.extend_from_slice(head.method.as_str().as_bytes());
    wire.extend_from_slice(b" ");
    let target = head.target();
    if target.starts_with('?') {
        // Of an absolute form without a path.
        wire.extend_from_slice(b"/");
    }
    wire.extend_from_slice(target.as_bytes());
    wire.extend_from_slice(b" HTTP/1.1\r\n");
    head.fields.write(wire);
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::strict::Checker;

    fn read(head: impl Into<Bytes>) -> Asked {
        let (head, mut checker) = (head.into(), Checker::new(4096));
        assert_eq!(checker.advance(&head).unwrap().release, head.len());
        let judged = checker.take_judged().unwrap();
        assert!(checker.take_judged().is_none());
        read_request(head, judged, Peer::at(([127, 0, 0, 1], 1).into())).unwrap()
    }

    #[test]
    fn a_head_is_read_and_written_back_byte_for_byte() {
        let head = b"POST /a%2f/../b?c=[d]&| HTTP/1.1\r\nhOST: shop\r\nx-Empty: \r\nX-a: 1\r\nX-A: b \x80 c\r\n\r\n";
        let read = read(&head[..]);
        assert_eq!(read.head.method, "POST");
        assert_eq!(read.head.fields.get("x-empty"), Some(&b""[..]));
        assert!(read.persistent && !read.expects_continue && !read.takes_trailers);
        let mut wire = BytesMut::new();
        write_request(&mut wire, &read.head);
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
            let mut head = read("GET / HTTP/1.1\r\nHost: a\r\n\r\n").head;
            head.uri = target.parse().unwrap();
            write_request(&mut wire, &head);
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
            let read = read(head);
            assert_eq!(read.persistent, persistent, "{version} {fields}");
        }
        let head = "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTE: gzip, Trailers\r\n\r\n";
        let new = read(head);
        assert!(new.expects_continue && new.takes_trailers);
        let old = read(head.replace("1.1", "1.0"));
        assert!(!old.expects_continue);
    }
}
