//! What is done about a session that the backend does not know any more (rule C4); [`super::lost`] tells how that is known.

use std::sync::Arc;

use axum::body::Body;
use http::request::Parts as Head;
use http::{HeaderValue, Response};

use super::change::Change;
use super::journal::{Journal, Session};
use super::lost::{self, Answered, Lost};
use super::refuse::Refusal;
use super::route::Route;
use super::{Again, Bridge, Held, kept};
use crate::session::cookie::Origin;
use crate::session::merge::Said;
use crate::session::record::Rank;
use crate::wire::upstream::UpstreamBody;

impl Bridge {
    /// Whether a request to `origin` goes with a session.
    pub(super) fn goes_with_session(&self, held: Option<&Held>, origin: &Origin<'_>) -> bool {
        let sessions = &self.parts.sessions;
        held.and_then(|held| held.snapshot.as_ref())
            .is_some_and(|sent| lost::goes_with_session(sent.record.jar(), origin, &sessions.policy, sessions.now()))
    }

    /// Reads the body of a request that may have to be sent once more.
    pub(super) async fn keep(&self, head: &Head, body: Body, route: &Route) -> Result<(Body, Option<Again>), Refusal> {
        let read = tokio::time::timeout(route.response_timeout, kept::keep(body, self.parts.replay_body))
            .await
            .map_err(|_elapsed| Refusal::RequestTimeout)?;
        let (body, kept) = read.map_err(|_broken| Refusal::BadRequest {
            reason: "the request body could not be read",
        })?;
        Ok((body, kept.map(|kept| (head.clone(), kept))))
    }

    /// The session that a request went with, if the response says that it is dead (rule C4).
    pub(super) fn dead(
        &self,
        lost: &Lost,
        held: &mut Option<Held>,
        response: &Response<UpstreamBody>,
        cookies: &[HeaderValue],
        origin: &Origin<'_>,
    ) -> Option<Held> {
        let sessions = &self.parts.sessions;
        let told = held.as_ref()?.snapshot.as_ref().is_some_and(|sent| {
            let answered = answered(response, cookies, origin);
            lost.is_told(&answered, sent.record.jar(), &sessions.policy, sessions.now())
        });
        held.take_if(|_| told)
    }

    /// Drops the record of a dead session, if it is still the one that was sent: by the rules of any other deletion, and
    /// with the lowest rank, so that whatever anybody has changed since stays.
    pub(super) async fn forget(&self, dead: &Held, journal: &mut Journal) {
        let parts = &self.parts;
        let Some(sent) = &dead.snapshot else { return };
        let now = parts.sessions.now();
        tracing::info!(install = %dead.key, "the backend does not know the session any more");
        let said = Said {
            rank: Rank::Safe,
            cookies: lost::deletions(sent.record.jar(), &parts.sessions.policy, now),
            at: now,
        };
        let change = Change::new(Some(Arc::clone(sent)), dead.at, said, None);
        parts.commit.commit(&dead.key, change, None).await;
        journal.session(Session::Ended);
    }
}

/// What a response says of the session.
pub(super) fn answered<'a>(
    response: &'a Response<UpstreamBody>,
    cookies: &'a [HeaderValue],
    origin: &'a Origin<'a>,
) -> Answered<'a> {
    Answered {
        status: response.status(),
        headers: response.headers(),
        cookies,
        origin,
    }
}
