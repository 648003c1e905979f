//! Heads of responses: read from a backend that nobody has judged, and written.

use std::fmt;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;
use http::{Method, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};

use crate::wire::fields::{FieldName, Fields, name};
use crate::wire::message::ResponseHead;

/// The most header lines that a response may have.
const MAX_FIELDS: usize = 256;
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

/// Reads a whole head, in which [`HeadScan`](super::HeadScan) has mended what can be. Single lines that cannot be read are left
/// out, obsolete folds undone.
///
/// # Errors
/// When it is no head of HTTP/1.0 or 1.1.
pub(crate) fn read_response(head: &Bytes) -> Result<ResponseHead, HeadError> {
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
    if Some(reason) != response.status.canonical_reason() {
        response.reason = Some(head.slice_ref(reason.as_bytes()));
    }
    Ok(response)
}

fn collect(head: &Bytes, parsed: &[Header<'_>]) -> Fields {
    let mut fields = Fields::of(head.clone(), parsed.len());
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
        let digits = std::str::from_utf8(told).map_err(|_| BAD)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BAD);
        }
        let length: u64 = digits.parse().map_err(|_| BAD)?;
        if agreed.replace(length).is_some_and(|before| before != length) {
            return Err(BAD);
        }
    }
    if let Some(length) = agreed.filter(|_| count > 1) {
        fields.insert(name::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(agreed)
}

/// Writes the status line of a response of ours: always HTTP/1.1 (RFC 9110 §2.5).
pub(crate) fn write_status_line(wire: &mut BytesMut, status: StatusCode, reason: Option<&[u8]>) {
    wire.extend_from_slice(b"HTTP/1.1 ");
    wire.extend_from_slice(status.as_str().as_bytes());
    wire.extend_from_slice(b" ");
    let reason = reason.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().as_bytes());
    wire.extend_from_slice(reason);
    wire.extend_from_slice(b"\r\n");
}
