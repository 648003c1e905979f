//! Stage 3: the client's request becomes the backend's (rules H1, H2, J4).

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;

use crate::wire::body::Body;
use crate::wire::fields::name;
use crate::wire::headers::{self, Hop, TrustedProxies};
use crate::wire::message::{Request, RequestHead, ResponseHead};
use crate::wire::upgrade;

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
    pub fn host(&self, head: &RequestHead) -> String {
        let given = head.fields.get(name::HOST).filter(|_| self.preserve_host);
        let host = given.unwrap_or_else(|| self.upstream_host.as_bytes());
        String::from_utf8_lossy(host).into_owned()
    }

    /// The client: the peer, or whom trusted proxies name.
    #[must_use]
    pub fn client(&self, head: &RequestHead) -> IpAddr {
        headers::client_address(&head.fields, head.peer.addr.ip(), &self.trusted)
    }

    /// The backend's request. Method, path, query and body are the client's, byte for byte.
    #[must_use]
    pub fn build(
        &self,
        mut head: Box<RequestHead>,
        body: Body,
        cookie: Option<Vec<u8>>,
        request_id: &HeaderValue,
    ) -> Request {
        let fields = &mut head.fields;
        let protocol = upgrade::requested(&head.method, head.version, fields);
        let host = fields.get(name::HOST).map(<[u8]>::to_vec);
        headers::strip_request(fields);
        if let Some(protocol) = protocol {
            headers::set_upgrade(fields, protocol);
        }
        headers::forward(
            fields,
            &Hop {
                peer: head.peer.addr.ip(),
                secure: head.peer.secure,
                host: host.as_deref(),
            },
            &self.trusted,
        );
        headers::add_via(fields, head.version);
        if !self.preserve_host || host.is_none() {
            fields.insert(name::HOST, &self.upstream_host);
        }
        // The body is asked for when the backend's connection is ready: that sends the client its 100.
        for name in [name::COOKIE, name::COOKIE2, name::EXPECT] {
            fields.remove(name);
        }
        if let Some(cookie) = cookie {
            fields.append_made(name::COOKIE, |value| value.extend_from_slice(&cookie));
        }
        fields.insert(name::X_REQUEST_ID, request_id);
        // HTTP/2 needs no announcement of them, and the way to the backend goes by the version for that.
        let trailers_may_come = head.version == Version::HTTP_2 || fields.contains(name::TRAILER);
        if head.uri.authority().is_some() {
            head.uri = origin_form(head.uri);
        }
        let body = if trailers_may_come {
            without_claims_in_trailers(body)
        } else {
            body
        };
        Request { head, body }
    }
}

/// What may not come in the head may not come behind the body either: some servers join the two.
fn without_claims_in_trailers(body: Body) -> Body {
    let clean = |trailers: &mut HeaderMap| {
        headers::strip_request_trailers(trailers);
        for name in [name::COOKIE, name::COOKIE2, name::X_REQUEST_ID] {
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
    uri.into_parts()
        .path_and_query
        .map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Takes what was meant for this hop alone out of a response: its version too (RFC 9110 §2.5), so that a backend that
/// speaks HTTP/1.0 does not cost the client its connection.
pub fn clean_response(response: &mut ResponseHead) {
    // A 101 switches, a 426 says to what one may (RFC 9110 §15.5.22).
    let speaks_of_it =
        response.status == StatusCode::SWITCHING_PROTOCOLS || response.status == StatusCode::UPGRADE_REQUIRED;
    let fields = &mut response.fields;
    let protocol = fields.value(name::UPGRADE).filter(|_| speaks_of_it);
    headers::strip_response(fields);
    if let Some(protocol) = protocol {
        headers::set_upgrade(fields, protocol);
    }
    headers::add_via(fields, response.version);
    response.version = Version::HTTP_11;
}
