//! Where a response head ends, and what is where in it; and the two bytes in it that would cost all of it: NUL, and a CR
//! that ends no line.
//!
//! Nearly every head is well-formed: of such a one all places are noted on the way to its end. What is not is left to a
//! parser that forgives much. It leaves out single lines that it cannot read, but at those two bytes it gives up. So they
//! are made into another byte that no field may hold (RFC 9110 §5.5): the line is left out like the others.

use std::ops::Range;

use http::{StatusCode, Version};

use super::response::MAX_FIELDS;
use crate::wire::fields::Lines;
use crate::wire::strict::{TOKEN, find_control};

/// What the parser takes for a reason to leave a line out.
const UNREADABLE: u8 = 0x01;

/// Follows a response head as it comes in.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    /// Up to here all has been looked at.
    scanned: usize,
    /// Where the line begins that is not complete.
    line_start: usize,
    /// There was a line that is not empty.
    begun: bool,
    /// There was something that is not well-formed, or not simple.
    odd: bool,
    status: Option<StatusLine>,
    lines: Lines,
}

/// A status line (RFC 9112 §4).
#[derive(Debug)]
pub(super) struct StatusLine {
    pub(super) version: Version,
    pub(super) status: StatusCode,
    /// Where in the head the reason phrase is.
    pub(super) reason: Range<usize>,
}

impl HeadScan {
    /// Goes on through `window`, which begins with the first byte of the head and has grown since the last call. The
    /// length of the head, its empty line included, once that is there; lines end in CRLF or LF (RFC 9112 §2.2).
    pub(crate) fn advance(&mut self, window: &mut [u8]) -> Option<usize> {
        loop {
            let Some(found) = find_control(window.get(self.scanned..).unwrap_or_default()) else {
                self.scanned = window.len();
                return None;
            };
            let at = self.scanned + found;
            match (window.get(at), window.get(at + 1)) {
                (Some(b'\r'), None) => {
                    // What comes next decides.
                    self.scanned = at;
                    return None;
                }
                (Some(b'\r'), Some(b'\n')) => {
                    if self.end_line(window, at, at + 2) {
                        return Some(at + 2);
                    }
                }
                (Some(b'\n'), _) => {
                    self.odd = true;
                    if self.end_line(window, at, at + 1) {
                        return Some(at + 1);
                    }
                }
                (Some(b'\t'), _) => self.scanned = at + 1,
                (Some(byte), _) => {
                    if matches!(byte, b'\r' | 0)
                        && let Some(byte) = window.get_mut(at)
                    {
                        *byte = UNREADABLE;
                    }
                    self.odd = true;
                    self.scanned = at + 1;
                }
                (None, _) => return None,
            }
        }
    }

    /// What is where in a head that is complete. `None`: the parser has to tell.
    pub(super) fn found(self) -> Option<(StatusLine, Lines)> {
        let status = self.status.filter(|_| !self.odd)?;
        Some((status, self.lines))
    }

    /// Whether that line was the empty one which ends a head. Empty lines before a status line are skipped by the parser.
    fn end_line(&mut self, window: &[u8], end: usize, next: usize) -> bool {
        let start = self.line_start;
        (self.scanned, self.line_start) = (next, next);
        let line = window.get(start..end).unwrap_or_default();
        if line.is_empty() {
            return self.begun;
        }
        if !self.odd {
            self.odd = !self.note(line, start);
        }
        self.begun = true;
        false
    }

    /// Notes a line which begins at `start`. `false` when it is not as it should be.
    fn note(&mut self, line: &[u8], start: usize) -> bool {
        if !self.begun {
            self.status = status_line(line, start);
            return self.status.is_some();
        }
        let name_length = TOKEN.run(line);
        let good = name_length > 0 && line.get(name_length) == Some(&b':') && self.lines.len() < MAX_FIELDS;
        if good {
            self.lines.note(line, start, name_length);
        }
        good
    }
}

fn status_line(line: &[u8], start: usize) -> Option<StatusLine> {
    let (version, rest) = line.split_at_checked(b"HTTP/1.x".len())?;
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return None,
    };
    let (code, reason) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let reason_start = match reason {
        [] => line.len(),
        [b' ', reason @ ..] if reason.is_ascii() => line.len() - reason.len(),
        _ => return None,
    };
    Some(StatusLine {
        version,
        status: StatusCode::from_bytes(code).ok()?,
        reason: start + reason_start..start + line.len(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(head: &[u8], piece: usize) -> (Option<usize>, Vec<u8>) {
        let (mut scan, mut window) = (HeadScan::default(), Vec::new());
        for piece in head.chunks(piece) {
            window.extend_from_slice(piece);
            if let Some(length) = scan.advance(&mut window) {
                return (Some(length), window);
            }
        }
        (None, window)
    }

    #[test]
    fn the_end_is_found_however_the_head_is_cut() {
        for (head, length) in [
            (&b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest"[..], 25),
            (b"HTTP/1.1 200 OK\nA: b\n\nrest", 22),
            (b"\r\nHTTP/1.1 200 OK\r\n\nrest", 20),
            (b"H\tx\r\n\r\n\r\n", 7),
        ] {
            for piece in 1..=head.len() {
                assert_eq!(scan(head, piece).0, Some(length), "{}", head.escape_ascii());
            }
            for cut in 0..length {
                assert_eq!(scan(&head[..cut], 64).0, None);
            }
        }
    }

    #[test]
    fn nul_and_a_lone_cr_become_a_byte_that_costs_one_line() {
        for piece in 1..20 {
            let (length, window) = scan(b"H 200\r\nA: \0b\rc\r\r\nD\r\n\r\n", piece);
            assert_eq!(length, Some(22));
            assert_eq!(&window[..22], b"H 200\r\nA: \x01b\x01c\x01\r\nD\r\n\r\n", "{piece}");
        }
    }

    proptest! {
        #[test]
        fn how_it_is_cut_changes_nothing(head in "[\r\n\0a]{0,40}", piece in 1_usize..9) {
            let (whole, cut) = (scan(head.as_bytes(), 64), scan(head.as_bytes(), piece));
            prop_assert_eq!(whole.0, cut.0);
            let length = whole.0.unwrap_or_else(|| head.len().saturating_sub(1));
            prop_assert_eq!(&whole.1[..length], &cut.1[..length]);
        }
    }
}
