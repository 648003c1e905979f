//! A log-out is not undone by a write whose fate was unknown (rule C3).

use super::*;

const LOG_OUT: &[&str] = &["sid=; Max-Age=0; Path=/"];

/// The next change takes effect or not, its answer is lost, and the store with it.
fn break_at_next_change(link: &Flaky, takes_effect: bool) {
    let counter = if takes_effect { &link.deaf } else { &link.mute };
    counter.store(1, Ordering::SeqCst);
    link.breaks.store(true, Ordering::SeqCst);
}

async fn back(link: &Flaky, replica: &Replica) {
    link.set_down(false);
    tokio::time::sleep(ms(4000)).await;
    assert_eq!(replica.pending.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn c3_a_session_that_was_stored_unknowingly_and_ended_elsewhere_is_not_stored_again() {
    for waits in [ms(100), ms(10_000), Duration::from_secs(900)] {
        for log_in_later in [false, true] {
            let world = World::new();
            let (link, here) = world.linked();
            let there = world.replica();
            let leader = here.post().await;
            break_at_next_change(&link, true);
            let committed = here.respond(&leader, Rank::Auth, &["sid=a; Path=/"], None).await;
            assert!(committed.waits);
            end(leader.lead, &here.sessions, committed).await;
            let theirs = there.get().await;
            assert_eq!(jar(theirs.snapshot.as_deref()), "sid=a");
            there.respond(&theirs, Rank::Auth, LOG_OUT, None).await;
            assert!(world.store.load(&KEY).await.unwrap().is_none());
            if log_in_later {
                tokio::time::sleep(ms(3000)).await;
                there.whole(true, ms(1), &["sid=new; Path=/"]).await;
            }
            tokio::time::sleep(waits).await;
            back(&link, &here).await;
            let stored = world.store.load(&KEY).await.unwrap();
            let stored = stored.map(|stored| Snapshot::read(&stored).unwrap());
            let expected = if log_in_later { "sid=new" } else { "" };
            assert_eq!(jar(stored.as_deref()), expected, "a log-out was undone after {waits:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c3_a_later_log_out_hides_none_before_it() {
    let world = World::new();
    let (link, here) = world.linked();
    let there = world.replica();
    let leader = here.post().await;
    break_at_next_change(&link, true);
    let committed = here.respond(&leader, Rank::Auth, &["sid=a; Path=/"], None).await;
    end(leader.lead, &here.sessions, committed).await;
    let theirs = there.get().await;
    there.respond(&theirs, Rank::Auth, LOG_OUT, None).await;
    tokio::time::sleep(ms(3000)).await;
    there.whole(true, ms(1), &["sid=new; Path=/"]).await;
    let theirs = there.get().await;
    there.respond(&theirs, Rank::Auth, LOG_OUT, None).await;
    back(&link, &here).await;
    assert!(world.store.load(&KEY).await.unwrap().is_none(), "a log-out was undone");
}

#[tokio::test(start_paused = true)]
async fn c3_a_log_in_that_was_stored_unknowingly_and_ended_elsewhere_is_not_stored_again() {
    let world = World::new();
    let (link, here) = world.linked();
    let there = world.replica();
    there.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ours = here.get().await;
    break_at_next_change(&link, true);
    here.respond(&ours, Rank::Auth, &["sid=login; Path=/"], None).await;
    let theirs = there.get().await;
    assert_eq!(jar(theirs.snapshot.as_deref()), "sid=login");
    there.respond(&theirs, Rank::Auth, LOG_OUT, None).await;
    back(&link, &here).await;
    assert!(world.store.load(&KEY).await.unwrap().is_none(), "a log-out was undone");
}

#[tokio::test(start_paused = true)]
async fn f3_what_was_lost_on_the_way_is_stored_later_also_after_an_earlier_log_out() {
    for logged_out_before in [false, true] {
        let world = World::new();
        let (link, here) = world.linked();
        let there = world.replica();
        if logged_out_before {
            there.whole(false, ms(1), &["sid=old; Path=/"]).await;
            let theirs = there.get().await;
            there.respond(&theirs, Rank::Auth, LOG_OUT, None).await;
            tokio::time::sleep(ms(10)).await;
        }
        let leader = here.post().await;
        break_at_next_change(&link, false);
        let committed = here.respond(&leader, Rank::Auth, &["sid=a; Path=/"], None).await;
        end(leader.lead, &here.sessions, committed).await;
        tokio::time::sleep(ms(10_000)).await;
        back(&link, &here).await;
        assert_eq!(
            jar(there.get().await.snapshot.as_deref()),
            "sid=a",
            "{logged_out_before}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn c3_only_the_end_of_a_young_session_is_remembered() {
    let world = World::new();
    let here = world.replica();
    for (age, remembered) in [(ms(1000), true), (Duration::from_secs(3000), false)] {
        here.whole(false, ms(1), &["sid=a; Path=/"]).await;
        let mut left = age;
        while left > IDLE / 2 {
            left -= IDLE / 2;
            tokio::time::sleep(IDLE / 2).await;
            let snapshot = here.get().await.snapshot.unwrap();
            here.touch.used(&KEY, &snapshot, here.sessions.now());
        }
        tokio::time::sleep(left).await;
        let ready = here.get().await;
        let committed = here.respond(&ready, Rank::Auth, LOG_OUT, None).await;
        assert_eq!(committed.effect, Effect::Ended);
        assert_eq!(
            here.sessions.removal(&KEY).await.unwrap().is_some(),
            remembered,
            "{age:?}"
        );
        tokio::time::sleep(Duration::from_secs(3000)).await;
        assert!(
            here.sessions.removal(&KEY).await.unwrap().is_none(),
            "it is remembered for ever"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn f3_a_change_that_may_be_stored_is_not_superseded() {
    let world = World::new();
    let (link, here) = world.linked();
    here.whole(false, ms(1), &["sid=a; Path=/", "cart=0; Path=/"]).await;
    let ready = here.get().await;
    break_at_next_change(&link, true);
    here.respond(&ready, Rank::Unsafe, &["cart=; Max-Age=0; Path=/"], None)
        .await;
    let next = here.get().await;
    assert_eq!(jar(next.snapshot.as_deref()), "sid=a");
    here.respond(&next, Rank::Unsafe, &["cart=2; Path=/"], None).await;
    assert_eq!(here.pending.len(), 2);
    back(&link, &here).await;
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=a; cart=2");
}

#[tokio::test(start_paused = true)]
async fn c3_what_was_sent_with_no_session_brings_none_back_after_a_log_out_elsewhere() {
    let outcomes = [
        (Rank::Unsafe, false, "", ""),
        (Rank::Auth, false, "sid=late", "sid=late"),
        // It waits for the store meanwhile.
        (Rank::Unsafe, true, "sid=late", ""),
    ];
    for (rank, waits, at_first, in_the_end) in outcomes {
        let world = World::new();
        let (link, here) = world.linked();
        let there = world.replica();
        // As one that a leader without a session has freed (S2).
        let freed = Ready {
            snapshot: None,
            lead: None,
            place: None,
            waited: true,
            at: here.sessions.now(),
        };
        tokio::time::sleep(ms(10)).await;
        there.whole(false, ms(0), &["sid=a; Path=/"]).await;
        let log_out = there.get().await;
        there
            .respond(&log_out, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
            .await;
        tokio::time::sleep(ms(10)).await;
        link.set_down(waits);
        let committed = here.respond(&freed, rank, &["sid=late; Path=/"], None).await;
        assert_eq!(jar(committed.snapshot.as_deref()), at_first, "{rank:?} {waits}");
        link.set_down(false);
        tokio::time::sleep(ms(3000)).await;
        assert_eq!(
            jar(there.get().await.snapshot.as_deref()),
            in_the_end,
            "{rank:?} {waits}"
        );
        // One that is sent after the log-out is another matter.
        if in_the_end.is_empty() {
            let later = Ready {
                at: here.sessions.now(),
                ..freed
            };
            here.respond(&later, Rank::Safe, &["sid=new; Path=/"], None).await;
            assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=new");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f3_a_change_whose_carrier_is_cut_off_in_the_middle_of_a_write_is_not_made_twice() {
    let world = World::new();
    let (link, here) = world.linked();
    let there = world.replica();
    let first = here.get().await;
    link.set_down(true);
    let committed = here
        .respond(&first, Rank::Auth, &["c=1; Path=/", "sid=a; Path=/"], None)
        .await;
    end(first.lead, &here.sessions, committed).await;
    link.set_down(false);
    link.late_answers.store(true, Ordering::SeqCst);
    // The answer to the lease comes after half a second; whoever carries it is gone before that to the write does, and by
    // then its session is ended elsewhere.
    let carrier = tokio::spawn({
        let here = Arc::clone(&here);
        async move { tokio::time::timeout(ms(600), here.pending.settle(&KEY)).await.is_err() }
    });
    tokio::time::sleep(ms(550)).await;
    let log_out = there.get().await;
    assert_eq!(jar(log_out.snapshot.as_deref()), "c=1; sid=a");
    there
        .respond(&log_out, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    assert!(carrier.await.unwrap(), "it was not cut off");
    link.late_answers.store(false, Ordering::SeqCst);
    tokio::time::sleep(ms(3000)).await;
    assert_eq!(here.pending.len(), 0);
    assert!(there.sessions.load(&KEY).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn c3_a_leader_beside_those_that_one_before_had_freed_brings_no_session_back_either() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(0), &[]).await;
    let freed = Ready {
        snapshot: None,
        lead: None,
        place: None,
        waited: true,
        at: there.sessions.now(),
    };
    let leader = here.post().await;
    assert!(leader.lead.is_some());
    tokio::time::sleep(ms(10)).await;
    let started = there.respond(&freed, Rank::Safe, &["sid=a; Path=/"], None).await;
    let log_out = Ready {
        snapshot: started.snapshot,
        at: there.sessions.now(),
        ..freed
    };
    there
        .respond(&log_out, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    here.respond(&leader, Rank::Unsafe, &["sid=late; Path=/"], None).await;
    assert!(there.sessions.load(&KEY).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn c3_a_second_log_out_of_the_same_session_ends_none_that_was_begun_between_them() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(0), &["sid=a; Path=/"]).await;
    let (first, second) = (there.get().await, there.get().await);
    let log_out = ["sid=; Max-Age=0; Path=/"];
    there.respond(&first, Rank::Auth, &log_out, None).await;
    tokio::time::sleep(ms(10)).await;
    let next = Ready {
        snapshot: None,
        lead: None,
        place: None,
        waited: true,
        at: here.sessions.now(),
    };
    tokio::time::sleep(ms(10)).await;
    there.respond(&second, Rank::Auth, &log_out, None).await;
    here.respond(&next, Rank::Unsafe, &["sid=b; Path=/"], None).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=b");
}

#[tokio::test(start_paused = true)]
async fn c3_a_leader_whose_lease_is_held_again_brings_no_session_back_that_was_ended_meanwhile() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    let token = leader.lead.as_ref().map(Lead::token).unwrap();
    tokio::time::sleep(ms(10)).await;
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    there.whole(false, ms(1), &["sid=b; Path=/"]).await;
    let knows = there.get().await;
    there
        .respond(&knows, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    tokio::time::sleep(ms(1000)).await;
    assert!(leader.lead.as_ref().is_some_and(Lead::is_held));
    here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    assert!(world.store.inner.load(&KEY).await.unwrap().is_none(), "it is back");
}

#[tokio::test(start_paused = true)]
async fn c3_a_store_without_room_for_the_note_does_not_keep_a_session_that_was_ended() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let knows = here.get().await;
    world.store.full.store(true, Ordering::SeqCst);
    here.respond(&knows, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    tokio::time::sleep(ms(9000)).await;
    assert_eq!(here.pending.len(), 1, "it waits for the note");
    tokio::time::sleep(ms(3000)).await;
    assert_eq!(here.pending.len(), 0);
    assert!(world.store.inner.load(&KEY).await.unwrap().is_none(), "it lives on");
}
