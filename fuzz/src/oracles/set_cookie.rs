//! One `Set-Cookie` line: what is read of it against the plain wording of RFC 6265bis, and back again.

use std::time::{Duration, UNIX_EPOCH};

use crate::session::clock::Timestamp;
use crate::session::cookie::{Cookie, MAX_ATTRIBUTE, MAX_LIFETIME, MAX_NAME_AND_VALUE, Origin, parse_set_cookie};
use crate::session::date::parse_cookie_date;
use crate::session::jar::Jar;

/// A whole second, as all moments that a line can tell are.
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

const HOSTS: [&str; 6] = [
    "shop.example",
    "www.Shop.example:8080",
    "shop.example.",
    "10.1.2.3",
    "[::1]:80",
    "a",
];
const PATHS: [&str; 4] = ["/", "/account/login?next=/", "/a/", "*"];

pub fn check(data: &[u8]) {
    let mut line = data;
    let host = *super::choose(&mut line, &HOSTS);
    let origin = Origin::new(host, *super::choose(&mut line, &PATHS));
    date(line);
    let Ok(cookie) = parse_set_cookie(line, &origin, NOW) else {
        return;
    };
    as_written(&cookie, line);
    within_bounds(&cookie, &origin);
    stable(&cookie, &origin);
    sent_back(&cookie, &origin);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 22] = [
        b"sid=abc; Path=/; HttpOnly",
        b"sid=\"quoted \\054 value\"; path=/account; secure; SameSite=None",
        b"sid=deleted; expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; path=/",
        b"__Host-sid=1; Secure; Path=/",
        b"__secure-sid=1; Secure; Domain=shop.example",
        b"__Http-x=1; Secure; HttpOnly",
        b"__Host-Http-x=1; Secure; HttpOnly; Path=/",
        b"a=b; Domain=.SHOP.example; Max-Age=3600",
        b"a=b; Domain=example; Max-Age=-1",
        b"a=b; Domain=10.1.2.3",
        b"a=b; Domain=[::1]",
        b"a=b; Domain=shop.example.",
        b"a=b; Expires=Tue, 14-Nov-2023 23:00:00 GMT; Max-Age=x",
        b"a=b; Expires=14 nov 24 22:13:20; Path=x; Path",
        b"a=b; Max-Age=99999999999999999999; Secure",
        b" \ta\t = b c \t; Path = /x ;;; httponly=no",
        b"=value; Path=/",
        b"value; Path=/",
        b"=a=b=c",
        b"n\xe9=\xff\xfe; Path=/\xe9",
        b"a=b\x07; Path=/",
        b"; Path=/",
    ];
    let mut seeds = Vec::new();
    for (number, line) in (0_u8..).zip(lines) {
        seeds.push([&[number % 6, number % 4], line].concat());
        seeds.push([&[0, 0], line].concat());
    }
    seeds
}

/// A date that is read can be written, and is then read as the same.
fn date(text: &[u8]) {
    let Some(moment) = parse_cookie_date(text) else { return };
    assert_eq!(moment.as_millis() % 1000, 0);
    assert_eq!(parse_cookie_date(imf(moment).as_bytes()), Some(moment));
}

fn imf(moment: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(moment.as_millis()))
}

/// RFC 6265bis, 5.6, steps 2 to 6, as they are worded.
fn as_written(cookie: &Cookie, line: &[u8]) {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let pair = &line[..end];
    let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
        Some(equals) => (&pair[..equals], &pair[equals + 1..]),
        None => (&pair[..0], pair),
    };
    assert!(
        cookie.name() == trim(name) && cookie.value() == trim(value),
        "another name or value"
    );
    let says = |attribute: &str| String::from_utf8_lossy(line).to_ascii_lowercase().contains(attribute);
    assert!(!cookie.secure() || says("secure"));
    assert!(!cookie.http_only() || says("httponly"));
    assert!(cookie.host_only() || says("domain"));
    assert!(cookie.expires_at().is_none() || says("expires") || says("max-age"));
}

fn trim(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = text.iter().take_while(|byte| is_blank(byte)).count();
    let end = text[start..].iter().rev().take_while(|byte| is_blank(byte)).count();
    &text[start..text.len() - end]
}

fn within_bounds(cookie: &Cookie, origin: &Origin<'_>) {
    let is_plain = |text: &[u8]| {
        !text
            .iter()
            .any(|byte| *byte == b';' || (byte.is_ascii_control() && *byte != b'\t'))
    };
    assert!(is_plain(cookie.name()) && is_plain(cookie.value()) && is_plain(cookie.path()));
    assert!(!cookie.name().contains(&b'='));
    assert!(!cookie.name().is_empty() || !cookie.value().is_empty());
    assert!(cookie.name().len() + cookie.value().len() <= MAX_NAME_AND_VALUE);
    assert!(cookie.path().first() == Some(&b'/') && cookie.path().len() <= MAX_ATTRIBUTE);
    assert!(
        cookie
            .expires_at()
            .is_none_or(|end| end <= NOW.saturating_add(MAX_LIFETIME))
    );
    assert_eq!(cookie.created_at(), NOW);

    let (host, domain) = (origin.host(), cookie.domain());
    let is_parent = host.len() > domain.len() && host.ends_with(&format!(".{domain}"));
    assert!(domain == host || (is_parent && !cookie.host_only()), "a foreign domain");
    assert!(domain == host || host.parse::<std::net::Ipv4Addr>().is_err());
    let name = if cookie.name().is_empty() {
        cookie.value()
    } else {
        cookie.name()
    };
    let begins =
        |prefix: &str| name.len() >= prefix.len() && name[..prefix.len()].eq_ignore_ascii_case(prefix.as_bytes());
    if begins("__Host-") || begins("__Secure-") || begins("__Http-") {
        assert!(cookie.secure() && !cookie.name().is_empty());
        assert!(!begins("__Host-") || (cookie.host_only() && cookie.path() == b"/"));
        assert!(!(begins("__Http-") || begins("__Host-Http-")) || cookie.http_only());
    }
}

/// Written out again, it is read as the same cookie.
fn stable(cookie: &Cookie, origin: &Origin<'_>) {
    let mut line = [cookie.name(), b"=", cookie.value(), b"; Path=", cookie.path()].concat();
    if !cookie.host_only() {
        line.extend_from_slice(format!("; Domain={}", cookie.domain()).as_bytes());
    }
    if let Some(end) = cookie.expires_at() {
        line.extend_from_slice(format!("; Expires={}", imf(end)).as_bytes());
    }
    for (is_set, attribute) in [(cookie.secure(), "; Secure"), (cookie.http_only(), "; HttpOnly")] {
        line.extend_from_slice(if is_set { attribute.as_bytes() } else { b"" });
    }
    let again = parse_set_cookie(&line, origin, NOW);
    assert!(again.as_ref() == Ok(cookie), "{again:?} is not {cookie:?}");
}

/// What the backend gets back is what it set, and a field value that HTTP allows.
fn sent_back(cookie: &Cookie, origin: &Origin<'_>) {
    let mut jar = Jar::new();
    assert_eq!(jar.apply(cookie.clone(), NOW), 0);
    assert_eq!(jar.is_empty(), cookie.is_expired(NOW));
    let expected = match (cookie.name(), cookie.value()) {
        (b"", value) => value.to_vec(),
        (name, value) => [name, b"=", value].concat(),
    };
    let path = [cookie.path(), if cookie.path().ends_with(b"/") { b"x" } else { b"/x" }].concat();
    // A question mark ends a path, so no request is ever below such a one.
    let reachable = !cookie.path().contains(&b'?');
    let below = Origin::new(origin.host(), &path);
    let field = jar.header(&below, NOW);
    assert_eq!(field.is_some(), reachable && !cookie.is_expired(NOW));
    if let Some(field) = field {
        assert!(field == expected, "other bytes than were set");
        http::HeaderValue::from_bytes(&field).expect("a field value");
    }
    assert_eq!(jar.header(&Origin::new("other.test", "/"), NOW), None);
}
