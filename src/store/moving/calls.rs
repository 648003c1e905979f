//! Each call, carried out where the truth is.

use std::time::Duration;

use super::{BOTH, MovingStore, TURNS, Truth, is_mark};
use crate::session::clock::Timestamp;
use crate::session::quota::{Place, Quota, Taken};
use crate::session::store::{
    Acquired, Created, Cursor, Key, KeyPage, LeaseEnd, LeaseState, LeaseToken, NewRecord, Removed, Replaced,
    SessionStore, StoreError, StoreFuture, StoreStats, Stored, Version,
};

/// The truth changed sides over and over.
fn restless<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the session is being moved just now".into()))
}

/// Whether either says yes; an error only where that may be what the other one would have said.
fn either(one: Result<bool, StoreError>, other: Result<bool, StoreError>) -> Result<bool, StoreError> {
    match (one, other) {
        (Ok(true), _) | (_, Ok(true)) => Ok(true),
        (Err(error), _) | (_, Err(error)) => Err(error),
        (Ok(false), Ok(false)) => Ok(false),
    }
}

impl SessionStore for MovingStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            match self.truth(key).await? {
                Truth::Old(stored) => Ok(Some(stored)),
                Truth::OldNothing => Ok(None),
                Truth::New | Truth::NewUnmarked => self.new.load(key).await,
            }
        })
    }

    fn observe<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, (Option<Stored>, LeaseState)> {
        Box::pin(async move {
            let (stored, old) = self.old.observe(key).await?;
            match stored {
                Some(stored) if !is_mark(&stored) => Ok((Some(stored), old)),
                None if !self.is_declared().await? => Ok((None, old)),
                // A leader of before the move may be at work still.
                Some(_) | None => {
                    let (stored, new) = self.new.observe(key).await?;
                    let lease = LeaseState {
                        held: old.held || new.held,
                        barren: old.barren.saturating_add(new.barren),
                    };
                    Ok((stored, lease))
                }
            }
        })
    }

    fn create<'a>(&'a self, key: &'a Key, new: NewRecord, fence: Option<LeaseToken>) -> StoreFuture<'a, Created> {
        Box::pin(async move {
            for _ in 0..TURNS {
                match self.truth(key).await? {
                    Truth::Old(_) | Truth::OldNothing => match self.old.create(key, new.clone(), fence).await? {
                        Created::Lost(there) if is_mark(&there) => {}
                        other => return Ok(other),
                    },
                    Truth::New => match (self.new.create(key, new.clone(), fence).await?, fence) {
                        (Created::Fenced, Some(token)) if self.carry_lease(key, token).await? => {}
                        (other, _) => return Ok(other),
                    },
                    Truth::NewUnmarked => {
                        // The lead may have been taken before the handover was heard of.
                        if let Some(token) = fence
                            && self.old.renew_lease(key, token, BOTH).await?
                        {
                            self.lead_anew(key, token, BOTH).await?;
                        } else {
                            self.mark_empty(key, None).await?;
                        }
                    }
                }
            }
            restless()
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
            for _ in 0..TURNS {
                match self.truth(key).await? {
                    Truth::OldNothing => return Ok(Replaced::Conflict(None)),
                    Truth::New | Truth::NewUnmarked => {
                        match (self.new.replace(key, expected, new.clone(), fence).await?, fence) {
                            (Replaced::Fenced, Some(token)) if self.carry_lease(key, token).await? => {}
                            (other, _) => return Ok(other),
                        }
                    }
                    Truth::Old(_) => match self.old.replace(key, expected, new.clone(), fence).await? {
                        Replaced::Conflict(Some(there)) if is_mark(&there) => {}
                        other => return Ok(other),
                    },
                }
            }
            restless()
        })
    }

    fn remove<'a>(&'a self, key: &'a Key, expected: Version) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            for _ in 0..TURNS {
                match self.truth(key).await? {
                    Truth::OldNothing => return Ok(Removed::Conflict(None)),
                    Truth::New | Truth::NewUnmarked => return self.new.remove(key, expected).await,
                    Truth::Old(stored) => {
                        if stored.version == expected
                            && let Some(copy) = self.new.load(key).await?
                        {
                            self.new.remove(key, copy.version).await?;
                        }
                        match self.old.remove(key, expected).await? {
                            Removed::Conflict(Some(there)) if is_mark(&there) => {}
                            other => return Ok(other),
                        }
                    }
                }
            }
            restless()
        })
    }

    fn discard<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, bool> {
        Box::pin(async move { either(self.old.discard(key).await, self.new.discard(key).await) })
    }

    fn touch<'a>(&'a self, key: &'a Key, expected: Version, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            for _ in 0..TURNS {
                match self.truth(key).await? {
                    Truth::OldNothing => return Ok(false),
                    Truth::New | Truth::NewUnmarked => return self.new.touch(key, expected, ttl).await,
                    Truth::Old(stored) if stored.version != expected => return Ok(false),
                    Truth::Old(_) => {
                        // If not, it has been changed or moved just now.
                        if self.old.touch(key, expected, ttl).await? {
                            return Ok(true);
                        }
                    }
                }
            }
            restless()
        })
    }

    fn acquire_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, Acquired> {
        Box::pin(async move {
            for _ in 0..TURNS {
                match self.truth(key).await? {
                    Truth::Old(_) | Truth::OldNothing => return self.old.acquire_lease(key, token, ttl).await,
                    Truth::New => {
                        let (_, old) = self.old.observe(key).await?;
                        if old.held && !self.carry_lease(key, token).await? {
                            // A leader of before the move is at work still.
                            let (_, new) = self.new.observe(key).await?;
                            let barren = old.barren.saturating_add(new.barren);
                            return Ok(Acquired::Held { barren });
                        }
                        return Ok(match self.new.acquire_lease(key, token, ttl).await? {
                            Acquired::Held { barren } => Acquired::Held {
                                barren: barren.saturating_add(old.barren),
                            },
                            Acquired::Won => Acquired::Won,
                        });
                    }
                    Truth::NewUnmarked => {
                        if let Some(acquired) = self.lead_anew(key, token, ttl).await? {
                            return Ok(acquired);
                        }
                    }
                }
            }
            restless()
        })
    }

    fn renew_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, ttl: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let renew = (
                self.old.renew_lease(key, token, ttl),
                self.new.renew_lease(key, token, ttl),
            );
            let (old, new) = tokio::join!(renew.0, renew.1);
            either(old, new)
        })
    }

    fn release_lease<'a>(&'a self, key: &'a Key, token: LeaseToken, end: LeaseEnd) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let release = (
                self.old.release_lease(key, token, end),
                self.new.release_lease(key, token, end),
            );
            let (old, new) = tokio::join!(release.0, release.1);
            old.and(new)
        })
    }

    fn take_place<'a>(&'a self, key: &'a Key, quota: Quota, now: Timestamp) -> StoreFuture<'a, Taken> {
        Box::pin(async move {
            if self.is_declared().await? {
                self.new.take_place(key, quota, now).await
            } else {
                self.old.take_place(key, quota, now).await
            }
        })
    }

    fn give_back<'a>(&'a self, key: &'a Key, quota: Quota, place: Place) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if self.is_declared().await? {
                self.new.give_back(key, quota, place).await
            } else {
                self.old.give_back(key, quota, place).await
            }
        })
    }

    /// Those of both.
    fn keys(&self, after: Option<Cursor>) -> StoreFuture<'_, KeyPage> {
        const OLD: u8 = 0;
        const NEW: u8 = 1;
        Box::pin(async move {
            let (side, rest) = match after.as_ref().and_then(|after| after.0.split_first()) {
                None => (OLD, None),
                Some((side, [])) => (*side, None),
                Some((side, rest)) => (*side, Some(Cursor(rest.to_vec()))),
            };
            let store = if side == OLD { &self.old } else { &self.new };
            let KeyPage { keys, next } = store.keys(rest).await?;
            let next = match next {
                Some(Cursor(next)) => Some(Cursor([&[side][..], &next].concat())),
                None => (side == OLD).then(|| Cursor(vec![NEW])),
            };
            Ok(KeyPage { keys, next })
        })
    }

    /// Both are needed.
    fn ping(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let (old, new) = tokio::join!(self.old.ping(), self.new.ping());
            old.and(new)
        })
    }

    fn kind(&self) -> &'static str {
        self.old.kind()
    }

    fn stats(&self) -> StoreStats {
        let (old, new) = (self.old.stats(), self.new.stats());
        StoreStats {
            reconnects: old.reconnects + new.reconnects,
            unreplicated: old.unreplicated + new.unreplicated,
        }
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let (old, new) = tokio::join!(self.old.close(), self.new.close());
            old.and(new)
        })
    }
}
