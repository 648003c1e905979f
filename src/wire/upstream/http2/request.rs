//! A request as HTTP/2 has it: its head, and a body that can be sent once more for as long as all of it was kept.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body::Body as _;

use crate::wire::body::Body;
use crate::wire::fields::name;
use crate::wire::message;

/// Of how large a body all is kept until the response has come, to be sent once more should the backend not have looked
/// at it.
const KEPT: usize = 64 * 1024;

/// The head, in the form of HTTP/1.1 but for its framing, and the length that was told.
pub(super) struct Head {
    head: Parts,
    scheme: Scheme,
}

impl Head {
    pub(super) fn method(&self) -> &Method {
        &self.head.method
    }

    /// As it is sent (RFC 9113 §8.3.1): `Host` becomes `:authority`.
    pub(super) fn of_stream(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.head.method.clone();
        *request.headers_mut() = self.head.headers.clone();
        let path = self.head.uri.path_and_query().cloned();
        match self.target(path) {
            Some(uri) => {
                *request.uri_mut() = uri;
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(HOST);
            }
            // A request of HTTP/1.0 may have none: then there is no authority, and the library is told why.
            None => *request.uri_mut() = self.head.uri.clone(),
        }
        request
    }

    fn target(&self, path: Option<PathAndQuery>) -> Option<Uri> {
        let host = self.head.headers.get(HOST)?;
        let mut parts = http::uri::Parts::default();
        parts.authority = Some(Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).ok()?);
        parts.scheme = Some(self.scheme.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).ok()
    }
}

/// Parts `request` into what is sent as a head and what is behind it.
pub(super) fn split(request: message::Request, is_tls: bool) -> (Head, Source) {
    let message::Request { head, body } = request;
    let announced = (head.version != Version::HTTP_2).then(|| {
        head.fields
            .members(name::TRAILER)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .collect()
    });
    let mut head = head.to_http();
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(name);
    }
    let told = head.headers.get(CONTENT_LENGTH);
    let told: Option<u64> = told.and_then(|told| told.to_str().ok()?.parse().ok());
    let length = match (body.size_hint().exact(), told) {
        (Some(length), _) if !body.is_end_stream() => Some(length),
        (_, told) => told,
    };
    if let Some(length) = length.filter(|length| told.is_some() || *length > 0) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(cookie) = head.headers.get_mut(COOKIE) {
        // Each installation has its own: in the table that both sides share it would push out what is worth keeping, and
        // what is kept there can be guessed at (RFC 7541 §7.1).
        cookie.set_sensitive(true);
    }
    let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
    let source = Source {
        body,
        kept: Vec::new(),
        size: 0,
        is_whole: true,
        next: 0,
        trailers: None,
        has_ended: false,
        announced,
        length,
    };
    (Head { head, scheme }, source)
}

/// The body, from its beginning or from where it is.
pub(super) struct Source {
    body: Body,
    kept: Vec<Bytes>,
    size: usize,
    /// `kept` is all that was taken from the body.
    is_whole: bool,
    /// The piece of it that comes next.
    next: usize,
    trailers: Option<HeaderMap>,
    /// The body has given all.
    has_ended: bool,
    /// The trailers that may be sent, where not all may: over HTTP/1.1 they are announced, and others were not looked at.
    announced: Option<Vec<HeaderName>>,
    /// The length that was told.
    pub(super) length: Option<u64>,
}

/// Sizes alone: what clients send may be secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("kept", &self.size)
            .field("has_ended", &self.has_ended)
            .finish_non_exhaustive()
    }
}

/// What comes next of a body.
pub(super) enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

impl Source {
    /// Whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.length.unwrap_or(0) == 0 && self.body.is_end_stream()
    }

    /// Whether nothing comes after what was given.
    pub(super) fn is_at_end(&self) -> bool {
        self.next == self.kept.len() && self.trailers.is_none() && (self.has_ended || self.body.is_end_stream())
    }

    /// Back to the beginning. `false` where that is not known any more.
    pub(super) fn rewind(&mut self) -> bool {
        self.next = 0;
        self.is_whole
    }

    /// It will not be sent again.
    pub(super) fn forget(&mut self) {
        if self.next == self.kept.len() {
            self.is_whole = false;
            self.kept = Vec::new();
            self.next = 0;
        }
    }

    /// # Errors
    /// The client broke it off.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, String>> {
        if let Some(piece) = self.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Ok(Piece::Data(piece.clone())));
        }
        if self.has_ended {
            return Poll::Ready(Ok(Piece::End(self.trailers.clone())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Err(error.to_string())),
            None => {
                self.has_ended = true;
                return Poll::Ready(Ok(Piece::End(None)));
            }
        };
        Poll::Ready(Ok(match frame.into_data() {
            Ok(data) => {
                self.keep(&data);
                Piece::Data(data)
            }
            Err(frame) => {
                self.has_ended = true;
                self.trailers = frame.into_trailers().ok().and_then(|trailers| self.allowed(trailers));
                Piece::End(self.trailers.clone())
            }
        }))
    }

    fn keep(&mut self, data: &Bytes) {
        if !self.is_whole {
            return;
        }
        self.size += data.len();
        if self.size <= KEPT {
            self.kept.push(data.clone());
            self.next += 1;
        } else {
            self.is_whole = false;
            self.kept = Vec::new();
            self.next = 0;
        }
    }

    fn allowed(&self, mut trailers: HeaderMap) -> Option<HeaderMap> {
        if let Some(announced) = &self.announced {
            let others: Vec<HeaderName> = trailers
                .keys()
                .filter(|name| !announced.contains(name))
                .cloned()
                .collect();
            for name in others {
                trailers.remove(name);
            }
        }
        (!trailers.is_empty()).then_some(trailers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Peer;

    #[tokio::test]
    async fn what_was_kept_of_a_request_is_not_shown() {
        let request = Request::post("/")
            .header("host", "a")
            .body(Body::from("s3cret"))
            .unwrap();
        let request = message::Request::from_http(request, Peer::at(([127, 0, 0, 1], 1).into()));
        let (_, mut source) = split(request, false);
        let piece = std::future::poll_fn(|cx| source.poll_next(cx)).await;
        assert!(matches!(piece, Ok(Piece::Data(_))));
        let shown = format!("{source:?}");
        assert!(shown.contains('6') && !shown.contains("s3cret"), "{shown}");
    }
}
