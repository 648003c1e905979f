//! What waits for the store: its bounds, its end, and what is sent with it.

use super::*;
use crate::bridge::pending::{MAX_AGE, MAX_BYTES};

const MINUTE: Duration = Duration::from_secs(60);

fn value(replica: &Replica, series: &str) -> u64 {
    let text = replica.metrics.encode();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

fn abandoned(replica: &Replica, reason: &str) -> u64 {
    let series = format!("session_bridge_commits_abandoned_total{{reason=\"{reason}\"}}");
    value(replica, &series)
}

#[tokio::test(start_paused = true)]
async fn f3_the_memory_of_what_waits_is_bounded() {
    let world = World::new();
    let here = world.replica();
    world.set_down(true);
    let mut key = [0; 16];
    let mut refused = 0;
    for n in 0..300_u16 {
        key[..2].copy_from_slice(&n.to_be_bytes());
        let key = Key::from_digest(key);
        let mut sent = None;
        for name in ["a", "b", "c"] {
            // A jar that grows to some 190 kB.
            let at = here.sessions.now();
            let lines: Vec<_> = (0..16)
                .map(|n| format!("{name}{n}={}; Path=/", "x".repeat(4000)))
                .collect();
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let said = Said {
                rank: Rank::Unsafe,
                cookies: cookies(&lines, at),
                at,
            };
            let committed = here
                .commit
                .commit(&key, Change::new(sent, here.sessions.now(), said, None), None)
                .await;
            refused += usize::from(!committed.waits);
            sent = committed.snapshot;
        }
    }
    assert!(here.pending.bytes() <= MAX_BYTES);
    assert!(here.pending.bytes() > MAX_BYTES * 9 / 10, "{}", here.pending.bytes());
    assert!(refused > 300, "{refused}");
    assert_eq!(abandoned(&here, "full"), refused as u64);
    world.set_down(false);
    here.pending.drain(Duration::from_secs(10)).await;
    assert_eq!((here.pending.len(), here.pending.bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn f3_what_is_given_up_is_not_told_as_done() {
    let world = World::new();
    let here = world.replica();
    let leader = here.post().await;
    world.set_down(true);
    let at = here.sessions.now();
    for n in 0..10_000_u16 {
        let mut key = [9; 16];
        key[..2].copy_from_slice(&n.to_be_bytes());
        let said = Said {
            rank: Rank::Safe,
            cookies: cookies(&["cart=1; Path=/"], at),
            at,
        };
        here.pending.push(
            &Key::from_digest(key),
            Change::new(None, here.sessions.now(), said, None),
            None,
        );
    }
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    assert_eq!((committed.effect, committed.waits), (Effect::None, false));
    assert!(committed.snapshot.is_none());
    assert_eq!(value(&here, "session_bridge_sessions_created_total"), 0);
    assert_eq!(abandoned(&here, "full"), 1);
}

#[tokio::test(start_paused = true)]
async fn f3_a_change_waits_for_half_an_hour_and_no_longer_however_its_session_is_used() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    world.set_down(true);
    here.respond(&ready, Rank::Auth, &["sid=b; Path=/"], None).await;
    let began = Instant::now();
    let mut last = here.get().await;
    while began.elapsed() + MINUTE < MAX_AGE {
        tokio::time::sleep(MINUTE).await;
        last = here.get().await;
        assert_eq!(&jar(last.snapshot.as_deref())[..5], "sid=b");
        here.respond(&last, Rank::Unsafe, &["cart=1; Path=/"], None).await;
    }
    assert!(here.pending.age() >= MAX_AGE - MINUTE * 2, "{:?}", here.pending.age());
    assert_eq!(abandoned(&here, "too_old"), 0);
    let waiting = here.pending.len() as u64;
    tokio::time::sleep(MINUTE + ms(2000)).await;
    assert_eq!((here.pending.len(), here.pending.bytes()), (0, 0));
    assert_eq!(abandoned(&here, "too_old"), waiting);
    // A response that comes later builds on the same old state.
    let late = here.respond(&last, Rank::Unsafe, &["cart=2; Path=/"], None).await;
    assert!(!late.waits);
    assert!(matches!(
        here.acquire.acquire(&KEY, SAFE).await,
        Err(AcquireError::Store(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn t1_what_is_served_from_here_runs_out_as_a_record_does() {
    for max_age in [None, Some(IDLE * 3 / 2)] {
        let mut world = World::new();
        world.max_age = max_age;
        let here = world.replica();
        here.whole(false, ms(1), &["sid=a; Path=/"]).await;
        let ready = here.get().await;
        world.set_down(true);
        here.respond(&ready, Rank::Unsafe, &["cart=1; Path=/"], None).await;
        // Used, it lives on.
        let unused = match max_age {
            None => IDLE + ms(1),
            Some(_) => {
                tokio::time::sleep(IDLE / 2).await;
                assert!(here.get().await.lead.is_none());
                IDLE * 6 / 10
            }
        };
        tokio::time::sleep(IDLE / 2).await;
        assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=a; cart=1");
        tokio::time::sleep(unused).await;
        assert!(matches!(
            here.acquire.acquire(&KEY, SAFE).await,
            Err(AcquireError::Store(_))
        ));
        assert_eq!(here.pending.len(), 0);
        assert_eq!(abandoned(&here, "expired"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn f3_a_newer_change_supersedes_those_that_it_says_all_of() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let mut ready = here.get().await;
    world.set_down(true);
    for n in 0..50 {
        let cart = format!("cart={n}; Path=/");
        here.respond(&ready, Rank::Unsafe, &[&cart], None).await;
        ready = here.get().await;
        tokio::time::sleep(ms(20)).await;
    }
    // One that was tried and may be stored, and the last one.
    assert_eq!(here.pending.len(), 2);
    assert_eq!(value(&here, "session_bridge_commits_superseded_total"), 48);
    // Of a lower rank, or of other cookies: nothing is superseded.
    here.respond(&ready, Rank::Safe, &["cart=safe; Path=/"], None).await;
    let ready = here.get().await;
    here.respond(&ready, Rank::Unsafe, &["x=1; Path=/"], None).await;
    assert_eq!(here.pending.len(), 4);
    world.set_down(false);
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(here.pending.len(), 0);
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=a; cart=safe; x=1");
}

#[tokio::test(start_paused = true)]
async fn f3_what_starts_a_session_is_superseded_by_nothing_that_builds_on_it() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    world.set_down(true);
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    end(leader.lead, &here.sessions, committed).await;
    for line in ["sid=b; Path=/", "sid=c; Path=/"] {
        let ready = here.get().await;
        here.respond(&ready, Rank::Unsafe, &[line], None).await;
    }
    assert!(here.pending.len() >= 2, "the start, and the last of the rotations");
    world.set_down(false);
    tokio::time::sleep(ms(3000)).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=c");
}

#[tokio::test(start_paused = true)]
async fn f3_at_shutdown_what_waits_is_tried_for_a_time_and_the_rest_is_counted() {
    for (back_after, lost) in [(Some(ms(2500)), 0), (None, 1)] {
        let world = World::new();
        let (here, there) = (world.replica(), world.replica());
        here.whole(false, ms(1), &["sid=a; Path=/"]).await;
        let ready = here.get().await;
        world.set_down(true);
        here.respond(&ready, Rank::Auth, &["sid=b; Path=/"], None).await;
        here.stop.cancel();
        tokio::time::sleep(ms(1000)).await;
        let started = Instant::now();
        let back = async {
            if let Some(after) = back_after {
                tokio::time::sleep(after).await;
                world.set_down(false);
            }
        };
        let (left, ()) = tokio::join!(here.pending.drain(ms(4000)), back);
        assert_eq!((left, abandoned(&here, "shutdown")), (lost, lost as u64));
        assert!(started.elapsed() <= ms(4000), "{:?}", started.elapsed());
        world.set_down(false);
        let stored = if lost == 0 { "sid=b" } else { "sid=a" };
        assert_eq!(jar(there.get().await.snapshot.as_deref()), stored);
    }
}

#[tokio::test(start_paused = true)]
async fn f3_whoever_sees_the_store_answer_again_has_the_changes_stored_at_once() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let other = Key::from_digest([1; 16]);
    let mut slowest = ms(0);
    for n in 0..4_u32 {
        let ready = here.get().await;
        world.set_down(true);
        here.respond(&ready, Rank::Auth, &[&format!("sid={n}; Path=/")], None)
            .await;
        // Whatever is left then of the longest pause between two attempts.
        tokio::time::sleep(ms(5_130) + ms(90) * n).await;
        world.set_down(false);
        let back = Instant::now();
        here.sessions.load(&other).await.unwrap();
        while !here.pending.is_empty() {
            tokio::time::sleep(ms(1)).await;
        }
        slowest = slowest.max(back.elapsed());
    }
    assert!(slowest <= ms(60), "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn c1_a_log_in_elsewhere_is_not_overwritten_by_what_was_sent_with_the_same_number() {
    let world = World::new();
    let (link, here) = world.linked();
    let there = world.replica();
    there.whole(false, ms(1), &["sid=a; Path=/", "cart=0; Path=/"]).await;
    let (ours, theirs) = (here.get().await, there.get().await);
    link.set_down(true);
    here.respond(&ours, Rank::Safe, &["cart=1; Path=/"], None).await;
    let next = here.get().await;
    // Both are the second version.
    let logged_in = there.respond(&theirs, Rank::Auth, &["sid=login; Path=/"], None).await;
    assert_eq!(
        next.snapshot.as_ref().map(|next| next.version.seq),
        logged_in.snapshot.map(|logged_in| logged_in.version.seq)
    );
    here.respond(&next, Rank::Unsafe, &["sid=late; Path=/"], None).await;
    link.set_down(false);
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(here.pending.len(), 0);
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=login; cart=1");
}

#[tokio::test(start_paused = true)]
async fn c1_what_a_replica_knew_of_its_own_changes_is_no_conflict_wherever_they_came_to_lie() {
    for while_it_waits in [true, false] {
        for ours in ["cart=1; Path=/", "cart=; Max-Age=0; Path=/"] {
            let world = World::new();
            let (link, here) = world.linked();
            let there = world.replica();
            there.whole(false, ms(1), &["sid=a; Path=/", "cart=0; Path=/"]).await;
            let ready = here.get().await;
            link.set_down(true);
            here.respond(&ready, Rank::Unsafe, &[ours], None).await;
            let next = here.get().await;
            for line in ["x=1; Path=/", "x=2; Path=/", "x=3; Path=/"] {
                let theirs = there.get().await;
                there.respond(&theirs, Rank::Unsafe, &[line], None).await;
            }
            let say = || here.respond(&next, Rank::Unsafe, &["cart=2; Path=/"], None);
            if while_it_waits {
                let served = say().await;
                assert!(jar(served.snapshot.as_deref()).contains("cart=2"), "{ours}");
            }
            link.set_down(false);
            tokio::time::sleep(ms(1000)).await;
            assert_eq!(here.pending.len(), 0);
            if !while_it_waits {
                say().await;
            }
            let stored = jar(there.get().await.snapshot.as_deref());
            assert!(stored.contains("cart=2"), "{ours} {while_it_waits}: {stored}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c3_what_was_sent_with_a_log_in_that_waited_goes_on_with_the_record_that_it_began() {
    let world = World::new();
    let (link, here) = world.linked();
    let there = world.replica();
    there.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let (ours, theirs) = (here.get().await, there.get().await);
    link.set_down(true);
    here.respond(&ours, Rank::Auth, &["sid=login; Path=/"], None).await;
    let next = here.get().await;
    // By C3, the log-in brings a record back.
    there
        .respond(&theirs, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    here.respond(&next, Rank::Unsafe, &["cart=1; Path=/"], None).await;
    link.set_down(false);
    tokio::time::sleep(ms(1000)).await;
    here.respond(&next, Rank::Unsafe, &["x=1; Path=/"], None).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=login; cart=1; x=1");
}

#[tokio::test(start_paused = true)]
async fn s4_what_is_served_from_here_is_built_on_the_newest_record_that_was_read() {
    let world = World::new();
    let (link, here) = world.linked();
    let there = world.replica();
    there.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let older = here.get().await;
    let log_in = there.get().await;
    there.respond(&log_in, Rank::Auth, &["sid=login; Path=/"], None).await;
    let newer = here.get().await;
    link.set_down(true);
    here.respond(&older, Rank::Unsafe, &["x=1; Path=/"], None).await;
    here.respond(&newer, Rank::Unsafe, &["cart=1; Path=/"], None).await;
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=login; x=1; cart=1");
}

#[tokio::test(start_paused = true)]
async fn f3_a_change_over_a_record_that_cannot_be_read_is_lost_and_counted_at_once_or_later() {
    for later in [false, true] {
        let world = World::new();
        let here = world.replica();
        world.set_down(later);
        let unreadable = NewRecord {
            version: Version { seq: 1, nonce: 1 },
            ttl: IDLE,
            payload: crate::session::store::Payload(bytes::Bytes::from_static(b"\x03to come")),
        };
        world.store.inner.create(&KEY, unreadable, None).await.unwrap();
        let freed = Ready {
            snapshot: None,
            lead: None,
            place: None,
            waited: true,
            at: here.sessions.now(),
        };
        let committed = here.respond(&freed, Rank::Safe, &["sid=a; Path=/"], None).await;
        assert_eq!(committed.waits, later);
        world.set_down(false);
        tokio::time::sleep(ms(1000)).await;
        assert_eq!((here.pending.len(), here.pending.bytes()), (0, 0));
        assert_eq!(abandoned(&here, "unreadable"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn s3_a_lease_that_was_taken_to_store_what_waited_is_given_back() {
    let world = World::new();
    let here = world.replica();
    world.set_down(true);
    let freed = Ready {
        snapshot: None,
        lead: None,
        place: None,
        waited: true,
        at: here.sessions.now(),
    };
    here.respond(&freed, Rank::Safe, &["sid=a; Path=/"], None).await;
    world.set_down(false);
    while !here.pending.is_empty() {
        tokio::time::sleep(ms(1)).await;
    }
    let (stored, lease) = world.store.inner.observe(&KEY).await.unwrap();
    assert!(stored.is_some() && !lease.held, "{lease:?}");
}

#[tokio::test(start_paused = true)]
async fn s1_who_waits_for_a_leader_elsewhere_is_given_the_time_of_each_call_anew() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = there.post().await;
    world.store.delay.store(5, Ordering::SeqCst);
    let waiting = tokio::spawn(async move { here.acquire.acquire(&KEY, UNSAFE).await });
    tokio::time::sleep(ms(5000)).await;
    let committed = there.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    end(leader.lead, &there.sessions, committed).await;
    let ready = waiting.await.unwrap().expect("no outage");
    assert_eq!(jar(ready.snapshot.as_deref()), "sid=a");
}
