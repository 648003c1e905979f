//! The two bytes that would cost a whole response: NUL, and a CR that ends no line.
//!
//! Of a response head the parser leaves out single lines that it cannot read, but at these two it gives up. So they
//! are made into another byte that no field may hold (RFC 9110 §5.5): the line is left out like the others.

use crate::wire::strict::find_control;

/// What the parser takes for a reason to leave a line out.
const UNREADABLE: u8 = 0x01;
/// `HTTP/1.1 1`: the byte that tells an informational response.
const CLASS_AT: usize = 9;
/// `HTTP/1.1 101`: the byte that tells a switch of protocols from the other informational ones.
const LAST_DIGIT_AT: usize = 11;

/// Follows the bytes of a connection through response heads. Bodies pass untouched.
#[derive(Debug, Default)]
pub(super) struct Mender {
    reading: bool,
    /// Where in its line the next byte is.
    column: usize,
    in_status_line: bool,
    /// Another head follows this one.
    informational: bool,
}

impl Mender {
    /// What comes next is a response head.
    pub(super) fn begin(&mut self) {
        *self = Self {
            reading: true,
            in_status_line: true,
            ..Self::default()
        };
    }

    /// Whether a head is being read.
    pub(super) const fn is_reading(&self) -> bool {
        self.reading
    }

    /// Goes through `bytes`, the next ones of the connection; `true` if a CR at their end has to be kept back, to be
    /// shown again with what follows it.
    pub(super) fn mend(&mut self, bytes: &mut [u8]) -> bool {
        let mut at = 0;
        while self.reading {
            if !self.in_status_line {
                let rest = bytes.get(at..).unwrap_or_default();
                let plain = find_control(rest).unwrap_or(rest.len());
                self.column += plain;
                at += plain;
            }
            match (bytes.get(at), bytes.get(at + 1)) {
                (None, _) => return false,
                (Some(b'\r'), None) => return true,
                (Some(b'\r'), Some(b'\n')) => {}
                (Some(b'\n'), _) => self.end_line(),
                (Some(b'\r' | 0), _) => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = UNREADABLE;
                    }
                    self.column += 1;
                }
                (Some(&other), _) => self.pass(other),
            }
            at += 1;
        }
        false
    }

    fn pass(&mut self, byte: u8) {
        if self.in_status_line {
            match self.column {
                CLASS_AT => self.informational = byte == b'1',
                LAST_DIGIT_AT => self.informational &= byte != b'1',
                _ => {}
            }
        }
        self.column += 1;
    }

    fn end_line(&mut self) {
        // Empty lines before a status line are skipped by the parser.
        if self.column > 0 {
            (self.column, self.in_status_line) = (0, false);
        } else if !self.in_status_line {
            self.reading = false;
            if self.informational {
                self.begin();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a stream that comes in pieces of `size` bytes.
    fn mended(stream: &[u8], size: usize) -> Vec<u8> {
        let mut mender = Mender::default();
        mender.begin();
        let (mut seen, mut kept) = (Vec::new(), false);
        for piece in stream.chunks(size) {
            let mut piece = if kept { [b"\r", piece].concat() } else { piece.to_vec() };
            kept = mender.mend(&mut piece);
            seen.extend_from_slice(&piece[..piece.len() - usize::from(kept)]);
        }
        seen
    }

    #[test]
    fn nul_and_bare_cr_are_replaced_in_heads_and_nowhere_else() {
        let body = b"a\0b\rc\r\n\r\n\0";
        for (head, expected) in [
            (
                &b"HTTP/1.1 200 OK\r\nX: a\0b\r\nY: 1\r\n\r\n"[..],
                &b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nY: 1\r\n\r\n"[..],
            ),
            (
                b"HTTP/1.1 200 OK\r\nX: a\rb\r\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nX: a\x01b\x01\r\n\r\n",
            ),
            (b"\r\nHTTP/1.1 200 OK\nX: \0\n\n", b"\r\nHTTP/1.1 200 OK\nX: \x01\n\n"),
            (
                b"HTTP/1.1 103 H\r\nX: \0\r\n\r\nHTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
                b"HTTP/1.1 103 H\r\nX: \x01\r\n\r\nHTTP/1.1 200 OK\r\nX: \x01\r\n\r\n",
            ),
            (b"HTTP/1.1 101 S\r\n\r\n", b"HTTP/1.1 101 S\r\n\r\n"),
        ] {
            for size in 1..=head.len() + body.len() {
                assert_eq!(
                    mended(&[head, body].concat(), size).escape_ascii().to_string(),
                    [expected, body].concat().escape_ascii().to_string(),
                    "in pieces of {size}"
                );
            }
        }
    }
}
