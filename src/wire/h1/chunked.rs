//! Chunked bodies (RFC 9112 §7.1): taken apart and put together.

use std::fmt::Write as _;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The most bytes of a line that tells a chunk's size, extensions included.
const MAX_SIZE_LINE: usize = 16 * 1024;
/// The most bytes of a trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// The most trailer fields.
const MAX_TRAILER_FIELDS: usize = 64;
/// The most digits of a chunk size: no overflow.
const MAX_SIZE_DIGITS: usize = 15;

/// What ends a body that has no trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A part of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Data, never empty. Not necessarily all of a chunk.
    Data(Bytes),
    /// The end of the body, with its trailers, if any.
    End(Option<HeaderMap>),
}

/// Takes one body apart.
#[derive(Debug, Default)]
pub(crate) struct Decoder(State);

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    /// Behind the data of a chunk.
    DataEnd,
    Trailers,
    Ended,
}

impl Decoder {
    /// Takes the next part off the front of `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What is wrong with the framing.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Chunk>, &'static str> {
        loop {
            match &mut self.0 {
                State::Size => {
                    let Some(line) = take_line(buffer, MAX_SIZE_LINE, "a chunk size line without end")? else {
                        return Ok(None);
                    };
                    self.0 = match size(&line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(left) => {
                    let length = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    if length == 0 {
                        return Ok(None);
                    }
                    *left -= length as u64;
                    if *left == 0 {
                        self.0 = State::DataEnd;
                    }
                    return Ok(Some(Chunk::Data(buffer.split_to(length).freeze())));
                }
                State::DataEnd => match (buffer.first(), buffer.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        buffer.advance(2);
                        self.0 = State::Size;
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(None),
                    _ => return Err("a chunk does not end where its size says"),
                },
                State::Trailers => {
                    let Some(trailers) = take_trailers(buffer)? else {
                        return Ok(None);
                    };
                    self.0 = State::Ended;
                    return Ok(Some(Chunk::End(trailers)));
                }
                State::Ended => return Ok(Some(Chunk::End(None))),
            }
        }
    }
}

/// A line without its CRLF.
fn take_line(buffer: &mut BytesMut, max: usize, too_long: &'static str) -> Result<Option<BytesMut>, &'static str> {
    let Some(end) = buffer.iter().take(max).position(|&byte| byte == b'\n') else {
        return if buffer.len() >= max { Err(too_long) } else { Ok(None) };
    };
    let mut line = buffer.split_to(end + 1);
    match line.strip_suffix(b"\r\n") {
        Some(text) => {
            let length = text.len();
            line.truncate(length);
            Ok(Some(line))
        }
        None => Err("a line that ends without CR"),
    }
}

fn size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, behind) = line.split_at_checked(digits).unwrap_or_default();
    // Some servers pad the size with blanks; an extension begins with a semicolon.
    if !matches!(behind.trim_ascii_start(), [] | [b';', ..]) {
        return Err("a malformed chunk size");
    }
    if digits.is_empty() || digits.len() > MAX_SIZE_DIGITS {
        return Err("a chunk size out of range");
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default();
    Ok(digits
        .iter()
        .fold(0, |size: u64, &byte| size << 4 | u64::from(digit(byte))))
}

/// All trailers, once they are there. Fields that cannot be read are left out.
fn take_trailers(buffer: &mut BytesMut) -> Result<Option<Option<HeaderMap>>, &'static str> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Some(None));
    }
    let window = buffer.get(..MAX_TRAILERS).unwrap_or(buffer);
    let Some(end) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if buffer.len() >= MAX_TRAILERS {
            Err("too large a trailer section")
        } else {
            Ok(None)
        };
    };
    let section = buffer.split_to(end + 4).freeze();
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&section, &mut fields) else {
        return Err("a malformed trailer section");
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value));
        if let (Ok(name), Ok(value)) = (name, value) {
            trailers.append(name, value);
        }
    }
    Ok(Some(Some(trailers)))
}

/// Writes the line before a chunk of `size` bytes.
pub(crate) fn write_chunk_size(wire: &mut BytesMut, size: usize) {
    // Writing to memory does not fail.
    let _ = write!(wire, "{size:x}\r\n");
}

/// Writes the end of a chunked body with those of its trailers that may be there (RFC 9110 §6.5.1) and that `passes`.
pub(crate) fn write_trailers(wire: &mut BytesMut, trailers: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    wire.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        let frames = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, TRAILER].contains(name);
        if !frames && passes(name) {
            wire.extend_from_slice(name.as_str().as_bytes());
            wire.extend_from_slice(b": ");
            wire.extend_from_slice(value.as_bytes());
            wire.extend_from_slice(b"\r\n");
        }
    }
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data and the trailers of a body, and what is left behind it.
    type Decoded = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// Decodes a body that comes in pieces; `None` when it does not end.
    fn decode(wire: &[u8], piece: usize) -> Result<Option<Decoded>, &'static str> {
        let (mut decoder, mut buffer, mut data) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut pieces = wire.chunks(piece.max(1));
        loop {
            match decoder.next(&mut buffer)? {
                Some(Chunk::Data(bytes)) => {
                    assert!(!bytes.is_empty());
                    data.extend_from_slice(&bytes);
                }
                Some(Chunk::End(trailers)) => {
                    let rest = buffer.iter().copied().chain(pieces.flatten().copied()).collect();
                    return Ok(Some((data, trailers, rest)));
                }
                None => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn a_body_is_taken_apart_however_it_is_cut() {
        let wire = b"3\r\nabc\r\nA  ; x=\"y\"\r\n0123456789\r\n00\r\nX-Sum: 9\r\nx-two: a b\r\n\r\nGET";
        for piece in 1..wire.len() {
            let (data, trailers, rest) = decode(wire, piece).unwrap().unwrap();
            assert_eq!(data, b"abc0123456789");
            let trailers = trailers.unwrap();
            assert_eq!(
                (&trailers["x-sum"], &trailers["x-two"]),
                (&"9".parse().unwrap(), &"a b".parse().unwrap())
            );
            assert_eq!(rest, b"GET");
        }
    }

    #[test]
    fn what_is_cut_short_has_no_end_and_what_is_malformed_is_told() {
        let whole = b"3\r\nabc\r\n0\r\na: b\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut], 64), Ok(None), "{cut}");
        }
        for wire in [
            &b"x\r\n"[..],
            b"\r\n",
            b"-1\r\n",
            b"1 1\r\n",
            b"0x1\r\n",
            b"1\na\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n",
            b"1000000000000000\r\n",
            b"0\r\n: x\r\n\r\n",
        ] {
            assert!(decode(wire, 64).is_err(), "{}", wire.escape_ascii());
        }
        assert!(decode(&[b'1'; MAX_SIZE_LINE], 64).is_err());
        assert!(decode(&[&b"0\r\na: "[..], &[b'a'; MAX_TRAILERS]].concat(), 64).is_err());
    }

    #[test]
    fn trailers_say_nothing_of_framing() {
        let mut trailers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("content-length", "5"), ("x-b", "2"), ("host", "x")] {
            trailers.append(name, value.parse().unwrap());
        }
        let mut wire = BytesMut::new();
        write_trailers(&mut wire, &trailers, |name| name != "x-b");
        assert_eq!(&wire[..], b"0\r\nx-a: 1\r\n\r\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8), piece in 1_usize..50) {
            let mut wire = BytesMut::new();
            for chunk in &chunks {
                write_chunk_size(&mut wire, chunk.len());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(LAST_CHUNK);
            let (data, trailers, rest) = decode(&wire, piece).unwrap().unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers, None);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn nothing_makes_it_panic(wire: Vec<u8>, piece in 1_usize..50) {
            let _ = decode(&wire, piece);
        }
    }
}
