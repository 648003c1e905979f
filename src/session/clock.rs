//! Time, as something that can be handed in: the system's in production, moved by hand in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest moment that can be told.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The moment so long after the Unix epoch, without what is less than a millisecond.
    #[must_use]
    pub fn after_epoch(time: Duration) -> Self {
        let seconds = time.as_secs().saturating_mul(1000);
        Self(seconds.saturating_add(u64::from(time.subsec_millis())))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `by` later; stays at [`Timestamp::MAX`] rather than wrap.
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this moment is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Where the time comes from. Nothing else in the crate may ask the system for the wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// How long ago the Unix epoch was, as exactly as the clock knows it.
    fn since_epoch(&self) -> Duration {
        Duration::from_millis(self.now().as_millis())
    }
}

/// The wall clock of the machine. Set before 1970 it reads as the epoch itself: everything stored then counts as unexpired.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::after_epoch(self.since_epoch())
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks")]
    fn since_epoch(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that stands still until it is moved. Clones share one time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(start.0)))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Year, month and day of the Gregorian calendar, so many days after 1970-01-01.
#[must_use]
pub fn civil_date(days: u64) -> (u64, u32, u32) {
    // Counted from 0000-03-01: the leap day is the last of its year then, and of its era of 400 years.
    let days = days.saturating_add(719_468);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (next_year, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    let small = |number: u64| u32::try_from(number).unwrap_or_default();
    (era * 400 + year + next_year, small(month), small(day))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::civil_date;

    #[test]
    fn the_first_day_is_the_epoch() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(20_759), (2026, 11, 2));
    }

    proptest! {
        #[test]
        fn every_day_follows_the_one_before(day in 0_u64..2_932_896) {
            let ((year, month, date_), next) = (civil_date(day), civil_date(day + 1));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (month, date_) {
                (12, 31) => (year + 1, 1, 1),
                (month, date_) if date_ == days => (year, month + 1, 1),
                (month, date_) => (year, month, date_ + 1),
            };
            prop_assert_eq!(next, expected);
        }
    }
}
