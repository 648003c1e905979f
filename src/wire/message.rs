//! Messages on their way through the bridge.
//!
//! They are ours rather than those of the `http` crate, since each request makes two of them: here a field is a place in
//! the head that was read, and what rides along has a place of its own. Where a library wants its types there is
//! [`Request::from_http`] and the like.

use std::fmt;
use std::net::SocketAddr;

use crate::wire::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode, Uri, Version};

use super::fields::Fields;
use super::upgrade::Upgraded;

/// Who is at the other end of a connection, and by which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer of the connection, or the client that a trusted balancer has named by the PROXY protocol.
    pub addr: SocketAddr,
    /// A client that a trusted balancer spoke for without naming it: the address is the balancer's, and what the request
    /// claims is nevertheless the word of a stranger.
    pub unnamed: bool,
    /// It came over TLS, to us or, by its own word, to a trusted balancer.
    pub secure: bool,
}

impl Peer {
    /// A peer in clear text, known by its address alone.
    #[must_use]
    pub const fn at(addr: SocketAddr) -> Self {
        Self {
            addr,
            unnamed: false,
            secure: false,
        }
    }
}

/// A request.
#[derive(Debug)]
pub struct Request<B = Body> {
    /// All of it that comes before the body. Boxed, as it is handed from stage to stage.
    pub head: Box<RequestHead>,
    /// The body, as it comes.
    pub body: B,
}

/// A request without its body. Its `Debug` tells neither values of fields nor the target, which may be secrets.
#[derive(Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The target in any of its forms (RFC 9112 §3.2).
    pub uri: Uri,
    /// In which version it came.
    pub version: Version,
    /// The header fields.
    pub fields: Fields,
    /// From whom.
    pub peer: Peer,
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("version", &self.version)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl RequestHead {
    /// The request-target as it goes to an origin server: path and query, or `*` (RFC 9112 §3.2.1).
    #[must_use]
    pub fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// The same head, as the libraries have it.
    #[must_use]
    pub fn to_http(&self) -> http::request::Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = self.uri.clone();
        parts.version = self.version;
        parts.headers = self.fields.to_map();
        parts
    }
}

impl<B> Request<B> {
    /// What a library has read from `peer`.
    #[must_use]
    pub fn from_http(request: http::Request<B>, peer: Peer) -> Self {
        let (parts, body) = request.into_parts();
        let head = Box::new(RequestHead {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            fields: Fields::from_map(&parts.headers),
            peer,
        });
        Self { head, body }
    }
}

/// A response.
#[derive(Debug)]
pub struct Response<B = Body> {
    /// All of it that comes before the body.
    pub head: ResponseHead,
    /// The body, as it comes.
    pub body: B,
}

/// A response without its body.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// In which version it came.
    pub version: Version,
    /// The reason phrase, where it is not the usual one.
    pub reason: Option<Bytes>,
    /// The header fields.
    pub fields: Fields,
    /// The backend's connection, of a 101.
    pub upgraded: Option<Upgraded>,
}

impl ResponseHead {
    /// One without fields.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            version: Version::HTTP_11,
            reason: None,
            fields: Fields::new(),
            upgraded: None,
        }
    }
}

impl<B> Response<B> {
    /// The same with another body.
    pub fn map<C>(self, make: impl FnOnce(B) -> C) -> Response<C> {
        Response {
            head: self.head,
            body: make(self.body),
        }
    }

    /// As the libraries have it. What rides along is dropped.
    #[must_use]
    pub fn into_http(self) -> http::Response<B> {
        let mut response = http::Response::new(self.body);
        *response.status_mut() = self.head.status;
        *response.version_mut() = self.head.version;
        *response.headers_mut() = self.head.fields.to_map();
        response
    }
}

impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        let head = ResponseHead {
            version: parts.version,
            fields: Fields::from_map(&parts.headers),
            ..ResponseHead::new(parts.status)
        };
        Self { head, body }
    }
}
