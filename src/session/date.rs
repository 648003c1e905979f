//! The cookie-date of RFC 6265bis, 5.1.1: whatever a server may have written after `Expires=`.

use super::clock::Timestamp;

const MONTHS: [&[u8; 3]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];

/// The moment that `text` names, or `None` where the algorithm of RFC 6265bis, 5.1.1 finds no date in it.
///
/// The time is taken as UTC whatever zone is written. A date before 1970 reads as the epoch itself, the earliest
/// moment that a [`Timestamp`] can tell.
#[must_use]
pub fn parse_cookie_date(text: &[u8]) -> Option<Timestamp> {
    let seconds = Fields::read(text).seconds_since_epoch()?;
    Some(Timestamp::from_millis(
        u64::try_from(seconds).unwrap_or(0).saturating_mul(1000),
    ))
}

/// What the tokens of a cookie-date have told so far.
#[derive(Default)]
struct Fields {
    time: Option<(u32, u32, u32)>,
    day: Option<u32>,
    month: Option<u32>,
    year: Option<u32>,
}

impl Fields {
    /// Each token is tried as a time, a day, a month and a year, in this order; the first that fits and is not yet
    /// known takes it.
    fn read(text: &[u8]) -> Self {
        let mut found = Self::default();
        for token in text.split(|byte| is_delimiter(*byte)).filter(|token| !token.is_empty()) {
            if found.time.is_none() {
                found.time = time(token);
                if found.time.is_some() {
                    continue;
                }
            }
            if found.day.is_none() {
                found.day = number(token, 1, 2);
                if found.day.is_some() {
                    continue;
                }
            }
            if found.month.is_none() {
                found.month = month(token);
                if found.month.is_some() {
                    continue;
                }
            }
            if found.year.is_none() {
                found.year = number(token, 2, 4);
            }
        }
        found
    }

    /// Seconds since the Unix epoch, or `None` when something is missing or there is no such day or time.
    fn seconds_since_epoch(&self) -> Option<i64> {
        let (hour, minute, second) = self.time?;
        let (day, month) = (self.day?, self.month?);
        let year = match self.year? {
            short @ 70..=99 => short + 1900,
            short @ 0..=69 => short + 2000,
            full => full,
        };
        if year < 1601 || hour > 23 || minute > 59 || second > 59 || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        let days = days_since_epoch(i64::from(year), i64::from(month), i64::from(day));
        Some(days * 86_400 + i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second))
    }
}

const fn is_delimiter(byte: u8) -> bool {
    matches!(byte, 0x09 | 0x20..=0x2f | 0x3b..=0x40 | 0x5b..=0x60 | 0x7b..=0x7e)
}

/// `h:m:s`, each of one or two digits, and anything after it that does not begin with a digit.
fn time(token: &[u8]) -> Option<(u32, u32, u32)> {
    let mut parts = token.splitn(3, |byte| *byte == b':');
    let hour = whole_number(parts.next()?)?;
    let minute = whole_number(parts.next()?)?;
    let second = number(parts.next()?, 1, 2)?;
    Some((hour, minute, second))
}

/// The number of a month by its first three letters, January being 1.
fn month(token: &[u8]) -> Option<u32> {
    let letters = token.get(..3)?;
    let index = MONTHS.iter().position(|name| letters.eq_ignore_ascii_case(*name))?;
    u32::try_from(index + 1).ok()
}

/// One or two digits and nothing else.
fn whole_number(text: &[u8]) -> Option<u32> {
    if text.iter().all(u8::is_ascii_digit) {
        number(text, 1, 2)
    } else {
        None
    }
}

/// The number that `text` begins with, of `least` to `most` digits, not followed by a further digit.
fn number(text: &[u8], least: usize, most: usize) -> Option<u32> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits < least || digits > most {
        return None;
    }
    Some(
        text.iter()
            .take(digits)
            .fold(0, |value, digit| value * 10 + u32::from(digit - b'0')),
    )
}

const fn days_in_month(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Counting years from March puts the leap day last, so that the days before a month follow from one formula.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days_before_month = (153 * month + 2) / 5;
    let leap_days = year / 4 - year / 100 + year / 400;
    // 719_468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + leap_days + days_before_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Option<i64> {
        Fields::read(text.as_bytes()).seconds_since_epoch()
    }

    #[test]
    fn every_common_way_of_writing_a_date_is_read() {
        for text in [
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tuesday, 14-Nov-23 22:13:20 GMT",
            "Tue Nov 14 22:13:20 2023",
            "14 nov 2023 22:13:20",
            "2023 NOVEMBER 14 22:13:20",
            "22:13:20 14 Novembre 23",
            "tue,14/nov/2023;22:13:20GMT+0300",
            "  --14--Nov--2023--22:13:20--  ",
            "Tue, 14 Nov 2023 22:13:20 GMT, trailing words",
        ] {
            assert_eq!(seconds(text), Some(1_700_000_000), "{text}");
        }
    }

    #[test]
    fn a_text_without_a_whole_date_is_none() {
        for text in [
            "",
            "GMT",
            "Tue, 14 Nov 2023",
            "14 Nov 22:13:20",
            "Nov 2023 22:13:20",
            "14 2023 22:13:20",
            "14 Foo 2023 22:13:20",
            "14 Nov 2023 22:13",
            "14 Nov 2023 22:13:",
            "14 Nov 2023 222:13:20",
            "14 Nov 2023 22:133:20",
            "14 Nov 2023 22:13:200",
            "14 Nov 2023 22:x3:20",
            "14 Nov 20233 22:13:20",
            "14 Nov 202322:13:20",
            "1700000000",
            "0",
            "never",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_or_time_that_does_not_exist_is_none() {
        for text in [
            "0 Nov 2023 22:13:20",
            "31 Nov 2023 22:13:20",
            "29 Feb 2023 22:13:20",
            "29 Feb 1900 22:13:20",
            "32 Jan 2023 22:13:20",
            "14 Nov 2023 24:13:20",
            "14 Nov 2023 22:60:20",
            "14 Nov 2023 22:13:60",
            "31 Dec 1600 23:59:59",
            "14 Nov 100 22:13:20",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert_eq!(seconds("29 Feb 2024 00:00:00"), Some(1_709_164_800));
        assert_eq!(seconds("29 Feb 2000 00:00:00"), Some(951_782_400));
        assert_eq!(seconds("1 Jan 1601 00:00:00"), Some(-11_644_473_600));
        assert_eq!(seconds("31 Dec 9999 23:59:59"), Some(253_402_300_799));
    }

    #[test]
    fn two_digit_years_from_70_on_are_of_the_last_century() {
        assert_eq!(seconds("1 Jan 70 00:00:00"), Some(0));
        assert_eq!(seconds("1 Jan 99 00:00:00"), Some(915_148_800));
        assert_eq!(seconds("1 Jan 00 00:00:00"), Some(946_684_800));
        assert_eq!(seconds("1 Jan 69 00:00:00"), Some(3_124_224_000));
    }

    #[test]
    fn one_digit_is_a_day_and_never_a_year() {
        assert_eq!(seconds("7 Nov 7 22:13:20"), None);
        assert_eq!(seconds("7 Nov 07 2:3:4"), Some(1_194_400_984));
    }

    #[test]
    fn a_second_time_can_only_be_the_day() {
        // The algorithm is indifferent to sense: "05:00:00" begins with two digits that are no longer part of a time.
        assert_eq!(seconds("10:00:00 05:00:00 Nov 2023"), seconds("5 Nov 2023 10:00:00"));
    }

    #[test]
    fn a_date_before_1970_is_the_epoch() {
        assert_eq!(
            parse_cookie_date(b"31 Dec 1969 23:59:59"),
            Some(Timestamp::from_millis(0))
        );
        assert_eq!(
            parse_cookie_date(b"1 Jan 1970 00:00:01"),
            Some(Timestamp::from_millis(1000))
        );
    }

    #[test]
    fn the_days_of_four_centuries_follow_each_other() {
        let mut expected = days_since_epoch(1601, 1, 1);
        for year in 1601..=2001_u32 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    assert_eq!(days_since_epoch(year.into(), month.into(), day.into()), expected);
                    expected += 1;
                }
            }
        }
        assert_eq!(expected, days_since_epoch(2002, 1, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_cookie_date(&text);
        }

        #[test]
        fn a_written_date_is_read_back(days in 0..40_000_i64, clock in 0..86_400_u32, day_first in any::<bool>()) {
            let (mut year, mut month, mut day) = (1970_u32, 1_u32, 1_u32);
            for _ in 0..days {
                day += 1;
                if day > days_in_month(year, month) {
                    (month, day) = (month + 1, 1);
                }
                if month > 12 {
                    (year, month) = (year + 1, 1);
                }
            }
            let name = std::str::from_utf8(MONTHS[month as usize - 1]).unwrap();
            let time = format!("{:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60);
            let text = if day_first { format!("{day} {name} {year} {time}") } else { format!("{name} {day} {time} {year}") };
            prop_assert_eq!(seconds(&text), Some(days * 86_400 + i64::from(clock)));
        }
    }
}
