//! Where a response head ends; and the two bytes in it that would cost all of it: NUL, and a CR that ends no line.
//!
//! Of a response head the parser leaves out single lines that it cannot read, but at these two it gives up. So they
//! are made into another byte that no field may hold (RFC 9110 §5.5): the line is left out like the others.

use crate::wire::strict::find_control;

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
                    if self.end_line(at, at + 2) {
                        return Some(at + 2);
                    }
                }
                (Some(b'\n'), _) => {
                    if self.end_line(at, at + 1) {
                        return Some(at + 1);
                    }
                }
                (Some(b'\r' | 0), _) => {
                    if let Some(byte) = window.get_mut(at) {
                        *byte = UNREADABLE;
                    }
                    self.scanned = at + 1;
                }
                _ => self.scanned = at + 1,
            }
        }
    }

    /// Whether that line was the empty one which ends a head. Empty lines before a status line are skipped by the parser.
    fn end_line(&mut self, end: usize, next: usize) -> bool {
        let empty = end == self.line_start;
        (self.scanned, self.line_start) = (next, next);
        self.begun |= !empty;
        empty && self.begun
    }
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
