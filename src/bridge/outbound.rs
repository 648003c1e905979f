//! Stage 3: the client's request becomes the backend's (rules H1, H2, J4).

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use bytes::Bytes;
use http::header::{COOKIE, EXPECT, HOST, TRAILER, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;

use super::X_REQUEST_ID;
use crate::wire::headers::{self, Hop, TrustedProxies};
use crate::wire::server::Secure;
use crate::wire::upgrade;

/// Its predecessor (RFC 2965).
const COOKIE2: HeaderName = HeaderName::from_static("cookie2");

/// How requests are rewritten.
pub struct Outbound {
    /// What the backend is told as `Host` where the client's is not passed on.
    upstream_host: HeaderValue,
    preserve_host: bool,
    trusted: TrustedProxies,
}

impl Outbound {
    /// `upstream_host`: the backend's own name, with the port where it is not 80. `trusted`: whose forwarding fields are
    /// believed.
    #[must_use]
    pub const fn new(upstream_host: HeaderValue, preserve_host: bool, trusted: TrustedProxies) -> Self {
        Self {
            upstream_host,
            preserve_host,
            trusted,
        }
    }

    /// The `Host` that the backend is told: the origin of the cookies.
    #[must_use]
    pub fn host(&self, head: &Parts) -> String {
        let host = head
            .headers
            .get(HOST)
            .filter(|_| self.preserve_host)
            .unwrap_or(&self.upstream_host);
        String::from_utf8_lossy(host.as_bytes()).into_owned()
    }

    /// The client: the peer, or whom trusted proxies name.
    #[must_use]
    pub fn client(&self, head: &Parts, peer: SocketAddr) -> IpAddr {
        headers::client_address(&head.headers, peer.ip(), &self.trusted)
    }

    /// The backend's request. Method, path, query and body are the client's, byte for byte.
    #[must_use]
    pub fn build(
        &self,
        mut head: Parts,
        body: Body,
        peer: SocketAddr,
        cookie: Option<Vec<u8>>,
        request_id: &HeaderValue,
    ) -> Request<Body> {
        let protocol = upgrade::requested(&head.method, head.version, &head.headers);
        let host = head.headers.get(HOST).cloned();
        let secure = head.extensions.get::<Secure>().is_some();
        let fields = &mut head.headers;
        headers::strip_request(fields);
        if let Some(protocol) = protocol {
            headers::set_upgrade(fields, protocol);
        }
        headers::forward(
            fields,
            &Hop {
                peer: peer.ip(),
                secure,
                host: host.as_ref(),
            },
            &self.trusted,
        );
        headers::add_via(fields, head.version);
        if !self.preserve_host || host.is_none() {
            fields.insert(HOST, self.upstream_host.clone());
        }
        fields.remove(COOKIE);
        fields.remove(COOKIE2);
        // The body is asked for when the backend's connection is ready: that sends the client its 100.
        fields.remove(EXPECT);
        if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_maybe_shared(Bytes::from(cookie)).ok()) {
            fields.insert(COOKIE, cookie);
        }
        fields.insert(X_REQUEST_ID, request_id.clone());
        head.uri = origin_form(head.uri);
        // HTTP/2 needs no announcement of them, and the way to the backend goes by the version for that.
        let trailers_may_come = head.version == Version::HTTP_2 || head.headers.contains_key(TRAILER);
        let body = if trailers_may_come {
            without_claims_in_trailers(body)
        } else {
            body
        };
        Request::from_parts(head, body)
    }
}

/// What may not come in the head may not come behind the body either: some servers join the two.
fn without_claims_in_trailers(body: Body) -> Body {
    let clean = |trailers: &mut HeaderMap| {
        headers::strip_request_trailers(trailers);
        for name in [COOKIE, COOKIE2, X_REQUEST_ID] {
            trailers.remove(name);
        }
    };
    Body::new(body.map_frame(move |mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            clean(trailers);
        }
        frame
    }))
}

/// The request target as it is sent to an origin server (RFC 9112 §3.2.1).
fn origin_form(uri: Uri) -> Uri {
    if uri.authority().is_none() {
        return uri;
    }
    uri.into_parts()
        .path_and_query
        .map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Takes what was meant for this hop alone out of a response: its version too (RFC 9110 §2.5), so that a backend that
/// speaks HTTP/1.0 does not cost the client its connection.
pub fn clean_response<B>(response: &mut Response<B>) {
    // A 101 switches, a 426 says to what one may (RFC 9110 §15.5.22).
    let status = response.status();
    let speaks_of_it = status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::UPGRADE_REQUIRED;
    let protocol = response.headers().get(UPGRADE).filter(|_| speaks_of_it).cloned();
    let version = response.version();
    headers::strip_response(response.headers_mut());
    if let Some(protocol) = protocol {
        headers::set_upgrade(response.headers_mut(), protocol);
    }
    headers::add_via(response.headers_mut(), version);
    *response.version_mut() = Version::HTTP_11;
}
