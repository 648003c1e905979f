//! The lease, the merge and the commit under schedules that nobody would think of.
//!
//! The parts are the real ones ([`Acquire`](super::acquire::Acquire), [`Lead`](super::lead::Lead),
//! [`Commit`](super::commit::Commit), [`Pending`](super::pending::Pending), the merge and the store in memory); the
//! time is virtual; a seed decides what clients ask, how long every call and every answer takes, and what goes wrong.
//! The history is then judged by the rules of `docs/promises.md`, see [`rules`].
//!
//! * `SESSION_BRIDGE_TEST_FULL=1` explores a hundred times as much.
//! * `SESSION_BRIDGE_EXPLORE=<weather>:<seed>` (`calm:17`) runs one schedule and prints its log.

mod backend;
mod random;
mod replica;
mod rules;
mod shared;
mod small;

use std::time::Duration;

use random::{Plan, Weather};

/// How long records live.
const IDLE: Duration = Duration::from_secs(120);

/// Whether C3 is asked of responses to requests that were sent with no record at all.
const SENT_WITH_NOTHING: bool = true;

/// Whether S4 is asked of requests that came after a log-out and waited for others who looked before it.
const LATE_FOLLOWERS: bool = true;

/// Whether C1, C3 and F3 are asked of responses to requests that were sent with what waited for the store.
const BUILT_ON_WAITING: bool = true;

/// Whether the answer to a session's first write may be lost, and the look whether it was made.
const LOST_CREATION: bool = true;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn scaled(count: u64) -> u64 {
    match std::env::var_os("SESSION_BRIDGE_TEST_FULL") {
        Some(value) if value == "1" => count * 100,
        _ => count,
    }
}

fn explore(weather: Weather, count: u64) {
    explore_all(&format!("{weather:?}").to_lowercase(), count, |seed| {
        Plan::of(seed, weather)
    });
}

fn explore_all(name: &str, count: u64, plan: impl Fn(u64) -> Plan) {
    let wanted = std::env::var("SESSION_BRIDGE_EXPLORE").ok();
    if let Some(wanted) = wanted {
        if let Some(seed) = wanted.strip_prefix(&format!("{name}:")) {
            let plan = plan(seed.parse().unwrap());
            let (broken, log) = plan.run();
            panic!("{plan:#?}\n{log}\nbroken: {broken:#?}");
        }
        return;
    }
    for seed in 0..scaled(count) {
        let plan = plan(seed);
        let (broken, _) = plan.run();
        if let Some((rule, _)) = broken.first() {
            let (broken, log) = plan.shrink(rule).run();
            panic!("{log}\nbroken: {broken:#?}\nas small as it gets; in full: SESSION_BRIDGE_EXPLORE={name}:{seed}");
        }
    }
}

#[test]
fn a_seed_makes_the_same_schedule_each_time() {
    for seed in 0..20 {
        let plan = Plan::of(seed, Weather::Losses);
        let (first, second) = (plan.run().1, plan.run().1);
        assert!(first == second, "{first}\n-- and then --\n{second}");
    }
}

#[test]
fn s3_who_lost_its_lease_to_another_that_started_a_session_every_time() {
    explore_all("forgotten", 100, Plan::with_forgotten_leases);
}

#[test]
fn f3_sessions_that_start_while_the_store_goes_away_every_time() {
    explore_all("outage", 100, Plan::with_an_outage);
}

#[test]
fn in_calm_weather_every_schedule_keeps_the_rules() {
    explore(Weather::Calm, 500);
}

#[test]
fn whoever_dies_every_schedule_keeps_the_rules() {
    explore(Weather::Deaths, 500);
}

#[test]
fn whatever_is_cut_off_every_schedule_keeps_the_rules() {
    explore(Weather::Cuts, 500);
}

#[test]
fn whatever_the_store_loses_every_schedule_keeps_the_rules() {
    explore(Weather::Losses, 500);
}
