//! What the replicas share: a real store, the links to it, and a book of all that ever took effect in it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::rules::Rules;
use crate::session::clock::{Clock, Timestamp};
use crate::session::cookie::Origin;
use crate::session::record::Snapshot;
use crate::session::store::{
    Acquired, Created, Key, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced, SessionStore, StoreError,
    StoreFuture, Stored, Version,
};
use crate::store::memory::MemoryStore;

/// The paused time of the runtime, as a wall clock.
pub(super) struct VirtualClock(pub(super) Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).saturating_add(self.0.elapsed())
    }
}

/// What happened, in order, and which rules it broke.
pub(super) struct Log {
    began: Instant,
    lines: Mutex<Vec<(Duration, String)>>,
    broken: Mutex<Vec<(&'static str, String)>>,
}

impl Log {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            lines: Mutex::default(),
            broken: Mutex::default(),
        })
    }

    pub(super) fn note(&self, line: String) {
        // Those who wait look again and again.
        let seen_before = |(_, before): &&(Duration, String)| {
            before.split_once(' ').map(|(who, _)| who) == line.split_once(' ').map(|(who, _)| who)
        };
        let repeats = line.contains(" observe ") || line.contains(" renew ");
        let before = self
            .lines
            .lock()
            .unwrap()
            .iter()
            .rev()
            .find(seen_before)
            .is_some_and(|(_, before)| *before == line);
        if repeats && before {
            return;
        }
        self.lines.lock().unwrap().push((self.began.elapsed(), line));
    }

    pub(super) fn broke(&self, rule: &'static str, why: String) {
        self.note(format!("*** {rule}: {why}"));
        self.broken.lock().unwrap().push((rule, why));
    }

    pub(super) fn broken(&self) -> Vec<(&'static str, String)> {
        self.broken.lock().unwrap().clone()
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (at, line) in self.lines.lock().unwrap().iter() {
            let _ = writeln!(text, "{:>8.1} ms  {line}", at.as_secs_f64() * 1000.0);
        }
        text
    }
}

/// The cookies of a record by name.
pub(super) type Cookies = BTreeMap<String, String>;

pub(super) fn cookies_of(snapshot: Option<&Snapshot>) -> Cookies {
    let origin = Origin::new("shop.example", "/");
    let header = snapshot.and_then(|snapshot| snapshot.record.jar().header(&origin, Timestamp::from_millis(0)));
    let header = String::from_utf8(header.unwrap_or_default()).unwrap();
    header
        .split("; ")
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// How the store came to hold what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A replica's write, with the lease that it showed.
    Write { fence: Option<LeaseToken> },
    /// A replica's removal.
    Remove,
    /// It ran out.
    Expired,
    /// The store lost acknowledged writes.
    Loss,
}

/// What the store held from one moment on.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) version: Option<Version>,
    pub(super) cookies: Cookies,
    pub(super) cause: Cause,
}

impl State {
    pub(super) fn sid(&self) -> Option<&str> {
        self.cookies.get("sid").map(String::as_str)
    }
}

#[derive(Clone, Default)]
struct Image {
    record: Option<Stored>,
    lease: Option<(LeaseToken, Timestamp)>,
}

#[derive(Default)]
struct Book {
    images: BTreeMap<Key, Image>,
    past: Vec<(Key, Image)>,
    timelines: BTreeMap<Key, Vec<State>>,
}

/// The store, and the book about it.
pub(super) struct Server {
    clock: Arc<VirtualClock>,
    inner: Mutex<Arc<MemoryStore>>,
    book: Mutex<Book>,
    pub(super) log: Arc<Log>,
    pub(super) rules: Arc<Rules>,
}

impl Server {
    pub(super) fn new(clock: Arc<VirtualClock>, log: Arc<Log>, rules: Arc<Rules>) -> Arc<Self> {
        let inner = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
        Arc::new(Self {
            clock,
            inner: Mutex::new(Arc::new(inner)),
            book: Mutex::default(),
            log,
            rules,
        })
    }

    fn inner(&self) -> Arc<MemoryStore> {
        Arc::clone(&self.inner.lock().unwrap())
    }

    /// What the store held since the beginning; the first state is an empty one.
    pub(super) fn timeline(&self, key: &Key) -> Vec<State> {
        self.book
            .lock()
            .unwrap()
            .timelines
            .get(key)
            .cloned()
            .unwrap_or_else(|| vec![nothing(Cause::Loss)])
    }

    /// Who holds the lease now.
    pub(super) fn holder(&self, key: &Key) -> Option<LeaseToken> {
        let now = self.clock.now();
        let book = self.book.lock().unwrap();
        let lease = book.images.get(key).and_then(|image| image.lease);
        lease.filter(|(_, until)| *until > now).map(|(token, _)| token)
    }

    /// Notes what the store holds now of `key`.
    async fn enter(&self, key: &Key, cause: Cause) {
        let record = self.inner().load(key).await.unwrap();
        let now = self.clock.now();
        let mut book = self.book.lock().unwrap();
        let mut image = book.images.get(key).cloned().unwrap_or_default();
        let cause = match image.record.as_ref() {
            Some(before) if before.expires_at <= now && record.is_none() => Cause::Expired,
            _ => cause,
        };
        let version = record.as_ref().map(|record| record.version);
        let changed = image.record.as_ref().map(|before| before.version) != version;
        image.record = record;
        book.images.insert(*key, image.clone());
        book.past.push((*key, image.clone()));
        let timeline = book.timelines.entry(*key).or_insert_with(|| vec![nothing(Cause::Loss)]);
        if !changed {
            return;
        }
        if !is_installation(key) {
            return;
        }
        let snapshot = image.record.as_ref().map(|stored| Snapshot::read(stored).unwrap());
        timeline.push(State {
            version,
            cookies: cookies_of(snapshot.as_deref()),
            cause,
        });
        let timeline = timeline.clone();
        drop(book);
        self.rules
            .stored(key, &timeline, image.record.as_ref(), now, self.holder(key));
    }

    fn enter_lease(&self, key: &Key, lease: Option<(LeaseToken, Timestamp)>) {
        let mut book = self.book.lock().unwrap();
        let image = book.images.entry(*key).or_default();
        image.lease = lease;
        let image = image.clone();
        book.past.push((*key, image));
    }

    async fn create(&self, key: &Key, new: NewRecord, fence: Option<LeaseToken>) -> Result<Created, StoreError> {
        self.enter(key, Cause::Expired).await;
        let answer = self.inner().create(key, new, fence).await;
        self.enter(key, Cause::Write { fence }).await;
        answer
    }

    async fn replace(
        &self,
        key: &Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> Result<Replaced, StoreError> {
        self.enter(key, Cause::Expired).await;
        let answer = self.inner().replace(key, expected, new, fence).await;
        self.enter(key, Cause::Write { fence }).await;
        answer
    }

    async fn remove(&self, key: &Key, expected: Version) -> Result<Removed, StoreError> {
        self.enter(key, Cause::Expired).await;
        let answer = self.inner().remove(key, expected).await;
        self.enter(key, Cause::Remove).await;
        answer
    }

    async fn acquire(&self, key: &Key, token: LeaseToken, ttl: Duration) -> Result<Acquired, StoreError> {
        let answer = self.inner().acquire_lease(key, token, ttl).await;
        if answer == Ok(Acquired::Won) {
            self.rules.won(key, token, &self.timeline(key));
            self.enter_lease(key, Some((token, self.clock.now().saturating_add(ttl))));
        }
        answer
    }

    async fn renew(&self, key: &Key, token: LeaseToken, ttl: Duration) -> Result<bool, StoreError> {
        let answer = self.inner().renew_lease(key, token, ttl).await;
        if answer == Ok(true) {
            self.enter_lease(key, Some((token, self.clock.now().saturating_add(ttl))));
        }
        answer
    }

    async fn release(&self, key: &Key, token: LeaseToken, end: LeaseEnd) -> Result<(), StoreError> {
        let held = self.holder(key) == Some(token);
        let answer = self.inner().release_lease(key, token, end).await;
        if held {
            self.enter_lease(key, None);
        }
        answer
    }

    /// Forgets a lease, as a store does that was restarted or has failed over.
    pub(super) async fn forget_leases(&self) {
        self.rules.trouble(None);
        let keys: Vec<Key> = self.book.lock().unwrap().images.keys().copied().collect();
        for key in keys {
            if let Some(token) = self.holder(&key) {
                self.log
                    .note(format!("store: the lease of {} is forgotten", name(&key)));
                self.inner().release_lease(&key, token, LeaseEnd::Plain).await.unwrap();
                self.enter_lease(&key, None);
            }
        }
    }

    /// Loses the last `count` changes, acknowledged ones too; all of them: it was restarted empty.
    pub(super) async fn rewind(&self, count: usize) {
        self.rules.trouble(None);
        let now = self.clock.now();
        let images = {
            let mut book = self.book.lock().unwrap();
            let keep = book.past.len().saturating_sub(count);
            book.past.truncate(keep);
            book.past.iter().cloned().collect::<BTreeMap<Key, Image>>()
        };
        self.log.note(format!("store: the last {count} changes are lost"));
        let inner = Arc::new(MemoryStore::new(Arc::clone(&self.clock) as Arc<dyn Clock>));
        for (key, image) in &images {
            if let Some(record) = image.record.as_ref().filter(|record| record.expires_at > now) {
                let new = NewRecord {
                    version: record.version,
                    ttl: record.expires_at.since(now),
                    payload: record.payload.clone(),
                };
                inner.create(key, new, None).await.unwrap();
            }
            if let Some((token, until)) = image.lease.filter(|(_, until)| *until > now) {
                inner.acquire_lease(key, token, until.since(now)).await.unwrap();
            }
        }
        *self.inner.lock().unwrap() = inner;
        let keys: Vec<Key> = self.book.lock().unwrap().timelines.keys().copied().collect();
        for key in keys {
            let lease = images.get(&key).and_then(|image| image.lease);
            self.book.lock().unwrap().images.entry(key).or_default().lease = lease;
            self.enter(&key, Cause::Loss).await;
        }
    }
}

fn nothing(cause: Cause) -> State {
    State {
        version: None,
        cookies: Cookies::new(),
        cause,
    }
}

/// Whether that is the key of an installation here: the bridge may keep other things beside its records.
fn is_installation(key: &Key) -> bool {
    key.as_bytes()[0] < 16
}

/// The name of an installation in the log.
pub(super) fn name(key: &Key) -> String {
    format!("i{}", key.as_bytes()[0])
}

tokio::task_local! {
    /// Whether a request has looked at the store in vain.
    pub(super) static LOOK_FAILED: Cell<bool>;
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It takes effect, and its answer comes.
    Answered,
    /// It is refused at once.
    Refused,
    /// It takes effect, and its answer is lost.
    AnswerLost,
    /// It is lost on its way.
    CallLost,
}

/// Decides when each call takes effect, and what becomes of it.
pub(super) trait Sky: Send + Sync + 'static {
    fn before<'a>(
        &'a self,
        replica: usize,
        key: &'a Key,
        what: &'a str,
    ) -> Pin<Box<dyn Future<Output = Fate> + Send + 'a>>;
    fn after<'a>(&'a self, replica: usize, key: &'a Key) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// One replica's way to the store.
pub(super) struct Link {
    pub(super) replica: usize,
    pub(super) server: Arc<Server>,
    pub(super) sky: Arc<dyn Sky>,
    pub(super) dead: Arc<AtomicBool>,
}

impl Link {
    async fn while_alive(&self) {
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn run<'a, T: std::fmt::Debug + Send + 'a>(
        &'a self,
        key: &'a Key,
        what: String,
        changes: bool,
        effect: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            self.while_alive().await;
            let what = format!("r{} {} {what}", self.replica, name(key));
            let fate = self.sky.before(self.replica, key, &what).await;
            if fate != Fate::Answered {
                self.server.rules.trouble(Some(self.replica));
            }
            if matches!(fate, Fate::Answered | Fate::AnswerLost) && !self.dead.load(Ordering::SeqCst) {
                // In the log before its consequences.
                let answer = effect.await;
                let told = answer
                    .as_ref()
                    .map_or_else(|error| error.to_string(), |answer| tell(answer));
                self.server.log.note(format!(
                    "{what} -> {told}{}",
                    if fate == Fate::AnswerLost { " (answer lost)" } else { "" }
                ));
                self.sky.after(self.replica, key).await;
                self.while_alive().await;
                if fate == Fate::Answered {
                    return answer;
                }
            } else {
                self.server.log.note(format!("{what} -> {fate:?}"));
                self.sky.after(self.replica, key).await;
                self.while_alive().await;
            }
            let _ = LOOK_FAILED.try_with(|failed| failed.set(failed.get() || !changes));
            Err(match fate {
                Fate::Refused => StoreError::Unavailable("refused".to_owned()),
                _ if changes => StoreError::Ambiguous("no answer".to_owned()),
                _ => StoreError::Timeout,
            })
        })
    }
}

/// An answer in few words.
fn tell(answer: &impl std::fmt::Debug) -> String {
    let text = format!("{answer:?}");
    let text = text
        .replace("version: Version ", "")
        .replace("expires_at: ", "")
        .replace("payload: ", "");
    text.replace("Stored ", "")
        .replace("LeaseState ", "")
        .replace("Timestamp", "")
}

fn of(version: Version) -> String {
    format!("v{}#{:x}", version.seq, version.nonce)
}

fn fenced(fence: Option<LeaseToken>) -> String {
    fence.map_or_else(|| "unfenced".to_owned(), |token| format!("fence {:x}", token.0 >> 112))
}

impl SessionStore for Link {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        self.run(key, "load".to_owned(), false, async {
            self.server.inner().load(key).await
        })
    }
    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        self.run(key, "observe".to_owned(), false, async {
            self.server.inner().observe(key).await
        })
    }
    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        let what = format!("create {} {}", of(new.version), fenced(fence));
        self.run(key, what, true, self.server.create(key, new, fence))
    }
    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced> {
        let what = format!("replace {} by {} {}", of(expected), of(new.version), fenced(fence));
        self.run(key, what, true, self.server.replace(key, expected, new, fence))
    }
    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        self.run(
            key,
            format!("remove {}", of(expected)),
            true,
            self.server.remove(key, expected),
        )
    }
    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool> {
        self.run(key, "discard".to_owned(), false, async {
            self.server.inner().discard(key).await
        })
    }
    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        self.run(key, format!("touch {}", of(expected)), false, async move {
            self.server.inner().touch(key, expected, ttl).await
        })
    }
    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        let what = format!("take lease {:x}", token.0 >> 112);
        self.run(key, what, true, self.server.acquire(key, token, ttl))
    }
    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        let what = format!("renew lease {:x}", token.0 >> 112);
        self.run(key, what, true, self.server.renew(key, token, ttl))
    }
    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        let what = format!("give back lease {:x} {end:?}", token.0 >> 112);
        self.run(key, what, true, self.server.release(key, token, end))
    }
    fn ping(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn kind(&self) -> &'static str {
        "explored"
    }
    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
