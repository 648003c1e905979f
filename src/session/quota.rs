//! How many may do something within a time, counted by the store for all replicas (rule B3).
//!
//! Time is cut into slices, ten to the time of a [`Quota`], and what counts is every slice that reaches into the time
//! before the present moment. So it is never more than the quota in *any* stretch of that length, wherever it begins; who
//! uses it up without a break gets nine tenths of it.
//!
//! A [`Tally`] is small: at most eleven pairs of numbers, as text. It holds nothing of whom it counts.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::clock::Timestamp;
use super::store::{Key, Payload};

/// Into how many slices the time of a quota is cut.
const SLICES: u64 = 10;

/// What tells a tally from a record, whose format it could be no version of.
const FORMAT: u8 = b'T';

/// At most so many within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many; at least one.
    pub most: u32,
    /// Within what time: ten milliseconds at least.
    pub within: Duration,
}

impl Quota {
    /// How long a slice is, in milliseconds.
    #[must_use]
    pub fn slice(&self) -> u64 {
        u64::try_from(self.within.as_millis())
            .unwrap_or(u64::MAX)
            .div_ceil(SLICES)
            .max(1)
    }

    /// How many slices count, the one that has begun included.
    #[must_use]
    pub const fn slices(&self) -> u64 {
        SLICES + 1
    }

    /// For how long a tally is of any use after the last place was taken.
    #[must_use]
    pub fn memory(&self) -> Duration {
        Duration::from_millis(self.slice().saturating_mul(self.slices() + 1))
    }
}

/// A place that was taken: the slice that it counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u64);

/// What came of asking for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was taken.
    Place(Place),
    /// There is none.
    Full {
        /// When there may be one again. Not zero.
        wait: Duration,
    },
}

/// Where what is called `what` of `whom` is counted: a key that no installation has, as its digest is made of other text.
#[must_use]
pub fn key_of(what: &str, whom: &str) -> Key {
    let digest = Sha256::digest(format!("{what}\0{whom}").as_bytes());
    let mut first = [0; 16];
    first.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    Key::from_digest(first)
}

/// How many places were taken in which slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ascending; no count is zero.
    slices: Vec<(u64, u32)>,
}

impl Tally {
    /// Takes a place at `now`, or says when there may be one. A clock that has gone back counts as standing still.
    pub fn take(&mut self, quota: &Quota, now: Timestamp) -> Taken {
        let length = quota.slice();
        let clock = now.as_millis() / length;
        let this = self.slices.last().map_or(clock, |(last, _)| clock.max(*last));
        self.slices.retain(|(slice, _)| slice + quota.slices() > this);
        let taken = self
            .slices
            .iter()
            .fold(0_u32, |sum, (_, count)| sum.saturating_add(*count));
        if taken < quota.most {
            match self.slices.last_mut() {
                Some((slice, count)) if *slice == this => *count += 1,
                _ => self.slices.push((this, 1)),
            }
            return Taken::Place(Place(this));
        }
        let oldest = self.slices.first().map_or(this, |(slice, _)| *slice);
        let free_at = (oldest + quota.slices()).saturating_mul(length);
        let wait = free_at.saturating_sub(now.as_millis().max(this.saturating_mul(length)));
        Taken::Full {
            wait: Duration::from_millis(wait.max(1)),
        }
    }

    /// Gives a place back that was not used.
    pub fn give_back(&mut self, place: Place) {
        if let Some((_, count)) = self.slices.iter_mut().find(|(slice, _)| *slice == place.0) {
            *count = count.saturating_sub(1);
        }
        self.slices.retain(|(_, count)| *count > 0);
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Payload {
        let mut text = String::from(char::from(FORMAT));
        for (slice, count) in &self.slices {
            // Writing to a string cannot fail.
            let _ = write!(text, "{slice}:{count} ");
        }
        Payload(Bytes::from(text))
    }

    /// Reads the stored form; what is none counts nothing.
    #[must_use]
    pub fn decode(payload: &Payload) -> Self {
        let pairs = payload.0.strip_prefix(&[FORMAT]).and_then(|text| {
            let pair = |pair: &str| {
                let (slice, count) = pair.split_once(':')?;
                Some((slice.parse().ok()?, count.parse().ok()?))
            };
            std::str::from_utf8(text)
                .ok()?
                .split_ascii_whitespace()
                .map(pair)
                .collect()
        });
        Self {
            slices: pairs.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_700_000_000_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(START + ms)
    }

    fn quota(most: u32, ms: u64) -> Quota {
        Quota {
            most,
            within: Duration::from_millis(ms),
        }
    }

    #[test]
    fn b3_so_many_may_and_the_next_one_is_told_when() {
        let (mut tally, three) = (Tally::default(), quota(3, 1000));
        for _ in 0..3 {
            assert!(matches!(tally.take(&three, at(0)), Taken::Place(_)));
        }
        let Taken::Full { wait } = tally.take(&three, at(50)) else {
            panic!("a fourth place")
        };
        assert_eq!(wait, Duration::from_millis(1050));
        assert!(matches!(tally.take(&three, at(1099)), Taken::Full { .. }));
        assert!(matches!(tally.take(&three, at(1100)), Taken::Place(_)));
    }

    #[test]
    fn b3_a_place_that_is_given_back_is_free_at_once() {
        let (mut tally, one) = (Tally::default(), quota(1, 60_000));
        let Taken::Place(place) = tally.take(&one, at(0)) else {
            panic!("no place")
        };
        assert!(matches!(tally.take(&one, at(10)), Taken::Full { .. }));
        tally.give_back(place);
        tally.give_back(place);
        assert!(matches!(tally.take(&one, at(20)), Taken::Place(_)));
        assert!(matches!(tally.take(&one, at(30)), Taken::Full { .. }));
    }

    #[test]
    fn what_is_no_tally_counts_nothing_and_reads_as_no_record() {
        for bytes in [&b""[..], b"T1:x", b"T1", b"X1:1 ", b"T\xff", b"T1:99999999999 "] {
            assert_eq!(Tally::decode(&Payload(Bytes::from_static(bytes))), Tally::default());
        }
        let mut tally = Tally::default();
        tally.take(&quota(1, 1000), at(0));
        assert!(crate::session::record::Record::decode(&tally.encode()).is_err());
        assert!(crate::session::removal::Removal::decode(&tally.encode()).is_err());
    }

    proptest! {
        #[test]
        fn b3_no_stretch_of_that_length_ever_sees_more_than_the_quota(
            most in 1_u32..20,
            within in 10_u64..5000,
            steps in prop::collection::vec((0_u64..400, prop::bool::weighted(0.1)), 1..300),
        ) {
            let quota = quota(most, within);
            let (mut tally, mut now, mut known) = (Tally::default(), 0_u64, 0_u64);
            let mut granted: Vec<u64> = Vec::new();
            for (step, back) in steps {
                now += step;
                // A clock that goes back for a moment frees nothing.
                let told = if back { now.saturating_sub(step * 3) } else { now };
                known = known.max(told);
                tally = Tally::decode(&tally.encode());
                match tally.take(&quota, at(told)) {
                    Taken::Place(_) => granted.push(known),
                    Taken::Full { wait } => {
                        prop_assert!(!wait.is_zero());
                        prop_assert!(wait <= quota.memory());
                        if !back {
                            let mut later = tally.clone();
                            let after = told + u64::try_from(wait.as_millis()).unwrap();
                            prop_assert!(matches!(later.take(&quota, at(after)), Taken::Place(_)));
                        }
                    }
                }
                if !back {
                    let recent = granted.iter().filter(|then| known - **then < within).count();
                    prop_assert!(recent <= most as usize, "{} of {} within {} ms", recent, most, within);
                }
            }
        }
    }
}
