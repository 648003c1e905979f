//! The store in an SQLite file: one process on one machine, and all of it there again after a restart. The stores in
//! database [`server`]s lie beside it.
//!
//! * **The memory of the process is the truth**, the file is what survives it. A lock file beside the database
//!   (`<path>.lock`) keeps any other process out. Records that were used lately are served from memory (64 MiB of
//!   them), others are read from the file once. Leases are in memory only: they die with the process that holds them.
//! * **A change is answered when it is on the disk** (`synchronous = FULL`): it survives a kill and a power cut.
//!   Changes that come in while one transaction is being committed share the next, so that many cost little more than
//!   one.
//! * **Files** are readable by their owner only (0600): they hold cookie values. The file does not shrink; room that
//!   was freed is used again.
//! * **Errors.** A full disk and the like are [`StoreError::Unavailable`]: nothing happened. A commit that broke off in
//!   the middle, or whose outcome did not come by the deadline, is [`StoreError::Ambiguous`].

mod cache;
pub mod server;
mod table;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use self::cache::{Lookup, Shard};
use self::writer::{Claim, Order, Pending, Writer};
use super::OpenError;
use super::shards::Shards;
use super::slot::{self, Slot};
use crate::session::clock::{Clock, Timestamp};
use crate::session::quota::{Place, Quota, Taken};
use crate::session::store::{
    Acquired, Created, Cursor, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced,
    SessionStore, StoreError, StoreFuture, Stored, Version,
};

/// How much memory the cache of records takes.
const CACHE_BYTES: usize = 64 << 20;

/// How many changes may wait for the writer; further ones wait to be queued.
const QUEUE: usize = 4096;

/// How long to wait for another process to let go of the file: one that is being restarted needs a moment.
const LOCK_WITHIN: Duration = Duration::from_secs(3);

/// How long [`SessionStore::close`] waits for what is under way.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Records in an SQLite file, leases in memory.
pub struct SqliteStore {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    /// Reads what is not in memory. `None` once closed.
    reader: Mutex<Option<SqliteConnection>>,
    closed: AtomicBool,
    timeout: Duration,
}

/// What the store and its writer share.
struct Shared {
    clock: Arc<dyn Clock>,
    shards: Shards<Shard>,
}

impl SqliteStore {
    /// Opens the file at `path`, or creates it. `timeout` is the deadline of every call.
    ///
    /// Must be called inside a Tokio runtime; a background task writes and sweeps until the store is closed or
    /// dropped.
    ///
    /// # Errors
    ///
    /// When another process uses the file (after a wait of a few seconds), when it cannot be opened, is no database, or
    /// was written by a later version of this program. The error names the file.
    pub async fn open(path: impl AsRef<Path>, timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let lock = lock(path).await?;
        make_private(path)?;
        // Well within the deadline, even for one who waits for two transactions: that the file is locked (by somebody's
        // shell) is then told from an answer that was lost.
        let patience = timeout / 4;
        let connection = table::open(path, patience).await?;
        let reader = table::open_reader(path, patience).await?;
        let capacity = CACHE_BYTES / Shards::<Shard>::COUNT;
        let shared = Arc::new(Shared {
            clock,
            shards: Shards::new(|| Shard::new(capacity)),
        });
        let (orders, received) = mpsc::channel(QUEUE);
        let writer = Writer {
            connection,
            shared: Arc::clone(&shared),
            orders: received,
            lock,
            failing: false,
        };
        tokio::spawn(writer.run());
        Ok(Self {
            shared,
            orders,
            reader: Mutex::new(Some(reader)),
            closed: AtomicBool::new(false),
            timeout,
        })
    }

    /// Reads `key` as `view` sees it: from memory, or from the file first.
    async fn read<T>(&self, key: &Key, view: impl Fn(&Shard, Option<Stored>, Timestamp) -> T) -> Result<T, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let see = |shard: &Shard, record: Option<Stored>| {
            let now = self.shared.clock.now();
            let current = slot::current(record.as_ref(), now).is_some();
            view(shard, record.filter(|_| current), now)
        };
        let look = || {
            let mut shard = self.shared.shards.of(key);
            match shard.look(key) {
                Lookup::Known(record) => Ok(see(&shard, record)),
                Lookup::Unknown(mark) => Err(mark),
            }
        };
        let mut mark = match look() {
            Ok(seen) => return Ok(seen),
            Err(mark) => mark,
        };
        let through = async {
            loop {
                let record = self.select(key).await?;
                let settled = {
                    let mut shard = self.shared.shards.of(key);
                    shard.settle(key, mark, record).map(|record| see(&shard, record))
                };
                match settled.map_or_else(look, Ok) {
                    Ok(seen) => return Ok(seen),
                    Err(again) => mark = again,
                }
            }
        };
        tokio::time::timeout(self.timeout, through)
            .await
            .unwrap_or(Err(StoreError::Timeout))
    }

    async fn select(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        match &mut *self.reader.lock().await {
            Some(reader) => table::select(reader, key).await,
            None => Err(closed()),
        }
    }

    /// Has the writer `decide` and write a change of `key`.
    async fn change<T: Send + 'static>(
        &self,
        key: &Key,
        decide: impl FnOnce(&mut Slot, Timestamp) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let claim = Claim::default();
        let (reply, answer) = oneshot::channel();
        let change = Pending {
            key: *key,
            claim: claim.clone(),
            decide: Some(decide),
            outcome: None,
            reply,
        };
        let asked = async {
            self.orders.send(Order::Change(Box::new(change))).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) if claim.take() => Err(closed()),
            Ok(None) => Err(StoreError::Ambiguous("the writer ended before it answered".into())),
            Err(_) if claim.take() => Err(StoreError::Unavailable("the disk does not keep up".into())),
            Err(_) => Err(StoreError::Ambiguous(format!(
                "not on the disk within {} ms",
                self.timeout.as_millis()
            ))),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it has been closed".into())
}

/// `path` with `suffix` appended to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Takes the lock file. The system lets go of it when the process ends, however it ends; the file itself stays.
async fn lock(path: &Path) -> Result<File, OpenError> {
    let path = beside(path, ".lock");
    let file = private(&path)?;
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::new(format!(
                    "another process holds {}: an SQLite store serves one process only",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => {
                return Err(OpenError::new(format!("cannot lock {}: {error}", path.display())));
            }
        }
    }
}

/// Makes sure that the database file is there, and that only its owner may read it and what SQLite puts beside it:
/// SQLite gives new files of its own the mode of the database.
fn make_private(path: &Path) -> Result<(), OpenError> {
    private(path)?;
    for suffix in ["-wal", "-shm"] {
        let path = beside(path, suffix);
        if path.exists() {
            private(&path)?;
        }
    }
    Ok(())
}

/// Opens a file, creating it where there is none, and sets its mode to 0600.
fn private(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let opened = {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
            options.mode(0o600).open(path).and_then(|file| {
                file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
                Ok(file)
            })
        }
        #[cfg(not(unix))]
        {
            options.open(path)
        }
    };
    opened.map_err(|error| OpenError::new(format!("cannot open {}: {error}", path.display())))
}

impl SessionStore for SqliteStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(self.read(key, |_, record, _| record))
    }

    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        Box::pin(self.read(key, |shard, record, now| (record, shard.lease(key).state(now))))
    }

    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        Box::pin(self.change(key, move |slot, now| slot.create(now, new, fence)))
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(self.change(key, move |slot, now| slot.replace(now, expected, new, fence)))
    }

    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        Box::pin(self.change(key, move |slot, now| slot.remove(now, expected)))
    }

    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            if self.closed.load(Ordering::Acquire) {
                return Err(closed());
            }
            let (reply, answer) = oneshot::channel();
            let asked = async {
                let order = Order::Discard(*key, reply);
                self.orders.send(order).await.map_err(|_| closed())?;
                answer.await.map_err(|_| closed())?
            };
            tokio::time::timeout(self.timeout, asked)
                .await
                .unwrap_or_else(|_| Err(StoreError::Ambiguous("not on the disk in time".into())))
        })
    }

    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(self.change(key, move |slot, now| slot.touch(now, expected, ttl)))
    }

    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        Box::pin(self.change(key, move |slot, now| slot.lease.acquire(now, token, ttl)))
    }

    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(self.change(key, move |slot, now| slot.lease.renew(now, token, ttl)))
    }

    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        Box::pin(self.change(key, move |slot, now| slot.lease.release(now, token, end)))
    }

    fn take_place<'a>(&'a self, key: &'a Key, quota: Quota, _: Timestamp) -> StoreFuture<'a, Taken> {
        Box::pin(self.change(key, move |slot, now| slot.take_place(now, quota)))
    }

    fn give_back<'a>(&'a self, key: &'a Key, quota: Quota, place: Place) -> StoreFuture<'a, ()> {
        Box::pin(self.change(key, move |slot, now| slot.give_back(now, quota, place)))
    }

    fn keys(&self, after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        Box::pin(async move {
            let listed = async {
                match &mut *self.reader.lock().await {
                    Some(reader) => table::keys(reader, after).await,
                    None => Err(closed()),
                }
            };
            tokio::time::timeout(self.timeout, listed)
                .await
                .unwrap_or(Err(StoreError::Timeout))
        })
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            if self.closed.load(Ordering::Acquire) {
                return Err(closed());
            }
            let (reply, answer) = oneshot::channel();
            let asked = async {
                self.orders.send(Order::Probe(reply)).await.map_err(|_| closed())?;
                answer.await.map_err(|_| closed())?
            };
            tokio::time::timeout(self.timeout, asked)
                .await
                .unwrap_or(Err(StoreError::Timeout))
        })
    }

    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            if self.closed.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
            let closing = async {
                if let Some(reader) = self.reader.lock().await.take() {
                    // It only reads: there is nothing to lose.
                    let _ = reader.close().await;
                }
                let (told, done) = oneshot::channel();
                if self.orders.send(Order::Close(told)).await.is_ok() {
                    let _ = done.await;
                }
            };
            tokio::time::timeout(CLOSE_WITHIN, closing)
                .await
                .map_err(|_| StoreError::Timeout)
        })
    }
}
