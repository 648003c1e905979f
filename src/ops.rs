//! The operators' listener.
//!
//! | path | answer |
//! |---|---|
//! | `GET /livez` | 200 while the process can answer; nothing else is asked |
//! | `GET /readyz` | 200 or 503, JSON with the reason of each failing part |
//! | `GET /metrics` | everything in [`crate::metrics`] |
//! | `GET /sessions/{install_id}` | one session: times, version, cookie names, never values |
//! | `DELETE /sessions/{install_id}` | ends it |
//! | `GET /` | a status page for people |
//!
//! An Install ID is part of a path here: requests to this listener must not be logged with their path.

pub mod health;
pub mod sessions;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::metrics::Metrics;
use crate::session::credential::Credential;
use crate::session::install_id::Format;
use health::Readiness;
use sessions::SessionAdmin;

/// What the operators' listener shows and does.
#[derive(Clone)]
pub struct Ops {
    /// Whether this replica is ready, and why not.
    pub readiness: Arc<Readiness>,
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// Looks at sessions and ends them.
    pub sessions: Arc<dyn SessionAdmin>,
    /// The form of a valid Install ID.
    pub format: Format,
    /// Who may use `/sessions`.
    pub access: SessionAccess,
}

/// Who may use `/sessions`.
#[derive(Clone, Debug)]
pub enum SessionAccess {
    /// Anyone who can connect: for a loopback listener.
    Anyone,
    /// Who shows this as `Authorization: Bearer`.
    Token(Credential),
    /// Nobody: the listener can be reached from elsewhere, and no token is configured.
    Nobody,
}

/// The routes of the operators' listener.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/", get(status::page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/sessions/{install_id}", get(sessions::show).delete(sessions::end))
        .fallback(not_found)
        .with_state(ops)
}

async fn livez() -> Response<Body> {
    respond(StatusCode::OK, TEXT, "ok\n")
}

async fn readyz(State(ops): State<Ops>) -> Response<Body> {
    ops.readiness.response().map(Body::from)
}

async fn metrics(State(ops): State<Ops>, headers: HeaderMap) -> Response<Body> {
    // Who does not ask for OpenMetrics gets the same lines under the name of the older format.
    let open = headers.get_all(ACCEPT).iter().any(|value| {
        value
            .as_bytes()
            .windows(OPENMETRICS_NAME.len())
            .any(|part| part.eq_ignore_ascii_case(OPENMETRICS_NAME))
    });
    respond(
        StatusCode::OK,
        if open { OPENMETRICS } else { PROMETHEUS },
        ops.metrics.encode(),
    )
}

async fn not_found() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "there is no such page")
}

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OPENMETRICS_NAME: &[u8] = b"application/openmetrics-text";

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Text, numbers and lists of them cannot fail to be written.
    respond(status, JSON, serde_json::to_vec(value).unwrap_or_default())
}

fn error(status: StatusCode, text: &str) -> Response<Body> {
    #[derive(Serialize)]
    struct Error<'a> {
        error: &'a str,
    }
    json(status, &Error { error: text })
}

#[cfg(test)]
mod tests {
    use axum::extract::Request;
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::session::install_id::InstallId;
    use crate::session::store::StoreFuture;
    use sessions::SessionView;

    struct NoSessions;

    impl SessionAdmin for NoSessions {
        fn show<'a>(&'a self, _: &'a InstallId) -> StoreFuture<'a, Option<SessionView>> {
            Box::pin(async { Ok(None) })
        }

        fn end<'a>(&'a self, _: &'a InstallId) -> StoreFuture<'a, bool> {
            Box::pin(async { Ok(false) })
        }
    }

    fn ops() -> Ops {
        Ops {
            readiness: Arc::new(Readiness::default()),
            metrics: Arc::new(Metrics::new(&[])),
            sessions: Arc::new(NoSessions),
            format: Format::Uuid,
            access: SessionAccess::Anyone,
        }
    }

    async fn get(path: &str, accept: &str) -> (StatusCode, String, String) {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = TowerToHyperService::new(router(ops())).call(request).await.unwrap();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, content_type, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn livez_answers_whatever_else_is_wrong() {
        assert_eq!(get("/livez", "*/*").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_come_under_the_name_that_was_asked_for() {
        let (status, content_type, body) = get("/metrics", "*/*").await;
        assert_eq!((status, content_type.as_str()), (StatusCode::OK, PROMETHEUS));
        assert!(body.contains("\nsession_bridge_build_info{version=\""), "{body}");
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75";
        let (_, content_type, body) = get("/metrics", prometheus).await;
        assert_eq!(content_type, OPENMETRICS);
        assert!(body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn an_unknown_path_is_not_found() {
        let (status, content_type, body) = get("/nothing", "*/*").await;
        assert_eq!((status, content_type.as_str()), (StatusCode::NOT_FOUND, JSON));
        assert_eq!(body, r#"{"error":"there is no such page"}"#);
    }
}
