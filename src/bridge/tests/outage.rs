//! The store goes away while requests wait for each other, and leases are answered late.

use super::*;

#[tokio::test(start_paused = true)]
async fn f2_those_who_wait_for_a_leader_are_refused_together_when_the_store_goes_away() {
    let world = World::new();
    let (link, here) = world.linked();
    let there = world.replica();
    let _leader = there.post().await;
    let requests: Vec<_> = (0..100)
        .map(|n| {
            let here = Arc::clone(&here);
            tokio::spawn(async move { here.acquire.acquire(&KEY, asks(n % 2 == 0)).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(ms(500)).await;
    link.hangs.store(true, Ordering::SeqCst);
    link.set_down(true);
    let gone = Instant::now();
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(AcquireError::Store(_))));
    }
    assert!(gone.elapsed() < ms(400), "refused after {:?}", gone.elapsed());
}

#[tokio::test(start_paused = true)]
async fn f2_first_requests_are_refused_together_when_no_lease_can_be_taken() {
    let world = World::new();
    let here = world.replica();
    world.store.leases_down.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let here = Arc::clone(&here);
            tokio::spawn(async move { here.acquire.acquire(&KEY, UNSAFE).await.map(drop) })
        })
        .collect();
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(AcquireError::Store(_))));
    }
    // Who could not tell what became of the first call has asked once more.
    assert!(started.elapsed() <= STORE_TIMEOUT * 2, "{:?}", started.elapsed());
    assert_eq!(world.store.leases.load(Ordering::SeqCst), 2);
    world.store.leases_down.store(false, Ordering::SeqCst);
    assert!(here.post().await.lead.is_some(), "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn f1_who_is_freed_by_a_leader_without_a_session_does_not_take_an_outage_for_none() {
    let world = World::new();
    let here = world.replica();
    let leader = here.post().await;
    let freed = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.acquire.acquire(&KEY, SAFE).await.map(drop) }
    });
    tokio::time::sleep(ms(10)).await;
    let committed = here.respond(&leader, Rank::Unsafe, &[], None).await;
    world.set_down(true);
    end(leader.lead, &here.sessions, committed).await;
    assert!(matches!(freed.await.unwrap(), Err(AcquireError::Store(_))));
}

#[tokio::test(start_paused = true)]
async fn s3_renewals_that_are_answered_late_cost_no_lease() {
    let world = World::new();
    let here = world.replica();
    let leader = here.post().await;
    world.store.late_leases.store(2100, Ordering::SeqCst);
    for _ in 0..200 {
        tokio::time::sleep(ms(50)).await;
        let (_, lease) = world.store.inner.observe(&KEY).await.unwrap();
        assert!(lease.held);
    }
    drop(leader);
}

#[tokio::test(start_paused = true)]
async fn s3_a_lease_that_the_store_forgot_is_held_again_within_half_a_second() {
    let world = World::new();
    let here = world.replica();
    let leader = here.post().await;
    let token = leader.lead.as_ref().map(Lead::token).unwrap();
    tokio::time::sleep(ms(1300)).await;
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    let forgotten = Instant::now();
    while !world.store.inner.observe(&KEY).await.unwrap().1.held {
        tokio::time::sleep(ms(10)).await;
    }
    assert!(forgotten.elapsed() <= ms(510), "{:?}", forgotten.elapsed());
    drop(leader);
}

#[tokio::test(start_paused = true)]
async fn f2_a_store_that_answers_each_call_just_in_time_serves_first_requests() {
    let world = World::new();
    let here = world.replica();
    world.store.delay.store(240, Ordering::SeqCst);
    assert!(here.post().await.lead.is_some());
}

#[tokio::test(start_paused = true)]
async fn f2_all_calls_together_keep_a_refusal_no_longer_than_three_deadlines() {
    let world = World::new();
    let here = world.replica();
    world.store.delay.store(240, Ordering::SeqCst);
    world.store.deaf.store(1, Ordering::SeqCst);
    let started = Instant::now();
    let refused = here.acquire.acquire(&KEY, UNSAFE).await.map(drop);
    assert!(matches!(refused, Err(AcquireError::Store(StoreError::Timeout))));
    assert_eq!(started.elapsed().as_millis(), 750);
    tokio::time::sleep(ms(300)).await;
    assert!(
        !world.store.inner.observe(&KEY).await.unwrap().1.held,
        "its lease is held"
    );
}

#[tokio::test(start_paused = true)]
async fn f2_behind_a_change_that_waits_a_refusal_takes_no_longer_and_the_change_is_not_lost() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(0), &["sid=a; Path=/"]).await;
    let knows = here.get().await;
    world.set_down(true);
    here.respond(&knows, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    world.store.delay.store(240, Ordering::SeqCst);
    world.set_down(false);
    let started = Instant::now();
    assert!(here.acquire.acquire(&KEY, UNSAFE).await.is_err());
    assert!(started.elapsed() <= STORE_TIMEOUT * 3, "{:?}", started.elapsed());
    tokio::time::sleep(ms(3000)).await;
    assert!(
        there.sessions.load(&KEY).await.unwrap().is_none(),
        "the log-out is lost"
    );
}

#[tokio::test(start_paused = true)]
async fn f2_however_the_store_fails_a_request_is_told_so_and_never_that_there_is_no_session() {
    // For one who may go on without a session, as for one who may not: see `Bridge::acquire`.
    let world = World::new();
    let there = world.replica();
    for case in ["load", "lease", "lost", "look after the win", "look while waiting"] {
        let (link, here) = world.linked();
        let _leader = if case == "look while waiting" {
            Some(there.post().await)
        } else {
            None
        };
        let count = |count: usize| move |counter: &AtomicUsize| counter.store(count, Ordering::SeqCst);
        match case {
            "load" => link.set_down(true),
            "lease" => link.leases_down.store(true, Ordering::SeqCst),
            "lost" => count(2)(&link.mute),
            "look after the win" => {
                count(1)(&link.deaf);
                link.breaks.store(true, Ordering::SeqCst);
            }
            _ => {}
        }
        let request = tokio::spawn(async move { here.acquire.acquire(&KEY, SAFE).await.map(drop) });
        if case == "look while waiting" {
            tokio::time::sleep(ms(1000)).await;
            link.hangs.store(true, Ordering::SeqCst);
            link.set_down(true);
        }
        let failed = Instant::now();
        let refused = request.await.unwrap();
        assert!(matches!(refused, Err(AcquireError::Store(_))), "{case}: {refused:?}");
        assert!(failed.elapsed() <= STORE_TIMEOUT * 3, "{case}: {:?}", failed.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn s3_a_lease_whose_winning_is_told_late_is_renewed_from_when_it_was_asked_for() {
    let world = World {
        store_timeout: ms(5000),
        ..World::new()
    };
    let here = world.replica();
    world.store.late_leases.store(1700, Ordering::SeqCst);
    let leader = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.post().await }
    });
    tokio::time::sleep(ms(10)).await;
    for _ in 0..100 {
        assert!(world.store.inner.observe(&KEY).await.unwrap().1.held);
        tokio::time::sleep(ms(50)).await;
    }
    assert!(leader.await.unwrap().lead.is_some());
}

#[tokio::test(start_paused = true)]
async fn s1_a_lease_that_ran_out_before_its_winning_was_told_is_no_lead() {
    let world = World {
        store_timeout: ms(5000),
        ..World::new()
    };
    let (link, here) = world.linked();
    let there = world.replica();
    link.late_leases.store(2300, Ordering::SeqCst);
    let request = tokio::spawn(async move { here.post().await });
    tokio::time::sleep(ms(2100)).await;
    link.late_leases.store(0, Ordering::SeqCst);
    let leader = there.post().await;
    assert!(leader.lead.is_some());
    tokio::time::sleep(ms(1000)).await;
    assert!(!request.is_finished(), "two lead at once");
    let committed = there.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    end(leader.lead, &there.sessions, committed).await;
    assert_eq!(jar(request.await.unwrap().snapshot.as_deref()), "sid=a");
}

#[tokio::test(start_paused = true)]
async fn f3_changes_whose_part_of_the_store_is_away_hold_up_no_others() {
    let world = World::new();
    let here = world.replica();
    let keys: Vec<_> = (0..40).map(|n| Key::from_digest([n; 16])).collect();
    world.set_down(true);
    for key in &keys {
        let at = here.sessions.now();
        let said = Said {
            rank: Rank::Safe,
            cookies: cookies(&["sid=a; Path=/"], at),
            at,
        };
        here.commit.commit(key, Change::new(None, at, said, None), None).await;
    }
    assert_eq!(here.pending.len(), 40);
    // A part of many keys in a row, all of them before the others.
    world.store.away_below.store(20, Ordering::SeqCst);
    world.set_down(false);
    tokio::time::sleep(ms(5000)).await;
    assert_eq!(here.pending.len(), 20, "those whose part is there are stored");
    world.store.away_below.store(0, Ordering::SeqCst);
    tokio::time::sleep(ms(2000)).await;
    assert_eq!(here.pending.len(), 0);
    for key in &keys {
        assert!(world.store.inner.load(key).await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn s4_a_response_waits_no_longer_than_seconds_for_its_turn_to_be_stored() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(0), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    world.store.delay.store(200, Ordering::SeqCst);
    let requests: Vec<_> = (0..40)
        .map(|n| {
            let (here, sent, at) = (Arc::clone(&here), ready.snapshot.clone(), ready.at);
            tokio::spawn(async move {
                let ready = Ready {
                    snapshot: sent,
                    lead: None,
                    place: None,
                    waited: false,
                    at,
                };
                let line = format!("c{n}=1; Path=/");
                let started = Instant::now();
                here.respond(&ready, Rank::Unsafe, &[&line], None).await;
                started.elapsed()
            })
        })
        .collect();
    for request in requests {
        let took = request.await.unwrap();
        assert!(took <= ms(1500), "{took:?}");
    }
    tokio::time::sleep(ms(60_000)).await;
    assert_eq!(here.pending.len(), 0);
    let stored = here.sessions.load(&KEY).await.unwrap().unwrap();
    assert_eq!(stored.record.jar().len(), 41, "a change is lost");
}
