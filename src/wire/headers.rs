//! Fields that belong to one hop: taken off, and set anew. Pure functions on [`Fields`].
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

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Version};

use super::fields::{Fields, name};
use crate::hex;

mod forwarded;

pub use forwarded::{Hop, TrustedProxies, client_address, forward, remove_claims};

/// The longest `X-Request-Id` that is believed, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Takes the hop-by-hop fields off a request (H2, RFC 9110 section 7.6.1), and `Expect`.
///
/// `TE: trailers` stays, being about what the backend may send (RFC 9110 section 10.1.4). `Trailer` stays, since
/// trailers are passed on.
pub fn strip_request(fields: &mut Fields) {
    let trailers = accepts_trailers(fields);
    strip(fields);
    for name in [name::PROXY_AUTHORIZATION, name::HTTP2_SETTINGS, name::EXPECT] {
        fields.remove(name);
    }
    if trailers {
        fields.insert(name::TE, HeaderValue::from_static("trailers"));
        fields.insert(name::CONNECTION, HeaderValue::from_static("TE"));
    }
}

/// Takes the hop-by-hop fields off a response (H2, RFC 9110 section 7.6.1).
pub fn strip_response(fields: &mut Fields) {
    strip(fields);
    fields.remove(name::PROXY_AUTHENTICATE);
    fields.remove(name::PROXY_AUTHENTICATION_INFO);
}

/// Takes out of the trailers of a request what only this hop may say: hop-by-hop fields, and who the client is.
pub fn strip_request_trailers(trailers: &mut HeaderMap) {
    let mut fields = Fields::from_map(trailers);
    strip(&mut fields);
    forwarded::remove_claims(&mut fields);
    for name in [name::PROXY_AUTHORIZATION, name::EXPECT, name::VIA] {
        fields.remove(name);
    }
    *trailers = fields.to_map();
}

/// The same of the trailers of a response. HTTP/2 knows no such fields, and what would send one loses the whole response.
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    let mut fields = Fields::from_map(trailers);
    strip_response(&mut fields);
    fields.remove(name::CONTENT_LENGTH);
    *trailers = fields.to_map();
}

fn strip(fields: &mut Fields) {
    if let Some(options) = fields.get(name::CONNECTION) {
        // Nearly always one line that says one thing.
        if !is_common_option(options) || fields.all(name::CONNECTION).nth(1).is_some() {
            remove_nominated(fields);
        }
        fields.remove(name::CONNECTION);
    }
    for name in [
        name::KEEP_ALIVE,
        name::PROXY_CONNECTION,
        name::TE,
        name::TRANSFER_ENCODING,
        name::UPGRADE,
    ] {
        fields.remove(name);
    }
}

/// Removes what `Connection` names.
fn remove_nominated(fields: &mut Fields) {
    let nominated: Vec<Vec<u8>> = fields
        .members(name::CONNECTION)
        .filter(|option| !is_common_option(option))
        .map(<[u8]>::to_ascii_lowercase)
        .filter(|name| !is_essential(name))
        .collect();
    if !nominated.is_empty() {
        fields.retain(|name| !nominated.iter().any(|nominated| nominated.eq_ignore_ascii_case(name)));
    }
}

/// What `Connection` nearly always says; these are no fields, or are taken off anyway.
fn is_common_option(option: &[u8]) -> bool {
    const COMMON: [&[u8]; 4] = [b"keep-alive", b"close", b"upgrade", b"te"];
    option.is_empty() || COMMON.iter().any(|common| option.eq_ignore_ascii_case(common))
}

/// Fields that no `Connection` can take off. RFC 9110 section 7.6.1 forbids to name fields meant for all recipients;
/// where it is done all the same it is to change the message behind the back of whoever set or checks them.
fn is_essential(name: &[u8]) -> bool {
    matches!(
        name,
        b"host"
            | b"content-length"
            | b"content-type"
            | b"content-encoding"
            | b"content-range"
            | b"authorization"
            | b"cookie"
            | b"set-cookie"
            | b"cache-control"
            | b"vary"
            | b"date"
            | b"location"
            | b"origin"
            | b"forwarded"
            | b"via"
            | b"x-request-id"
            | b"x-real-ip"
    ) || name.starts_with(b"x-forwarded-")
}

fn accepts_trailers(fields: &Fields) -> bool {
    fields
        .members(name::TE)
        .any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Makes the message one that changes protocols: `Connection: Upgrade`, and `Upgrade` as asked or answered.
pub fn set_upgrade(fields: &mut Fields, protocol: HeaderValue) {
    fields.remove(name::TE);
    fields.insert(name::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(name::UPGRADE, protocol);
}

/// Adds this hop to `Via` (RFC 9110 section 7.6.3); `received` is the version of the message as it came.
pub fn add_via(fields: &mut Fields, received: Version) {
    // Made once: every message gets one.
    static HTTP_2: HeaderValue = HeaderValue::from_static("2 session-bridge");
    static HTTP_10: HeaderValue = HeaderValue::from_static("1.0 session-bridge");
    static HTTP_11: HeaderValue = HeaderValue::from_static("1.1 session-bridge");
    let hop = match received {
        Version::HTTP_2 => &HTTP_2,
        Version::HTTP_10 => &HTTP_10,
        _ => &HTTP_11,
    };
    fields.append(name::VIA, hop);
}

/// The request's own `X-Request-Id` where it is sane, else a new UUIDv7 for the moment `now_millis` (milliseconds
/// since the Unix epoch).
///
/// Sane: one line of 1 to 128 of `A–Z a–z 0–9 - _ . : / + = @ ~`. It is copied into logs and responses.
#[must_use]
pub fn request_id(fields: &Fields, now_millis: u64) -> HeaderValue {
    let mut given = fields.all(name::X_REQUEST_ID);
    let own = match (given.next(), given.next()) {
        (Some(only), None) if is_sane_id(only) => fields.value(name::X_REQUEST_ID),
        _ => None,
    };
    own.unwrap_or_else(|| new_request_id(now_millis))
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
    // One piece of memory, which its copies share.
    let text = Bytes::from_owner(hex::hyphenated(id.as_bytes()));
    // Hexadecimal digits and hyphens are always a value.
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests;
