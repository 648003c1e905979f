//! The head of an HTTP/2 request (RFC 9113 §8), as the library has read it: what it lets pass and HTTP/1.1 would not.
//!
//! Its framing is not in doubt: lengths are checked by the library against what comes. But the request goes on as
//! HTTP/1.1, where each of its parts must mean what it meant here.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};

use super::head::{content_length, is_host, is_path_and_query};
use super::{Flaw, MAX_FIELDS};

/// What a field takes in HTTP/1.1 beside its name and value.
const FIELD_OVERHEAD: usize = ": \r\n".len();

/// Fields that belong to a connection of HTTP/1.1 (RFC 9113 §8.2.2).
static OF_A_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Judges `head` and gives it the form of an HTTP/1.1 request: the target in origin-form, the authority in `Host`.
/// `max_header_size`: the most bytes that it may take as such.
///
/// # Errors
/// What is wrong with it.
pub(in crate::wire) fn admit(head: &mut Parts, max_header_size: usize) -> Result<(), Flaw> {
    if head.method == Method::CONNECT {
        return Err(Flaw::Malformed("CONNECT is not served"));
    }
    size(head, max_header_size)?;
    let target = target(&head.method, &head.uri)?;
    fields(&head.headers)?;
    let host = host(&head.uri, &head.headers)?;
    head.headers.insert(HOST, host);
    head.uri = target;
    Ok(())
}

fn size(head: &Parts, max: usize) -> Result<(), Flaw> {
    if head.headers.len() > MAX_FIELDS {
        return Err(Flaw::TooLarge);
    }
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    let authority = head.uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let size = fields.sum::<usize>() + authority + path + head.method.as_str().len();
    if size > max { Err(Flaw::TooLarge) } else { Ok(()) }
}

fn target(method: &Method, uri: &Uri) -> Result<Uri, Flaw> {
    const INVALID: Flaw = Flaw::Malformed("an invalid request target");
    if !uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https")) {
        return Err(INVALID);
    }
    let path = uri.path_and_query().ok_or(INVALID)?;
    let text = path.as_str().as_bytes();
    let is_valid = match text {
        b"*" => method == Method::OPTIONS,
        _ => text.starts_with(b"/") && is_path_and_query(text),
    };
    if is_valid {
        Ok(Uri::from(path.clone()))
    } else {
        Err(INVALID)
    }
}

fn fields(headers: &HeaderMap) -> Result<(), Flaw> {
    if OF_A_CONNECTION.iter().any(|name| headers.contains_key(name)) {
        return Err(Flaw::Malformed("a field that belongs to a connection of HTTP/1.1"));
    }
    if headers.get_all(TE).iter().any(|value| value != "trailers") {
        return Err(Flaw::Malformed("a TE other than trailers"));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        content_length(length.as_bytes())?;
        if lengths.next().is_some() {
            return Err(Flaw::Malformed("a repeated Content-Length"));
        }
    }
    for (name, value) in headers {
        if matches!(name.as_str(), "content_length" | "transfer_encoding") {
            // CGI, WSGI and PHP backends read these two as the real ones.
            return Err(Flaw::Malformed("a framing field spelled with an underscore"));
        }
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(Flaw::Malformed("whitespace around a field value"));
        }
    }
    Ok(())
}

/// Who is asked, by `:authority`, by `Host`, or by both alike (RFC 9113 §8.3.1).
fn host(uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Flaw> {
    let mut hosts = headers.get_all(HOST).iter();
    let (field, None) = (hosts.next(), hosts.next()) else {
        return Err(Flaw::Malformed("a repeated Host"));
    };
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (authority, field) {
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field.as_bytes()) => {
            return Err(Flaw::Malformed("a Host that differs from the request target"));
        }
        (Some(authority), _) => HeaderValue::from_bytes(authority).ok(),
        (None, Some(field)) => Some(field.clone()),
        (None, None) => return Err(Flaw::Malformed("no Host")),
    };
    host.filter(|host| is_host(host.as_bytes()))
        .ok_or(Flaw::Malformed("an invalid Host"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const MAX: usize = 1024;

    fn head(method: &str, uri: &str, fields: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn judge(method: &str, uri: &str, fields: &[(&'static str, &str)]) -> Result<Parts, Flaw> {
        let mut head = head(method, uri, fields);
        admit(&mut head, MAX).map(|()| head)
    }

    #[test]
    fn a_good_head_becomes_one_of_http_1() {
        for (method, uri, fields, target, host) in [
            ("GET", "https://a.test/x?y=%2F", &[][..], "/x?y=%2F", "a.test"),
            ("POST", "http://a.test:81/", &[("host", "A.test:81")], "/", "a.test:81"),
            ("GET", "/x", &[("host", "[::1]:8")], "/x", "[::1]:8"),
            (
                "GET",
                "http://a/",
                &[("te", "trailers"), ("content-length", "0")],
                "/",
                "a",
            ),
        ] {
            let head = judge(method, uri, fields).unwrap();
            assert_eq!(
                (head.uri.to_string().as_str(), &head.headers["host"]),
                (target, &HeaderValue::from_str(host).unwrap())
            );
            assert_eq!(head.headers.get_all("host").iter().count(), 1);
        }
    }

    #[test]
    fn an_asterisk_is_for_options() {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some("a".parse().unwrap());
        parts.path_and_query = Some("*".parse().unwrap());
        let uri = Uri::from_parts(parts).unwrap();
        let mut good = Request::options(uri.clone()).body(()).unwrap().into_parts().0;
        admit(&mut good, MAX).unwrap();
        assert_eq!(good.uri.to_string(), "*");
        let mut bad = Request::get(uri).body(()).unwrap().into_parts().0;
        admit(&mut bad, MAX).unwrap_err();
    }

    #[test]
    fn what_would_be_read_in_two_ways_is_refused() {
        const ROOT: &str = "http://a/";
        for (method, uri, fields, why) in [
            ("CONNECT", "a:443", &[][..], "CONNECT is not served"),
            ("GET", "/", &[], "no Host"),
            ("GET", "ftp://a/", &[], "an invalid request target"),
            ("GET", "http://a/\"", &[], "an invalid request target"),
            ("GET", "http://a/\u{e4}", &[], "an invalid request target"),
            ("GET", "http://u@a/", &[], "an invalid Host"),
            ("GET", "http://a,b/", &[], "an invalid Host"),
            (
                "GET",
                ROOT,
                &[("host", "b")],
                "a Host that differs from the request target",
            ),
            ("GET", "/", &[("host", "b"), ("host", "b")], "a repeated Host"),
            (
                "GET",
                ROOT,
                &[("connection", "close")],
                "a field that belongs to a connection of HTTP/1.1",
            ),
            (
                "GET",
                ROOT,
                &[("keep-alive", "1")],
                "a field that belongs to a connection of HTTP/1.1",
            ),
            (
                "GET",
                ROOT,
                &[("transfer-encoding", "chunked")],
                "a field that belongs to a connection of HTTP/1.1",
            ),
            ("GET", ROOT, &[("te", "trailers, gzip")], "a TE other than trailers"),
            (
                "POST",
                ROOT,
                &[("content-length", "1"), ("content-length", "1")],
                "a repeated Content-Length",
            ),
            ("POST", ROOT, &[("content-length", "+1")], "an invalid Content-Length"),
            (
                "POST",
                ROOT,
                &[("content_length", "1")],
                "a framing field spelled with an underscore",
            ),
            ("GET", ROOT, &[("x", " y")], "whitespace around a field value"),
            ("GET", ROOT, &[("x", "y\t")], "whitespace around a field value"),
        ] {
            assert_eq!(
                judge(method, uri, fields).unwrap_err(),
                Flaw::Malformed(why),
                "{uri} {fields:?}"
            );
        }
    }

    #[test]
    fn a_head_may_be_as_large_as_in_http_1_and_no_larger() {
        // `GET`, `a`, `/`, `x` and the overhead.
        let room = "y".repeat(MAX - 3 - 1 - 1 - 1 - FIELD_OVERHEAD);
        judge("GET", "http://a/", &[("x", &room)]).unwrap();
        let flaw = judge("GET", "http://a/", &[("x", &format!("{room}y"))]).unwrap_err();
        assert_eq!(flaw, Flaw::TooLarge);
        judge("GET", "http://a/", &[("x", ""); MAX_FIELDS]).unwrap();
        judge("GET", "http://a/", &[("x", ""); MAX_FIELDS + 1]).unwrap_err();
    }
}
