//! A store that lost acknowledged writes: the record went back in time, and may have gone on another way.

use std::time::Duration;

use super::*;

const LOG_OUT: &str = "sid=; Max-Age=0; Path=/";

/// The state after a response at second `second`, to a request that was sent with `sent`.
fn after(
    sent: Option<&Snapshot>,
    now: Option<&Snapshot>,
    rank: Rank,
    lines: &[&str],
    second: u64,
) -> (Option<Snapshot>, Merged) {
    let seen = sent.zip(now).map_or(0, |(sent, now)| sent.base().max(now.version.seq));
    let version = Version {
        seq: seen.max(now.map_or(0, |now| now.version.seq)) + 1,
        nonce: u32::try_from(second).unwrap(),
    };
    let mut said = said(rank, lines);
    said.at = AT.saturating_add(Duration::from_secs(second));
    let merged = merge(sent, now, &said, &policy(&["sid"]), version);
    let next = match &merged.action {
        Action::Keep => now.cloned(),
        Action::Remove => None,
        Action::Write(record) => Some(Snapshot {
            version,
            expires_at: Timestamp::MAX,
            record: Record::decode(&record.encode().unwrap()).unwrap(),
            lineage: None,
        }),
    };
    (next, merged)
}

/// One response after the other, each to a request that was sent with what is there.
fn line(from: Option<&Snapshot>, second: u64, steps: &[(Rank, &str)]) -> Vec<Snapshot> {
    let mut states: Vec<Snapshot> = Vec::new();
    for (index, (rank, says)) in steps.iter().enumerate() {
        let now = states.last().or(from);
        let lines: Vec<&str> = says.split(" & ").collect();
        let next = after(now, now, *rank, &lines, second + index as u64).0;
        states.push(next.unwrap());
    }
    states
}

fn jar(now: Option<&Snapshot>) -> String {
    let header = now.and_then(|now| now.record.jar().header(&Origin::new("shop.example", "/"), AT));
    String::from_utf8(header.unwrap_or_else(|| b"-".to_vec())).unwrap()
}

fn three_versions() -> Vec<Snapshot> {
    line(
        None,
        1,
        &[
            (Rank::Safe, "sid=a; Path=/ & c=1; Path=/"),
            (Rank::Safe, "c=2; Path=/"),
            (Rank::Auth, "sid=login; Path=/"),
        ],
    )
}

#[test]
fn of_an_older_state_whatever_a_response_says_makes_what_it_would_have_made() {
    let versions = three_versions();
    let sent = &versions[2];
    assert_eq!(jar(Some(sent)), "sid=login; c=2");
    for now in &versions[..2] {
        for (rank, says, expected) in [
            (Rank::Safe, "sid=login; Path=/", "sid=login; c=2"),
            (Rank::Safe, "c=2; Path=/", "sid=login; c=2"),
            (Rank::Safe, "c=3; Path=/", "sid=login; c=3"),
            (Rank::Safe, "c=; Max-Age=0; Path=/", "sid=login"),
            (Rank::Safe, "x=1; Path=/", "sid=login; c=2; x=1"),
            (Rank::Safe, "sid=rotated; Path=/", "sid=rotated; c=2"),
            (Rank::Auth, LOG_OUT, "-"),
        ] {
            let (next, merged) = after(Some(sent), Some(now), rank, &[says], 9);
            assert_eq!(jar(next.as_ref()), expected, "{says}");
            assert!(merged.dropped.is_empty(), "{says}: {:?}", merged.dropped);
            assert!(next.is_none_or(|next| next.version.seq > sent.version.seq));
        }
        let (next, merged) = after(Some(sent), Some(now), Rank::Safe, &[], 9);
        assert_eq!((next.as_ref(), merged.action), (Some(now), Action::Keep));
    }
}

#[test]
fn c1_changes_since_the_loss_count_whatever_number_they_have() {
    let versions = three_versions();
    let sent = &versions[2];
    for (lost_from, others) in [(1, 0), (1, 1), (1, 3), (2, 0), (2, 2)] {
        for (fork, says, expected, dropped) in [
            (
                (Rank::Auth, "sid=new; Path=/"),
                (Rank::Unsafe, "sid=late; Path=/"),
                "sid=new",
                true,
            ),
            (
                (Rank::Auth, "sid=new; Path=/"),
                (Rank::Safe, "sid=login; Path=/"),
                "sid=new",
                true,
            ),
            (
                (Rank::Safe, "sid=new; Path=/"),
                (Rank::Auth, "sid=late; Path=/"),
                "sid=late",
                false,
            ),
            (
                (Rank::Safe, "sid=new; Path=/"),
                (Rank::Safe, "sid=late; Path=/"),
                "sid=new",
                true,
            ),
            (
                (Rank::Unsafe, "y=1; Path=/"),
                (Rank::Safe, "sid=login; Path=/"),
                "sid=login",
                false,
            ),
            (
                (Rank::Unsafe, "y=1; Path=/"),
                (Rank::Safe, "sid=late; Path=/"),
                "sid=late",
                false,
            ),
        ] {
            let mut steps = vec![fork];
            steps.extend(vec![
                (Rank::Safe, "z=1; Path=/"),
                (Rank::Safe, "z=2; Path=/"),
                (Rank::Safe, "z=3; Path=/"),
            ]);
            let forked = line(Some(&versions[lost_from - 1]), 20, &steps[..=others]);
            let (next, merged) = after(Some(sent), forked.last(), says.0, &[says.1], 40);
            let jar = jar(next.as_ref());
            assert!(jar.starts_with(expected), "{fork:?} {says:?} {others}: {jar}");
            assert_eq!(!merged.dropped.is_empty(), dropped, "{fork:?} {says:?} {others}");
            assert_eq!(
                jar.contains("y=1"),
                fork.1.starts_with('y'),
                "{fork:?} {says:?} {others}: {jar}"
            );
        }
    }
}

#[test]
fn c3_a_record_that_was_lost_is_not_to_be_told_from_one_that_was_removed() {
    let versions = three_versions();
    for (rank, says, expected) in [
        (Rank::Unsafe, "sid=late; Path=/", "-"),
        (Rank::Auth, "sid=login; Path=/", "-"),
        (Rank::Auth, "sid=again; Path=/", "sid=again"),
    ] {
        let next = after(Some(&versions[2]), None, rank, &[says], 9).0;
        assert_eq!(jar(next.as_ref()), expected);
        // Begun anew since.
        let anew = line(None, 20, &[(Rank::Safe, "sid=new; Path=/")]);
        let next = after(Some(&versions[2]), anew.last(), rank, &[says], 30).0;
        assert_eq!(jar(next.as_ref()), if expected == "-" { "sid=new" } else { expected });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Without a change since, it is as if nothing had been lost.
    #[test]
    fn a_loss_is_healed_by_any_response_that_changes_anything(
        steps in prop::collection::vec((any_rank(), any_line()), 2..8),
        back in 1..8_usize,
        (_, rank, says) in any_response(),
    ) {
        let mut states = line(None, 1, &[(Rank::Safe, "sid=0; Path=/")]);
        for (index, (rank, says)) in steps.iter().enumerate() {
            let now = states.last();
            let next = after(now, now, *rank, &[says], 10 + index as u64).0;
            let Some(next) = next else { break };
            if Some(&next) != now {
                states.push(next);
            }
        }
        let sent = states.last().unwrap();
        let lost = &states[states.len().saturating_sub(1 + back)];
        let lines: Vec<&str> = says.iter().map(String::as_str).collect();
        let (healed, merged) = after(Some(sent), Some(lost), rank, &lines, 100);
        let unharmed = after(Some(sent), Some(sent), rank, &lines, 100).0;
        if !lines.is_empty() {
            prop_assert_eq!(jar(healed.as_ref()), jar(unharmed.as_ref()));
        }
        prop_assert!(merged.dropped.is_empty());
    }

    /// A log-in since the loss yields to nothing that weighs less.
    #[test]
    fn c1_a_log_in_since_the_loss_stays(
        steps in prop::collection::vec((any_rank(), any_line()), 1..8),
        back in 0..8_usize,
        late in prop_oneof![Just(Rank::Safe), Just(Rank::Unsafe)],
        says in any_line(),
    ) {
        let mut states = line(None, 1, &[(Rank::Safe, "sid=0; Path=/")]);
        for (index, (rank, says)) in steps.iter().enumerate() {
            let now = states.last();
            match after(now, now, *rank, &[says], 10 + index as u64).0 {
                Some(next) => states.push(next),
                None => break,
            }
        }
        let sent = states.last().unwrap();
        let kept = &states[states.len().saturating_sub(1 + back)];
        let forked = line(Some(kept), 50, &[(Rank::Auth, "sid=fork; Path=/")]);
        let next = after(Some(sent), forked.last(), late, &[&says], 100).0;
        prop_assert!(jar(next.as_ref()).contains("sid=fork"));
    }
}

#[test]
fn who_knew_the_beginning_of_a_record_does_not_lose_a_conflict_to_it() {
    let versions = line(
        None,
        1,
        &[
            (Rank::Auth, "sid=a; Path=/ & remember=me; Path=/"),
            (Rank::Safe, "remember=; Max-Age=0; Path=/"),
        ],
    );
    let says = ["remember=new; Path=/"];
    let (now, _) = after(Some(&versions[0]), Some(&versions[1]), Rank::Unsafe, &says, 3);
    assert_eq!(jar(now.as_ref()), "sid=a; remember=new");
    // To who did not, it was a log-in.
    let (now, _) = after(None, Some(&versions[1]), Rank::Unsafe, &says, 3);
    assert_eq!(jar(now.as_ref()), "sid=a");
}
