//! Texts and numbers as JSON has them (RFC 8259), quickly: every request writes a dozen of them.

use std::fmt::{self, Write as _};

/// Thousandths below this have at most 15 digits. So many a number of this type always keeps apart: no shorter text can
/// mean the same number.
const EXACT: f64 = 1e15;

/// Writes into a JSON string.
pub(super) struct Escaped<'a>(pub(super) &'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// Writes as it is.
pub(super) struct Bare<'a>(pub(super) &'a mut Vec<u8>);

impl fmt::Write for Bare<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends `text` as it stands within quotes (§7).
pub(super) fn escape(line: &mut Vec<u8>, text: &str) {
    escape_bytes(line, text.as_bytes());
}

/// The same, for a text that is known to be one.
pub(super) fn escape_bytes(line: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        line.extend_from_slice(text);
    } else {
        escape_each(line, text);
    }
}

fn escape_each(line: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match *byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            control @ ..0x20 => {
                // Writing into memory cannot fail.
                let _ = write!(Bare(line), "\\u{control:04x}");
            }
            plain => line.push(plain),
        }
    }
}

/// Whether `text` has nothing to be escaped.
pub(super) fn is_plain(text: &[u8]) -> bool {
    // Eight bytes at once; the last eight may overlap those before.
    if let Some(last) = text.last_chunk() {
        let (words, _) = text.as_chunks();
        let found = words.iter().fold(special(*last), |found, word| found | special(*word));
        return found == 0;
    }
    match (text.first_chunk(), text.last_chunk()) {
        (Some([a, b, c, d]), Some([e, f, g, h])) => special([*a, *b, *c, *d, *e, *f, *g, *h]) == 0,
        _ => text.iter().all(|byte| !matches!(*byte, ..0x20 | b'"' | b'\\')),
    }
}

/// Not 0 where one of these has to be escaped.
fn special(word: [u8; 8]) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * EACH;
    // The top bit of some byte is set where a byte of `word` is below `least`, which is 128 at most; not where none is.
    let below = |word: u64, least: u64| word.wrapping_sub(least * EACH) & !word & TOP;
    let word = u64::from_le_bytes(word);
    // So changed a quote, and no other character, comes right behind the control characters.
    let quote = u64::from(b'"' ^ 0x20);
    below(word ^ (quote * EACH), 0x21) | below(word ^ (u64::from(b'\\') * EACH), 1)
}

/// Appends a whole number.
pub(super) fn unsigned(line: &mut Vec<u8>, mut number: u64) {
    if number < 10 {
        return line.push(decimal(number));
    }
    let mut digits = [0; 20];
    let mut unused = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = decimal(number);
        number /= 10;
        unused -= 1;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(digits.get(unused..).unwrap_or_default());
}

/// Appends the shortest text that means this number, which is finite; whole numbers with `.0`.
pub(super) fn fraction(line: &mut Vec<u8>, number: f64) {
    match thousandths(number) {
        Some(number) => in_thousandths(line, number),
        None => {
            let _ = write!(Bare(line), "{number:?}");
        }
    }
}

/// Appends the shortest text that means so many thousandths; of whole numbers with `.0`.
pub(super) fn in_thousandths(line: &mut Vec<u8>, thousandths: u64) {
    unsigned(line, thousandths / 1000);
    let [a, b, c] = [thousandths / 100, thousandths / 10, thousandths].map(decimal);
    match (b, c) {
        (b'0', b'0') => line.extend_from_slice(&[b'.', a]),
        (_, b'0') => line.extend_from_slice(&[b'.', a, b]),
        _ => line.extend_from_slice(&[b'.', a, b, c]),
    }
}

/// How many thousandths `number` is, where it is what those are called.
fn thousandths(number: f64) -> Option<u64> {
    let scaled = number * 1000.0;
    if number.is_sign_negative() || scaled >= EXACT {
        return None;
    }
    let whole = (scaled + 0.5) as u64;
    (whole as f64 / 1000.0 == number).then_some(whole)
}

/// The last digit.
fn decimal(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut line = Vec::new();
        escape(&mut line, text);
        String::from_utf8(line).unwrap()
    }

    fn number(value: f64) -> String {
        let mut line = Vec::new();
        fraction(&mut line, value);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_special_character_is_found_wherever_it_stands() {
        for length in 0..40 {
            let plain = "é~x-\u{7f}".chars().cycle().take(length).collect::<String>();
            assert_eq!(escaped(&plain), plain);
            for (special, spelt) in [
                ('"', "\\\""),
                ('\\', "\\\\"),
                ('\n', "\\n"),
                ('\r', "\\r"),
                ('\t', "\\t"),
                ('\0', "\\u0000"),
                ('\u{1f}', "\\u001f"),
            ] {
                for (at, _) in plain.char_indices().chain([(plain.len(), ' ')]) {
                    let (before, after) = plain.split_at(at);
                    assert_eq!(
                        escaped(&format!("{before}{special}{after}")),
                        format!("{before}{spelt}{after}")
                    );
                }
            }
        }
    }

    #[test]
    fn fractions_have_the_shortest_text() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.001, "0.001"),
            (0.1, "0.1"),
            (0.25, "0.25"),
            (1.5, "1.5"),
            (2.0, "2.0"),
            (1000.0, "1000.0"),
            (4_294_967.295, "4294967.295"),
            (0.1 + 0.2, "0.30000000000000004"),
            (-1.5, "-1.5"),
            (1e300, "1e300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    proptest! {
        #[test]
        fn every_text_is_read_back_from_json(text: String) {
            let read: String = serde_json::from_str(&format!("\"{}\"", escaped(&text))).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn milliseconds_are_written_as_the_general_way_writes_them(micros: u32) {
            let value = f64::from(micros) / 1000.0;
            prop_assert_eq!(thousandths(value), Some(u64::from(micros)));
            prop_assert_eq!(number(value), format!("{value:?}"));
        }

        #[test]
        fn every_fraction_is_written_as_the_general_way_writes_it(value: f64, thousandths in 0_u64..1_000_000_000_000_000) {
            prop_assert_eq!(number(value), format!("{value:?}"));
            let value = thousandths as f64 / 1000.0;
            prop_assert_eq!(number(value), format!("{value:?}"));
        }

        #[test]
        fn every_whole_number_is_written_in_full(value: u64, small in 0_u64..2000) {
            for value in [value, small] {
                let mut line = Vec::new();
                unsigned(&mut line, value);
                prop_assert_eq!(String::from_utf8(line).unwrap(), value.to_string());
            }
        }
    }
}
