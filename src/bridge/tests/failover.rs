//! A store that loses writes it had acknowledged.

use super::*;

/// The store goes back to what it held before.
async fn rewind(world: &World, to: &Stored) {
    let store = &world.store.inner;
    let now = store.load(&KEY).await.unwrap().unwrap();
    assert_eq!(store.remove(&KEY, now.version).await, Ok(Removed::Done));
    let new = NewRecord {
        version: to.version,
        ttl: IDLE,
        payload: to.payload.clone(),
    };
    assert_eq!(store.create(&KEY, new, None).await, Ok(Created::Won));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_a_write_is_healed_by_who_knows_it() {
    for (line, expected) in [
        ("sid=login; Path=/; Max-Age=100", "sid=login"),
        ("sid=rotated; Path=/", "sid=rotated"),
        ("cart=1; Path=/", "sid=login; cart=1"),
    ] {
        let world = World::new();
        let (here, there) = (world.replica(), world.replica());
        here.whole(false, ms(1), &["sid=a; Path=/"]).await;
        let before = world.store.load(&KEY).await.unwrap().unwrap();
        let ready = here.get().await;
        here.respond(&ready, Rank::Auth, &["sid=login; Path=/"], None).await;
        let (one, other) = (here.get().await, there.get().await);
        rewind(&world, &before).await;
        here.respond(&one, Rank::Safe, &[line], None).await;
        let healed = world.store.load(&KEY).await.unwrap().unwrap();
        assert!(healed.version.seq > one.snapshot.as_ref().unwrap().version.seq);
        assert_eq!(jar(there.get().await.snapshot.as_deref()), expected);
        // Others that knew it go on as ever.
        there.respond(&other, Rank::Unsafe, &["x=1; Path=/"], None).await;
        let stored = jar(here.get().await.snapshot.as_deref());
        assert_eq!(stored, format!("{expected}; x=1"));
    }
}

#[tokio::test(start_paused = true)]
async fn c1_a_log_in_since_the_loss_is_not_overwritten_by_an_older_response() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let before = world.store.load(&KEY).await.unwrap().unwrap();
    let ready = here.get().await;
    here.respond(&ready, Rank::Unsafe, &["cart=1; Path=/"], None).await;
    let known = here.get().await;
    tokio::time::sleep(ms(10)).await;
    rewind(&world, &before).await;
    let again = there.get().await;
    let log_in = there.respond(&again, Rank::Auth, &["sid=login; Path=/"], None).await;
    assert_eq!(
        log_in.snapshot.map(|snapshot| snapshot.version.seq),
        known.snapshot.as_ref().map(|snapshot| snapshot.version.seq),
        "the number was given again"
    );
    here.respond(&known, Rank::Unsafe, &["sid=late; Path=/"], None).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=login");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_lost_costs_a_log_in_and_no_more() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    let stored = world.store.load(&KEY).await.unwrap().unwrap();
    world.store.inner.remove(&KEY, stored.version).await.unwrap();
    here.respond(&ready, Rank::Unsafe, &["cart=1; Path=/"], None).await;
    assert!(world.store.load(&KEY).await.unwrap().is_none());
    assert!(here.get().await.lead.is_some(), "the next request starts a session");
}
