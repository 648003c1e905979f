mod failover;
mod log;
mod model;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::session::clock::Timestamp;
use crate::session::cookie::{Origin, parse_set_cookie};
use crate::session::glob::Glob;
use crate::session::record::IN_FLIGHT_HORIZON;

const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn policy(id: &[&str]) -> CookiePolicy {
    CookiePolicy::new(vec![Glob::new("*")], id.iter().map(|name| Glob::new(name)).collect())
}

fn cookie(line: &str) -> Cookie {
    parse_set_cookie(line.as_bytes(), &Origin::new("shop.example", "/"), AT).unwrap()
}

fn said(rank: Rank, lines: &[&str]) -> Said {
    Said {
        rank,
        cookies: lines.iter().map(|line| cookie(line)).collect(),
        at: AT,
    }
}

#[test]
fn c1_a_log_in_among_many_cookies_is_not_overwritten_by_an_older_response() {
    let many: Vec<String> = (0..100).map(|n| format!("c{n}=1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for at_once in [true, false] {
        let mut world = World::with(&["sid"], Rank::Safe, &["sid=a"]);
        let sent = world.sent();
        if at_once {
            let log_in = [&["sid=b"], many.as_slice()].concat();
            world.respond(sent.as_ref(), Rank::Auth, &log_in);
        } else {
            world.respond(sent.as_ref(), Rank::Auth, &["sid=b"]);
            for line in &many {
                let sent = world.sent();
                world.respond(sent.as_ref(), Rank::Safe, &[line]);
            }
        }
        let late = world.respond(sent.as_ref(), Rank::Unsafe, &["sid=c"]);
        assert_eq!(late.effect, Effect::None, "the log-in is overwritten");
        assert!(world.jar().starts_with("sid=b;"));
    }
}

/// A record, and what happens to it.
#[derive(Clone)]
struct World {
    now: Option<Snapshot>,
    policy: CookiePolicy,
    seq: u64,
}

impl World {
    fn new(id: &[&str]) -> Self {
        Self {
            now: None,
            policy: policy(id),
            seq: 0,
        }
    }

    fn with(id: &[&str], rank: Rank, lines: &[&str]) -> Self {
        let mut world = Self::new(id);
        world.respond(None, rank, lines);
        world
    }

    fn sent(&self) -> Option<Snapshot> {
        self.now.clone()
    }

    fn respond(&mut self, sent: Option<&Snapshot>, rank: Rank, lines: &[&str]) -> Merged {
        self.seq += 1;
        let next = Version {
            seq: self.now.as_ref().map_or(1, |now| now.version.seq + 1),
            nonce: u32::try_from(self.seq).unwrap(),
        };
        let merged = merge(sent, self.now.as_ref(), &said(rank, lines), &self.policy, next);
        match &merged.action {
            Action::Keep => {}
            Action::Write(record) => {
                let record = Record::decode(&record.encode().unwrap()).unwrap();
                self.now = Some(Snapshot {
                    version: next,
                    expires_at: Timestamp::MAX,
                    record,
                    lineage: None,
                });
            }
            Action::Remove => self.now = None,
        }
        merged
    }

    /// `name=value` of every cookie, in order.
    fn jar(&self) -> String {
        let Some(now) = &self.now else { return "-".to_owned() };
        String::from_utf8(
            now.record
                .jar()
                .header(&Origin::new("shop.example", "/"), AT)
                .unwrap_or_default(),
        )
        .unwrap()
    }
}

fn reasons(merged: &Merged) -> Vec<Drop> {
    merged.dropped.iter().map(|(_, reason)| *reason).collect()
}

#[test]
fn the_first_session_cookie_creates_a_record() {
    let mut world = World::new(&["sid"]);
    let merged = world.respond(None, Rank::Safe, &["sid=a; Path=/", "csrf=x; Path=/"]);
    assert_eq!(merged.effect, Effect::Created);
    assert_eq!(world.jar(), "sid=a; csrf=x");
}

#[test]
fn s1_a_cookie_that_is_no_session_is_kept_but_starts_none() {
    let mut world = World::new(&["sid"]);
    let merged = world.respond(None, Rank::Safe, &["csrf=x; Path=/"]);
    assert_eq!(merged.effect, Effect::None);
    assert_eq!(world.jar(), "csrf=x");
    let sent = world.sent();
    let merged = world.respond(sent.as_ref(), Rank::Unsafe, &["sid=a; Path=/"]);
    assert_eq!(merged.effect, Effect::Created);
    assert_eq!(world.jar(), "csrf=x; sid=a");
}

#[test]
fn without_id_cookies_any_cookie_is_a_session() {
    let mut world = World::new(&[]);
    assert_eq!(
        world.respond(None, Rank::Safe, &["csrf=x; Path=/"]).effect,
        Effect::Created
    );
}

/// The table, row by row: what another response did meanwhile, what this one says, what comes of it.
#[test]
fn the_table_of_sent_says_and_now() {
    struct Row {
        meanwhile: Option<(Rank, &'static str)>,
        says: (Rank, &'static str),
        jar: &'static str,
        dropped: &'static [Drop],
    }
    let row = |meanwhile, says, jar, dropped| Row {
        meanwhile,
        says,
        jar,
        dropped,
    };
    let gone = "c=; Max-Age=0; Path=/";
    let rows = [
        // says the same
        row(None, (Rank::Safe, "c=1; Path=/"), "sid=a; c=1", &[][..]),
        row(
            Some((Rank::Safe, "c=2; Path=/")),
            (Rank::Auth, "c=1; Path=/"),
            "sid=a; c=2",
            &[Drop::Stale],
        ),
        row(
            Some((Rank::Safe, gone)),
            (Rank::Auth, "c=1; Path=/"),
            "sid=a",
            &[Drop::Stale],
        ),
        // a new value
        row(None, (Rank::Safe, "c=3; Path=/"), "sid=a; c=3", &[]),
        row(
            Some((Rank::Safe, "c=2; Path=/")),
            (Rank::Safe, "c=3; Path=/"),
            "sid=a; c=2",
            &[Drop::Conflict],
        ),
        row(
            Some((Rank::Safe, "c=2; Path=/")),
            (Rank::Unsafe, "c=3; Path=/"),
            "sid=a; c=3",
            &[],
        ),
        row(
            Some((Rank::Unsafe, "c=2; Path=/")),
            (Rank::Unsafe, "c=3; Path=/"),
            "sid=a; c=2",
            &[Drop::Conflict],
        ),
        row(
            Some((Rank::Unsafe, "c=2; Path=/")),
            (Rank::Auth, "c=3; Path=/"),
            "sid=a; c=3",
            &[],
        ),
        row(
            Some((Rank::Auth, "c=2; Path=/")),
            (Rank::Auth, "c=3; Path=/"),
            "sid=a; c=2",
            &[Drop::Conflict],
        ),
        row(
            Some((Rank::Auth, "c=2; Path=/")),
            (Rank::Safe, "c=3; Path=/"),
            "sid=a; c=2",
            &[Drop::Conflict],
        ),
        row(
            Some((Rank::Auth, gone)),
            (Rank::Unsafe, "c=3; Path=/"),
            "sid=a",
            &[Drop::Conflict],
        ),
        row(
            Some((Rank::Safe, gone)),
            (Rank::Unsafe, "c=3; Path=/"),
            "sid=a; c=3",
            &[],
        ),
        row(
            Some((Rank::Auth, "c=2; Path=/")),
            (Rank::Safe, "c=2; Path=/"),
            "sid=a; c=2",
            &[],
        ),
        // a deletion
        row(None, (Rank::Safe, gone), "sid=a", &[]),
        row(
            Some((Rank::Safe, "c=2; Path=/")),
            (Rank::Safe, gone),
            "sid=a; c=2",
            &[Drop::Conflict],
        ),
        row(Some((Rank::Safe, "c=2; Path=/")), (Rank::Auth, gone), "sid=a", &[]),
        row(
            Some((Rank::Auth, "c=2; Path=/")),
            (Rank::Auth, gone),
            "sid=a; c=2",
            &[Drop::Conflict],
        ),
        row(Some((Rank::Auth, gone)), (Rank::Safe, gone), "sid=a", &[]),
    ];
    for (index, row) in rows.iter().enumerate() {
        let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/", "c=1; Path=/"]);
        let sent = world.sent();
        if let Some((rank, line)) = row.meanwhile {
            world.respond(sent.as_ref(), rank, &[line]);
        }
        let merged = world.respond(sent.as_ref(), row.says.0, &[row.says.1]);
        assert_eq!(
            (world.jar().as_str(), reasons(&merged).as_slice()),
            (row.jar, row.dropped),
            "row {index}"
        );
    }
}

#[test]
fn the_same_value_again_renews_only_the_expiry() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/; Max-Age=100"]);
    let sent = world.sent();
    let merged = world.respond(sent.as_ref(), Rank::Safe, &["sid=a; Path=/; Max-Age=100"]);
    assert_eq!(merged.action, Action::Keep);
    let merged = world.respond(sent.as_ref(), Rank::Safe, &["sid=a; Path=/; Max-Age=200"]);
    assert!(matches!(merged.action, Action::Write(_)));
    assert_eq!(merged.effect, Effect::None);
    // Nobody changed the value: a log-in that was sent before still takes effect without a conflict.
    let merged = world.respond(sent.as_ref(), Rank::Safe, &["sid=b; Path=/"]);
    assert_eq!((merged.effect, world.jar().as_str()), (Effect::Replaced, "sid=b"));
}

#[test]
fn c1_a_rotation_by_a_page_view_after_a_log_in_does_not_expose_the_log_in() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let old = world.sent();
    world.respond(old.as_ref(), Rank::Auth, &["sid=login; Path=/"]);
    let after = world.sent();
    world.respond(after.as_ref(), Rank::Safe, &["sid=rotated; Path=/"]);
    let merged = world.respond(old.as_ref(), Rank::Unsafe, &["sid=basket; Path=/"]);
    assert_eq!(world.jar(), "sid=rotated");
    assert_eq!(reasons(&merged), [Drop::OtherSession]);
}

#[test]
fn c1_what_began_a_record_counts_for_its_cookies_also_once_they_are_deleted() {
    let mut world = World::with(&["sid"], Rank::Auth, &["sid=a; Path=/", "remember=me; Path=/"]);
    let knows = world.sent();
    world.respond(knows.as_ref(), Rank::Safe, &["remember=; Max-Age=0; Path=/"]);
    let mut other = world.clone();
    let merged = world.respond(None, Rank::Unsafe, &["remember=old; Path=/"]);
    assert_eq!(
        (world.jar().as_str(), reasons(&merged)),
        ("sid=a", vec![Drop::Conflict])
    );
    // To who knew the beginning, only the page view is news.
    other.respond(knows.as_ref(), Rank::Unsafe, &["remember=new; Path=/"]);
    assert_eq!(other.jar(), "sid=a; remember=new");
}

#[test]
fn c1_a_change_before_the_request_was_sent_does_not_count() {
    let mut world = World::with(&["sid"], Rank::Auth, &["sid=a; Path=/"]);
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Auth, &["sid=b; Path=/"]);
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Safe, &["sid=c; Path=/"]);
    world.respond(sent.as_ref(), Rank::Unsafe, &["sid=d; Path=/"]);
    assert_eq!(world.jar(), "sid=d");
}

#[test]
fn c1_a_log_out_removes_a_cookie_that_a_slower_request_signed_again_meanwhile() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Unsafe, &["sid=a2; Path=/"]);
    let merged = world.respond(sent.as_ref(), Rank::Auth, &["sid=; Max-Age=0; Path=/"]);
    assert_eq!((merged.effect, world.jar().as_str()), (Effect::Ended, "-"));
}

#[test]
fn c2_cookies_of_different_keys_never_conflict() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Auth, &["x=1; Path=/"]);
    world.respond(sent.as_ref(), Rank::Safe, &["y=1; Path=/", "x=1; Path=/sub"]);
    assert_eq!(world.jar(), "sid=a; x=1; y=1");
    assert_eq!(world.now.unwrap().record.jar().len(), 4);
}

#[test]
fn c2_of_a_response_that_spoke_for_another_session_nothing_is_kept() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Auth, &["sid=b; Path=/"]);
    let merged = world.respond(sent.as_ref(), Rank::Unsafe, &["cart=9; Path=/", "sid=c; Path=/"]);
    assert_eq!(world.jar(), "sid=b");
    assert_eq!(reasons(&merged), [Drop::OtherSession, Drop::OtherSession]);
}

#[test]
fn c3_the_last_session_cookie_takes_the_record_with_it() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/", "csrf=x; Path=/"]);
    let sent = world.sent();
    let merged = world.respond(
        sent.as_ref(),
        Rank::Auth,
        &["sid=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/"],
    );
    assert_eq!((merged.effect, merged.action), (Effect::Ended, Action::Remove));
}

#[test]
fn c3_one_of_several_session_cookies_does_not() {
    let mut world = World::with(
        &["sid", "remember"],
        Rank::Safe,
        &["sid=a; Path=/", "remember=x; Path=/"],
    );
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Auth, &["sid=; Max-Age=0; Path=/"]);
    assert_eq!(world.jar(), "remember=x");
}

#[test]
fn c3_only_a_log_in_outlives_the_removal() {
    for (rank, line, jar) in [
        (Rank::Safe, "sid=b; Path=/", "-"),
        (Rank::Unsafe, "sid=b; Path=/", "-"),
        (Rank::Auth, "sid=b; Path=/", "sid=b"),
        (Rank::Auth, "sid=a; Path=/", "-"),
        (Rank::Auth, "other=b; Path=/", "-"),
        (Rank::Auth, "sid=; Max-Age=0; Path=/", "-"),
    ] {
        let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
        let sent = world.sent();
        world.respond(sent.as_ref(), Rank::Auth, &["sid=; Max-Age=0; Path=/"]);
        let merged = world.respond(sent.as_ref(), rank, &[line]);
        assert_eq!(world.jar(), jar, "{rank:?} {line}");
        assert_eq!(merged.dropped.is_empty(), jar != "-", "{rank:?} {line}");
    }
}

#[test]
fn c3_a_record_that_was_begun_anew_is_not_touched_by_responses_from_before() {
    for (rank, line, jar) in [
        (Rank::Safe, "sid=b; Path=/", "sid=new"),
        (Rank::Unsafe, "sid=b; Path=/", "sid=new"),
        (Rank::Unsafe, "other=b; Path=/", "sid=new"),
        (Rank::Auth, "sid=; Max-Age=0; Path=/", "sid=new"),
        (Rank::Auth, "sid=b; Path=/", "sid=b"),
    ] {
        let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
        let sent = world.sent();
        world.respond(sent.as_ref(), Rank::Auth, &["sid=; Max-Age=0; Path=/"]);
        world.respond(None, Rank::Safe, &["sid=new; Path=/"]);
        world.respond(sent.as_ref(), rank, &[line]);
        assert_eq!(world.jar(), jar, "{rank:?} {line}");
    }
}

#[test]
fn c3_two_log_ins_from_before_the_removal_do_not_overwrite_each_other() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Auth, &["sid=; Max-Age=0; Path=/"]);
    world.respond(sent.as_ref(), Rank::Auth, &["sid=first; Path=/"]);
    world.respond(sent.as_ref(), Rank::Auth, &["sid=second; Path=/"]);
    assert_eq!(world.jar(), "sid=first");
}

#[test]
fn the_last_line_of_a_response_about_a_cookie_is_what_it_says() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let sent = world.sent();
    let merged = world.respond(sent.as_ref(), Rank::Safe, &["sid=; Max-Age=0; Path=/", "sid=b; Path=/"]);
    assert_eq!((merged.effect, world.jar().as_str()), (Effect::Replaced, "sid=b"));
}

#[test]
fn deleting_what_was_never_set_changes_nothing() {
    let mut world = World::new(&[]);
    assert_eq!(
        world.respond(None, Rank::Safe, &["sid=; Max-Age=0; Path=/"]).action,
        Action::Keep
    );
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let sent = world.sent();
    assert_eq!(
        world
            .respond(sent.as_ref(), Rank::Auth, &["messages=; Max-Age=0; Path=/"])
            .action,
        Action::Keep
    );
}

#[test]
fn a_cookie_that_came_and_went_while_a_request_was_under_way_counts_as_gone() {
    let mut world = World::with(&["sid"], Rank::Safe, &["sid=a; Path=/"]);
    let sent = world.sent();
    world.respond(sent.as_ref(), Rank::Auth, &["auth=1; Path=/"]);
    let logged_in = world.sent();
    world.respond(logged_in.as_ref(), Rank::Auth, &["auth=; Max-Age=0; Path=/"]);
    world.respond(sent.as_ref(), Rank::Unsafe, &["auth=stale; Path=/"]);
    assert_eq!(world.jar(), "sid=a");
}

#[test]
fn a_cookie_that_was_changed_back_counts_as_unchanged() {
    let mut world = World::with(&["sid"], Rank::Unsafe, &["sid=a; Path=/"]);
    let sent = world.sent();
    for value in ["sid=b; Path=/", "sid=a; Path=/"] {
        let before = world.sent();
        world.respond(before.as_ref(), Rank::Auth, &[value]);
    }
    world.respond(sent.as_ref(), Rank::Unsafe, &["sid=c; Path=/"]);
    assert_eq!(world.jar(), "sid=c");
}

#[test]
fn c3_a_log_in_brings_back_only_what_it_says_anew() {
    let sent = World::with(&["sid"], Rank::Unsafe, &["sid=a; Path=/", "csrf=x; Path=/"]).sent();
    let mut world = World::new(&["sid"]);
    let merged = world.respond(sent.as_ref(), Rank::Auth, &["sid=b; Path=/", "csrf=x; Path=/"]);
    assert_eq!(world.jar(), "sid=b");
    assert_eq!(reasons(&merged), [Drop::Stale]);

    let mut world = World::new(&["sid"]);
    let merged = world.respond(sent.as_ref(), Rank::Auth, &["sid=a; Path=/", "csrf=y; Path=/"]);
    assert_eq!(world.jar(), "-", "it repeats the session that was removed");
    assert_eq!(reasons(&merged), [Drop::Removed, Drop::Removed]);
}

/// The next write rids the record of both, whoever writes: that must decide nothing.
#[test]
fn c1_neither_a_cookie_that_has_run_out_nor_a_change_long_ago_counts_whether_it_is_forgotten_yet_or_not() {
    let mut run_out = World::with(&["sid"], Rank::Safe, &["basket=1", "csrf=x; Max-Age=60"]);
    let mut long_ago = World::with(&["sid"], Rank::Safe, &["basket=1", "csrf=x"]);
    long_ago.respond(long_ago.sent().as_ref(), Rank::Safe, &["csrf=; Max-Age=0"]);
    for (world, later) in [
        (&mut run_out, Duration::from_secs(61)),
        (&mut long_ago, IN_FLIGHT_HORIZON),
    ] {
        let at = Timestamp::from_millis(AT.as_millis() + u64::try_from(later.as_millis()).unwrap());
        let origin = Origin::new("shop.example", "/");
        let late = Said {
            rank: Rank::Safe,
            cookies: ["csrf=a", "sid=b"]
                .map(|line| parse_set_cookie(line.as_bytes(), &origin, at).unwrap())
                .into(),
            at,
        };
        for again in [false, true] {
            let next = Version {
                seq: world.now.as_ref().unwrap().version.seq + 1,
                nonce: 7,
            };
            // Its request was sent before there was a record; the second time it is decided over itself.
            let merged = merge(None, world.now.as_ref(), &late, &world.policy, next);
            assert_eq!(merged.dropped, [], "after {later:?}, again: {again}");
            if let Action::Write(record) = merged.action {
                let now = world.now.as_mut().unwrap();
                (now.record, now.version) = (*record, next);
            }
            assert_eq!(world.jar(), "basket=1; csrf=a; sid=b");
        }
    }
}

#[test]
fn what_has_run_out_is_not_stored_again() {
    let world = World::with(
        &["sid"],
        Rank::Unsafe,
        &["sid=a; Path=/", "flash=x; Path=/; Max-Age=10"],
    );
    let sent = world.sent();
    let mut late = said(Rank::Unsafe, &["cart=1; Path=/"]);
    late.at = AT.saturating_add(std::time::Duration::from_secs(10));
    let next = Version { seq: 2, nonce: 2 };
    let merged = merge(sent.as_ref(), world.now.as_ref(), &late, &world.policy, next);
    let Action::Write(record) = merged.action else {
        panic!("nothing was written")
    };
    let names: Vec<_> = record.jar().iter().map(Cookie::name).collect();
    assert_eq!(names, [b"sid".as_slice(), b"cart"]);
}

fn any_rank() -> impl Strategy<Value = Rank> {
    prop_oneof![Just(Rank::Safe), Just(Rank::Unsafe), Just(Rank::Auth)]
}

/// A `Set-Cookie` line about one of three cookies: a value of four, or a deletion.
fn any_line() -> impl Strategy<Value = String> {
    (prop_oneof![Just("sid"), Just("cart"), Just("csrf")], 0..5_u8).prop_map(|(name, value)| {
        if value == 0 {
            format!("{name}=; Max-Age=0; Path=/")
        } else {
            format!("{name}={value}; Path=/")
        }
    })
}

fn any_response() -> impl Strategy<Value = (usize, Rank, Vec<String>)> {
    (0..8_usize, any_rank(), prop::collection::vec(any_line(), 0..4))
}

proptest! {
    /// Whatever the order of requests and responses, each of these holds after every step.
    #[test]
    fn invariants_hold_over_any_schedule(steps in prop::collection::vec(any_response(), 1..24)) {
        let mut world = World::new(&["sid"]);
        let mut seen: Vec<Option<Snapshot>> = vec![None];
        for (back, rank, lines) in steps {
            let sent = seen[seen.len().saturating_sub(back + 1)].clone();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let before = world.clone();
            let merged = world.respond(sent.as_ref(), rank, &lines);

            // Doing it twice is doing it once: a commit whose answer was lost may be tried again.
            let mut again = world.clone();
            again.respond(sent.as_ref(), rank, &lines);
            if world.now.is_some() || before.now.is_none() {
                prop_assert_eq!(world.jar(), again.jar());
            }
            // C1: what a higher rank, or the same, has set since the request was sent is not overwritten.
            for cookie in &said(rank, &lines).cookies {
                let Some(was) = &before.now else { continue };
                let since = was.changed_since(&cookie.key(), sent.as_ref(), AT);
                let unchanged_value = sent.as_ref().is_some_and(|sent| {
                    sent.record.jar().get(&cookie.key()).map(Cookie::value) == was.record.jar().get(&cookie.key()).map(Cookie::value)
                        && was.record.jar().get(&cookie.key()).is_some()
                });
                if since.is_some_and(|since| since >= rank) && !unchanged_value && merged.action != Action::Remove {
                    let after = world.now.as_ref().and_then(|now| now.record.jar().get(&cookie.key()));
                    prop_assert_eq!(
                        after.map(Cookie::value),
                        was.record.jar().get(&cookie.key()).map(Cookie::value)
                    );
                }
            }
            // A record that goes, goes by a deletion of its session cookie.
            if before.now.is_some() && world.now.is_none() {
                prop_assert!(lines.iter().any(|line| line.starts_with("sid=; Max-Age=0")));
            }
            // Nothing says nothing.
            if lines.is_empty() {
                prop_assert_eq!(merged.action, Action::Keep);
            }
            seen.push(world.sent());
        }
    }

    /// Any number of records passes through the store unchanged.
    #[test]
    fn a_record_survives_its_encoding(steps in prop::collection::vec(any_response(), 1..12)) {
        let mut world = World::new(&[]);
        for (_, rank, lines) in steps {
            let sent = world.sent();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            world.respond(sent.as_ref(), rank, &lines);
            if let Some(now) = &world.now {
                let encoded = now.record.encode().unwrap();
                prop_assert_eq!(&Record::decode(&encoded).unwrap(), &now.record);
            }
        }
    }

    #[test]
    fn reading_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let payload = crate::session::store::Payload(bytes.into());
        let _ = Record::decode(&payload);
    }
}
