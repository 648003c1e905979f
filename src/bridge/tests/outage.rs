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
            tokio::spawn(async move { here.acquire.acquire(&KEY, n % 2 == 0).await.map(drop) })
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
            tokio::spawn(async move { here.acquire.acquire(&KEY, false).await.map(drop) })
        })
        .collect();
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(AcquireError::Store(_))));
    }
    assert!(started.elapsed() < ms(100), "{:?}", started.elapsed());
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
        async move { here.acquire.acquire(&KEY, true).await.map(drop) }
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
    world.store.late_leases.store(1900, Ordering::SeqCst);
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
