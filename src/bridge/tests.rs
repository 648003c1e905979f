//! Who leads, who waits and what is stored, over several replicas in one process and virtual time.

mod failover;
mod outage;
mod removal;
mod waiting;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acquire::{Acquire, AcquireError, Asks, Ready};
use super::change::Change;
use super::commit::{Commit, Committed};
use super::lead::{LEASE_TTL, Lead};
use super::pending::Pending;
use super::sessions::Sessions;
use super::touch::Touch;
use crate::metrics::Metrics;
use crate::session::clock::{Clock, Timestamp};
use crate::session::cookie::{Cookie, Origin, parse_set_cookie};
use crate::session::glob::Glob;
use crate::session::merge::{Effect, Said};
use crate::session::past::By;
use crate::session::record::{CookiePolicy, Lifetime, Rank, Snapshot};
use crate::session::store::{
    Acquired, Created, Key, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced, SessionStore, StoreError,
    StoreFuture, Stored, Version,
};
use crate::store::memory::MemoryStore;

const KEY: Key = Key::from_digest([7; 16]);
const IDLE: Duration = Duration::from_secs(1000);
const STORE_TIMEOUT: Duration = Duration::from_millis(250);

/// The paused time of the runtime, as a wall clock.
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).saturating_add(self.0.elapsed())
    }
}

/// A clock that is wrong.
struct Ahead(Arc<VirtualClock>, Duration);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        self.0.now().saturating_add(self.1)
    }
}

/// A store that can go away, and that counts what it is asked.
struct Flaky {
    inner: Arc<MemoryStore>,
    down: AtomicBool,
    /// While it is down, calls hang until their deadline.
    hangs: AtomicBool,
    /// Leases can be neither taken nor renewed.
    leases_down: AtomicBool,
    /// How many changes take effect before their answers are lost.
    deaf: AtomicUsize,
    /// How many changes are lost on their way, answers and all.
    mute: AtomicUsize,
    /// The store goes away with the next answer that is lost.
    breaks: AtomicBool,
    /// What is said of leases takes effect at once, and is answered this many milliseconds later.
    late_leases: AtomicUsize,
    /// Leases are answered late.
    slow_leases: AtomicBool,
    /// Changes take effect at once, and are answered half a second later.
    late_answers: AtomicBool,
    /// How many milliseconds every call takes.
    delay: AtomicUsize,
    /// There is no room for further records.
    full: AtomicBool,
    /// The part of the store that holds the keys which begin with a byte below this one is away.
    away_below: AtomicUsize,
    loads: AtomicUsize,
    leases: AtomicUsize,
    touches: AtomicUsize,
}

impl Flaky {
    fn before(inner: Arc<MemoryStore>) -> Self {
        Self {
            inner,
            down: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            leases_down: AtomicBool::new(false),
            deaf: AtomicUsize::new(0),
            mute: AtomicUsize::new(0),
            breaks: AtomicBool::new(false),
            late_leases: AtomicUsize::new(0),
            slow_leases: AtomicBool::new(false),
            late_answers: AtomicBool::new(false),
            delay: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            away_below: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
            leases: AtomicUsize::new(0),
            touches: AtomicUsize::new(0),
        }
    }

    fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn gate<'a, T: Send + 'a>(&self, call: StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        if self.down.load(Ordering::SeqCst) {
            let deadline = if self.hangs.load(Ordering::SeqCst) {
                ms(250)
            } else {
                ms(0)
            };
            return Box::pin(async move {
                tokio::time::sleep(deadline).await;
                Err(StoreError::Unavailable("switched off".to_owned()))
            });
        }
        let delay = ms(self.delay.load(Ordering::SeqCst) as u64);
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            call.await
        })
    }

    fn change<'a, T: Send + 'a>(&'a self, call: StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        let lost = || {
            if self.breaks.load(Ordering::SeqCst) {
                self.down.store(true, Ordering::SeqCst);
            }
            StoreError::Ambiguous("the answer was lost".to_owned())
        };
        let call = self.gate(call);
        Box::pin(async move {
            if count_down(&self.mute) {
                return Err(lost());
            }
            let answer = call.await?;
            if self.late_answers.load(Ordering::SeqCst) {
                tokio::time::sleep(ms(500)).await;
            }
            if count_down(&self.deaf) {
                return Err(lost());
            }
            Ok(answer)
        })
    }

    fn lease<'a, T: Send + 'a>(&'a self, call: StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        self.leases.fetch_add(1, Ordering::SeqCst);
        if self.leases_down.load(Ordering::SeqCst) {
            return Box::pin(async {
                tokio::time::sleep(STORE_TIMEOUT).await;
                Err(StoreError::Ambiguous("no leases".to_owned()))
            });
        }
        let call = self.change(call);
        Box::pin(async move {
            let slow = self.slow_leases.load(Ordering::SeqCst);
            if slow {
                tokio::time::sleep(ms(50)).await;
            }
            let answer = call.await;
            if slow {
                tokio::time::sleep(ms(50)).await;
            }
            tokio::time::sleep(ms(self.late_leases.load(Ordering::SeqCst) as u64)).await;
            answer
        })
    }
}

fn count_down(counter: &AtomicUsize) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1))
        .is_ok()
}

impl SessionStore for Flaky {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        if usize::from(key.as_bytes()[0]) < self.away_below.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("its part is away".to_owned())) });
        }
        self.gate(self.inner.load(key))
    }
    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        self.gate(self.inner.observe(key))
    }
    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        if self.full.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("out of memory".to_owned())) });
        }
        self.change(self.inner.create(key, new, fence))
    }
    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced> {
        self.change(self.inner.replace(key, expected, new, fence))
    }
    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        self.change(self.inner.remove(key, expected))
    }
    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool> {
        self.change(self.inner.discard(key))
    }
    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        self.touches.fetch_add(1, Ordering::SeqCst);
        self.gate(self.inner.touch(key, expected, ttl))
    }
    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        self.lease(self.inner.acquire_lease(key, token, ttl))
    }
    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        self.lease(self.inner.renew_lease(key, token, ttl))
    }
    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        self.change(self.inner.release_lease(key, token, end))
    }
    fn ping(&self) -> StoreFuture<'_, ()> {
        self.gate(self.inner.ping())
    }
    fn kind(&self) -> &'static str {
        "flaky"
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        self.inner.close()
    }
}

struct World {
    store: Arc<Flaky>,
    clock: Arc<VirtualClock>,
    max_age: Option<Duration>,
    store_timeout: Duration,
}

struct Replica {
    sessions: Arc<Sessions>,
    pending: Arc<Pending>,
    acquire: Acquire,
    commit: Commit,
    touch: Touch,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(VirtualClock(Instant::now()));
        let inner = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
        Self {
            store: Arc::new(Flaky::before(inner)),
            clock,
            max_age: None,
            store_timeout: STORE_TIMEOUT,
        }
    }

    /// A replica with a link of its own to the store.
    fn linked(&self) -> (Arc<Flaky>, Arc<Replica>) {
        let link = Arc::new(Flaky::before(Arc::clone(&self.store.inner)));
        let replica = self.replica_over(Arc::clone(&link), Arc::clone(&self.clock) as Arc<dyn Clock>);
        (link, replica)
    }

    fn replica(&self) -> Arc<Replica> {
        self.replica_with(Arc::clone(&self.clock) as Arc<dyn Clock>)
    }

    /// A replica whose wall clock runs ahead of the others'.
    fn replica_ahead(&self, by: Duration) -> Arc<Replica> {
        self.replica_with(Arc::new(Ahead(Arc::clone(&self.clock), by)))
    }

    fn replica_with(&self, clock: Arc<dyn Clock>) -> Arc<Replica> {
        self.replica_over(Arc::clone(&self.store), clock)
    }

    fn replica_over(&self, store: Arc<Flaky>, clock: Arc<dyn Clock>) -> Arc<Replica> {
        let metrics = Arc::new(Metrics::new(&[]));
        let policy = CookiePolicy::new(vec![Glob::new("*")], vec![Glob::new("sid")]);
        let lifetime = Lifetime {
            idle_timeout: IDLE,
            max_age: self.max_age,
        };
        let sessions = Arc::new(Sessions::new(
            store as Arc<dyn SessionStore>,
            clock,
            Arc::clone(&metrics),
            policy,
            lifetime,
        ));
        let pending = Pending::new(Arc::clone(&sessions), Arc::clone(&metrics));
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let background = (Arc::clone(&pending), stop.clone());
        tokio::spawn(async move { background.0.run(background.1).await });
        Arc::new(Replica {
            acquire: Acquire::new(
                Arc::clone(&sessions),
                Arc::clone(&pending),
                Arc::clone(&metrics),
                tasks.clone(),
                Duration::from_secs(60),
                self.store_timeout,
            ),
            commit: Commit::new(Arc::clone(&sessions), Arc::clone(&pending), Arc::clone(&metrics)),
            touch: Touch::new(Arc::clone(&sessions), Arc::clone(&metrics), tasks.clone()),
            metrics,
            sessions,
            pending,
            tasks,
            stop,
        })
    }

    fn set_down(&self, down: bool) {
        self.store.set_down(down);
    }
}

const SAFE: Asks = asks(true);
const UNSAFE: Asks = asks(false);

const fn asks(safe: bool) -> Asks {
    Asks {
        safe,
        client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    }
}

fn cookies(lines: &[&str], at: Timestamp) -> Vec<Cookie> {
    let origin = Origin::new("shop.example", "/");
    lines
        .iter()
        .map(|line| parse_set_cookie(line.as_bytes(), &origin, at).unwrap())
        .collect()
}

fn jar(snapshot: Option<&Snapshot>) -> String {
    let origin = Origin::new("shop.example", "/");
    let header = snapshot.and_then(|snapshot| snapshot.record.jar().header(&origin, Timestamp::from_millis(0)));
    String::from_utf8(header.unwrap_or_default()).unwrap()
}

impl Replica {
    async fn get(&self) -> Ready {
        self.acquire.acquire(&KEY, SAFE).await.unwrap()
    }

    async fn post(&self) -> Ready {
        self.acquire.acquire(&KEY, UNSAFE).await.unwrap()
    }

    async fn respond(&self, ready: &Ready, rank: Rank, lines: &[&str], settle: Option<Duration>) -> Committed {
        let at = self.sessions.now();
        let said = Said {
            rank,
            cookies: cookies(lines, at),
            at,
        };
        let change = Change::new(ready.snapshot.clone(), ready.at, said, settle);
        self.commit.commit(&KEY, change, ready.lead.as_ref()).await
    }

    /// A whole request: to the backend, which takes `work` and sets `lines`, and back.
    async fn whole(&self, safe: bool, work: Duration, lines: &[&str]) -> (bool, Option<Arc<Snapshot>>) {
        let ready = self.acquire.acquire(&KEY, asks(safe)).await.unwrap();
        let may_start = ready
            .snapshot
            .as_deref()
            .is_none_or(|snapshot| !self.sessions.has_session(Some(snapshot)));
        tokio::time::sleep(work).await;
        let lines = if may_start { lines } else { &[] };
        let committed = self.respond(&ready, Rank::Unsafe, lines, None).await;
        let snapshot = committed.snapshot.clone();
        end(ready.lead, &self.sessions, committed).await;
        (may_start, snapshot)
    }
}

async fn end(lead: Option<Lead>, sessions: &Sessions, committed: Committed) {
    if let Some(lead) = lead {
        let landing = committed.landing(sessions);
        if committed.waits {
            return lead.leave(landing);
        }
        lead.end(landing).await;
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(start_paused = true)]
async fn s1_of_many_first_requests_on_many_replicas_one_starts_the_session() {
    let world = World::new();
    let replicas: Vec<_> = (0..3).map(|_| world.replica()).collect();
    let requests: Vec<_> = (0..300)
        .map(|index| {
            let replica = Arc::clone(&replicas[index % 3]);
            tokio::spawn(async move { replica.whole(index % 2 == 0, ms(300), &["sid=one; Path=/"]).await })
        })
        .collect();
    let mut started = 0;
    for request in requests {
        let (may_start, snapshot) = request.await.unwrap();
        started += usize::from(may_start);
        assert_eq!(jar(snapshot.as_deref()), "sid=one");
    }
    assert_eq!(started, 1);
}

#[tokio::test(start_paused = true)]
async fn s1_those_who_wait_go_on_when_the_response_has_ended_not_at_its_head() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    let committed = here
        .respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], Some(ms(2000)))
        .await;
    assert_eq!(committed.effect, Effect::Created);
    for replica in [&here, &there] {
        let waiting = tokio::time::timeout(ms(400), replica.get()).await;
        assert!(waiting.is_err(), "went on before the response had ended");
    }
    let waiting = (
        tokio::spawn({
            let here = Arc::clone(&here);
            async move { here.get().await }
        }),
        tokio::spawn({
            let there = Arc::clone(&there);
            async move { there.get().await }
        }),
    );
    tokio::time::sleep(ms(10)).await;
    let ended = Instant::now();
    end(leader.lead, &here.sessions, committed).await;
    for ready in [waiting.0.await.unwrap(), waiting.1.await.unwrap()] {
        assert_eq!(jar(ready.snapshot.as_deref()), "sid=a");
        assert!(ready.lead.is_none() && ready.waited);
    }
    assert!(ended.elapsed() < ms(200), "{:?}", ended.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s1_an_endless_body_holds_them_no_longer_than_body_wait() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], Some(ms(2000)))
        .await;
    let before = Instant::now();
    let ready = there.get().await;
    assert_eq!(jar(ready.snapshot.as_deref()), "sid=a");
    assert!(
        (ms(1900)..ms(2200)).contains(&before.elapsed()),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn s1_a_leader_that_is_cut_off_passes_the_lead_on() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    assert!(leader.lead.is_some());
    let next = [Arc::clone(&here), there]
        .map(|replica| tokio::spawn(async move { replica.whole(false, ms(10), &["sid=b; Path=/"]).await }));
    tokio::time::sleep(ms(100)).await;
    let cut = Instant::now();
    drop(leader);
    let mut started = 0;
    for request in next {
        let (may_start, snapshot) = request.await.unwrap();
        started += usize::from(may_start);
        assert_eq!(jar(snapshot.as_deref()), "sid=b");
    }
    assert_eq!(started, 1);
    assert!(cut.elapsed() < ms(300), "{:?}", cut.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s1_who_waits_too_long_is_told_so() {
    let world = World::new();
    let here = world.replica();
    let _leader = here.post().await;
    let before = Instant::now();
    let refused = here.acquire.acquire(&KEY, SAFE).await;
    assert!(matches!(refused, Err(AcquireError::WaitTimeout)));
    assert_eq!(before.elapsed(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn s2_a_leader_without_a_session_frees_safe_methods_together_and_others_in_turn() {
    let world = World::new();
    let replicas = [world.replica(), world.replica()];
    let leader = replicas[0].post().await;
    let started = Instant::now();
    let spawn = |safe: bool, index: usize| {
        let replica = Arc::clone(&replicas[index % 2]);
        tokio::spawn(async move {
            let (may_start, _) = replica.whole(safe, ms(1000), &[]).await;
            assert!(may_start);
            started.elapsed()
        })
    };
    let safe: Vec<_> = (0..6).map(|index| spawn(true, index)).collect();
    let others: Vec<_> = (0..4).map(|index| spawn(false, index)).collect();
    tokio::time::sleep(ms(1000)).await;
    let committed = replicas[0]
        .respond(&leader, Rank::Unsafe, &["csrf=x; Path=/"], None)
        .await;
    end(leader.lead, &replicas[0].sessions, committed).await;
    for request in safe {
        let took = request.await.unwrap();
        assert!(took < ms(2300), "a safe request waited for its turn: {took:?}");
    }
    let mut ends = Vec::new();
    for request in others {
        ends.push(request.await.unwrap());
    }
    ends.sort();
    for pair in ends.windows(2) {
        assert!(pair[1] - pair[0] >= ms(1000), "two at a time: {ends:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn s3_the_lease_lasts_as_long_as_the_leader_works() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let slow = tokio::spawn(async move { here.whole(false, Duration::from_secs(20), &["sid=slow; Path=/"]).await });
    tokio::time::sleep(ms(50)).await;
    let (may_start, snapshot) = there.whole(false, ms(1), &["sid=other; Path=/"]).await;
    assert!(!may_start);
    assert_eq!(jar(snapshot.as_deref()), "sid=slow");
    assert!(slow.await.unwrap().0);
}

#[tokio::test(start_paused = true)]
async fn s3_the_lease_of_a_dead_replica_is_gone_within_seconds() {
    let world = World::new();
    let dead = LeaseToken(1);
    assert_eq!(
        world.store.acquire_lease(&KEY, dead, LEASE_TTL).await,
        Ok(Acquired::Won)
    );
    let before = Instant::now();
    let ready = world.replica().post().await;
    assert!(ready.lead.is_some());
    assert!(before.elapsed() < ms(2500), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s3_a_leader_that_lost_its_lease_is_refused() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let stalled = here.post().await;
    let token = stalled.lead.as_ref().map(Lead::token).unwrap();
    // As if its renewals had not come through for too long.
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    let (_, snapshot) = there.whole(true, ms(1), &["sid=theirs; Path=/"]).await;
    assert_eq!(jar(snapshot.as_deref()), "sid=theirs");
    let committed = here.respond(&stalled, Rank::Auth, &["sid=ours; Path=/"], None).await;
    assert_eq!(committed.effect, Effect::None);
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=theirs");
}

#[tokio::test(start_paused = true)]
async fn s3_a_lease_is_not_taken_again_from_those_who_started_a_session_meanwhile() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let stalled = here.post().await;
    let token = stalled.lead.as_ref().map(Lead::token).unwrap();
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    there.whole(true, ms(1), &["sid=theirs; Path=/"]).await;
    // Its renewals go on meanwhile.
    tokio::time::sleep(ms(3000)).await;
    let committed = here.respond(&stalled, Rank::Auth, &["sid=ours; Path=/"], None).await;
    assert_eq!(committed.effect, Effect::None);
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=theirs");
}

#[tokio::test(start_paused = true)]
async fn s3_a_leader_that_lost_its_lease_to_nobody_loses_nothing() {
    let world = World::new();
    let here = world.replica();
    let stalled = here.post().await;
    let token = stalled.lead.as_ref().map(Lead::token).unwrap();
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    let committed = here.respond(&stalled, Rank::Unsafe, &["sid=ours; Path=/"], None).await;
    assert_eq!(committed.effect, Effect::Created);
}

#[tokio::test(start_paused = true)]
async fn s4_a_committed_session_is_there_for_every_replica() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let (_, _) = here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = there.get().await;
    assert_eq!(jar(ready.snapshot.as_deref()), "sid=a");
    let committed = there.respond(&ready, Rank::Auth, &["sid=b; Path=/"], None).await;
    assert_eq!(committed.effect, Effect::Replaced);
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=b");
}

#[tokio::test(start_paused = true)]
async fn f1_an_outage_is_not_read_as_no_session() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    world.set_down(true);
    assert!(matches!(
        here.acquire.acquire(&KEY, SAFE).await,
        Err(AcquireError::Store(_))
    ));
    world.set_down(false);
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=a");
}

#[tokio::test(start_paused = true)]
async fn f3_a_change_that_the_store_cannot_take_is_served_here_and_stored_later() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    world.set_down(true);
    let committed = here.respond(&ready, Rank::Auth, &["sid=b; Path=/"], None).await;
    assert_eq!(committed.effect, Effect::Replaced);
    // This replica serves the change, and builds on it.
    let ready = here.get().await;
    assert_eq!(jar(ready.snapshot.as_deref()), "sid=b");
    here.respond(&ready, Rank::Unsafe, &["cart=1; Path=/"], None).await;
    assert_eq!(here.pending.len(), 2);
    world.set_down(false);
    tokio::time::sleep(ms(1000)).await;
    assert_eq!((here.pending.len(), here.pending.bytes()), (0, 0));
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=b; cart=1");
}

#[tokio::test(start_paused = true)]
async fn f3_a_session_that_started_while_the_store_went_away_is_not_lost() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    world.set_down(true);
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    end(leader.lead, &here.sessions, committed).await;
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=a");
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.set_down(false);
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=a");
}

#[tokio::test(start_paused = true)]
async fn f3_a_log_out_that_the_store_could_not_take_is_not_undone_by_what_it_holds() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    world.set_down(true);
    here.respond(&ready, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    assert!(matches!(
        here.acquire.acquire(&KEY, SAFE).await,
        Err(AcquireError::Store(_))
    ));
    world.set_down(false);
    let ready = here.get().await;
    assert!(
        ready.snapshot.is_none() && ready.lead.is_some(),
        "the old session came back"
    );
}

#[tokio::test(start_paused = true)]
async fn f3_what_is_pending_is_stored_at_shutdown() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    world.set_down(true);
    here.respond(&ready, Rank::Auth, &["sid=b; Path=/"], None).await;
    world.set_down(false);
    here.stop.cancel();
    tokio::time::sleep(ms(5)).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=b");
}

#[tokio::test]
async fn a_request_carries_no_room_for_what_seldom_comes() {
    let world = World::new();
    let here = world.replica();
    // Bytes of the state of a call. Each request in flight has them, and they are moved when it begins.
    let acquire = size_of_val(&here.acquire.acquire(&KEY, SAFE));
    assert!(acquire < 1024, "to find a session: {acquire}");
    let found = size_of::<Ready>();
    assert!(found < 96, "a session that was found: {found}");
    let said = Said {
        rank: Rank::Safe,
        cookies: Vec::new(),
        at: here.sessions.now(),
    };
    let change = Change::new(None, said.at, said, None);
    let commit = size_of_val(&here.commit.commit(&KEY, change, None));
    assert!(commit < 768, "to store nothing: {commit}");
}

#[tokio::test(start_paused = true)]
async fn t1_use_moves_the_expiry_once_a_tenth_has_passed() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let touches = || world.store.touches.load(Ordering::SeqCst);
    let use_it = async || {
        let ready = here.get().await;
        let snapshot = ready.snapshot.unwrap();
        (0..10).for_each(|_| here.touch.used(&KEY, &snapshot, here.sessions.now()));
        tokio::time::sleep(ms(1)).await;
        assert_eq!(here.tasks.len(), 0);
        snapshot.expires_at
    };
    let first = use_it().await;
    tokio::time::sleep(IDLE / 11).await;
    use_it().await;
    assert_eq!(touches(), 0, "touched too early");
    tokio::time::sleep(IDLE / 50).await;
    use_it().await;
    assert_eq!(touches(), 1, "ten uses at once are one touch");
    let moved = use_it().await;
    assert_eq!(touches(), 1);
    assert!(moved > first);
    // Used now and then, it outlives its first expiry by far.
    for _ in 0..20 {
        tokio::time::sleep(IDLE / 2).await;
        use_it().await;
    }
    tokio::time::sleep(IDLE + ms(1)).await;
    assert!(here.get().await.snapshot.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_known_session_costs_one_load() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let before = world.store.loads.load(Ordering::SeqCst);
    for _ in 0..10 {
        here.get().await;
    }
    assert_eq!(world.store.loads.load(Ordering::SeqCst) - before, 10);
}

#[tokio::test(start_paused = true)]
async fn f3_what_was_built_on_a_session_that_waits_for_the_store_is_not_lost() {
    for while_it_waits in [true, false] {
        let world = World::new();
        let (here, there) = (world.replica(), world.replica());
        let leader = here.post().await;
        world.set_down(true);
        let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
        end(leader.lead, &here.sessions, committed).await;
        let next = here.get().await;
        assert_eq!(jar(next.snapshot.as_deref()), "sid=a");
        if while_it_waits {
            here.respond(&next, Rank::Unsafe, &["sid=b; Path=/"], None).await;
        }
        world.set_down(false);
        tokio::time::sleep(ms(3000)).await;
        assert_eq!(here.pending.len(), 0);
        if !while_it_waits {
            here.respond(&next, Rank::Unsafe, &["sid=b; Path=/"], None).await;
        }
        assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=b", "{while_it_waits}");
    }
}

#[tokio::test(start_paused = true)]
async fn f3_after_a_short_outage_nobody_starts_a_second_session() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    world.set_down(true);
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    let end_of_outage = async {
        tokio::time::sleep(ms(20)).await;
        world.set_down(false);
        // The store is back before the change is tried again.
        there.get().await
    };
    // The lead may end during the outage or after it.
    let (ready, ()) = tokio::join!(end_of_outage, async {
        tokio::time::sleep(ms(21)).await;
        end(leader.lead, &here.sessions, committed).await;
    });
    assert!(ready.lead.is_none(), "a second session would be started");
    assert_eq!(jar(ready.snapshot.as_deref()), "sid=a");
}

#[tokio::test(start_paused = true)]
async fn f3_a_change_that_must_wait_for_a_leader_holds_up_no_other_installation() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let change = |line: &str| {
        let at = here.sessions.now();
        let cookies = cookies(&[line], at);
        Change::new(
            None,
            at,
            Said {
                rank: Rank::Unsafe,
                cookies,
                at,
            },
            None,
        )
    };
    let others: Vec<_> = (100..120).map(|n| Key::from_digest([n; 16])).collect();
    let leader = there.post().await;
    world.set_down(true);
    for key in others.iter().chain([&KEY]) {
        here.commit.commit(key, change("sid=a; Path=/"), None).await;
    }
    world.set_down(false);
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(here.pending.len(), 1, "only what must wait waits");
    let committed = there.respond(&leader, Rank::Unsafe, &["sid=b; Path=/"], None).await;
    end(leader.lead, &there.sessions, committed).await;
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(here.pending.len(), 0);
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=b");
}

#[tokio::test(start_paused = true)]
async fn f3_a_request_behind_a_change_that_must_wait_for_a_leader_waits_for_it_too() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = there.post().await;
    world.set_down(true);
    let none = Ready {
        snapshot: None,
        lead: None,
        place: None,
        waited: false,
        at: world.clock.now(),
    };
    here.respond(&none, Rank::Unsafe, &["csrf=x; Path=/"], None).await;
    world.set_down(false);
    let waiting = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.acquire.acquire(&KEY, UNSAFE).await.map(|ready| ready.snapshot) }
    });
    tokio::time::sleep(ms(700)).await;
    let committed = there.respond(&leader, Rank::Unsafe, &["sid=b; Path=/"], None).await;
    end(leader.lead, &there.sessions, committed).await;
    let snapshot = waiting.await.unwrap().expect("the store works");
    assert!(jar(snapshot.as_deref()).contains("sid=b"));
}

#[tokio::test(start_paused = true)]
async fn f3_a_change_whose_answer_was_lost_is_made_once() {
    for was_made in [true, false] {
        let world = World::new();
        let (here, there) = (world.replica(), world.replica());
        let counter = if was_made { &world.store.deaf } else { &world.store.mute };
        let lose_one = || counter.store(1, Ordering::SeqCst);
        lose_one();
        let leader = here.post().await;
        assert!(leader.lead.is_some(), "the answer to taking the lease was lost");
        lose_one();
        let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
        assert_eq!(here.pending.len(), 0, "the store answers: nothing needs to wait");
        let stored = world.store.load(&KEY).await.unwrap().map(|stored| stored.version);
        assert_eq!(committed.snapshot.as_ref().map(|snapshot| snapshot.version), stored);
        assert_eq!(stored.map(|version| version.seq), Some(1), "it was made twice");
        end(leader.lead, &here.sessions, committed).await;
        let ready = there.get().await;
        lose_one();
        let log_out = &["sid=; Max-Age=0; Path=/"];
        assert_eq!(
            there.respond(&ready, Rank::Auth, log_out, None).await.effect,
            Effect::Ended
        );
        assert!(world.store.load(&KEY).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn f3_changes_of_a_session_are_stored_in_their_order() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    world.set_down(true);
    here.respond(&ready, Rank::Auth, &["sid=b; Path=/"], None).await;
    let ready = here.get().await;
    world.set_down(false);
    // The store is back, and the change before has not been tried again yet.
    here.respond(&ready, Rank::Unsafe, &["sid=c; Path=/"], None).await;
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(here.pending.len(), 0);
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=c");
}

#[tokio::test(start_paused = true)]
async fn f3_a_cookie_that_is_dropped_on_a_retry_is_counted() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let (ours, theirs) = (here.get().await, there.get().await);
    world.set_down(true);
    here.respond(&ours, Rank::Unsafe, &["sid=b; Path=/"], None).await;
    world.set_down(false);
    there.respond(&theirs, Rank::Auth, &["sid=c; Path=/"], None).await;
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(jar(here.get().await.snapshot.as_deref()), "sid=c");
    let dropped = |line: &&str| line.contains("cookies_dropped") && !line.starts_with('#') && !line.ends_with(" 0");
    assert_eq!(here.metrics.encode().lines().filter(dropped).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn s1_a_session_that_was_started_while_a_request_took_the_lease_is_used() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    world.store.slow_leases.store(true, Ordering::SeqCst);
    let request = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.post().await }
    });
    tokio::time::sleep(ms(10)).await;
    let earlier = Ready {
        snapshot: None,
        lead: None,
        place: None,
        waited: false,
        at: world.clock.now(),
    };
    there.respond(&earlier, Rank::Safe, &["sid=a; Path=/"], None).await;
    let ready = request.await.unwrap();
    assert!(ready.lead.is_none(), "a second session would be started");
    assert_eq!(jar(ready.snapshot.as_deref()), "sid=a");
}

#[tokio::test(start_paused = true)]
async fn s1_a_client_that_leaves_while_its_request_takes_the_lease_holds_nobody_up() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    world.store.slow_leases.store(true, Ordering::SeqCst);
    // The lease is taken after 50 ms, and told after 100 ms.
    assert!(tokio::time::timeout(ms(75), here.post()).await.is_err());
    world.store.slow_leases.store(false, Ordering::SeqCst);
    let left = Instant::now();
    assert!(there.post().await.lead.is_some());
    assert!(left.elapsed() < ms(300), "{:?}", left.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s1_a_session_cookie_that_has_run_out_is_no_session() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/; Max-Age=10", "csrf=x; Path=/"])
        .await;
    assert!(here.get().await.lead.is_none());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ready = here.get().await;
    assert!(ready.lead.is_some(), "one request at a time may start the next");
    assert!(ready.snapshot.is_some(), "the other cookie is there");
}

#[tokio::test(start_paused = true)]
async fn t1_max_age_counts_from_the_start_of_the_session_and_does_not_slide() {
    let mut world = World::new();
    world.max_age = Some(IDLE * 2);
    let here = world.replica();
    here.whole(true, ms(1), &["csrf=x; Path=/"]).await;
    tokio::time::sleep(IDLE / 2).await;
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let started = Instant::now();
    let mut change = 0;
    while started.elapsed() < IDLE * 2 - IDLE / 8 {
        let ready = here.get().await;
        assert!(ready.lead.is_none(), "it ended after {:?}", started.elapsed());
        // Touched and written alike.
        here.touch.used(&KEY, ready.snapshot.as_ref().unwrap(), ready.at);
        if change % 2 == 0 {
            let cookie = format!("cart={change}; Path=/");
            here.respond(&ready, Rank::Unsafe, &[&cookie], None).await;
        }
        change += 1;
        tokio::time::sleep(IDLE / 8).await;
    }
    tokio::time::sleep(IDLE / 8).await;
    assert!(here.get().await.snapshot.is_none());
}

#[tokio::test(start_paused = true)]
async fn s3_a_leader_that_lost_its_lease_to_nobody_loses_nothing_of_a_record_without_a_session() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["csrf=x; Path=/"]).await;
    let stalled = here.post().await;
    let token = stalled.lead.as_ref().map(Lead::token).unwrap();
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    let committed = here.respond(&stalled, Rank::Auth, &["sid=ours; Path=/"], None).await;
    assert_eq!(committed.effect, Effect::Created);
}

#[tokio::test(start_paused = true)]
async fn f3_a_leader_that_lost_its_lease_and_then_the_store_loses_nothing() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let stalled = here.post().await;
    let token = stalled.lead.as_ref().map(Lead::token).unwrap();
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    world.store.leases_down.store(true, Ordering::SeqCst);
    let committed = here.respond(&stalled, Rank::Auth, &["sid=ours; Path=/"], None).await;
    assert_eq!(committed.effect, Effect::Created);
    end(stalled.lead, &here.sessions, committed).await;
    world.store.leases_down.store(false, Ordering::SeqCst);
    tokio::time::sleep(ms(3000)).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=ours");
}

#[tokio::test(start_paused = true)]
async fn s3_a_lease_that_the_store_forgot_is_taken_again_while_its_leader_works() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    let token = leader.lead.as_ref().map(Lead::token).unwrap();
    // As if the store had been restarted empty, or had hung for longer than the lease lasts.
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    tokio::time::sleep(ms(1000)).await;
    let waiting = tokio::time::timeout(ms(5000), there.post()).await;
    assert!(waiting.is_err(), "somebody else leads beside the leader");
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    end(leader.lead, &here.sessions, committed).await;
    assert_eq!(jar(there.get().await.snapshot.as_deref()), "sid=a");
}

#[tokio::test(start_paused = true)]
async fn s4_who_waited_for_the_leader_has_no_older_session_than_the_store_held_when_it_came() {
    let world = World::new();
    let (here, ahead) = (world.replica(), world.replica_ahead(ms(1500)));
    let leader = here.post().await;
    let settle = Some(ms(2000));
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], settle).await;
    tokio::time::sleep(ms(600)).await;
    // To this replica, the leader's time is over.
    let log_in = ahead.get().await;
    ahead.respond(&log_in, Rank::Auth, &["sid=b; Path=/"], None).await;
    let next = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.get().await.snapshot }
    });
    tokio::time::sleep(ms(10)).await;
    end(leader.lead, &here.sessions, committed).await;
    assert_eq!(jar(next.await.unwrap().as_deref()), "sid=b", "the log-in was not seen");
}

#[tokio::test(start_paused = true)]
async fn s2_who_is_freed_by_a_leader_without_a_session_goes_on_with_what_is_stored_by_then() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    let freed = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.get().await.snapshot }
    });
    tokio::time::sleep(ms(10)).await;
    let earlier = Ready {
        snapshot: None,
        lead: None,
        place: None,
        waited: false,
        at: world.clock.now(),
    };
    there.respond(&earlier, Rank::Safe, &["sid=a; Path=/"], None).await;
    let committed = here.respond(&leader, Rank::Unsafe, &[], None).await;
    end(leader.lead, &here.sessions, committed).await;
    assert_eq!(jar(freed.await.unwrap().as_deref()), "sid=a");
}

#[tokio::test(start_paused = true)]
async fn s3_a_retry_that_lost_its_lease_meanwhile_is_refused() {
    let world = World::new();
    let here = world.replica();
    let leader = here.post().await;
    let token = leader.lead.as_ref().map(Lead::token).unwrap();
    world.set_down(true);
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    end(leader.lead, &here.sessions, committed).await;
    world.store.slow_leases.store(true, Ordering::SeqCst);
    world.set_down(false);
    let settling = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.pending.settle(&KEY).await }
    });
    // It has the lease, and does not know yet.
    tokio::time::sleep(ms(75)).await;
    let rival = LeaseToken(9);
    let store = &world.store.inner;
    store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    assert_eq!(store.acquire_lease(&KEY, rival, LEASE_TTL).await, Ok(Acquired::Won));
    settling.await.unwrap().unwrap();
    assert_eq!(here.pending.len(), 1);
    assert!(
        store.load(&KEY).await.unwrap().is_none(),
        "it was stored beside a leader"
    );
    store.release_lease(&KEY, rival, LeaseEnd::Plain).await.unwrap();
    tokio::time::sleep(ms(2000)).await;
    assert_eq!(here.pending.len(), 0);
    assert!(store.load(&KEY).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn f3_the_changes_that_wait_are_bounded() {
    let world = World::new();
    let here = world.replica();
    here.whole(false, ms(1), &["sid=a; Path=/"]).await;
    let ready = here.get().await;
    world.set_down(true);
    let at = here.sessions.now();
    let said = Said {
        rank: Rank::Safe,
        cookies: cookies(&["cart=1; Path=/"], at),
        at,
    };
    for _ in 0..10_000 {
        here.pending.push(
            &KEY,
            Change::new(ready.snapshot.clone(), ready.at, said.clone(), None),
            None,
        );
    }
    assert_eq!(here.pending.len(), 10_000);
    let committed = here.respond(&ready, Rank::Auth, &["sid=b; Path=/"], None).await;
    assert_eq!(here.pending.len(), 10_000);
    assert_eq!(
        jar(committed.snapshot.as_deref()),
        "sid=a",
        "what is given up is not served"
    );
}

#[tokio::test(start_paused = true)]
async fn f2_requests_behind_changes_that_wait_are_refused_together() {
    let world = World::new();
    let here = world.replica();
    let keys: Vec<_> = (0..100).map(|n| Key::from_digest([n; 16])).collect();
    let respond = async |key: &Key, sent, line| {
        let at = here.sessions.now();
        let said = Said {
            rank: Rank::Auth,
            cookies: cookies(&[line], at),
            at,
        };
        here.commit
            .commit(key, Change::new(sent, here.sessions.now(), said, None), None)
            .await
    };
    let mut known = Vec::new();
    for key in &keys {
        known.push(respond(key, None, "sid=a; Path=/").await.snapshot);
    }
    world.set_down(true);
    for (key, sent) in keys.iter().zip(known) {
        respond(key, sent, "sid=; Max-Age=0; Path=/").await;
    }
    world.store.hangs.store(true, Ordering::SeqCst);
    tokio::time::sleep(ms(10)).await;
    let started = Instant::now();
    let requests: Vec<_> = keys
        .iter()
        .map(|key| {
            let (here, key) = (Arc::clone(&here), *key);
            tokio::spawn(async move { here.acquire.acquire(&key, SAFE).await.map(drop) })
        })
        .collect();
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(AcquireError::Store(_))));
    }
    assert!(started.elapsed() < ms(600), "refused after {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s4_who_comes_after_a_log_out_does_not_go_on_with_the_session_of_a_leader_that_ends_later() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    let log_out = there.whole(true, ms(0), &[]).await.1;
    let knows = Ready {
        snapshot: log_out,
        lead: None,
        place: None,
        waited: false,
        at: there.sessions.now(),
    };
    there
        .respond(&knows, Rank::Auth, &["sid=; Max-Age=0; Path=/"], None)
        .await;
    tokio::time::sleep(ms(1)).await;
    let next = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.get().await }
    });
    tokio::time::sleep(ms(10)).await;
    end(leader.lead, &here.sessions, committed).await;
    let next = next.await.unwrap();
    assert_eq!(
        jar(next.snapshot.as_deref()),
        "",
        "it goes on with a session that was ended"
    );
    assert!(next.lead.is_some());
}

#[tokio::test(start_paused = true)]
async fn s2_a_leader_whose_session_cannot_be_kept_frees_nobody_to_start_others() {
    let world = World::new();
    let (here, there) = (world.replica(), world.replica());
    let leader = here.post().await;
    let token = leader.lead.as_ref().map(Lead::token).unwrap();
    let before = world.store.inner.observe(&KEY).await.unwrap().1.barren;
    world.store.release_lease(&KEY, token, LeaseEnd::Plain).await.unwrap();
    let freed = Ready {
        snapshot: None,
        lead: None,
        place: None,
        waited: true,
        at: there.sessions.now(),
    };
    there.respond(&freed, Rank::Safe, &["sid=b; Path=/"], None).await;
    let committed = here.respond(&leader, Rank::Unsafe, &["sid=a; Path=/"], None).await;
    end(leader.lead, &here.sessions, committed).await;
    let (stored, lease) = world.store.inner.observe(&KEY).await.unwrap();
    assert!(stored.is_some() && !lease.held);
    assert_eq!(lease.barren, before);
}

#[tokio::test(start_paused = true)]
async fn b1_nothing_that_a_response_to_another_network_says_changes_a_session() {
    let world = World::new();
    let here = world.replica();
    let by = |address: [u8; 4]| {
        let address = IpAddr::from(address);
        Some(By {
            address,
            network: Some(IpNet::from(address)),
            watched: false,
        })
    };
    let said = |line: &str| Said {
        rank: Rank::Auth,
        cookies: cookies(&[line], here.sessions.now()),
        at: here.sessions.now(),
    };
    let leader = here.post().await;
    let change = Change::new(None, leader.at, said("sid=owner; Path=/"), None).by(by([192, 0, 2, 1]));
    let committed = here.commit.commit(&KEY, change, leader.lead.as_ref()).await;
    end(leader.lead, &here.sessions, committed).await;
    // Sent without a session, when there was none yet: by rank alone, the log-in would win.
    for sent in [None, here.sessions.load(&KEY).await.unwrap()] {
        let change = Change::new(sent, leader.at, said("sid=stranger; Path=/"), None).by(by([192, 0, 2, 2]));
        let committed = here.commit.commit(&KEY, change, None).await;
        assert_eq!(
            (committed.effect, jar(committed.snapshot.as_deref())),
            (Effect::None, "sid=owner".to_owned())
        );
    }
    let now = here.sessions.load(&KEY).await.unwrap();
    assert_eq!(jar(now.as_deref()), "sid=owner");
    let change = Change::new(now, leader.at, said("sid=again; Path=/"), None).by(by([192, 0, 2, 1]));
    let committed = here.commit.commit(&KEY, change, None).await;
    assert_eq!(jar(committed.snapshot.as_deref()), "sid=again", "its owner's do");
}
