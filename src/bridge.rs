//! The request, top to bottom.
//!
//! [`Bridge::handle`] is the one place that puts the stages in order; read it first. Each stage is a file of its own
//! and knows nothing of the others:
//!
//! 1. [`access`], [`identify`]: who is it?
//! 2. [`acquire`]: the session, found, waited for, or to be started: by this request, or before it by a [`prefetch`]. Or none
//!    of that, where the cookie is [computed](mod@derive).
//! 3. [`outbound`], [`csrf`]: the client's request becomes the backend's.
//! 4. [`inbound`]: the backend's response loses its cookies. Where it reports a dead session, [`lost`], the request is sent
//!    once more as if there had been none, with what was [`kept`] of it.
//! 5. [`commit`]: what they changed is stored, before the response goes out.
//! 6. [`refuse`]: whatever goes wrong becomes a response, by the only such table.
//!
//! `holding` puts stage 2 together, `healing` what is done about a dead session.
//!
//! They share [`sessions`], the typed front of the store, and the parts that hold what is under way: [`flights`] and
//! [`lead`] (who may start a session), [`turns`] (how many requests of an installation go at once), [`pending`] (changes that the store could not take), [`touch`] (sliding expiry),
//! [`seen_through`] (requests whose client has left).

pub mod access;
pub mod acquire;
pub mod admission;
pub mod adopt;
pub mod bind;
pub mod change;
pub mod commit;
pub mod csrf;
pub mod derive;
pub mod flights;
mod healing;
mod holding;
pub mod identify;
pub mod inbound;
pub mod journal;
pub mod kept;
pub mod lead;
pub mod lost;
pub mod outbound;
pub mod pending;
pub mod pointer;
pub mod prefetch;
pub mod refuse;
pub mod route;
pub mod seen_through;
pub mod sessions;
pub mod touch;
pub mod turns;
pub mod unreadable;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use access::ApiKeys;
use acquire::{Acquire, Asks};
use admission::Admitted;
use adopt::Adoption;
use bind::Bind;
use change::Change;
use commit::Commit;
use csrf::CsrfBridge;
use derive::Derive;
use flights::Landing;
use healing::answered;
use identify::{IdentifyError, IdentifyOptions};
use inbound::InboundBody;
use journal::{Journal, Session};
use kept::Kept;
use lead::Lead;
use lost::Lost;
use outbound::Outbound;
use prefetch::Prefetch;
use refuse::Refusal;
use route::{Route, Routes, SessionUse};
use seen_through::SeenThrough;
use sessions::Sessions;
use touch::Touch;
use turns::{Turn, Turns};

use crate::metrics::{CookieDrop, LostAnswer, Metrics};
use crate::session::clock::Timestamp;
use crate::session::cookie::{Cookie, Origin, Rejected, parse_set_cookie};
use crate::session::install_id::InstallId;
use crate::session::merge::{Effect, Said};
use crate::session::record::{Rank, Snapshot};
use crate::session::store::Key;
use crate::wire::body::Body;
use crate::wire::fields::name;
use crate::wire::headers;
use crate::wire::message::{Request, RequestHead, Response, ResponseHead};
use crate::wire::server::{Came, Informer};
use crate::wire::upgrade;
use crate::wire::upstream::{Upstream, UpstreamBody, UpstreamError};

/// What a bridge is made of. Only the composition root builds one.
pub struct Parts {
    /// The keys that callers prove themselves with.
    pub api_keys: ApiKeys,
    /// Where Install IDs are looked for.
    pub identify: IdentifyOptions,
    /// What applies to which request.
    pub routes: Routes,
    /// How requests are rewritten for the backend.
    pub outbound: Outbound,
    /// What is done for the CSRF protection of the backend, if anything.
    pub csrf: Option<CsrfBridge>,
    /// How many requests of one installation go to the backend at once, if that is limited.
    pub turns: Option<Arc<Turns>>,
    /// Finds sessions.
    pub acquire: Acquire,
    /// Starts them by a request of its own, where they are started so.
    pub prefetch: Option<Prefetch>,
    /// To which clients sessions belong, where they do not belong to all that know the Install ID.
    pub bind: Option<Bind>,
    /// Finds sessions for requests without an Install ID, where those may go on with one.
    pub adoption: Option<Adoption>,
    /// Computes the session cookie, where it is; then no session is looked for, started or stored.
    pub derive: Option<Derive>,
    /// Stores changes.
    pub commit: Commit,
    /// Slides expiries.
    pub touch: Touch,
    /// The typed front of the store.
    pub sessions: Arc<Sessions>,
    /// The way to the backend.
    pub upstream: Upstream,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Work that outlives its request.
    pub tasks: TaskTracker,
    /// Whether a request without an Install ID is refused (rule I3).
    pub reject_missing: bool,
    /// Whether requests go on without a session while the store is down (rule F2).
    pub stateless_on_outage: bool,
    /// How the backend reports a dead session, if that is known (rule C4).
    pub lost: Option<Lost>,
    /// How many bytes of a request's body are kept to send it once more.
    pub replay_body: usize,
    /// How long the body of the response that starts a session may hold those who wait (rule S1).
    pub body_wait: Duration,
}

/// The bridge. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    parts: Arc<Parts>,
}

/// The session that a request goes with.
struct Held {
    key: Key,
    snapshot: Option<Arc<Snapshot>>,
    lead: Option<Lead>,
    place: Option<Admitted>,
    /// The client.
    client: IpAddr,
    /// When it was known: the request is sent after that.
    at: Timestamp,
}

/// What a request goes to the backend with.
enum With<'a> {
    /// The cookies of its session, if it has one.
    Held(Option<&'a Held>),
    /// This `Cookie` field.
    Cookie(Vec<u8>),
}

/// What it takes to send a request once more.
type Again = (Box<RequestHead>, Kept);

impl Bridge {
    /// A bridge of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// Answers one request.
    #[must_use]
    pub fn handle(self, mut request: Request, came: Came) -> SeenThrough<Response> {
        if request.head.peer.unnamed {
            headers::remove_claims(&mut request.head.fields);
        }
        let tasks = self.parts.tasks.clone();
        // Made where it is to be: it is large, and all of it would be moved.
        let work = Box::write(Box::new_uninit(), self.work(request, came));
        SeenThrough::new(tasks, Box::into_pin(work))
    }

    async fn work(self, request: Request, came: Came) -> Response {
        // Until the work is done, which may be after the client has left.
        let _under_way = came.under_way;
        let head = &request.head;
        let route = self.parts.routes.find(&head.method, head.uri.path());
        let mut journal = Journal::open(
            head,
            route.name(),
            self.parts.sessions.wall_lately(),
            &self.parts.metrics,
        );
        let informer = came.informer.as_ref();
        match self.answer(request, informer, route, &mut journal).await {
            Ok(response) => journal.close(response),
            Err(refusal) => journal.refuse(&refusal),
        }
    }

    async fn answer(
        &self,
        request: Request,
        informer: Option<&Informer>,
        route: &Route,
        journal: &mut Journal<'_>,
    ) -> Result<Response, Refusal> {
        let parts = &self.parts;
        if !parts.api_keys.allow(&request.head.fields) {
            return Err(Refusal::Unauthorized);
        }

        let Request { head, body } = request;
        let (id, body) = match self.told_id(&head, route)? {
            Some(id) => (Some(id), body),
            // An upload may have to be waited for.
            None => Box::pin(self.find_id(&head, body, route, journal)).await?,
        };
        let rank = route.rank(&head.method, &head.uri);
        let asks = Asks {
            safe: head.method.is_safe(),
            client: parts.outbound.client(&head),
        };
        let adopted = match (&parts.adoption, &id) {
            (Some(adoption), None) if rank == Rank::Safe && route.session != SessionUse::Off => {
                Box::pin(self.adopted(adoption, asks.client)).await
            }
            _ => None,
        };
        let key = id
            .as_ref()
            .map(InstallId::key)
            .or_else(|| adopted.as_ref().map(|held| held.key));
        journal.identified(key);
        let turn = match &parts.turns {
            Some(turns) => Box::pin(self.turn(turns, key, route)).await?,
            None => None,
        };
        let (adopted, key) = match (&parts.adoption, adopted) {
            (Some(adoption), Some(held)) if turn.is_some() => {
                let adopted = Box::pin(self.still_adopted(adoption, held)).await;
                let key = adopted.as_ref().map(|held| held.key);
                (adopted, key)
            }
            (_, adopted) => (adopted, key),
        };
        let derived = parts.derive.as_ref().zip(id).map(|(derive, id)| derive.field(&id));
        let is_adopted = adopted.is_some();
        let mut held = match key.filter(|_| derived.is_none() && !is_adopted) {
            Some(key) => self.session(key, asks, &head, journal).await?,
            None => adopted,
        };
        if is_adopted {
            journal.session(Session::Hit);
        }
        if parts.adoption.is_some() {
            Box::pin(self.stake(&mut held, rank, journal)).await?;
        }

        let host = parts.outbound.host(&head);
        let path = head.uri.path().to_owned();
        let origin = Origin::new(&host, &path);
        // An adopted session is not for this request to start anew.
        let lost = parts.lost.as_ref().filter(|_| rank != Rank::Auth && !is_adopted);
        let lost = lost.filter(|_| self.goes_with_session(held.as_ref(), &origin));
        let (body, again) = match lost {
            Some(_) if asks.safe || route.replay => Box::pin(self.keep(&head, body, route)).await?,
            _ => (body, None),
        };

        seen_through::dispatched();
        let with = derived.map_or_else(|| With::Held(held.as_ref()), With::Cookie);
        let outgoing = self.outgoing((head, body), with, &origin, journal);
        let (mut response, mut cookies) = self.exchange(outgoing, informer, route, held.as_mut(), journal).await?;

        // Rule C4: of a request that went with a dead session nothing is left but the wish.
        let mut is_lost = false;
        if let Some(lost) = lost
            && let Some(dead) = self.dead(lost, &mut held, &response.head, &cookies, &origin)
        {
            drop(response);
            Box::pin(self.forget(&dead, journal)).await;
            let Some((head, kept)) = again else {
                parts.metrics.session_lost(LostAnswer::Refused);
                return Err(Refusal::SessionLost);
            };
            held = Box::pin(self.session(dead.key, asks, &head, journal)).await?;
            Box::pin(self.stake(&mut held, rank, journal)).await?;
            let with = With::Held(held.as_ref());
            let outgoing = self.outgoing((head, kept.body()), with, &origin, journal);
            (response, cookies) = Box::pin(self.exchange(outgoing, informer, route, held.as_mut(), journal)).await?;
            is_lost = lost.shows(&answered(&response.head, &cookies, &origin));
            parts.metrics.session_lost(if is_lost {
                LostAnswer::Refused
            } else {
                LostAnswer::Healed
            });
        }

        let leads = held.as_ref().is_some_and(|held| held.lead.is_some());
        let (end, response) = self.dress(response, leads, turn);
        if let Some(held) = held.take() {
            let cookies = self.readable(&cookies, &origin, held.key);
            // Nearly always there is nothing to store and nobody who waits.
            if !cookies.is_empty() || held.lead.is_some() {
                let at = parts.sessions.now();
                Box::pin(self.settle(held, Said { rank, cookies, at }, end, journal)).await;
            }
        } else {
            parts.metrics.set_cookies_stripped(cookies.len());
        }
        if is_lost {
            // Not for want of a session: it is the log-in that is missing, and the client is to know.
            return Err(Refusal::SessionLost);
        }
        Ok(response)
    }

    /// Stage 1: the Install ID, where the route has one and the head tells it.
    fn told_id(&self, head: &RequestHead, route: &Route) -> Result<Option<InstallId>, Refusal> {
        match route.session {
            SessionUse::Off => Ok(None),
            SessionUse::Required | SessionUse::Optional => Ok(identify::told(&self.parts.identify, &head.fields)?),
        }
    }

    /// Stage 1, where it does not: the Install ID in the body, if there is one, and the body, whole.
    async fn find_id(
        &self,
        head: &RequestHead,
        body: Body,
        route: &Route,
        journal: &mut Journal<'_>,
    ) -> Result<(Option<InstallId>, Body), Refusal> {
        let reject_missing = match route.session {
            SessionUse::Off => return Ok((None, body)),
            SessionUse::Required => self.parts.reject_missing,
            SessionUse::Optional => false,
        };
        // An upload that drips keeps a request here no longer than it may wait for its answer.
        let search = identify::find(&self.parts.identify, &head.fields, body);
        let found = tokio::time::timeout(route.response_timeout, search)
            .await
            .map_err(|_elapsed| Refusal::RequestTimeout)?;
        let (id, body) = found.inspect_err(|error| {
            if let IdentifyError::Body(cause) = error {
                journal.cause(cause);
            }
        })?;
        if id.is_none() && reject_missing {
            return Err(Refusal::InstallIdMissing);
        }
        Ok((id, body))
    }

    /// Stage 3: the backend's request, with the session.
    fn outgoing(
        &self,
        (head, body): (Box<RequestHead>, Body),
        with: With<'_>,
        origin: &Origin<'_>,
        journal: &mut Journal<'_>,
    ) -> Request {
        let parts = &self.parts;
        let now = parts.sessions.lately();
        let (held, derived) = match with {
            With::Held(held) => (held, None),
            With::Cookie(cookie) => (None, Some(cookie)),
        };
        let jar = held.and_then(|held| Some(held.snapshot.as_ref()?.record.jar()));
        let cookie = derived.or_else(|| jar.and_then(|jar| jar.header(origin, now)));
        let mut outgoing = parts.outbound.build(head, body, cookie, journal.request_id());
        if let Some(csrf) = parts.csrf.as_ref().filter(|_| held.is_some()) {
            let token = jar.and_then(|jar| csrf.token(jar, origin, now));
            let head = &mut outgoing.head;
            csrf.apply(&head.method, &mut head.fields, token);
        }
        journal.dispatched();
        outgoing
    }

    /// Stages 3 and 4: to the backend and back, and the cookies out of the response.
    async fn exchange(
        &self,
        outgoing: Request,
        informer: Option<&Informer>,
        route: &Route,
        held: Option<&mut Held>,
        journal: &mut Journal<'_>,
    ) -> Result<(Response<UpstreamBody>, Vec<HeaderValue>), Refusal> {
        let asked = outgoing.head.fields.value(name::UPGRADE);
        // The one is answered at the edge; after the other the client would not read on.
        let passes = |status| status != StatusCode::CONTINUE && status != StatusCode::SWITCHING_PROTOCOLS;
        let inform = |mut interim: ResponseHead| {
            if let Some(informer) = informer.filter(|_| passes(interim.status)) {
                inbound::clean_interim(&mut interim.fields);
                informer.send(&interim);
            }
        };
        let upstream = &self.parts.upstream;
        let at_hand = informer.is_some_and(Informer::has_whole_request);
        let result = upstream
            .forward(outgoing, route.response_timeout, at_hand, inform)
            .await;
        journal.responded();
        let mut response = result.map_err(|error| {
            journal.cause(&error);
            let refusal = Refusal::from(&error);
            // It may have started a session before it failed (rule B3).
            let arrived = !matches!(refusal, Refusal::UpstreamUnreachable | Refusal::Overloaded);
            if let Some(place) = held.filter(|_| arrived).and_then(|held| held.place.take()) {
                place.used();
            }
            refusal
        })?;
        let head = &mut response.head;
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            && !asked.is_some_and(|asked| upgrade::agrees(&asked, &head.fields))
        {
            journal.cause(&"the upstream switched to a protocol that was not asked for");
            return Err(Refusal::UpstreamBadResponse);
        }
        let cookies = inbound::take_cookies(&mut head.fields, self.parts.identify.header.as_ref());
        outbound::clean_response(head);
        Ok((response, cookies))
    }

    /// Wraps the body, and tells when a response that may start a session has ended. The turn goes with the body,
    /// which is there until the head has gone out; a tunnel that follows takes none.
    fn dress(
        &self,
        response: Response<UpstreamBody>,
        watch_end: bool,
        turn: Option<Turn>,
    ) -> (Option<oneshot::Receiver<()>>, Response) {
        let Response { head, mut body } = response;
        let has_body = head.status != StatusCode::SWITCHING_PROTOCOLS && !http_body::Body::is_end_stream(&body);
        let (end, ended) = if watch_end && has_body {
            let (end, ended) = oneshot::channel();
            (Some(end), Some(ended))
        } else {
            (None, None)
        };
        let sized = head.fields.contains(name::CONTENT_LENGTH);
        let nobody_waits = end.is_none() && turn.is_none();
        let body = match Some(&mut body)
            .filter(|_| sized && nobody_waits)
            .and_then(UpstreamBody::take_whole)
        {
            Some(whole) => Body::from(whole),
            None => InboundBody::wrap(body, sized, (end, turn)),
        };
        (ended, Response { head, body })
    }

    /// The cookies that can be read and are to be kept (rules J1, J3).
    fn readable(&self, lines: &[HeaderValue], origin: &Origin<'_>, key: Key) -> Vec<Cookie> {
        let metrics = &self.parts.metrics;
        metrics.set_cookies_stripped(lines.len());
        if lines.is_empty() {
            return Vec::new();
        }
        let now = self.parts.sessions.now();
        let mut cookies = Vec::with_capacity(lines.len());
        for line in lines {
            let (name, reason) = match parse_set_cookie(line.as_bytes(), origin, now) {
                Ok(cookie) if self.parts.sessions.policy.keeps(cookie.name()) => {
                    cookies.push(cookie);
                    continue;
                }
                Ok(cookie) => (cookie.name().to_vec(), CookieDrop::NotKept),
                Err(rejected) => (
                    rejected.name().unwrap_or_default().to_vec(),
                    CookieDrop::from(&rejected),
                ),
            };
            metrics.cookie_dropped(reason);
            let cookie = name.escape_ascii();
            tracing::debug!(install = %key, %cookie, reason = reason.text(), "a cookie was not kept");
        }
        cookies
    }

    /// Stage 5: the changes into the store; and the lead, if this request had it, is ended with its response.
    async fn settle(&self, held: Held, said: Said, end: Option<oneshot::Receiver<()>>, journal: &mut Journal<'_>) {
        let parts = &self.parts;
        let Held {
            key,
            snapshot,
            lead,
            place,
            client,
            at,
        } = held;
        let started = said
            .cookies
            .iter()
            .any(|cookie| parts.sessions.policy.is_id(cookie.name()) && !cookie.is_expired(said.at));
        if let Some(place) = place.filter(|_| started) {
            place.used();
        }
        let settle = end.is_some().then_some(parts.body_wait);
        let change = Change::new(snapshot, at, said, settle).by(self.by(client));
        let committed = parts.commit.commit(&key, change, lead.as_ref()).await;
        match committed.effect {
            Effect::None => {}
            Effect::Created => {
                journal.session(Session::Created);
                self.note_start(client, key).await;
            }
            Effect::Replaced => journal.session(Session::Replaced),
            Effect::Ended => journal.session(Session::Ended),
        }
        let Some(lead) = lead else { return };
        let landing = committed.landing(&parts.sessions);
        let (body_wait, commit) = (parts.body_wait, committed.waits.then(|| parts.commit.clone()));
        parts.tasks.spawn(async move {
            if let Some(end) = end {
                // Either way it is over: the sender is only ever dropped.
                let _ = tokio::time::timeout(body_wait, end).await;
            }
            match (landing, commit) {
                (landing @ Landing::Session(..), Some(commit)) if commit.waits(&key) => lead.leave(landing),
                (landing, _) => lead.end(landing).await,
            }
        });
    }
}

/// When a client that was refused for want of a store or of a session may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<IdentifyError> for Refusal {
    fn from(error: IdentifyError) -> Self {
        match error {
            IdentifyError::Malformed(_) | IdentifyError::Repeated | IdentifyError::NotAString => {
                Self::InstallIdMalformed { reason: error.reason() }
            }
            IdentifyError::Body(_) => Self::BadRequest { reason: error.reason() },
        }
    }
}

impl From<&UpstreamError> for Refusal {
    fn from(error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Connect(_) | UpstreamError::Reset { arrived: false, .. } => Self::UpstreamUnreachable,
            UpstreamError::Overloaded { .. } => Self::Overloaded,
            UpstreamError::Timeout { .. } => Self::UpstreamTimeout,
            UpstreamError::Reset { .. } | UpstreamError::BadResponse(_) => Self::UpstreamBadResponse,
            UpstreamError::ClientStalled { .. } => Self::RequestTimeout,
            UpstreamError::ClientBody(_) => Self::BadRequest {
                reason: "the request body ended early",
            },
        }
    }
}

impl From<&Rejected> for CookieDrop {
    fn from(rejected: &Rejected) -> Self {
        match rejected {
            Rejected::ControlCharacter(_) | Rejected::Empty => Self::Unreadable,
            Rejected::TooLarge(_) | Rejected::ForeignDomain(_) | Rejected::BrokenPrefix(_) => Self::Refused,
        }
    }
}

#[cfg(test)]
mod explorer;
#[cfg(test)]
mod tests;
