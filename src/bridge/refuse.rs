//! Any refusal of the bridge's own → a response (F5). This is the only such table.
//!
//! | refusal | status | slug | `Retry-After` |
//! |---|---|---|---|
//! | [`Refusal::InstallIdMissing`] | 400 | `install-id-missing` | |
//! | [`Refusal::InstallIdMalformed`] | 400 | `install-id-malformed` | |
//! | [`Refusal::BadRequest`] | 400 | `bad-request` | |
//! | [`Refusal::Unauthorized`] | 401 | `unauthorized` | |
//! | [`Refusal::SessionLost`] | 401 | `session-lost` | |
//! | [`Refusal::SessionBoundElsewhere`] | 403 | `session-bound-elsewhere` | |
//! | [`Refusal::RequestTimeout`] | 408 | `request-timeout` | |
//! | [`Refusal::TooManyNewSessions`] | 429 | `too-many-new-sessions` | yes |
//! | [`Refusal::HeaderTooLarge`] | 431 | `header-too-large` | |
//! | [`Refusal::PrefetchFailed`] | 502 | `session-prefetch-failed` | |
//! | [`Refusal::UpstreamUnreachable`] | 502 | `upstream-unreachable` | |
//! | [`Refusal::UpstreamBadResponse`] | 502 | `upstream-bad-response` | |
//! | [`Refusal::StoreUnavailable`] | 503 | `store-unavailable` | yes |
//! | [`Refusal::SessionWaitTimeout`] | 503 | `session-wait-timeout` | yes |
//! | [`Refusal::Overloaded`] | 503 | `overloaded` | yes |
//! | [`Refusal::Draining`] | 503 | `draining` | yes |
//! | [`Refusal::PrefetchTimeout`] | 504 | `session-prefetch-timeout` | |
//! | [`Refusal::UpstreamTimeout`] | 504 | `upstream-timeout` | |
//!
//! The body is `application/problem+json` (RFC 9457): a stable `type`, and a `detail` that says what the caller can do.
//! It holds nothing of what was sent but the request ID, and nothing of the inside: no address, no store, no cause.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

/// Prefix of every problem `type`; the slug follows.
pub const TYPE_PREFIX: &str = "urn:session-bridge:problem:";

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A replica that is too busy, or on its way out, is asked again after this.
const SOON: Duration = Duration::from_secs(1);

/// Why the bridge answers a request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request does not say which installation it comes from, and has to.
    InstallIdMissing,
    /// The Install ID is not valid.
    InstallIdMalformed {
        /// What is wrong with it, without repeating it.
        reason: &'static str,
    },
    /// No valid API key was shown.
    Unauthorized,
    /// The request is not valid HTTP, or ambiguous.
    BadRequest {
        /// What is wrong, without repeating what was sent.
        reason: &'static str,
    },
    /// The request head is larger than `server.max_header_size`.
    HeaderTooLarge,
    /// The client took too long to send its request.
    RequestTimeout,
    /// The store did not answer, and the session is not known otherwise. Nothing was sent to the backend.
    StoreUnavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// Another request was starting the session all the time, or as many as may go at once were under way. Nothing was
    /// sent to the backend.
    SessionWaitTimeout {
        /// When to try again.
        retry_after: Duration,
    },
    /// The backend does not know the session any more, and the request cannot be sent again by itself (rule C4).
    SessionLost,
    /// The session belongs to another client address.
    SessionBoundElsewhere,
    /// Sessions are being started too fast. Nothing was sent to the backend.
    TooManyNewSessions {
        /// When to try again.
        retry_after: Duration,
    },
    /// The backend did not start a session when the bridge asked for one (rule S5). The client's request was not sent.
    PrefetchFailed,
    /// It did not answer that in time. The client's request was not sent.
    PrefetchTimeout,
    /// The request provably never reached the backend.
    UpstreamUnreachable,
    /// The backend did not answer in time.
    UpstreamTimeout,
    /// The backend cut the connection, or what it sent is not HTTP.
    UpstreamBadResponse,
    /// This replica has no room for more requests.
    Overloaded,
    /// This replica is shutting down.
    Draining,
}

/// What the table says of one refusal.
struct Row {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
}

const fn row(status: StatusCode, slug: &'static str, title: &'static str) -> Row {
    Row { status, slug, title }
}

/// The members of the body (RFC 9457 §3.1), and the request ID.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    request_id: &'a str,
}

impl Refusal {
    /// Every slug there is.
    pub const SLUGS: [&'static str; 18] = [
        "install-id-missing",
        "install-id-malformed",
        "unauthorized",
        "bad-request",
        "header-too-large",
        "request-timeout",
        "store-unavailable",
        "session-wait-timeout",
        "session-lost",
        "session-bound-elsewhere",
        "too-many-new-sessions",
        "session-prefetch-failed",
        "session-prefetch-timeout",
        "upstream-unreachable",
        "upstream-timeout",
        "upstream-bad-response",
        "overloaded",
        "draining",
    ];

    const fn row(&self) -> Row {
        use StatusCode as S;
        match self {
            Self::InstallIdMissing => row(S::BAD_REQUEST, "install-id-missing", "Install ID missing"),
            Self::InstallIdMalformed { .. } => row(S::BAD_REQUEST, "install-id-malformed", "Install ID malformed"),
            Self::BadRequest { .. } => row(S::BAD_REQUEST, "bad-request", "Bad request"),
            Self::Unauthorized => row(S::UNAUTHORIZED, "unauthorized", "Unauthorized"),
            Self::SessionLost => row(S::UNAUTHORIZED, "session-lost", "Session lost"),
            Self::SessionBoundElsewhere => row(S::FORBIDDEN, "session-bound-elsewhere", "Session bound elsewhere"),
            Self::RequestTimeout => row(S::REQUEST_TIMEOUT, "request-timeout", "Request timeout"),
            Self::TooManyNewSessions { .. } => {
                row(S::TOO_MANY_REQUESTS, "too-many-new-sessions", "Too many new sessions")
            }
            Self::HeaderTooLarge => row(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header-too-large",
                "Request header too large",
            ),
            Self::PrefetchFailed => row(S::BAD_GATEWAY, "session-prefetch-failed", "Session not started"),
            Self::PrefetchTimeout => row(
                S::GATEWAY_TIMEOUT,
                "session-prefetch-timeout",
                "Session not started in time",
            ),
            Self::UpstreamUnreachable => row(S::BAD_GATEWAY, "upstream-unreachable", "Upstream unreachable"),
            Self::UpstreamBadResponse => row(S::BAD_GATEWAY, "upstream-bad-response", "Bad upstream response"),
            Self::StoreUnavailable { .. } => row(S::SERVICE_UNAVAILABLE, "store-unavailable", "Store unavailable"),
            Self::SessionWaitTimeout { .. } => {
                row(S::SERVICE_UNAVAILABLE, "session-wait-timeout", "Session wait timeout")
            }
            Self::Overloaded => row(S::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            Self::Draining => row(S::SERVICE_UNAVAILABLE, "draining", "Shutting down"),
            Self::UpstreamTimeout => row(S::GATEWAY_TIMEOUT, "upstream-timeout", "Upstream timeout"),
        }
    }

    fn detail(&self) -> String {
        let text = match self {
            Self::InstallIdMissing => {
                "The request does not say which installation it comes from. Send the Install ID with every request."
            }
            Self::InstallIdMalformed { reason } => {
                return format!("The Install ID is not valid: {reason}. Send the one that the device was given.");
            }
            Self::Unauthorized => "Send a valid API key, as \"Authorization: Bearer <key>\" or in the header \"key\".",
            Self::BadRequest { reason } => {
                return format!("The request was not forwarded: {reason}. Correct it before sending it again.");
            }
            Self::HeaderTooLarge => "The request head is too large. Send fewer or shorter header fields.",
            Self::RequestTimeout => "The request did not arrive in time. Send it again over a new connection.",
            Self::StoreUnavailable { .. } => {
                "The session cannot be looked up just now. The backend was not asked; send the request again later."
            }
            Self::SessionWaitTimeout { .. } => {
                "Other requests of this installation are still under way: one that starts its session, or as many as may \
                 go at once. The backend was not asked; send the request again later."
            }
            Self::SessionLost => {
                "The backend does not know the session of this installation any more. The request was not carried out; \
                 send it again, after a log-in where it needs one."
            }
            Self::SessionBoundElsewhere => {
                "The session of this installation was started from another address. Send the request from there."
            }
            Self::TooManyNewSessions { .. } => {
                "Sessions are being started too fast. The backend was not asked; send the request again later, with \
                 the Install ID of an existing installation where there is one."
            }
            Self::PrefetchFailed => {
                "The backend did not start a session for this installation. The request was not sent to it; send it again \
                 later."
            }
            Self::PrefetchTimeout => {
                "The backend did not start a session for this installation in time. The request was not sent to it; send \
                 it again later."
            }
            Self::UpstreamUnreachable => {
                "The backend could not be reached. The request did not arrive there; it can be sent again."
            }
            Self::UpstreamTimeout => {
                "The backend did not answer in time. The request may have taken effect; check before sending it again."
            }
            Self::UpstreamBadResponse => {
                "The backend gave no readable answer. The request may have taken effect; check before sending it again."
            }
            Self::Overloaded => "There are too many requests at the moment. Send the request again later.",
            Self::Draining => "This server is shutting down. Send the request again over a new connection.",
        };
        text.to_owned()
    }

    /// The status code of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.row().status
    }

    /// The stable name of the refusal: the end of the problem `type`, and its label in metrics.
    #[must_use]
    pub const fn slug(&self) -> &'static str {
        self.row().slug
    }

    /// How long the caller is asked to wait, where it is.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::StoreUnavailable { retry_after }
            | Self::SessionWaitTimeout { retry_after }
            | Self::TooManyNewSessions { retry_after } => Some(*retry_after),
            Self::Overloaded | Self::Draining => Some(SOON),
            Self::InstallIdMissing
            | Self::InstallIdMalformed { .. }
            | Self::Unauthorized
            | Self::BadRequest { .. }
            | Self::HeaderTooLarge
            | Self::RequestTimeout
            | Self::SessionLost
            | Self::SessionBoundElsewhere
            | Self::PrefetchFailed
            | Self::PrefetchTimeout
            | Self::UpstreamUnreachable
            | Self::UpstreamTimeout
            | Self::UpstreamBadResponse => None,
        }
    }

    /// The response. `request_id` is repeated in the body and as `X-Request-Id`.
    ///
    /// It carries its body whatever the method was: to a `HEAD` the server sends the head alone, with the length that
    /// the body would have.
    #[must_use]
    pub fn response(&self, request_id: &str) -> Response<Bytes> {
        let Row { status, slug, title } = self.row();
        let problem = Problem {
            r#type: format!("{TYPE_PREFIX}{slug}"),
            title,
            status: status.as_u16(),
            detail: self.detail(),
            request_id,
        };
        // Text and numbers alone cannot fail to be written.
        let mut response = Response::new(Bytes::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(value) = HeaderValue::from_str(request_id) {
            headers.insert(X_REQUEST_ID, value);
        }
        if let Some(wait) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if status == StatusCode::UNAUTHORIZED {
            // Every 401 names what would help (RFC 9110 §15.5.2): a key, or a log-in of the backend's own kind.
            let scheme = if *self == Self::SessionLost {
                "Session"
            } else {
                "Bearer"
            };
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        response
    }
}

/// Rounded up, and never zero: a caller told to come back in no time would come back in no time.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const REQUEST_ID: &str = "0199c7f4-0000-7000-8000-000000000000";

    /// Every refusal with the status and the slug that are promised to callers.
    fn contract() -> Vec<(Refusal, u16, &'static str)> {
        let retry_after = Duration::from_millis(2500);
        vec![
            (Refusal::InstallIdMissing, 400, "install-id-missing"),
            (
                Refusal::InstallIdMalformed { reason: "it is empty" },
                400,
                "install-id-malformed",
            ),
            (Refusal::Unauthorized, 401, "unauthorized"),
            (Refusal::BadRequest { reason: "two lengths" }, 400, "bad-request"),
            (Refusal::HeaderTooLarge, 431, "header-too-large"),
            (Refusal::RequestTimeout, 408, "request-timeout"),
            (Refusal::StoreUnavailable { retry_after }, 503, "store-unavailable"),
            (Refusal::SessionWaitTimeout { retry_after }, 503, "session-wait-timeout"),
            (Refusal::SessionLost, 401, "session-lost"),
            (Refusal::SessionBoundElsewhere, 403, "session-bound-elsewhere"),
            (
                Refusal::TooManyNewSessions { retry_after },
                429,
                "too-many-new-sessions",
            ),
            (Refusal::PrefetchFailed, 502, "session-prefetch-failed"),
            (Refusal::PrefetchTimeout, 504, "session-prefetch-timeout"),
            (Refusal::UpstreamUnreachable, 502, "upstream-unreachable"),
            (Refusal::UpstreamTimeout, 504, "upstream-timeout"),
            (Refusal::UpstreamBadResponse, 502, "upstream-bad-response"),
            (Refusal::Overloaded, 503, "overloaded"),
            (Refusal::Draining, 503, "draining"),
        ]
    }

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn every_refusal_is_a_problem_with_its_status_and_slug() {
        for (refusal, status, slug) in contract() {
            let response = refusal.response(REQUEST_ID);
            assert_eq!(response.status().as_u16(), status, "{slug}");
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{slug}");
            assert_eq!(response.headers()["cache-control"], "no-store", "{slug}");
            assert_eq!(response.headers()["x-request-id"], REQUEST_ID, "{slug}");
            let body = body(&response);
            assert_eq!(body["type"], format!("urn:session-bridge:problem:{slug}"));
            assert_eq!(body["status"], status, "{slug}");
            assert_eq!(body["request_id"], REQUEST_ID, "{slug}");
            assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()), "{slug}");
            assert!(
                body["detail"].as_str().is_some_and(|detail| detail.ends_with('.')),
                "{slug}"
            );
            assert_eq!(body.as_object().unwrap().len(), 5, "{slug}");
            assert_eq!((refusal.slug(), refusal.status().as_u16()), (slug, status));
        }
    }

    #[test]
    fn the_list_of_slugs_is_complete() {
        let listed = BTreeSet::from(Refusal::SLUGS);
        let used: BTreeSet<_> = contract().iter().map(|(refusal, _, _)| refusal.slug()).collect();
        assert_eq!(listed, used);
    }

    #[test]
    fn the_table_in_the_docs_says_the_same() {
        let docs = include_str!("refuse.rs");
        for (refusal, status, slug) in contract() {
            let retry = if refusal.retry_after().is_some() { "yes |" } else { "|" };
            let end = format!("`] | {status} | `{slug}` | {retry}");
            assert!(
                docs.lines()
                    .any(|line| line.starts_with("//! | [`Refusal::") && line.ends_with(&end)),
                "{end}"
            );
        }
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_rounded_up() {
        for (wait, told) in [
            (0, "1"),
            (1, "1"),
            (1000, "1"),
            (1001, "2"),
            (2500, "3"),
            (60_000, "60"),
        ] {
            let refusal = Refusal::TooManyNewSessions {
                retry_after: Duration::from_millis(wait),
            };
            assert_eq!(refusal.response(REQUEST_ID).headers()["retry-after"], told, "{wait} ms");
        }
        assert_eq!(Refusal::Draining.response(REQUEST_ID).headers()["retry-after"], "1");
        assert!(
            !Refusal::UpstreamTimeout
                .response(REQUEST_ID)
                .headers()
                .contains_key("retry-after")
        );
    }

    #[test]
    fn only_a_401_asks_for_a_credential() {
        for (refusal, status, slug) in contract() {
            let asked = refusal.response(REQUEST_ID).headers().get("www-authenticate").cloned();
            assert_eq!(asked.is_some(), status == 401, "{slug}");
            let expected = if slug == "session-lost" { "Session" } else { "Bearer" };
            assert!(asked.is_none_or(|scheme| scheme == expected), "{slug}");
        }
    }

    #[test]
    fn a_request_id_that_needs_escapes_keeps_the_body_readable() {
        let response = Refusal::Overloaded.response("a\"b\n");
        assert_eq!(body(&response)["request_id"], "a\"b\n");
        assert!(!response.headers().contains_key("x-request-id"));
    }
}
