//! Looking at one installation's session, and ending it, for operators.

use std::sync::Arc;

use crate::bridge::pending::Pending;
use crate::bridge::sessions::{Sessions, Written};
use crate::ops::sessions::{CookieView, SessionAdmin, SessionView};
use crate::session::install_id::InstallId;
use crate::session::record::Snapshot;
use crate::session::store::{Key, StoreError, StoreFuture};

/// How often an ending may lose against requests that write.
const MAX_ATTEMPTS: usize = 16;

/// See the [module](self).
pub(super) struct Admin {
    sessions: Arc<Sessions>,
    pending: Arc<Pending>,
}

impl Admin {
    pub(super) const fn new(sessions: Arc<Sessions>, pending: Arc<Pending>) -> Self {
        Self { sessions, pending }
    }

    async fn load(&self, key: &Key) -> Result<Option<Arc<Snapshot>>, StoreError> {
        if self.pending.overlay(key).is_some() {
            self.pending.settle(key).await?;
        }
        self.sessions.inspect(key).await
    }

    async fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let removed = match self.load(key).await {
                Ok(None) => return Ok(false),
                Ok(Some(snapshot)) => matches!(self.sessions.remove_even_unnoted(key, &snapshot).await?, Written::Done),
                Err(StoreError::Unreadable(unreadable)) => self.sessions.discard(key, &unreadable).await?,
                Err(error) => return Err(error),
            };
            if removed {
                tracing::info!(install = %key, "a session was ended by an operator");
                return Ok(true);
            }
        }
        Err(StoreError::Unavailable(
            "the session changes too fast to be ended".to_owned(),
        ))
    }

    fn view(&self, key: Key, snapshot: &Snapshot) -> SessionView {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let cookies = snapshot.record.jar().iter().map(|cookie| CookieView {
            name: text(cookie.name()),
            domain: cookie.domain().to_owned(),
            path: text(cookie.path()),
            expires_at: cookie.expires_at(),
            is_id: self.sessions.policy.is_id(cookie.name()),
        });
        SessionView {
            key,
            created_at: snapshot.record.started_at(),
            expires_at: snapshot.expires_at,
            version: snapshot.version.seq,
            cookies: cookies.collect(),
        }
    }
}

impl SessionAdmin for Admin {
    fn show<'a>(&'a self, id: &'a InstallId) -> StoreFuture<'a, Option<SessionView>> {
        Box::pin(async move {
            let key = id.key();
            Ok(self.load(&key).await?.map(|snapshot| self.view(key, &snapshot)))
        })
    }

    fn end<'a>(&'a self, id: &'a InstallId) -> StoreFuture<'a, bool> {
        Box::pin(async move { self.remove(&id.key()).await })
    }
}
