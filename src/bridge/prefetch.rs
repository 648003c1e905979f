//! A session that the bridge starts itself, before the client's request is sent (rule S5, `session.create = "prefetch"`).
//!
//! The backend is asked for a page of its own, under the lead, and the client's request goes with the session that this
//! started: whatever becomes of that request, the session is there.

use std::fmt;

use axum::body::Body;
use http::header::{ACCEPT_LANGUAGE, FORWARDED, HOST, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};

use crate::wire::own_call::{OwnCallError, OwnCalls};
use crate::wire::server::Secure;

/// What of the client's request goes along: who it is, for a backend that binds sessions to that, and by which name it
/// knows the backend.
const OF_THE_CLIENT: [HeaderName; 7] = [
    HOST,
    USER_AGENT,
    ACCEPT_LANGUAGE,
    FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
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
    pub fn head(&self, client: &Parts) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method.clone();
        head.uri = self.target.clone();
        head.version = Version::HTTP_11;
        if let Some(secure) = client.extensions.get::<Secure>() {
            head.extensions.insert(*secure);
        }
        for name in OF_THE_CLIENT {
            for value in client.headers.get_all(&name) {
                head.headers.append(name.clone(), value.clone());
            }
        }
        for name in self.headers.keys() {
            head.headers.remove(name);
        }
        head.headers.extend(self.headers.clone());
        head
    }

    /// Makes the call, and returns the `Set-Cookie` lines of the answer.
    ///
    /// # Errors
    /// See [`PrefetchError`]; whether one of the cookies means a session is for the caller to see.
    pub async fn call(&self, request: Request<Body>) -> Result<Vec<HeaderValue>, PrefetchError> {
        let answer = self.calls.send(request).await.map_err(PrefetchError::Call)?;
        if answer.status().is_server_error() {
            return Err(PrefetchError::Status(answer.status()));
        }
        let lines = answer.headers().get_all(http::header::SET_COOKIE);
        Ok(lines.iter().cloned().collect())
    }
}
