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
            here.touch.used(&KEY, &snapshot);
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
