//! Sealed records: a layer over any store, and itself one, that encrypts and authenticates what the store is given.
//!
//! Whoever reads the store, or a backup of it, sees which installations have sessions, since when and until when, and
//! how large their records are. Whoever can write to it can remove records, move their expiry, and bring an older version
//! of a record back; but make one up, change one, or give it to another installation they cannot, unless records in
//! clear are accepted.
//!
//! What this replica understands is an ordered list of [`Seal`]s: the first one is how it writes, all of them it reads.
//! A record that was written otherwise is written anew with the first one when it is next changed or *touched*. So when
//! the list has been the same on all replicas for as long as an unused session lives, only the first one is in use.
//!
//! Versions, expiries and leases are not sealed: the store compares and moves them.

mod seal;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use self::seal::{KEY_LEN, KeyId, OVERHEAD, SealingKey};
use crate::session::clock::Timestamp;
use crate::session::copies::Pass;
use crate::session::quota::{Place, Quota, Taken};
use crate::session::record::FIRST_SEALED;
use crate::session::store::{
    Acquired, Created, Cursor, Flaw, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Payload, Removed,
    Replaced, SessionStore, StoreError, StoreFuture, StoreStats, Stored, Unreadable, Version,
};

/// One way in which a record may be written.
#[derive(Debug)]
pub enum Seal {
    /// As it is.
    Clear,
    /// Sealed with this key.
    Key(SealingKey),
}

/// A store whose records are sealed.
pub struct SealedStore {
    inner: Arc<dyn SessionStore>,
    first: Seal,
    others: Vec<Seal>,
}

impl SealedStore {
    /// Over `inner`: records are written as `first` says, and read if they are written so or as one of `others` says.
    #[must_use]
    pub fn over(inner: Arc<dyn SessionStore>, first: Seal, others: Vec<Seal>) -> Self {
        Self { inner, first, others }
    }

    fn seals(&self) -> impl Iterator<Item = &Seal> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn seal(&self, key: &Key, new: NewRecord) -> Result<NewRecord, StoreError> {
        match &self.first {
            Seal::Clear => Ok(new),
            Seal::Key(sealing) => Ok(NewRecord {
                payload: sealing.seal(key, new.version, &new.payload)?,
                ..new
            }),
        }
    }

    /// Whether it is written as this replica would write it.
    fn is_current(&self, payload: &Payload) -> bool {
        match &self.first {
            Seal::Clear => !is_sealed(payload),
            Seal::Key(sealing) => sealing.has_sealed(payload),
        }
    }

    fn open(&self, key: &Key, stored: &Stored) -> Result<Stored, StoreError> {
        let payload = self.open_payload(key, stored.version, &stored.payload);
        let payload = payload.map_err(|unreadable| unreadable.of(stored.version))?;
        Ok(Stored { payload, ..*stored })
    }

    fn open_payload(&self, key: &Key, version: Version, payload: &Payload) -> Result<Payload, Unreadable> {
        if !is_sealed(payload) {
            return if self.seals().any(|seal| matches!(seal, Seal::Clear)) {
                Ok(payload.clone())
            } else {
                let detail = "store.accept_clear is false";
                Err(Unreadable::new(Flaw::NotSealed, detail))
            };
        }
        if payload.0.first() != Some(&seal::FORM) {
            return Err(Unreadable::new(Flaw::UnknownFormat, "sealed in an unknown way"));
        }
        let keys = self.seals().filter_map(|seal| match seal {
            Seal::Clear => None,
            Seal::Key(sealing) => Some(sealing),
        });
        let Some(sealing) = keys.into_iter().find(|sealing| sealing.has_sealed(payload)) else {
            return Err(match seal::key_id(payload) {
                Some(id) => Unreadable::new(Flaw::UnknownKey, format!("key {id}")),
                None => Unreadable::new(Flaw::Garbled, "it is too short to be sealed"),
            });
        };
        sealing.open(key, version, payload)
    }

    fn open_any(&self, key: &Key, stored: Option<&Stored>) -> Result<Option<Stored>, StoreError> {
        stored.map(|stored| self.open(key, stored)).transpose()
    }

    /// Writes the record anew if it is not written as this replica would, in place of moving its expiry alone.
    async fn touch_or_reseal(&self, key: &Key, expected: Version, ttl: Duration) -> Result<bool, StoreError> {
        match self.inner.load(key).await? {
            Some(stored) if stored.version == expected && !self.is_current(&stored.payload) => {
                // The content is the same, and so the version is: nobody need notice.
                let new = NewRecord {
                    version: expected,
                    ttl,
                    payload: self.open(key, &stored)?.payload,
                };
                let new = self.seal(key, new)?;
                let replaced = self.inner.replace(key, expected, new, None).await?;
                Ok(replaced == Replaced::Done)
            }
            _ => self.inner.touch(key, expected, ttl).await,
        }
    }
}

/// Whether it claims to be sealed, in this way or another.
fn is_sealed(payload: &Payload) -> bool {
    payload.0.first().is_some_and(|first| *first >= FIRST_SEALED)
}

impl SessionStore for SealedStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move { self.open_any(key, self.inner.load(key).await?.as_ref()) })
    }

    fn load_to_keep<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, Option<Pass>)> {
        Box::pin(async move {
            let (stored, pass) = self.inner.load_to_keep(key).await?;
            Ok((self.open_any(key, stored.as_ref())?, pass))
        })
    }

    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        Box::pin(async move {
            let (stored, lease) = self.inner.observe(key).await?;
            Ok((self.open_any(key, stored.as_ref())?, lease))
        })
    }

    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        Box::pin(async move {
            let new = self.seal(key, new)?;
            Ok(match self.inner.create(key, new, fence).await? {
                Created::Lost(there) => Created::Lost(self.open(key, &there)?),
                other => other,
            })
        })
    }

    fn replace<'a>(
        &'a self,
        key: &'a Key,
        expected: Version,
        new: NewRecord,
        fence: Option<LeaseToken>,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let new = self.seal(key, new)?;
            Ok(match self.inner.replace(key, expected, new, fence).await? {
                Replaced::Conflict(there) => Replaced::Conflict(self.open_any(key, there.as_ref())?),
                other => other,
            })
        })
    }

    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            Ok(match self.inner.remove(key, expected).await? {
                Removed::Conflict(there) => Removed::Conflict(self.open_any(key, there.as_ref())?),
                Removed::Done => Removed::Done,
            })
        })
    }

    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool> {
        self.inner.discard(key)
    }

    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        if self.others.is_empty() {
            // Whatever can be read is written as it should be.
            return self.inner.touch(key, expected, ttl);
        }
        Box::pin(self.touch_or_reseal(key, expected, ttl))
    }

    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        self.inner.acquire_lease(key, token, ttl)
    }

    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        self.inner.renew_lease(key, token, ttl)
    }

    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        self.inner.release_lease(key, token, end)
    }

    // A count says nothing of anybody: it is not sealed.
    fn take_place<'a>(&'a self, key: &'a Key, quota: Quota, now: Timestamp) -> StoreFuture<'a, Taken> {
        self.inner.take_place(key, quota, now)
    }

    fn give_back<'a>(&'a self, key: &'a Key, quota: Quota, place: Place) -> StoreFuture<'a, ()> {
        self.inner.give_back(key, quota, place)
    }

    fn keys(&self, after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        self.inner.keys(after)
    }

    fn ping(&self) -> StoreFuture<'_, ()> {
        self.inner.ping()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.inner.close()
    }
}
