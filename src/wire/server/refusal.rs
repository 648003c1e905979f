//! The answers that the edge gives by itself.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};

use super::{Edge, EdgeStats};
use crate::session::clock::Timestamp;
use crate::wire::body::Body;
use crate::wire::fields::write_title_case;
use crate::wire::h1::imf_fixdate;
use crate::wire::strict::Flaw;

/// Why the edge refuses a request, or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeRefusal {
    /// 400: the framing or a field is malformed or ambiguous. The text says how and holds nothing of the request.
    BadRequest(&'static str),
    /// 431: the head is too large or has too many fields.
    HeaderTooLarge,
    /// 408: the head, or the next bytes of the body, did not come in time.
    RequestTimeout,
    /// 503: there are too many connections, or too many requests of one connection.
    Overloaded,
}

/// Turns a refusal into the response for the client. Its status, fields and body are sent as they are; the edge adds
/// `Date`, `Content-Length` and `Connection: close`.
pub type RenderRefusal = Arc<dyn Fn(EdgeRefusal) -> Response<Bytes> + Send + Sync>;

impl From<Flaw> for EdgeRefusal {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(how) => Self::BadRequest(how),
            Flaw::TooLarge => Self::HeaderTooLarge,
        }
    }
}

impl fmt::Display for EdgeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest(how) => write!(f, "malformed request: {how}"),
            Self::HeaderTooLarge => f.write_str("the request head is too large"),
            Self::RequestTimeout => f.write_str("the request did not come in time"),
            Self::Overloaded => f.write_str("too many connections, or too many requests of one"),
        }
    }
}

/// So that a request body can fail with it.
impl std::error::Error for EdgeRefusal {}

impl EdgeRefusal {
    /// In the words of the service.
    pub(super) fn response(self, edge: &Edge) -> crate::wire::message::Response {
        (edge.render)(self).map(Body::from).into()
    }

    pub(super) fn count(self, stats: &EdgeStats) {
        let counter = match self {
            Self::BadRequest(_) => &stats.bad_request,
            Self::HeaderTooLarge => &stats.header_too_large,
            Self::RequestTimeout => &stats.request_timeout,
            Self::Overloaded => &stats.overloaded,
        };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The bytes of a final response, after which the connection is closed.
pub(super) fn encode(response: &Response<Bytes>, now: Timestamp) -> Vec<u8> {
    let status = response.status();
    let mut wire = Vec::with_capacity(256 + response.body().len());
    wire.extend_from_slice(b"HTTP/1.1 ");
    wire.extend_from_slice(status.as_str().as_bytes());
    wire.push(b' ');
    wire.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    wire.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        if [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::DATE,
        ]
        .contains(name)
        {
            continue;
        }
        write_title_case(&mut wire, name.as_str());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    let length = response.body().len();
    let own = format!(
        "Date: {}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
        imf_fixdate(now)
    );
    wire.extend_from_slice(own.as_bytes());
    wire.extend_from_slice(response.body());
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framing_of_a_refusal_is_the_edge_s_own() {
        let response = Response::builder()
            .status(431)
            .header("x-request-id", "7")
            .header("content-length", "99")
            .header("connection", "keep-alive")
            .body(Bytes::from_static(b"{}"))
            .unwrap();
        let wire = String::from_utf8(encode(&response, Timestamp::from_millis(0))).unwrap();
        assert_eq!(
            wire,
            "HTTP/1.1 431 Request Header Fields Too Large\r\nX-Request-Id: 7\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             Content-Length: 2\r\nConnection: close\r\n\r\n{}"
        );
    }
}
