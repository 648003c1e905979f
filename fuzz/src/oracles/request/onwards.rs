//! What the bridge makes of a request that was judged: read as it stands, and written for the backend so that it is
//! one request still, of the same body, with no line that was not a field.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Version};

use super::{MAX_FIELDS, Text, find, judge_within};
use crate::bridge::outbound::Outbound;
use crate::wire::body::Body;
use crate::wire::fields::{Fields, name};
use crate::wire::headers::TrustedProxies;
use crate::wire::message::{Peer, RequestHead};
use crate::wire::{Asked, read_request, write_fields, write_request};

const COOKIE: &[u8] = b"sid=abc; b=\"\xff\"";
/// What the bridge may say that the client did not.
const ADDED: [&str; 12] = [
    name::CONNECTION,
    name::COOKIE,
    name::FORWARDED,
    name::HOST,
    name::TE,
    name::TRANSFER_ENCODING,
    name::UPGRADE,
    name::VIA,
    name::X_FORWARDED_FOR,
    name::X_FORWARDED_HOST,
    name::X_FORWARDED_PROTO,
    name::X_REQUEST_ID,
];

pub(super) fn check(head: &[u8], text: &Text<'_>, decoded: &[u8]) {
    let asked = read(head);
    as_it_stands(&asked, text);
    again(&asked.head.fields, text);
    for (preserve_host, trusted) in [(true, false), (false, true)] {
        forwarded(&asked, text, decoded, preserve_host, trusted);
    }
}

fn read(head: &[u8]) -> Asked {
    let peer = Peer::at(([192, 0, 2, 7], 443).into());
    read_request(Bytes::copy_from_slice(head), peer).expect("a head that was judged is read")
}

fn as_it_stands(asked: &Asked, text: &Text<'_>) {
    let head = &asked.head;
    assert_eq!(head.method.as_str(), text.method);
    assert_eq!(head.version == Version::HTTP_11, text.version == "HTTP/1.1");
    if text.target.starts_with('/') {
        assert_eq!(head.target(), text.target);
    }
    same(&head.fields, text);
    let says = |option: &str| {
        text.all("connection")
            .iter()
            .flat_map(|line| line.split(|byte| *byte == b','))
            .any(|said| said.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    };
    let persistent = !says("close") && (text.version == "HTTP/1.1" || says("keep-alive"));
    assert_eq!(asked.persistent, persistent, "whether the connection goes on");
}

/// Names and values, in their order and as they were spelt.
fn same(fields: &Fields, text: &Text<'_>) {
    let read: Vec<(&[u8], &[u8])> = fields.iter().collect();
    assert_eq!(read, text.fields, "other fields than were sent");
    for (name, _) in &text.fields {
        let name = std::str::from_utf8(name).expect("a name of ASCII");
        assert_eq!(fields.all(name).collect::<Vec<_>>(), text.all(name));
    }
}

/// Written and read again they are the same.
fn again(fields: &Fields, text: &Text<'_>) {
    let mut wire = BytesMut::from(&*format!("GET / {}\r\n", text.version));
    write_fields(&mut wire, fields);
    wire.extend_from_slice(b"\r\n");
    same(&read(&wire).head.fields, text);
}

fn forwarded(asked: &Asked, text: &Text<'_>, decoded: &[u8], preserve_host: bool, trusted: bool) {
    let networks = if trusted {
        vec!["192.0.2.0/24".parse().unwrap()]
    } else {
        Vec::new()
    };
    let outbound = Outbound::new(
        HeaderValue::from_static("backend.test:8080"),
        preserve_host,
        TrustedProxies::new(networks),
    );
    let id = HeaderValue::from_static("request-1");
    let mut head = outbound
        .build(asked.head.clone(), Body::empty(), Some(COOKIE.to_vec()), &id)
        .head;
    let chunked = !text.all("transfer-encoding").is_empty();
    if chunked {
        head.fields
            .insert(name::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut wire = BytesMut::new();
    write_request(&mut wire, &head);
    every_line_is_a_field(&wire, &head, text);
    ours_alone(&head.fields, text, trusted);
    only_what_was_said(&head.fields, text);
    one_request(wire, &head.fields, chunked, decoded);
}

fn every_line_is_a_field(wire: &[u8], head: &RequestHead, text: &Text<'_>) {
    let target = match text.target.split_once("://") {
        Some((_, behind)) if !text.target.starts_with('/') => match behind.find(['/', '?']) {
            Some(at) if behind[at..].starts_with('?') => format!("/{}", &behind[at..]),
            Some(at) => behind[at..].to_owned(),
            None => "/".to_owned(),
        },
        _ => text.target.to_owned(),
    };
    let mut expected = format!("{} {target} HTTP/1.1\r\n", text.method).into_bytes();
    for (name, value) in head.fields.iter() {
        let controls = |part: &[u8]| part.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        assert!(!controls(name) && !controls(value), "a line within a field");
        expected.extend([name, b": ", value, b"\r\n"].concat());
    }
    expected.extend(b"\r\n");
    assert_eq!(
        wire.escape_ascii().to_string(),
        expected.escape_ascii().to_string(),
        "other lines than fields"
    );
    assert_eq!(
        find(wire, b"\r\n\r\n"),
        Some(wire.len() - 4),
        "the head ends before its end"
    );
}

/// What no client may say.
fn ours_alone(fields: &Fields, text: &Text<'_>, trusted: bool) {
    let all = |name| fields.all(name).collect::<Vec<_>>();
    assert_eq!(all(name::COOKIE), [COOKIE]);
    assert_eq!(all(name::X_REQUEST_ID), [b"request-1"]);
    assert_eq!(all(name::HOST).len(), 1);
    assert_eq!(all(name::FORWARDED).len(), 1);
    let [hops] = all(name::X_FORWARDED_FOR)[..] else {
        panic!("not one list of hops")
    };
    assert!(hops.ends_with(b"192.0.2.7"));
    if !trusted {
        assert_eq!(hops, b"192.0.2.7");
        assert_eq!(all(name::X_FORWARDED_PROTO), [b"http"]);
        assert_eq!(all(name::X_FORWARDED_HOST), text.all(name::HOST));
        assert!(!fields.contains("X-Real-IP") && !fields.contains("X_Forwarded_For"));
    }
    assert_eq!(all(name::VIA).len(), text.all(name::VIA).len() + 1);
    for name in [name::COOKIE2, name::EXPECT, name::PROXY_AUTHORIZATION, name::KEEP_ALIVE] {
        assert!(!fields.contains(name), "{name} goes on");
    }
    assert_eq!(all(name::CONTENT_LENGTH), text.all(name::CONTENT_LENGTH));
}

/// Nothing is invented, and what stays is in order.
fn only_what_was_said(fields: &Fields, text: &Text<'_>) {
    let is_added = |name: &[u8]| ADDED.iter().any(|added| name.eq_ignore_ascii_case(added.as_bytes()));
    let mut sent = text.fields.iter();
    for field in fields.iter().filter(|(name, _)| !is_added(name)) {
        let found = sent.any(|sent| *sent == field);
        assert!(
            found,
            "a field that was not sent, or not there: {}",
            field.0.escape_ascii()
        );
    }
}

fn one_request(mut wire: BytesMut, fields: &Fields, chunked: bool, decoded: &[u8]) {
    if fields.len() > MAX_FIELDS {
        return;
    }
    let head = wire.len();
    if chunked && !decoded.is_empty() {
        wire.extend_from_slice(format!("{:x}\r\n", decoded.len()).as_bytes());
        wire.extend_from_slice(decoded);
        wire.extend_from_slice(b"\r\n");
    } else if !chunked {
        wire.extend_from_slice(decoded);
    }
    if chunked {
        wire.extend_from_slice(b"0\r\n\r\n");
    }
    let verdict = judge_within(64 * 1024, &wire, [&wire[..]]);
    assert_eq!(
        verdict.accepted,
        [&wire[..]],
        "{:?} {}",
        verdict.end,
        wire[..head].escape_ascii()
    );
}
