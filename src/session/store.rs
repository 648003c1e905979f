//! The seam between the bridge and what its replicas share.
//!
//! A store keeps, for each [`Key`], at most one *record* (opaque bytes with a version and an expiry) and at most one
//! *lease* (who may start a session just now). It knows nothing of cookies. Every backend implements
//! [`SessionStore`] and must pass the one conformance suite, `tests/it/stores/contract.rs`.
//!
//! # What every implementation promises
//!
//! * **Absence is an answer, an outage is an error.** `Ok(None)` means that the store was asked and holds nothing.
//!   Whatever stands in the way of an answer is a [`StoreError`].
//! * **Every call ends by the store's own deadline**, whatever the network does.
//! * **Each call is atomic** with respect to every other call on the same key, from any replica.
//! * **No record outlives its expiry**, and none is ever without one; an expired record is never returned, nor does it
//!   make a [`SessionStore::create`] lose.
//! * **A lease dies with its holder**: it is gone once its time has passed without a renewal.
//! * **What cannot be read is left alone.** A record that is damaged, sealed with an unknown key, or of a later form is
//!   [`StoreError::Unreadable`] to every call that would have to read or overwrite it. It goes only when somebody who
//!   was told so removes it: see [`Unreadable::version`].
//! * **Fencing**: a write that carries a [`LeaseToken`] takes effect only while that token holds the lease, judged
//!   by the store at the moment of the write, never by a clock of the caller.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use super::clock::Timestamp;
use super::copies::{AtOnce, Pass};
use super::quota::{Place, Quota, Taken, Tally};
use crate::hex;

/// A boxed future, so that the store can be chosen at run time.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The name of one installation in the store: a digest of its Install ID, 32 lower-case hexadecimal digits.
///
/// Safe to print and to log: the Install ID cannot be found from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// The key made of these 16 digest bytes.
    #[must_use]
    pub const fn from_digest(digest: [u8; 16]) -> Self {
        Self(digest)
    }

    /// The digest bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The digits.
    #[must_use]
    pub fn text(&self) -> [u8; 32] {
        hex::digits(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// The version of a record. It changes with every write but a touch.
///
/// `seq` orders the versions of one record; `nonce` is drawn at random for each write, so that a writer whose reply
/// was lost can tell whether the version it finds is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Version {
    /// Grows by one with each change.
    pub seq: u64,
    /// Drawn at random for each write.
    pub nonce: u32,
}

/// A record as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The version under which it was written.
    pub version: Version,
    /// When the store forgets it.
    pub expires_at: Timestamp,
    /// The encoded record. Secret: it holds cookie values.
    pub payload: Payload,
}

/// The bytes of an encoded record; they hold cookie values and are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// Proof of having taken a lease: drawn at random by the taker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken(pub u128);

impl LeaseToken {
    /// A new one.
    #[must_use]
    pub fn draw() -> Self {
        Self(fastrand::u128(..))
    }
}

/// Outcome of [`SessionStore::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The record is stored.
    Won,
    /// There is a record already; nothing was written.
    Lost(Stored),
    /// The lease that was shown is not held by that token; nothing was written. Judged before `Lost`.
    Fenced,
}

/// Outcome of [`SessionStore::replace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The new record is stored.
    Done,
    /// The version was another one (`Some`), or there is no record (`None`); nothing was written.
    Conflict(Option<Stored>),
    /// The lease that was shown is not held by that token; nothing was written. Judged before `Conflict`.
    Fenced,
}

/// Outcome of [`SessionStore::remove`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The record was there with that version, and is gone.
    Done,
    /// The version was another one (`Some`), or there is no record (`None`); nothing was removed.
    Conflict(Option<Stored>),
}

/// Outcome of [`SessionStore::acquire_lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The token holds the lease now.
    Won,
    /// Another token holds it. `barren` is the count of leaders so far that ended without starting a session.
    Held {
        /// See [`LeaseState::barren`].
        barren: u32,
    },
}

/// What is known of a lease, see [`SessionStore::observe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeaseState {
    /// Whether anyone holds it.
    pub held: bool,
    /// How many leaders ended without starting a session ([`LeaseEnd::Barren`]) in the recent past. A waiter that
    /// sees this grow while it waits knows that it has been freed. The count is forgotten (falls to zero) some time
    /// after the last of them, at least [`BARREN_MEMORY`].
    pub barren: u32,
}

/// How long the count of barren leaders outlives the last of them.
pub const BARREN_MEMORY: Duration = Duration::from_secs(30);

/// How a leader ended, see [`SessionStore::release_lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// It failed, was cut off, or started a session: whoever comes next finds a record or takes the lead.
    Plain,
    /// Its response started no session: those who waited are freed.
    Barren,
}

/// Why the store did not answer. Never means "no such record".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The store could not be reached, or refused to serve; what was asked did not happen.
    Unavailable(String),
    /// No answer within the deadline to a call that changes nothing.
    Timeout,
    /// What the store holds or answers makes no sense, beyond one record; the text never says what it holds.
    Corrupt(String),
    /// The record cannot be read; the store itself is well.
    Unreadable(Unreadable),
    /// The record is larger than the store takes; it was not stored, and never will be.
    TooLarge(String),
    /// The call may or may not have taken effect: the answer to a change was lost. Read before deciding.
    Ambiguous(String),
}

impl StoreError {
    /// A short, stable name for metrics and logs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Timeout => "timeout",
            Self::Corrupt(_) => "corrupt",
            Self::Unreadable(_) => "unreadable",
            Self::TooLarge(_) => "too_large",
            Self::Ambiguous(_) => "ambiguous",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the store is unavailable: {why}"),
            Self::Timeout => write!(f, "the store did not answer in time"),
            Self::Corrupt(what) => write!(f, "the store holds something unreadable: {what}"),
            Self::Unreadable(unreadable) => write!(f, "{unreadable}"),
            Self::TooLarge(why) => write!(f, "the record is too large for the store: {why}"),
            Self::Ambiguous(why) => write!(f, "the store's answer was lost, the change may have happened: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is sealed with a key that this replica does not have.
    UnknownKey,
    /// It does not pass the check of its seal: it was changed, or belongs to another installation or version.
    NotAuthentic,
    /// It is in clear where only sealed ones are accepted.
    NotSealed,
    /// It has a format that this version does not know: most likely a later version wrote it.
    UnknownFormat,
    /// Its format is known and its content makes no sense.
    Garbled,
}

/// A record that cannot be read: why, and how to be rid of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Why.
    pub flaw: Flaw,
    /// The version, where the store could tell: [`SessionStore::remove`] takes it away. Where it could not,
    /// [`SessionStore::discard`] does.
    pub version: Option<Version>,
    /// More words on it, for operators; never what it holds.
    detail: Cow<'static, str>,
}

impl Unreadable {
    /// A record without a version that can be told. `detail` never says what it holds.
    #[must_use]
    pub fn new(flaw: Flaw, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            flaw,
            version: None,
            detail: detail.into(),
        }
    }

    /// The same of a record of that version.
    #[must_use]
    pub fn of(self, version: Version) -> Self {
        Self {
            version: Some(version),
            ..self
        }
    }
}

impl From<Unreadable> for StoreError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.flaw {
            Flaw::UnknownKey => "it is sealed with a key that this replica does not have",
            Flaw::NotAuthentic => "its seal is broken",
            Flaw::NotSealed => "it is in clear, and only sealed records are accepted",
            Flaw::UnknownFormat => "its format is unknown to this version",
            Flaw::Garbled => "it is garbled",
        };
        write!(f, "the record cannot be read: {what} ({})", self.detail)
    }
}

/// What all replicas share. See the [module](self) for what each call promises.
///
/// Times to live are relative, so that clocks of replicas need not agree.
pub trait SessionStore: Send + Sync + 'static {
    /// The record of `key`.
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>>;

    /// The same, and with what it takes to keep a copy, where the store promises to tell of changes (see
    /// [`copies`](super::copies)). A layer over a store passes it on.
    fn load_to_keep<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, Option<Pass>)> {
        Box::pin(async move { Ok((self.load(key).await?, None)) })
    }

    /// This store as one that answers at once, where it does. A layer over a store never does: it has its own reading.
    fn at_once(&self) -> Option<&dyn AtOnce> {
        None
    }

    /// The record of `key` and the state of its lease, as of one moment.
    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)>;

    /// Stores a record where there is none. With `fence`, only while that token holds the lease.
    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created>;

    /// Stores `new` in place of the record that has the version `expected`.
    /// With `fence`, only while that token holds the lease.
    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced>;

    /// Removes the record if it has the version `expected`.
    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed>;

    /// Removes what lies under `key` if the store cannot read it as a record at all ([`Unreadable`] without a version),
    /// and leaves a record alone. `true` when something was removed.
    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool>;

    /// Moves the expiry of the record to `ttl` from now, if it still has the version `expected`; otherwise does
    /// nothing. `true` when it was moved. The record itself is not rewritten and keeps its version.
    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool>;

    /// Takes the lease for `ttl` unless another token holds it. Taking one's own lease again renews it.
    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired>;

    /// Extends a held lease to `ttl` from now. `false` when the token does not hold it (any more).
    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool>;

    /// Gives the lease back if the token holds it; otherwise does nothing.
    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()>;

    /// Takes one of the places that `quota` allows under `key`, which no installation has. `now` is the caller's clock, for
    /// a store that has none of its own. [`StoreError::Ambiguous`]: the place may have been taken.
    ///
    /// Made of the calls above, this is right for every store. One that can decide by itself does better where many
    /// count at once: here each of them may have to try again.
    fn take_place<'a>(&'a self, key: &'a Key, quota: Quota, now: Timestamp) -> StoreFuture<'a, Taken> {
        Box::pin(retally(self, key, quota, move |tally| {
            let taken = tally.take(&quota, now);
            (taken, matches!(taken, Taken::Place(_)))
        }))
    }

    /// Gives back a place that was taken under `key` and not used.
    fn give_back<'a>(&'a self, key: &'a Key, quota: Quota, place: Place) -> StoreFuture<'a, ()> {
        Box::pin(retally(self, key, quota, move |tally| {
            tally.give_back(place);
            ((), true)
        }))
    }

    /// The keys of what the store holds, part by part: from the beginning, or after the last part. What is there all the
    /// while is named at least once; what has come or gone meanwhile, or has expired, may be.
    /// [`StoreError::Unavailable`] where there is no such list.
    fn keys(&self, _after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        Box::pin(async {
            Err(StoreError::Unavailable(
                "this store has no list of what it holds".into(),
            ))
        })
    }

    /// Whether the store can serve reads and writes just now.
    fn ping(&self) -> StoreFuture<'_, ()>;

    /// A short name of the kind of store, for logs and metrics: `memory`, `sqlite`, `redis`,
    /// `memcached`, `postgres`, `mysql`.
    fn kind(&self) -> &'static str;

    /// What it counts itself, for metrics. A layer over a store passes on what that counts.
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }

    /// Makes everything durable and lets go of files and connections; this may take longer than the deadline of the
    /// other calls. Calls after this fail.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// How often a change of a tally may lose against others.
const MAX_TALLIES: usize = 32;

/// Changes the tally under `key`; `change` says whether there is anything to write.
async fn retally<S: SessionStore + ?Sized, T: Send>(
    store: &S,
    key: &Key,
    quota: Quota,
    change: impl Fn(&mut Tally) -> (T, bool) + Send + Sync,
) -> Result<T, StoreError> {
    let mut there = store.load(key).await?;
    for _ in 0..MAX_TALLIES {
        let mut tally = there
            .as_ref()
            .map(|there| Tally::decode(&there.payload))
            .unwrap_or_default();
        let (outcome, changed) = change(&mut tally);
        if !changed {
            return Ok(outcome);
        }
        let new = NewRecord::tally(&tally, there.as_ref().map(|there| there.version), quota);
        there = match there {
            None => match store.create(key, new, None).await? {
                Created::Lost(there) => Some(there),
                Created::Won | Created::Fenced => return Ok(outcome),
            },
            Some(before) => match store.replace(key, before.version, new, None).await? {
                Replaced::Conflict(there) => there,
                Replaced::Done | Replaced::Fenced => return Ok(outcome),
            },
        };
    }
    Err(StoreError::Unavailable("too many count at once".to_owned()))
}

/// A part of the list of what a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys in it.
    pub keys: Vec<Key>,
    /// Where the next part begins; none: this is the last.
    pub next: Option<Cursor>,
}

/// A place in the list of what a store holds; how it is written is the store's own affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// What a store counts itself, from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Connections made in place of others.
    pub reconnects: u64,
    /// Changes that stand, and that fewer replicas confirmed in time than was asked for.
    pub unreplicated: u64,
}

/// A record to be written.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// The version it is to have.
    pub version: Version,
    /// How long from now it lives. Never zero.
    pub ttl: Duration,
    /// The encoded record.
    pub payload: Payload,
}

impl NewRecord {
    /// What is stored of `tally`, over the one of the version `over`.
    #[must_use]
    pub fn tally(tally: &Tally, over: Option<Version>, quota: Quota) -> Self {
        Self {
            version: Version {
                seq: over.map_or(1, |over| over.seq.saturating_add(1)),
                nonce: fastrand::u32(..),
            },
            ttl: quota.memory(),
            payload: tally.encode(),
        }
    }
}
