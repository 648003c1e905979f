//! The present moment, for those who need not know it to the microsecond.
//!
//! To read the clock takes as long as to read a field of a head, and many on the way of a request would: when did it come,
//! from when on is a connection idle, until when may the backend be silent? All of them ask within one poll of one task,
//! which is over in microseconds. So [`one_poll`] marks such a poll, and within it [`lately`] tells what the clock said when
//! it was last read there.
//!
//! * For deadlines, idle times, expiries and what is measured: [`lately`] and [`wall_lately`]. They tell a moment of this very
//!   poll, never one from before a wait.
//! * For what has to lie behind something that has just happened, and for all that keeps two replicas apart (leases, the
//!   order of changes): the clock itself, or [`now`], which reads it and has [`lately`] tell that from then on.
//!
//! Outside of such a poll they read the clock.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::session::clock::Clock;

/// What the clocks said in the poll in hand.
struct Poll {
    is_one: Cell<bool>,
    instant: Cell<Option<Instant>>,
    wall: Cell<Option<Duration>>,
}

thread_local! {
    static POLL: Poll = const {
        Poll {
            is_one: Cell::new(false),
            instant: Cell::new(None),
            wall: Cell::new(None),
        }
    };
}

/// Ends the poll, also where it panics.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        POLL.with(|poll| {
            poll.is_one.set(false);
            poll.instant.set(None);
            poll.wall.set(None);
        });
    }
}

/// Runs one poll of a task, which is over soon and waits for nothing. Within another one it is a part of that.
pub fn one_poll<T>(poll: impl FnOnce() -> T) -> T {
    if POLL.with(|poll| poll.is_one.replace(true)) {
        return poll();
    }
    let _end = End;
    poll()
}

/// Reads the clock.
#[must_use]
pub fn now() -> Instant {
    let now = Instant::now();
    POLL.with(|poll| {
        if poll.is_one.get() {
            poll.instant.set(Some(now));
        }
    });
    now
}

/// What the clock said when it was last read in this poll.
#[must_use]
pub fn lately() -> Instant {
    POLL.with(|poll| poll.instant.get()).unwrap_or_else(now)
}

/// What the wall clock said when it was read in this poll: how long ago the Unix epoch was. All within one poll are to ask
/// for the same clock.
#[must_use]
pub fn wall_lately(clock: &dyn Clock) -> Duration {
    if let Some(lately) = POLL.with(|poll| poll.wall.get()) {
        return lately;
    }
    let now = clock.since_epoch();
    POLL.with(|poll| {
        if poll.is_one.get() {
            poll.wall.set(Some(now));
        }
    });
    now
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::session::clock::{ManualClock, Timestamp};

    const STEP: Duration = Duration::from_millis(7);

    /// A clock that goes on by [`STEP`] each time that it is read.
    struct Stepping(ManualClock);

    impl Stepping {
        fn new() -> Self {
            Self(ManualClock::at(Timestamp::from_millis(0)))
        }
    }

    impl Clock for Stepping {
        fn now(&self) -> Timestamp {
            self.0.advance(STEP);
            self.0.now()
        }
    }

    #[test]
    fn outside_of_a_poll_the_clock_is_read_each_time() {
        let clock = Stepping::new();
        assert_eq!(wall_lately(&clock), STEP);
        assert_eq!(wall_lately(&clock), 2 * STEP);
        let first = lately();
        while lately() == first {}
    }

    #[test]
    fn within_a_poll_it_is_read_once_unless_somebody_has_to_read_it_anew() {
        let clock = Stepping::new();
        one_poll(|| {
            assert_eq!(wall_lately(&clock), STEP);
            assert_eq!(wall_lately(&clock), STEP);
            let first = lately();
            let mut later = Instant::now();
            while later == first {
                later = Instant::now();
            }
            assert_eq!(lately(), first);
            let anew = now();
            assert!(anew >= later);
            assert_eq!(lately(), anew);
        });
    }

    #[test]
    fn the_next_poll_knows_nothing_of_the_one_before() {
        let clock = Stepping::new();
        assert_eq!(one_poll(|| wall_lately(&clock)), STEP);
        assert_eq!(one_poll(|| wall_lately(&clock)), 2 * STEP);
        let first = one_poll(lately);
        while one_poll(lately) == first {}
    }

    #[test]
    fn a_poll_within_a_poll_is_a_part_of_it() {
        let clock = Stepping::new();
        one_poll(|| {
            assert_eq!(wall_lately(&clock), STEP);
            one_poll(|| assert_eq!(wall_lately(&clock), STEP));
            assert_eq!(wall_lately(&clock), STEP);
        });
    }

    #[test]
    fn a_poll_that_panics_is_over() {
        let clock = Stepping::new();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            one_poll(|| {
                let _ = wall_lately(&clock);
                panic!("as it happens");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(wall_lately(&clock), 2 * STEP);
        assert_eq!(wall_lately(&clock), 3 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_the_clock_of_the_runtime() {
        let first = one_poll(lately);
        tokio::time::advance(STEP).await;
        assert_eq!(one_poll(lately) - first, STEP);
    }
}
