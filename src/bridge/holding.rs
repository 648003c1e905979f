//! Stage 2, put together: the session that a request goes with, whoever has to start it, and whose it is.

use std::net::IpAddr;
use std::sync::Arc;

use super::acquire::{AcquireError, Asks, Ready};
use super::adopt::Adoption;
use super::bind::{Bind, is_elsewhere};
use super::change::Change;
use super::flights::Landing;
use super::journal::{Journal, Session};
use super::prefetch::PrefetchError;
use super::refuse::Refusal;
use super::route::Route;
use super::turns::{self, Turn, Turns};
use super::{Bridge, Held, RETRY_AFTER};
use crate::session::cookie::Origin;
use crate::session::merge::{Effect, Said};
use crate::session::past::By;
use crate::session::record::Rank;
use crate::session::store::Key;
use crate::wire::body::Body;
use crate::wire::message::{Request, RequestHead};
use crate::wire::own_call::OwnCallError;

impl Bridge {
    /// Waits until the backend may be sent another request of that installation.
    pub(super) async fn turn(
        &self,
        turns: &Arc<Turns>,
        key: Option<Key>,
        route: &Route,
    ) -> Result<Option<Turn>, Refusal> {
        let Some(key) = key.filter(|_| !route.unlimited) else {
            return Ok(None);
        };
        let turn = turns
            .take(key)
            .await
            .map_err(|turns::TurnTimeout| Refusal::SessionWaitTimeout {
                retry_after: RETRY_AFTER,
            });
        turn.map(Some)
    }

    /// Stage 2: the session, which is started first where that is the bridge's to do.
    pub(super) async fn session(
        &self,
        key: Key,
        asks: Asks,
        head: &RequestHead,
        journal: &mut Journal<'_>,
    ) -> Result<Option<Held>, Refusal> {
        let found = self.acquire(key, asks, journal).await;
        let held = match &self.parts.bind {
            Some(bind) => Box::pin(self.bound(bind, key, found, asks, journal)).await?,
            None => found?,
        };
        let (held, prefetch) = match (held, &self.parts.prefetch) {
            (Some(held), Some(prefetch)) if held.lead.is_some() => (held, prefetch),
            (held, _) => return Ok(held),
        };
        let outbound = &self.parts.outbound;
        let host = outbound.host(head);
        let request = outbound.build(Box::new(prefetch.head(head)), Body::empty(), None, journal.request_id());
        // A client that leaves leaves a session behind that the next one finds (rule S4).
        let started = self.parts.tasks.spawn(self.clone().start(held, request, host)).await;
        match started.map_err(|_panicked| PrefetchError::NoSession).flatten() {
            Ok(held) => {
                journal.session(Session::Created);
                Ok(Some(held))
            }
            Err(error) => {
                journal.cause(&error);
                Err(match error {
                    PrefetchError::Call(OwnCallError::Timeout) => Refusal::PrefetchTimeout,
                    PrefetchError::Call(_) | PrefetchError::Status(_) | PrefetchError::NoSession => {
                        Refusal::PrefetchFailed
                    }
                })
            }
        }
    }

    /// What a client goes on with where `found` is what there is for the whole installation (rule B1): with that, or with what
    /// its own network has. The latter also where nobody has the former any more, so that nobody ends the session of another
    /// network.
    async fn bound(
        &self,
        bind: &Bind,
        key: Key,
        found: Result<Option<Held>, Refusal>,
        asks: Asks,
        journal: &mut Journal<'_>,
    ) -> Result<Option<Held>, Refusal> {
        let parts = &self.parts;
        let own = bind.key(&key, asks.client);
        let is_for_others = found.as_ref().is_ok_and(|held| self.is_elsewhere(held.as_ref(), asks));
        if bind.reject {
            return found.and_then(|held| match is_for_others {
                true => Err(Refusal::SessionBoundElsewhere),
                false => Ok(held),
            });
        }
        let would_start = match &found {
            Ok(Some(held)) => !parts.sessions.has_session(held.snapshot.as_deref()),
            Ok(None) => false,
            Err(refusal) => matches!(
                refusal,
                Refusal::TooManyNewSessions { .. } | Refusal::SessionWaitTimeout { .. }
            ),
        };
        if !is_for_others {
            if !would_start {
                return found;
            }
            match parts.acquire.has_session(&own).await {
                Ok(true) => {}
                Ok(false) => return found,
                Err(error) => {
                    journal.cause(&error);
                    return self.outage().map(|()| None);
                }
            }
        }
        journal.session(Session::None);
        // Whoever leads there, if anybody does, is none of this client's business.
        drop(found);
        let held = self.acquire(own, asks, journal).await?;
        if self.is_elsewhere(held.as_ref(), asks) {
            // Bound when other lengths were set.
            return Err(Refusal::SessionBoundElsewhere);
        }
        Ok(held)
    }

    fn is_elsewhere(&self, held: Option<&Held>, asks: Asks) -> bool {
        self.parts.bind.is_some() && is_elsewhere(held.and_then(|held| held.snapshot.as_deref()), asks.client)
    }

    /// Stage 2: the session, or the policy for an outage of the store.
    pub(super) async fn acquire(
        &self,
        key: Key,
        asks: Asks,
        journal: &mut Journal<'_>,
    ) -> Result<Option<Held>, Refusal> {
        match self.parts.acquire.acquire(&key, asks).await {
            Ok(Ready {
                snapshot,
                lead,
                place,
                waited,
                at,
            }) => {
                match (&snapshot, waited) {
                    (_, true) => journal.session(Session::Waited),
                    // What belongs to another network is not used (rule B1).
                    (Some(snapshot), false)
                        if self.parts.bind.is_some() && is_elsewhere(Some(snapshot), asks.client) => {}
                    (Some(snapshot), false) if lead.is_none() => {
                        journal.session(Session::Hit);
                        self.parts.touch.used(&key, snapshot, at);
                    }
                    _ => {}
                }
                Ok(Some(Held {
                    key,
                    snapshot,
                    lead,
                    place,
                    client: asks.client,
                    at,
                }))
            }
            Err(AcquireError::WaitTimeout) => Err(Refusal::SessionWaitTimeout {
                retry_after: RETRY_AFTER,
            }),
            Err(AcquireError::TooMany(retry_after)) => Err(Refusal::TooManyNewSessions { retry_after }),
            Err(AcquireError::Store(error)) => {
                journal.cause(&error);
                self.outage().map(|()| None)
            }
        }
    }

    /// Has the backend start a session by `request`, and stores it, under the lead that is held. Where that fails, the next
    /// one leads.
    pub(super) async fn start(self, held: Held, request: Request, host: String) -> Result<Held, PrefetchError> {
        let parts = &self.parts;
        let Held {
            key,
            snapshot,
            lead,
            place,
            client,
            at,
        } = held;
        let head = &request.head;
        let called = match &parts.prefetch {
            Some(prefetch) => prefetch.call(head).await,
            None => return Err(PrefetchError::NoSession),
        };
        // Whatever came of it, one may have been started (rule B3).
        if let Some(place) = place.filter(|_| !matches!(called, Err(PrefetchError::Call(OwnCallError::Unreachable(_)))))
        {
            place.used();
        }
        let origin = Origin::new(&host, head.uri.path());
        let said = Said {
            rank: Rank::Safe,
            cookies: self.readable(&called?, &origin, key),
            at: parts.sessions.now(),
        };
        let change = Change::new(snapshot, at, said, None).by(self.by(client));
        let committed = parts.commit.commit(&key, change, lead.as_ref()).await;
        if committed.effect == Effect::Created {
            self.note_start(client, key).await;
        }
        let landing = committed.landing(&parts.sessions);
        if let Some(lead) = lead {
            match &landing {
                Landing::Session(..) if committed.waits => lead.leave(landing),
                Landing::Session(..) => lead.end(landing).await,
                Landing::Barren(_) | Landing::Failed | Landing::Outage(_) => lead.end(Landing::Failed).await,
            }
        }
        match committed.snapshot {
            Some(snapshot) if parts.sessions.has_session(Some(&snapshot)) => Ok(Held {
                key,
                snapshot: Some(snapshot),
                lead: None,
                place: None,
                client,
                at: parts.sessions.now(),
            }),
            _ => Err(PrefetchError::NoSession),
        }
    }

    /// The session that a request without an Install ID may go on with (rule B2). While the store is away, none.
    pub(super) async fn adopted(&self, adoption: &Adoption, client: IpAddr) -> Option<Held> {
        let found = adoption.find(client).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "no session could be looked for that may be adopted");
            None
        });
        found.map(|(key, snapshot)| Held {
            key,
            snapshot: Some(snapshot),
            lead: None,
            place: None,
            client,
            at: self.parts.sessions.now(),
        })
    }

    /// The same after a wait: something may have been done in that session meanwhile.
    pub(super) async fn still_adopted(&self, adoption: &Adoption, held: Held) -> Option<Held> {
        let found = adoption.look(&held.key, held.client).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "it is not known whether a session may still be adopted");
            None
        });
        found.map(|snapshot| Held {
            snapshot: Some(snapshot),
            at: self.parts.sessions.now(),
            ..held
        })
    }

    /// From here on nobody adopts the session of a request that puts anything at stake (rule B2).
    pub(super) async fn stake(
        &self,
        held: &mut Option<Held>,
        rank: Rank,
        journal: &mut Journal<'_>,
    ) -> Result<(), Refusal> {
        let Some((adoption, asked)) = self.parts.adoption.as_ref().zip(held.as_mut()) else {
            return Ok(());
        };
        let Some(snapshot) = asked.snapshot.take() else {
            return Ok(());
        };
        match adoption.stake(&asked.key, snapshot, rank).await {
            Ok(snapshot) => {
                asked.snapshot = Some(snapshot);
                Ok(())
            }
            Err(error) => {
                journal.cause(&error);
                *held = None;
                self.outage()
            }
        }
    }

    /// Whether requests go on without their session while the store is away (rule F2).
    pub(super) fn outage(&self) -> Result<(), Refusal> {
        if self.parts.stateless_on_outage {
            Ok(())
        } else {
            Err(Refusal::StoreUnavailable {
                retry_after: RETRY_AFTER,
            })
        }
    }

    /// Who made a request of `client`, where records remember that.
    pub(super) fn by(&self, client: IpAddr) -> Option<By> {
        let (bind, watched) = (self.parts.bind.as_ref(), self.parts.adoption.is_some());
        (bind.is_some() || watched).then(|| By {
            address: client,
            network: bind.map(|bind| bind.network(client)),
            watched,
        })
    }

    /// Notes that a session was started (rule B2).
    pub(super) async fn note_start(&self, client: IpAddr, key: Key) {
        if let Some(adoption) = &self.parts.adoption
            && let Err(error) = adoption.started(client, key).await
        {
            tracing::debug!(install = %key, %error, "a session will not be found by those who might adopt it");
        }
    }
}
