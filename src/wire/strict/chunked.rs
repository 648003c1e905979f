//! The framing of a chunked body (RFC 9112 §7.1), one byte at a time; chunk data is skipped over.

use super::Flaw;
use super::bytes::TOKEN;

/// The most bytes of chunk extensions in one body.
const MAX_EXTENSIONS: usize = 8 * 1024;
/// The most bytes of the trailer section.
const MAX_TRAILERS: usize = 8 * 1024;
/// The most trailer fields.
const MAX_TRAILER_FIELDS: usize = 64;
/// The most digits of a chunk size: 2^60 - 1 and no overflow.
const MAX_SIZE_DIGITS: u8 = 15;

/// The state of one chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    extensions: usize,
    trailers: usize,
    fields: usize,
    name: FieldName,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size {
        digits: u8,
        value: u64,
    },
    Extension {
        at: Extension,
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data {
        remaining: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line, which may be the empty one.
    Line,
    Name,
    Value,
    ValueLf,
    EndLf,
    End,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { digits: 0, value: 0 }
    }
}

#[derive(Clone, Copy, Debug)]
enum Extension {
    NameStart,
    Name,
    ValueStart,
    Token,
    Quoted,
    QuotedPair,
    AfterQuoted,
}

/// As much of a trailer's name as it takes to tell the forbidden ones.
#[derive(Debug, Default)]
struct FieldName {
    length: usize,
    bytes: [u8; 17],
}

impl FieldName {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte.to_ascii_lowercase();
        }
        self.length += 1;
    }

    /// Fields that say how the message is framed or where it goes mean something else before the body (RFC 9110 §6.5.1).
    fn is_forbidden(&self) -> bool {
        matches!(
            self.bytes.get(..self.length),
            Some(b"content-length" | b"transfer-encoding" | b"host" | b"trailer")
        )
    }
}

impl Chunked {
    /// Judges bytes of the body; how many belong to it, and whether the last of them ends it.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Flaw> {
        let mut rest = bytes;
        loop {
            if let State::Data { remaining } = &mut self.state {
                let skipped = rest.len().min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining -= skipped as u64;
                rest = rest.get(skipped..).unwrap_or_default();
                if *remaining == 0 {
                    self.state = State::DataCr;
                }
            }
            let Some((&byte, behind)) = rest.split_first() else {
                return Ok((bytes.len(), false));
            };
            rest = behind;
            self.state = self.step(byte)?;
            if matches!(self.state, State::End) {
                return Ok((bytes.len() - rest.len(), true));
            }
        }
    }

    fn step(&mut self, byte: u8) -> Result<State, Flaw> {
        match (self.state, byte) {
            (State::Size { digits, value }, _) => size(digits, value, byte),
            (State::Extension { at, value }, _) => self.extension(at, value, byte),
            (State::SizeLf { value: 0 }, b'\n') => Ok(State::Line),
            (State::SizeLf { value }, b'\n') => Ok(State::Data { remaining: value }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::default()),
            (State::DataCr | State::DataLf, _) => Err(Flaw::Malformed("a chunk does not end where its size says")),
            (State::Line, b'\r') => Ok(State::EndLf),
            (State::EndLf, b'\n') => Ok(State::End),
            (State::Line | State::Name | State::Value | State::ValueLf, _) => self.trailer(byte),
            (State::SizeLf { .. } | State::EndLf, _) => Err(Flaw::Malformed("a bare CR in the chunked framing")),
            // Neither is ever stepped from: data is skipped, and the end is the end.
            (State::Data { .. } | State::End, _) => Ok(self.state),
        }
    }

    fn extension(&mut self, at: Extension, value: u64, byte: u8) -> Result<State, Flaw> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS {
            return Err(Flaw::Malformed("too many chunk extensions"));
        }
        let at = match (at, byte) {
            (Extension::NameStart | Extension::Name, _) if TOKEN.has(byte) => Extension::Name,
            (Extension::ValueStart | Extension::Token, _) if TOKEN.has(byte) => Extension::Token,
            (Extension::Name, b'=') => Extension::ValueStart,
            (Extension::ValueStart, b'"') => Extension::Quoted,
            (Extension::Quoted, b'"') => Extension::AfterQuoted,
            (Extension::Quoted, b'\\') => Extension::QuotedPair,
            (Extension::Quoted | Extension::QuotedPair, b'\t' | b' '..=b'~' | 0x80..) => Extension::Quoted,
            (Extension::Name | Extension::Token | Extension::AfterQuoted, b';') => Extension::NameStart,
            (Extension::Name | Extension::Token | Extension::AfterQuoted, b'\r') => {
                return Ok(State::SizeLf { value });
            }
            _ => return Err(Flaw::Malformed("a malformed chunk extension")),
        };
        Ok(State::Extension { at, value })
    }

    fn trailer(&mut self, byte: u8) -> Result<State, Flaw> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(Flaw::TooLarge);
        }
        match (self.state, byte) {
            (State::Line, _) if TOKEN.has(byte) => {
                self.fields += 1;
                if self.fields > MAX_TRAILER_FIELDS {
                    return Err(Flaw::TooLarge);
                }
                self.name = FieldName::default();
                self.name.push(byte);
                Ok(State::Name)
            }
            (State::Name, _) if TOKEN.has(byte) => {
                self.name.push(byte);
                Ok(State::Name)
            }
            (State::Name, b':') if self.name.is_forbidden() => Err(Flaw::Malformed("a framing field in the trailers")),
            (State::Name, b':') => Ok(State::Value),
            (State::Value, b'\r') => Ok(State::ValueLf),
            (State::Value, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::Value),
            (State::ValueLf, b'\n') => Ok(State::Line),
            _ => Err(Flaw::Malformed("a malformed trailer field")),
        }
    }
}

fn size(digits: u8, value: u64, byte: u8) -> Result<State, Flaw> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b';' if digits > 0 => {
            return Ok(State::Extension {
                at: Extension::NameStart,
                value,
            });
        }
        b'\r' if digits > 0 => return Ok(State::SizeLf { value }),
        _ => return Err(Flaw::Malformed("a malformed chunk size")),
    };
    if digits == MAX_SIZE_DIGITS {
        return Err(Flaw::Malformed("a chunk size out of range"));
    }
    Ok(State::Size {
        digits: digits + 1,
        value: value << 4 | u64::from(digit),
    })
}
