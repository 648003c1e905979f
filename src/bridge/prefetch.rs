//! A session that the bridge starts itself, before the client's request is sent (rule S5, `session.create = "prefetch"`).
//!
//! The backend is asked for a page of its own, under the lead, and the client's request goes with the session that this
//! started: whatever becomes of that request, the session is there.

use std::fmt;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use crate::wire::fields::{FieldName, Fields, name};
use crate::wire::message::RequestHead;
use crate::wire::own_call::{OwnCallError, OwnCalls};

/// What of the client's request goes along: who it is, for a backend that binds sessions to that, and by which name it
/// knows the backend.
const OF_THE_CLIENT: [&str; 7] = [
    name::HOST,
    name::USER_AGENT,
    name::ACCEPT_LANGUAGE,
    name::FORWARDED,
    name::X_FORWARDED_FOR,
    name::X_FORWARDED_HOST,
    name::X_FORWARDED_PROTO,
];

/// How a session is started.
#[derive(Clone, Debug)]
pub struct Prefetch {
    /// The way to the backend.
    pub calls: OwnCalls,
    /// The method of the call.
    pub method: Method,
    /// Its path and query.
    pub target: Uri,
    /// Its fields, beside those of the client that go along.
    pub headers: HeaderMap,
}

/// Why none was started.
#[derive(Debug)]
pub enum PrefetchError {
    /// There was no answer.
    Call(OwnCallError),
    /// The backend failed.
    Status(StatusCode),
    /// Its answer brought no session cookie that is kept.
    NoSession,
}

impl fmt::Display for PrefetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => write!(f, "prefetch: {error}"),
            Self::Status(status) => write!(f, "prefetch: the backend answered {}", status.as_u16()),
            Self::NoSession => f.write_str("prefetch: the answer of the backend brought no session cookie"),
        }
    }
}

impl std::error::Error for PrefetchError {}

impl Prefetch {
    /// The head of the call for a client whose request has this head; to be made a request to the backend as any other.
    #[must_use]
    pub fn head(&self, client: &RequestHead) -> RequestHead {
        let mut fields = Fields::new();
        for name in OF_THE_CLIENT {
            for value in client.fields.values(name) {
                fields.append(name, value);
            }
        }
        for name in self.headers.keys() {
            fields.remove(name.as_str());
        }
        for (name, value) in &self.headers {
            fields.append(FieldName::new(name), value.clone());
        }
        RequestHead {
            method: self.method.clone(),
            uri: self.target.clone(),
            version: Version::HTTP_11,
            fields,
            peer: client.peer,
        }
    }

    /// Makes the call, and returns the `Set-Cookie` lines of the answer.
    ///
    /// # Errors
    /// See [`PrefetchError`]; whether one of the cookies means a session is for the caller to see.
    pub async fn call(&self, request: &RequestHead) -> Result<Vec<HeaderValue>, PrefetchError> {
        let answer = self.calls.send(request).await.map_err(PrefetchError::Call)?;
        if answer.status.is_server_error() {
            return Err(PrefetchError::Status(answer.status));
        }
        Ok(answer.fields.values(name::SET_COOKIE).collect())
    }
}
