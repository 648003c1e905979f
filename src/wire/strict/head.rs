//! The head of a request: its lines, found and judged one by one as they come in (RFC 9112 §2 to §6).

use std::ops::Range;

use super::bytes::{HOST, PATH, TOKEN, find_control};
use super::{Flaw, MAX_FIELDS};
use crate::wire::fields::Lines;

/// The longest request-target that the types of a request can hold.
const MAX_TARGET: usize = u16::MAX as usize - 2;

/// How the body behind a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Sized(u64),
    Chunked,
}

/// What is known of a head so far. Offsets count from its first byte.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Up to here there is nothing but judged lines and plain bytes.
    scanned: usize,
    /// Where the line begins that is not yet complete.
    line_start: usize,
    empty_line: bool,
    request: Option<RequestLine>,
    lines: Lines,
    host: Option<(usize, usize)>,
    length: Option<u64>,
    chunked: bool,
}

/// Where in a head its parts are, which are judged and good. All places count from its first byte.
#[derive(Debug)]
pub(in crate::wire) struct Judged {
    pub(in crate::wire) method: Range<usize>,
    pub(in crate::wire) target: Range<usize>,
    /// Else HTTP/1.0.
    pub(in crate::wire) is_http_11: bool,
    pub(in crate::wire) lines: Lines,
}

#[derive(Clone, Copy, Debug)]
struct RequestLine {
    is_http_11: bool,
    /// Where the method begins and ends; the target begins one byte behind it.
    method: (usize, usize),
    target_end: usize,
    /// The authority of an absolute-form target.
    authority: Option<(usize, usize)>,
}

impl Head {
    /// Whether there is more than the one empty line that may precede a request.
    pub(super) fn has_begun(&self) -> bool {
        self.request.is_some() || self.scanned > self.line_start
    }

    /// Judges `window`, which begins with the first byte of the head: the head's length and what follows it, or
    /// `None` while it is incomplete.
    pub(super) fn advance(&mut self, window: &[u8], max: usize) -> Result<Option<(usize, Framing)>, Flaw> {
        let allowed = window.get(..max).unwrap_or(window);
        while let Some(plain) = find_control(allowed.get(self.scanned..).unwrap_or_default()) {
            let at = self.scanned + plain;
            match (allowed.get(at), allowed.get(at + 1)) {
                (Some(b'\t'), _) => self.scanned = at + 1,
                (Some(b'\r'), Some(b'\n')) => {
                    let line = allowed.get(self.line_start..at).unwrap_or_default();
                    let done = self.line(line)?;
                    (self.line_start, self.scanned) = (at + 2, at + 2);
                    if done {
                        return self.finish(allowed).map(|framing| Some((at + 2, framing)));
                    }
                }
                (Some(b'\r'), None) => {
                    self.scanned = at;
                    return if window.len() >= max {
                        Err(Flaw::TooLarge)
                    } else {
                        Ok(None)
                    };
                }
                (Some(b'\r'), Some(_)) => return Err(Flaw::Malformed("a bare CR")),
                (Some(b'\n'), _) => return Err(Flaw::Malformed("a bare LF")),
                _ => return Err(Flaw::Malformed("a control character")),
            }
        }
        self.scanned = allowed.len();
        if window.len() >= max {
            Err(Flaw::TooLarge)
        } else {
            Ok(None)
        }
    }

    /// What was found in a head that is complete. Once.
    pub(super) fn take_judged(&mut self) -> Option<Judged> {
        let request = self.request?;
        let (start, end) = request.method;
        Some(Judged {
            method: start..end,
            target: end + 1..request.target_end,
            is_http_11: request.is_http_11,
            lines: std::mem::take(&mut self.lines),
        })
    }

    /// Judges one line without its CRLF; `true` for the empty line that ends the head.
    fn line(&mut self, line: &[u8]) -> Result<bool, Flaw> {
        if self.request.is_some() {
            if line.is_empty() {
                return Ok(true);
            }
            return self.field(line).map(|()| false);
        }
        if line.is_empty() {
            // RFC 9112 §2.2: a server should ignore at least one; more of them are no slip of an old client.
            if std::mem::replace(&mut self.empty_line, true) {
                return Err(Flaw::Malformed("empty lines before the request line"));
            }
            return Ok(false);
        }
        self.request = Some(request_line(line, self.line_start)?);
        Ok(false)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Flaw> {
        if self.lines.len() >= MAX_FIELDS {
            return Err(Flaw::TooLarge);
        }
        let name_length = TOKEN.run(line);
        match (name_length, line.get(name_length)) {
            (1.., Some(b':')) => {}
            (0, Some(b' ' | b'\t')) => return Err(Flaw::Malformed("an obsolete line fold")),
            (1.., Some(b' ' | b'\t')) => return Err(Flaw::Malformed("whitespace in or behind a field name")),
            (_, None) => return Err(Flaw::Malformed("a field without a colon")),
            _ => return Err(Flaw::Malformed("an invalid field name")),
        }
        let value_at = self.lines.note(line, self.line_start, name_length);
        let name = line.get(..name_length).unwrap_or_default();
        let start = self.line_start + value_at.start;
        let value = line.get(value_at).unwrap_or_default();
        // Few names have the length of one that says where the request goes or where it ends.
        match name_length {
            4 if is(name, b"Host") => self.host(value, start),
            14 if is(name, b"Content-Length") => {
                if self.length.replace(content_length(value)?).is_some() {
                    return Err(Flaw::Malformed("a repeated Content-Length"));
                }
                Ok(())
            }
            17 if is(name, b"Transfer-Encoding") => self.transfer_encoding(value),
            // CGI, WSGI and PHP backends read these two as the real ones.
            14 | 17 if is_underscored(name) => Err(Flaw::Malformed("a framing field spelled with an underscore")),
            _ => Ok(()),
        }
    }

    /// `start`: where the value begins.
    fn host(&mut self, value: &[u8], start: usize) -> Result<(), Flaw> {
        if !is_host(value) {
            return Err(Flaw::Malformed("an invalid Host"));
        }
        if self.host.replace((start, start + value.len())).is_some() {
            return Err(Flaw::Malformed("a repeated Host"));
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Flaw> {
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Flaw::Malformed("a Transfer-Encoding other than chunked"));
        }
        if std::mem::replace(&mut self.chunked, true) {
            return Err(Flaw::Malformed("a repeated Transfer-Encoding"));
        }
        Ok(())
    }

    fn finish(&self, head: &[u8]) -> Result<Framing, Flaw> {
        let Some(request) = self.request else {
            return Err(Flaw::Malformed("no request line"));
        };
        let host = self.host.and_then(|(start, end)| head.get(start..end));
        if host.is_none() && request.is_http_11 {
            return Err(Flaw::Malformed("no Host"));
        }
        if let (Some(host), Some((start, end))) = (host, request.authority)
            && !head
                .get(start..end)
                .is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        {
            return Err(Flaw::Malformed("a Host that differs from the request target"));
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Flaw::Malformed("both Content-Length and Transfer-Encoding")),
            (None, true) if !request.is_http_11 => Err(Flaw::Malformed("Transfer-Encoding in HTTP/1.0")),
            (None, true) => Ok(Framing::Chunked),
            (length, false) => Ok(Framing::Sized(length.unwrap_or(0))),
        }
    }
}

/// Whether it is that name in whatever case, of which `usual` is the most frequent.
fn is<const N: usize>(name: &[u8], usual: &[u8; N]) -> bool {
    name == usual || name.eq_ignore_ascii_case(usual)
}

fn is_underscored(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content_length") || name.eq_ignore_ascii_case(b"transfer_encoding")
}

/// `method SP request-target SP HTTP-version`, with exactly these spaces (RFC 9112 §3). `offset`: where the line begins.
fn request_line(line: &[u8], offset: usize) -> Result<RequestLine, Flaw> {
    let method_length = TOKEN.run(line);
    let (method, rest) = line.split_at_checked(method_length).unwrap_or_default();
    let Some((b' ', rest)) = rest.split_first() else {
        return Err(Flaw::Malformed("an invalid method"));
    };
    if method.is_empty() {
        return Err(Flaw::Malformed("an invalid method"));
    }
    let plain = PATH.run(rest);
    let behind = rest.iter().skip(plain).take_while(|&&byte| byte != b' ').count();
    let target_length = plain + behind;
    let (target, version) = rest.split_at_checked(target_length).unwrap_or_default();
    let is_http_11 = match version {
        b" HTTP/1.1" => true,
        b" HTTP/1.0" => false,
        b"" => return Err(Flaw::Malformed("a request line without a version")),
        _ => return Err(Flaw::Malformed("an unsupported protocol version")),
    };
    let method_end = offset + method_length;
    Ok(RequestLine {
        is_http_11,
        method: (offset, method_end),
        target_end: method_end + 1 + target_length,
        authority: target_authority(method, target, behind == 0, method_end + 1)?,
    })
}

/// Judges the request-target (RFC 9112 §3.2): origin-form, absolute-form, or `*` for OPTIONS. For the absolute form
/// it tells where in the head the authority is, which `offset` counts from. `plain`: each of its bytes may be anywhere in a
/// path.
fn target_authority(method: &[u8], target: &[u8], plain: bool, offset: usize) -> Result<Option<(usize, usize)>, Flaw> {
    const INVALID: Flaw = Flaw::Malformed("an invalid request target");
    if target.len() > MAX_TARGET {
        return Err(Flaw::TooLarge);
    }
    if method == b"CONNECT" {
        return Err(Flaw::Malformed("CONNECT is not served"));
    }
    let scheme = match target {
        [b'/', ..] => {
            return if plain || is_path_and_query(target) {
                Ok(None)
            } else {
                Err(INVALID)
            };
        }
        b"*" if method == b"OPTIONS" => return Ok(None),
        _ if starts_with_ignore_case(target, b"http://") => b"http://".len(),
        _ if starts_with_ignore_case(target, b"https://") => b"https://".len(),
        _ => return Err(INVALID),
    };
    let behind = target.get(scheme..).unwrap_or_default();
    let length = behind
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(behind.len());
    let (authority, path) = behind.split_at_checked(length).unwrap_or_default();
    if !is_host(authority) || !is_path_and_query(path) {
        return Err(INVALID);
    }
    Ok(Some((offset + scheme, offset + scheme + length)))
}

fn starts_with_ignore_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Visible ASCII but the bytes that no URI may hold raw. `[ ] { } | \ ^` may not either (RFC 3986), but browsers and
/// common HTTP libraries send them and no two parties read them differently. A `#` would be cut off by the parser.
pub(super) fn is_path_and_query(bytes: &[u8]) -> bool {
    let plain = PATH.run(bytes);
    let rest = bytes.get(plain..).unwrap_or_default();
    if rest.is_empty() {
        return true;
    }
    // A backtick may be in a query.
    let in_query = bytes.iter().take(plain).any(|&byte| byte == b'?');
    in_query && rest.iter().all(|&byte| byte == b'`' || PATH.has(byte))
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2) with a host name, an IPv4 address or a bracketed IPv6 address. Percent
/// signs and sub-delimiters, which the grammar of reg-name would allow, are in no host name: a comma there would
/// mean two hosts in `X-Forwarded-Host`.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (host_is_good, port) = match value {
        [b'[', rest @ ..] => {
            let length = rest.iter().position(|&byte| byte == b']').unwrap_or(rest.len());
            let (address, behind) = rest.split_at_checked(length).unwrap_or_default();
            let parsed = std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
            (parsed && !behind.is_empty(), behind.get(1..).unwrap_or_default())
        }
        _ => {
            // Behind the host there is nothing or a port.
            let (host, port) = value.split_at_checked(HOST.run(value)).unwrap_or_default();
            (!host.is_empty(), port)
        }
    };
    let port_is_good = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) && number(digits) <= 65_535,
        _ => false,
    };
    host_is_good && port_is_good
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number: u64, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    })
}

/// `1*DIGIT` (RFC 9110 §8.6), within what a 63-bit backend can count. No leading zeros: the grammar has them,
/// but to some they mean an octal number.
pub(super) fn content_length(value: &[u8]) -> Result<u64, Flaw> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) || matches!(value, [b'0', _, ..]) {
        return Err(Flaw::Malformed("an invalid Content-Length"));
    }
    match number(value) {
        length if length <= i64::MAX as u64 => Ok(length),
        _ => Err(Flaw::Malformed("a Content-Length out of range")),
    }
}
