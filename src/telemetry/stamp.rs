//! The time of a log line, in the form of RFC 3339: `2026-01-31T23:59:59.000001Z`.

use std::time::Duration;

use crate::session::clock::civil_date;

/// The last moment that this form can tell, in seconds since the Unix epoch: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

/// Spells moments. Most of a text is that of the moment before: only what is behind the second is always made anew.
pub(super) struct Stamp {
    second: u64,
    text: [u8; 19],
}

impl Stamp {
    pub(super) fn new() -> Self {
        Self {
            second: 0,
            text: spell(0),
        }
    }

    /// Appends the moment that is so long after the Unix epoch, to the microsecond.
    pub(super) fn write(&mut self, since_epoch: Duration, line: &mut Vec<u8>) {
        let second = since_epoch.as_secs().min(LAST);
        // The clock may have been set back: any other second is another text.
        if self.second != second {
            *self = Self {
                second,
                text: spell(second),
            };
        }
        let micros = since_epoch.subsec_micros();
        let ([a, b], [c, d], [e, f]) = (two(micros / 10_000), two(micros / 100), two(micros));
        line.extend_from_slice(&self.text);
        line.extend_from_slice(&[b'.', a, b, c, d, e, f, b'Z']);
    }
}

/// The text of a whole second, for UTC.
fn spell(second: u64) -> [u8; 19] {
    let (year, month, day) = civil_date(second / 86_400);
    let year = u32::try_from(year).unwrap_or_default();
    let time = u32::try_from(second % 86_400).unwrap_or_default();
    let ([y1, y2], [y3, y4], [m1, m2], [d1, d2]) = (two(year / 100), two(year), two(month), two(day));
    let ([h1, h2], [n1, n2], [s1, s2]) = (two(time / 3600), two(time / 60 % 60), two(time % 60));
    [
        y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2,
    ]
}

/// The last two digits.
fn two(number: u32) -> [u8; 2] {
    let digit = |number: u32| b'0' + u8::try_from(number % 10).unwrap_or_default();
    [digit(number / 10), digit(number)]
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::fmt::format::Writer;
    use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

    use super::*;
    use crate::session::clock::{Clock as _, SystemClock};

    fn text(stamp: &mut Stamp, since_epoch: Duration) -> String {
        let mut line = Vec::new();
        stamp.write(since_epoch, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn moments_are_told_in_utc_to_the_microsecond() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1_999, "2000-02-29T00:00:00.000001Z"),
            (1_709_210_096, 120_300_000, "2024-02-29T12:34:56.120300Z"),
            (1_735_689_599, 0, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
            (LAST, 1_000, "9999-12-31T23:59:59.000001Z"),
            (u64::MAX, 1_000, "9999-12-31T23:59:59.000001Z"),
        ] {
            let moment = Duration::new(seconds, nanos);
            assert_eq!(text(&mut Stamp::new(), moment), expected);
        }
    }

    #[test]
    fn a_stamp_follows_a_clock_that_goes_on_stands_still_or_is_set_back() {
        let mut stamp = Stamp::new();
        for (seconds, millis, expected) in [
            (1_700_000_000, 1, "2023-11-14T22:13:20.001000Z"),
            (1_700_000_000, 1, "2023-11-14T22:13:20.001000Z"),
            (1_700_000_000, 2, "2023-11-14T22:13:20.002000Z"),
            (1_700_000_001, 0, "2023-11-14T22:13:21.000000Z"),
            (1_700_000_000, 999, "2023-11-14T22:13:20.999000Z"),
            (0, 0, "1970-01-01T00:00:00.000000Z"),
        ] {
            let moment = Duration::from_secs(seconds) + Duration::from_millis(millis);
            assert_eq!(text(&mut stamp, moment), expected);
        }
    }

    #[test]
    fn the_present_is_what_lines_of_text_say_too() {
        // One of these falls between the two others.
        let mut told = String::new();
        let before = text(&mut Stamp::new(), SystemClock.since_epoch());
        SystemTime.format_time(&mut Writer::new(&mut told)).unwrap();
        let after = text(&mut Stamp::new(), SystemClock.since_epoch());
        assert!(before <= told && told <= after, "{before} {told} {after}");
    }
}
