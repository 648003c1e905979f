//! What is done about a session that the backend does not know any more (rule C4); [`super::lost`] tells how that is known.

use std::sync::Arc;

use http::HeaderValue;

use super::change::Change;
use super::journal::{Journal, Session};
use super::lost::{self, Answered, Lost};
use super::refuse::Refusal;
use super::route::Route;
use super::{Again, Bridge, Held, kept};
use crate::session::clock::Timestamp;
use crate::session::cookie::Origin;
use crate::session::merge::Said;
use crate::session::record::{CookiePolicy, Rank, Snapshot};
use crate::wire::body::Body;
use crate::wire::message::{RequestHead, ResponseHead};

impl Bridge {
    /// Whether a request to `origin` goes with a session whose death would be known.
    pub(super) fn goes_with_session(&self, held: Option<&Held>, origin: &Origin<'_>) -> bool {
        let sessions = &self.parts.sessions;
        held.filter(|_| self.parts.lost.is_some())
            .and_then(|held| held.snapshot.as_ref())
            .is_some_and(|sent| lost::goes_with_session(sent.record.jar(), origin, &sessions.policy, sessions.now()))
    }

    /// Reads the body of a request that may have to be sent once more.
    pub(super) async fn keep(
        &self,
        head: &RequestHead,
        body: Body,
        route: &Route,
    ) -> Result<(Body, Option<Again>), Refusal> {
        let read = tokio::time::timeout(route.response_timeout, kept::keep(body, self.parts.replay_body))
            .await
            .map_err(|_elapsed| Refusal::RequestTimeout)?;
        let (body, kept) = read.map_err(|_broken| Refusal::BadRequest {
            reason: "the request body could not be read",
        })?;
        Ok((body, kept.map(|kept| (Box::new(head.clone()), kept))))
    }

    /// The session that a request went with, if the response says that it is dead (rule C4).
    pub(super) fn dead(
        &self,
        lost: &Lost,
        held: &mut Option<Held>,
        response: &ResponseHead,
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
    pub(super) async fn forget(&self, dead: &Held, journal: &mut Journal<'_>) {
        let parts = &self.parts;
        let Some(sent) = &dead.snapshot else { return };
        let now = parts.sessions.now();
        tracing::info!(install = %dead.key, "the backend does not know the session any more");
        let change = ended(sent, dead.at, &parts.sessions.policy, now);
        parts.commit.commit(&dead.key, change, None).await;
        journal.session(Session::Ended);
    }
}

/// That the session of `sent`, which a request went with at `at`, is over.
fn ended(sent: &Arc<Snapshot>, at: Timestamp, policy: &CookiePolicy, now: Timestamp) -> Change {
    let said = Said {
        rank: Rank::Safe,
        cookies: lost::deletions(sent.record.jar(), policy, now),
        at: now,
    };
    Change::new(Some(Arc::clone(sent)), at, said, None).whole()
}

/// What a response says of the session.
pub(super) fn answered<'a>(
    response: &'a ResponseHead,
    cookies: &'a [HeaderValue],
    origin: &'a Origin<'a>,
) -> Answered<'a> {
    Answered {
        status: response.status,
        fields: &response.fields,
        cookies,
        origin,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bridge::sessions::Sessions;
    use crate::metrics::Metrics;
    use crate::session::clock::ManualClock;
    use crate::session::cookie::parse_set_cookie;
    use crate::session::glob::Glob;
    use crate::session::record::Lifetime;
    use crate::session::store::Key;
    use crate::store::memory::MemoryStore;

    const KEY: Key = Key::from_digest([7; 16]);

    async fn answer(sessions: &Sessions, sent: Option<&Arc<Snapshot>>, lines: &[&str]) -> Arc<Snapshot> {
        let (now, origin) = (sessions.now(), Origin::new("shop.example", "/"));
        let cookies = lines
            .iter()
            .map(|line| parse_set_cookie(line.as_bytes(), &origin, now).unwrap());
        let said = Said {
            rank: Rank::Safe,
            cookies: cookies.collect(),
            at: now,
        };
        store(sessions, &Change::new(sent.cloned(), now, said, None), sent).await;
        sessions.load(&KEY).await.unwrap().expect("a record")
    }

    async fn store(sessions: &Sessions, change: &Change, now: Option<&Arc<Snapshot>>) {
        let metrics = Metrics::new(&[]);
        let stored = change.store(sessions, &metrics, &KEY, now.cloned(), None).await;
        stored.expect("the store answers");
    }

    #[tokio::test]
    async fn c4_a_record_is_dropped_as_a_whole_if_it_is_the_one_that_was_sent_and_else_nothing_of_it() {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let sessions = Sessions::new(
            Arc::new(MemoryStore::new(Arc::new(clock.clone()))),
            Arc::new(clock.clone()),
            Arc::new(Metrics::new(&[])),
            CookiePolicy::new(vec![Glob::new("*")], vec![Glob::new("sid"), Glob::new("user")]),
            Lifetime {
                idle_timeout: Duration::from_secs(3600),
                max_age: None,
            },
        );
        let sent = answer(
            &sessions,
            None,
            &["sid=1; Path=/", "user=anna; Path=/", "seen=1; Path=/"],
        )
        .await;
        // Beside the request that finds the session dead, another one is given a new ID.
        let renewed = answer(&sessions, Some(&sent), &["sid=2; Path=/"]).await;
        let over = |sent| ended(sent, sessions.now(), &sessions.policy, sessions.now());
        store(&sessions, &over(&sent), Some(&sent)).await;
        let now = sessions.load(&KEY).await.unwrap();
        assert_eq!(now.as_ref().map(|now| now.version), Some(renewed.version), "{now:?}");
        // What does not mean a session may have changed: the session is the same.
        let looked = answer(&sessions, Some(&renewed), &["seen=2; Path=/"]).await;
        assert_ne!(looked.version, renewed.version);
        store(&sessions, &over(&renewed), Some(&renewed)).await;
        assert!(sessions.load(&KEY).await.unwrap().is_none());
    }
}
