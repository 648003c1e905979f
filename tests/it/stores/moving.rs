//! The layer over two stores between which sessions are moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use session_bridge::session::clock::{Clock as _, ManualClock};
use session_bridge::session::store::{Acquired, Created, LeaseEnd, Removed, Replaced, SessionStore};
use session_bridge::store::memory::MemoryStore;
use session_bridge::store::moving::{HEARD_WITHIN, Moved, MovingStore};
use tokio::task::JoinHandle;

use super::contract::{Subject, keeps_the_contract};
use super::{LONG, key, record, token, version};

/// Two stores in memory and a replica that knows of both.
struct World {
    clock: ManualClock,
    old: Arc<MemoryStore>,
    new: Arc<MemoryStore>,
}

impl World {
    fn begin() -> Self {
        let clock = Subject::clock();
        let memory = || Arc::new(MemoryStore::new(Arc::new(clock.clone())));
        Self {
            old: memory(),
            new: memory(),
            clock,
        }
    }

    /// A replica, or whoever moves.
    fn replica(&self) -> Arc<MovingStore> {
        Arc::new(MovingStore::new(
            Arc::clone(&self.old) as Arc<dyn SessionStore>,
            Arc::clone(&self.new) as Arc<dyn SessionStore>,
        ))
    }

    async fn move_over(&self, n: u32) -> Moved {
        self.replica().move_over(&key(n), self.clock.now()).await.unwrap()
    }
}

/// Moves whatever is there, over and over, until it is dropped.
struct Mover {
    stop: Arc<AtomicBool>,
    _task: JoinHandle<()>,
}

impl Mover {
    fn begin(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, moving, clock) = (Arc::clone(&stop), world.replica(), world.clock.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                for n in 0..12 {
                    // One that changes too fast is moved next time.
                    let _ = moving.move_over(&key(n), clock.now()).await;
                    tokio::task::yield_now().await;
                }
            }
        });
        Self { stop, _task: task }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn keeps(declared: bool, moved: bool) {
    keeps_the_contract(|| async {
        let world = World::begin();
        if declared {
            world.replica().declare().await.unwrap();
        }
        let mover = moved.then(|| Mover::begin(&world));
        Subject {
            store: world.replica(),
            clock: world.clock.clone(),
            real_time: false,
            _keep: Box::new(mover),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_handover_the_contract_is_kept() {
    keeps(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_handover_the_contract_is_kept() {
    keeps(true, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_sessions_are_moved_the_contract_is_kept() {
    for _ in 0..10 {
        keeps(false, true).await;
    }
}

#[tokio::test]
async fn a_session_is_moved_with_its_version_and_expiry_and_changed_where_it_is() {
    let world = World::begin();
    let replica = world.replica();
    replica.create(&key(1), record(5, "five", LONG), None).await.unwrap();
    let before = replica.load(&key(1)).await.unwrap();
    assert_eq!(world.new.load(&key(1)).await, Ok(None));
    assert_eq!(world.move_over(1).await, Moved::Done);
    assert_eq!(world.move_over(1).await, Moved::Nothing, "once");
    assert_eq!(replica.load(&key(1)).await.unwrap(), before);
    assert_eq!(world.new.load(&key(1)).await.unwrap(), before);
    let outcome = replica.replace(&key(1), version(5), record(6, "six", LONG), None).await;
    assert_eq!(outcome, Ok(Replaced::Done));
    assert_eq!(world.new.load(&key(1)).await.unwrap().unwrap().version, version(6));
    assert_eq!(replica.remove(&key(1), version(6)).await, Ok(Removed::Done));
    assert_eq!(
        replica.load(&key(1)).await,
        Ok(None),
        "it does not come back from the old store"
    );
}

#[tokio::test]
async fn new_installations_begin_in_the_old_store_until_the_handover_and_in_the_new_one_after_it() {
    let world = World::begin();
    let replica = world.replica();
    for (n, declared) in [(1, false), (2, true)] {
        if declared {
            world.replica().declare().await.unwrap();
            tokio::time::sleep(HEARD_WITHIN + Duration::from_millis(10)).await;
        }
        assert_eq!(replica.acquire_lease(&key(n), token(1), LONG).await, Ok(Acquired::Won));
        let outcome = replica.create(&key(n), record(1, "x", LONG), Some(token(1))).await;
        assert_eq!(outcome, Ok(Created::Won));
        replica.release_lease(&key(n), token(1), LeaseEnd::Plain).await.unwrap();
        assert_eq!(world.new.load(&key(n)).await.unwrap().is_some(), declared);
        assert!(replica.load(&key(n)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn who_has_not_heard_of_the_handover_yet_leads_nobody_beside_who_has() {
    let world = World::begin();
    let (deaf, hearing) = (world.replica(), world.replica());
    // It has just looked.
    assert_eq!(deaf.load(&key(9)).await, Ok(None));
    world.replica().declare().await.unwrap();
    // The one that has not heard leads: in the old store, and the other one waits.
    assert_eq!(deaf.acquire_lease(&key(1), token(1), LONG).await, Ok(Acquired::Won));
    assert!(matches!(
        hearing.acquire_lease(&key(1), token(2), LONG).await,
        Ok(Acquired::Held { .. })
    ));
    assert!(hearing.observe(&key(1)).await.unwrap().1.held);
    // By the time it has started a session it has heard.
    tokio::time::sleep(HEARD_WITHIN + Duration::from_millis(10)).await;
    let outcome = deaf.create(&key(1), record(1, "led", LONG), Some(token(1))).await;
    assert_eq!(outcome, Ok(Created::Won));
    assert!(world.new.load(&key(1)).await.unwrap().is_some());
    assert!(matches!(
        hearing.acquire_lease(&key(1), token(2), LONG).await,
        Ok(Acquired::Held { .. })
    ));
    deaf.release_lease(&key(1), token(1), LeaseEnd::Plain).await.unwrap();
    assert!(!hearing.observe(&key(1)).await.unwrap().1.held);
}

#[tokio::test]
async fn who_has_heard_of_the_handover_is_followed_by_who_has_not() {
    let world = World::begin();
    let (deaf, hearing) = (world.replica(), world.replica());
    // It has just looked.
    assert_eq!(deaf.load(&key(9)).await, Ok(None));
    world.replica().declare().await.unwrap();
    assert_eq!(hearing.acquire_lease(&key(2), token(1), LONG).await, Ok(Acquired::Won));
    assert!(matches!(
        deaf.acquire_lease(&key(2), token(2), LONG).await,
        Ok(Acquired::Held { .. })
    ));
    let outcome = hearing.create(&key(2), record(1, "led", LONG), Some(token(1))).await;
    assert_eq!(outcome, Ok(Created::Won));
    assert_eq!(deaf.load(&key(2)).await.unwrap().unwrap().payload.0, "led");
}

#[tokio::test]
async fn a_leader_of_before_the_move_is_not_led_beside_and_stores_its_session() {
    let world = World::begin();
    let replica = world.replica();
    // A cookie that is no session, and somebody who starts one.
    replica.create(&key(1), record(1, "csrf", LONG), None).await.unwrap();
    assert_eq!(replica.acquire_lease(&key(1), token(1), LONG).await, Ok(Acquired::Won));
    assert_eq!(world.move_over(1).await, Moved::Done);
    assert!(matches!(
        replica.acquire_lease(&key(1), token(2), LONG).await,
        Ok(Acquired::Held { .. })
    ));
    assert_eq!(replica.renew_lease(&key(1), token(1), LONG).await, Ok(true));
    let outcome = replica
        .replace(&key(1), version(1), record(2, "session", LONG), Some(token(1)))
        .await;
    assert_eq!(outcome, Ok(Replaced::Done));
    assert_eq!(world.new.load(&key(1)).await.unwrap().unwrap().payload.0, "session");
}

#[tokio::test]
async fn a_copy_of_a_move_that_was_cut_off_lives_as_long_as_the_session_when_it_is_moved_at_last() {
    let world = World::begin();
    let first = record(1, "a", LONG);
    world.old.create(&key(1), first.clone(), None).await.unwrap();
    // The move was cut off here. The session is used until it is tried again, which changes no version.
    world.new.create(&key(1), first, None).await.unwrap();
    world.clock.advance(LONG / 2);
    assert!(world.old.touch(&key(1), version(1), LONG).await.unwrap());
    assert_eq!(world.move_over(1).await, Moved::Done);
    world.clock.advance(LONG / 4 * 3);
    assert!(world.replica().load(&key(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn what_ended_while_it_was_moved_stays_ended() {
    let world = World::begin();
    let replica = world.replica();
    replica.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    // A copy of it, left behind by a move that broke off.
    world.new.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    assert_eq!(replica.remove(&key(1), version(1)).await, Ok(Removed::Done));
    world.replica().declare().await.unwrap();
    assert_eq!(world.replica().load(&key(1)).await, Ok(None));
}
