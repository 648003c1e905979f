//! Fields that belong to one hop: taken off, and set anew. Pure functions on [`HeaderMap`].
//!
//! The order for a request: read [`client_address`], [`request_id`] and [`super::upgrade::requested`]; then
//! [`strip_request`], [`forward`], [`add_via`], and [`set_upgrade`] for a genuine upgrade. What is set last cannot be
//! taken off by a `Connection` field of the client. For a response: [`strip_response`], [`add_via`], and
//! [`set_upgrade`] after a 101.
//!
//! # `Expect: 100-continue` (H4)
//!
//! It is answered here and not sent on. The edge sends its `100` when the body is first asked for, which is
//! when a connection to the backend has taken the request head (or the bridge looks for the Install ID in the body).
//! A refusal of the bridge's own, and a backend that cannot be reached, are answered without the body; a refusal by
//! the backend is passed on when it comes, in the middle of the upload if need be.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, Version};

mod forwarded;

pub use forwarded::{Hop, TrustedProxies, X_FORWARDED_PROTO, client_address, forward, remove_claims};

/// `X-Request-Id`: names one request in the logs of every party.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The longest `X-Request-Id` that is believed, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Takes the hop-by-hop fields off a request (H2, RFC 9110 section 7.6.1), and `Expect`.
///
/// `TE: trailers` stays, being about what the backend may send (RFC 9110 section 10.1.4). `Trailer` stays, since
/// trailers are passed on.
pub fn strip_request(headers: &mut HeaderMap) {
    let trailers = headers.contains_key(TE) && accepts_trailers(headers);
    strip(headers);
    headers.remove(PROXY_AUTHORIZATION);
    headers.remove(&HTTP2_SETTINGS);
    headers.remove(EXPECT);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
}

/// Takes the hop-by-hop fields off a response (H2, RFC 9110 section 7.6.1).
pub fn strip_response(headers: &mut HeaderMap) {
    strip(headers);
    headers.remove(PROXY_AUTHENTICATE);
    headers.remove(&PROXY_AUTHENTICATION_INFO);
}

/// Takes out of the trailers of a request what only this hop may say: hop-by-hop fields, and who the client is.
pub fn strip_request_trailers(trailers: &mut HeaderMap) {
    strip(trailers);
    forwarded::remove_claims(trailers);
    for name in [PROXY_AUTHORIZATION, EXPECT, VIA] {
        trailers.remove(name);
    }
}

/// The same of the trailers of a response. HTTP/2 knows no such fields, and what would send one loses the whole response.
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    strip_response(trailers);
    trailers.remove(CONTENT_LENGTH);
}

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        remove_nominated(headers);
        headers.remove(CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &TE, &TRANSFER_ENCODING, &UPGRADE] {
        headers.remove(name);
    }
}

/// Removes what `Connection` names.
fn remove_nominated(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = members(headers, &CONNECTION)
        .filter(|option| !is_common_option(option))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| !is_essential(name))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

/// What `Connection` nearly always says; these are no fields, or are taken off anyway.
fn is_common_option(option: &[u8]) -> bool {
    const COMMON: [&[u8]; 4] = [b"keep-alive", b"close", b"upgrade", b"te"];
    option.is_empty() || COMMON.iter().any(|common| option.eq_ignore_ascii_case(common))
}

/// Fields that no `Connection` can take off. RFC 9110 section 7.6.1 forbids to name fields meant for all recipients;
/// where it is done all the same it is to change the message behind the back of whoever set or checks them.
fn is_essential(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "content-type"
            | "content-encoding"
            | "content-range"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "cache-control"
            | "vary"
            | "date"
            | "location"
            | "origin"
            | "forwarded"
            | "via"
            | "x-request-id"
            | "x-real-ip"
    ) || name.as_str().starts_with("x-forwarded-")
}

/// The members of a comma-separated field, over all its lines, without the blanks around them.
pub(super) fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    members(headers, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Makes the message one that changes protocols: `Connection: Upgrade`, and `Upgrade` as asked or answered.
pub fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.remove(TE);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Adds this hop to `Via` (RFC 9110 section 7.6.3); `received` is the version of the message as it came.
pub fn add_via(headers: &mut HeaderMap, received: Version) {
    let hop = if received == Version::HTTP_2 {
        "2 session-bridge"
    } else if received == Version::HTTP_10 {
        "1.0 session-bridge"
    } else {
        "1.1 session-bridge"
    };
    headers.append(VIA, HeaderValue::from_static(hop));
}

/// The request's own `X-Request-Id` where it is sane, else a new UUIDv7 for the moment `now_millis` (milliseconds
/// since the Unix epoch).
///
/// Sane: one line of 1 to 128 of `A–Z a–z 0–9 - _ . : / + = @ ~`. It is copied into logs and responses.
#[must_use]
pub fn request_id(headers: &HeaderMap, now_millis: u64) -> HeaderValue {
    let mut given = headers.get_all(&X_REQUEST_ID).iter();
    match (given.next(), given.next()) {
        (Some(only), None) if is_sane_id(only.as_bytes()) => only.clone(),
        _ => new_request_id(now_millis),
    }
}

fn is_sane_id(id: &[u8]) -> bool {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(byte);
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(safe)
}

fn new_request_id(now_millis: u64) -> HeaderValue {
    // The ID is no secret: a fast generator will do.
    let mut random = [0_u8; 10];
    fastrand::fill(&mut random);
    let id = uuid::Builder::from_unix_timestamp_millis(now_millis, &random).into_uuid();
    let mut text = [0_u8; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut text);
    // Hexadecimal digits and hyphens are always a value.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests;
