//! Heads of responses: read from a backend that nobody has judged, and written.

use std::fmt;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;
use http::{Method, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};

use super::scan::{HeadScan, StatusLine};
use crate::wire::fields::{FieldName, Fields, Lines, name};
use crate::wire::message::ResponseHead;

/// The most header lines that a response may have.
pub(super) const MAX_FIELDS: usize = 256;
/// How many are read without an allocation.
const FEW_FIELDS: usize = 48;

/// How the body behind a response head is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many bytes.
    Sized(u64),
    /// Chunks.
    Chunked,
    /// All until the connection ends.
    UntilClose,
}

/// Why a response cannot be used. Says nothing of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadError(&'static str);

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Reads a whole head, through which `scan` has gone. Single lines that cannot be read are left out, obsolete folds
/// undone.
///
/// # Errors
/// When it is no head of HTTP/1.0 or 1.1.
pub(crate) fn read_response(head: Bytes, scan: HeadScan) -> Result<ResponseHead, HeadError> {
    match scan.found() {
        Some((line, lines)) => Ok(well_formed(head, line, lines)),
        None => read_forgivingly(&head),
    }
}

fn well_formed(head: Bytes, line: StatusLine, lines: Lines) -> ResponseHead {
    let mut response = ResponseHead::new(line.status);
    response.version = line.version;
    let reason = head.get(line.reason).unwrap_or_default();
    response.reason = unusual(reason, line.status, &head);
    response.fields = Fields::of(head, lines);
    response
}

/// The reason phrase, where it is not the usual one.
fn unusual(reason: &[u8], status: StatusCode, head: &Bytes) -> Option<Bytes> {
    let usual = status.canonical_reason().map(str::as_bytes);
    (Some(reason) != usual).then(|| head.slice_ref(reason))
}

fn read_forgivingly(head: &Bytes) -> Result<ResponseHead, HeadError> {
    let mut few = [const { MaybeUninit::uninit() }; FEW_FIELDS];
    match parse(head, &mut few) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = vec![MaybeUninit::uninit(); MAX_FIELDS];
            parse(head, &mut many).map_err(describe)
        }
        parsed => parsed.map_err(describe),
    }
}

const fn describe(error: httparse::Error) -> HeadError {
    HeadError(match error {
        httparse::Error::TooManyHeaders => "it has too many header fields",
        httparse::Error::Version => "it is not HTTP/1.0 or 1.1",
        httparse::Error::Status => "its status line is malformed",
        _ => "its head is malformed",
    })
}

fn parse<'a>(head: &'a Bytes, fields: &mut [MaybeUninit<Header<'a>>]) -> Result<ResponseHead, httparse::Error> {
    let mut parsed = httparse::Response::new(&mut []);
    // RFC 9112 §5: a proxy mends these in responses, where it must refuse them in requests.
    let status = ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .parse_response_with_uninit_headers(&mut parsed, head, fields)?;
    if !matches!(status, Status::Complete(_)) {
        return Err(httparse::Error::Status);
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let mut response = ResponseHead::new(status.ok_or(httparse::Error::Status)?);
    if parsed.version != Some(1) {
        response.version = Version::HTTP_10;
    }
    response.fields = collect(head, parsed.headers);
    let reason = parsed.reason.unwrap_or_default();
    response.reason = unusual(reason.as_bytes(), response.status, head);
    Ok(response)
}

fn collect(head: &Bytes, parsed: &[Header<'_>]) -> Fields {
    let mut fields = Fields::of(head.clone(), Lines::default());
    for field in parsed {
        if memchr::memchr(b'\n', field.value).is_none() {
            fields.push_read(field.name.as_bytes(), field.value.trim_ascii());
        } else if let Ok(value) = HeaderValue::from_maybe_shared(unfold(field.value)) {
            fields.append(FieldName::spelt(field.name), value);
        }
    }
    fields
}

/// One line of what was folded over several (RFC 9112 §5.2).
fn unfold(value: &[u8]) -> Bytes {
    let lines = value.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    Bytes::from(lines.join(&b' '))
}

impl Length {
    /// How the body of `response` to a `method` request is framed. Leaves one statement of the length in its fields, the
    /// one that is followed (RFC 9112 §6.3).
    ///
    /// # Errors
    /// When that cannot be told for sure.
    pub(crate) fn settle(method: &Method, response: &mut ResponseHead) -> Result<Self, HeadError> {
        let status = response.status;
        let empty = *method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        let fields = &mut response.fields;
        if fields.contains(name::TRANSFER_ENCODING) {
            if response.version != Version::HTTP_11 {
                return Err(HeadError("it has a transfer coding in HTTP/1.0"));
            }
            let mut chunked = false;
            for coding in fields.members(name::TRANSFER_ENCODING) {
                match coding {
                    _ if coding.eq_ignore_ascii_case(b"chunked") && !chunked => chunked = true,
                    b"" => {}
                    _ if coding.eq_ignore_ascii_case(b"identity") && !chunked => {}
                    _ => return Err(HeadError("its transfer coding was not asked for")),
                }
            }
            fields.remove(name::CONTENT_LENGTH);
            return Ok(match (empty, chunked) {
                (true, _) => Self::Sized(0),
                (false, true) => Self::Chunked,
                (false, false) => Self::UntilClose,
            });
        }
        let length = content_length(fields);
        match (empty, length) {
            (true, length) => {
                if length.is_err() {
                    fields.remove(name::CONTENT_LENGTH);
                }
                Ok(Self::Sized(0))
            }
            (false, Ok(None)) => Ok(Self::UntilClose),
            (false, Ok(Some(length))) => Ok(Self::Sized(length)),
            (false, Err(error)) => Err(error),
        }
    }
}

/// The length that is told, however often; it is told once after this.
fn content_length(fields: &mut Fields) -> Result<Option<u64>, HeadError> {
    const BAD: HeadError = HeadError("its length cannot be told");
    let mut agreed = None;
    let mut count = 0;
    for told in fields.members(name::CONTENT_LENGTH) {
        count += 1;
        let length = decimal(told).ok_or(BAD)?;
        if agreed.replace(length).is_some_and(|before| before != length) {
            return Err(BAD);
        }
    }
    if let Some(length) = agreed.filter(|_| count > 1) {
        fields.insert(name::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(agreed)
}

/// A number that is written in digits alone.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = Some(digit.wrapping_sub(b'0')).filter(|&digit| digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Writes the status line of a response of ours: always HTTP/1.1 (RFC 9110 §2.5).
pub(crate) fn write_status_line(wire: &mut BytesMut, status: StatusCode, reason: Option<&[u8]>) {
    if status == StatusCode::OK && reason.is_none() {
        return wire.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    wire.extend_from_slice(b"HTTP/1.1 ");
    wire.extend_from_slice(status.as_str().as_bytes());
    wire.extend_from_slice(b" ");
    let reason = reason.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().as_bytes());
    wire.extend_from_slice(reason);
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What was noted on the way, if that was enough; and what the parser reads.
    fn both(head: &[u8]) -> (Option<ResponseHead>, Result<ResponseHead, HeadError>) {
        let (mut scan, mut window) = (HeadScan::default(), head.to_vec());
        let Some(length) = scan.advance(&mut window) else {
            return (None, Err(HeadError("no end")));
        };
        let head = Bytes::from(window).slice(..length);
        let noted = scan.found();
        let noted = noted.map(|(line, lines)| well_formed(head.clone(), line, lines));
        (noted, read_forgivingly(&head))
    }

    fn shown(head: &ResponseHead) -> String {
        let mut wire = BytesMut::new();
        write_status_line(&mut wire, head.status, head.reason.as_deref());
        head.fields.write(&mut wire);
        let fields: Vec<_> = head.fields.iter().collect();
        format!("{:?} {} {fields:?}", head.version, wire.escape_ascii())
    }

    #[test]
    fn a_well_formed_head_needs_no_parser_and_another_does() {
        for (well_formed, head) in [
            (true, "HTTP/1.1 200 OK\r\n\r\n"),
            (true, "\r\nHTTP/1.0 404 Gone away\r\nA:\r\nB: \t\r\nc-D:\te f \r\n\r\n"),
            (true, "HTTP/1.1 200\r\nA: \u{e9}\r\n\r\n"),
            (true, "HTTP/1.1 299 \r\nSet-Cookie: a=b\r\nset-cookie: c\r\n\r\n"),
            (false, "HTTP/1.1 200 OK\nA: b\n\n"),
            (false, "HTTP/1.1 200 \u{e9}\r\n\r\n"),
            (false, "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"),
            (false, "HTTP/1.1 200 OK\r\nA : b\r\n\r\n"),
            (false, "HTTP/1.1 200 OK\r\nA\r\nB: c\r\n\r\n"),
            (false, "HTTP/1.1 200 OK\r\n: b\r\n\r\n"),
            (false, "HTTP/1.1 200 OK\r\nA: b\rc\r\nD: \x7f\r\n\r\n"),
            (false, "HTTP/1.1  200 OK\r\n\r\n"),
            (false, "HTTP/1.1 2000 OK\r\n\r\n"),
            (false, "HTTP/2.0 200 OK\r\n\r\n"),
        ] {
            let (noted, parsed) = both(head.as_bytes());
            assert_eq!(noted.is_some(), well_formed, "{head:?}");
            if let Some(noted) = noted {
                assert_eq!(shown(&noted), shown(&parsed.unwrap()), "{head:?}");
            }
        }
    }

    #[test]
    fn a_head_may_have_so_many_fields() {
        for (count, fits) in [(MAX_FIELDS, true), (MAX_FIELDS + 1, false)] {
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count));
            let (mut scan, mut window) = (HeadScan::default(), head.clone().into_bytes());
            scan.advance(&mut window).unwrap();
            let read = read_response(Bytes::from(window), scan);
            assert_eq!(read.is_ok_and(|read| read.fields.len() == count), fits, "{count}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn what_was_noted_is_what_the_parser_reads(
            line in prop::sample::select(vec!["HTTP/1.1 200 OK\r\n", "\r\nHTTP/1.0 404 \r\n", "HTTP/1.1 "]),
            parts in prop::collection::vec(prop_oneof![
                4 => prop::sample::select(vec!["\r\n", "\r\nA: b", "\r\nSet-Cookie:c", "d", ":", " ", "\t", "200"]),
                1 => prop::sample::select(vec!["\n", "\r", "\0", "\x7f", "\u{e9}", "(", "\x0b"]),
            ], 0..12),
        ) {
            let head = format!("{line}{}\r\n\r\n", parts.concat());
            if let (Some(noted), parsed) = both(head.as_bytes()) {
                prop_assert_eq!(shown(&noted), shown(&parsed.unwrap()));
            }
        }

        #[test]
        fn a_number_is_read_as_the_library_reads_it(text in "[0-9]{0,22}|[+-]?[0-9 a]{1,3}") {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            prop_assert_eq!(decimal(text.as_bytes()), text.parse().ok().filter(|_: &u64| digits));
        }
    }
}
