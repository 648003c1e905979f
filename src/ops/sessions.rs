//! One installation's session, for operators: what it is made of, and its end.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::{Serialize, Serializer};

use super::{Ops, SessionAccess, error, json};
use crate::session::clock::{Timestamp, civil_date};
use crate::session::credential::{Credential, bearer_token};
use crate::session::install_id::InstallId;
use crate::session::store::{Key, StoreError, StoreFuture};

/// Looks at sessions and ends them, for whoever may.
pub trait SessionAdmin: Send + Sync + 'static {
    /// The session of `id`; `None` when it has none.
    fn show<'a>(&'a self, id: &'a InstallId) -> StoreFuture<'a, Option<SessionView>>;

    /// Ends the session of `id`; `false` when it has none.
    fn end<'a>(&'a self, id: &'a InstallId) -> StoreFuture<'a, bool>;
}

/// What may be seen of a session: no cookie value, and not the Install ID.
///
/// As JSON, times are RFC 3339 in UTC, and the key is the hexadecimal digest that logs name the installation by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionView {
    /// The name of the installation in the store and in logs.
    #[serde(serialize_with = "as_text")]
    pub key: Key,
    /// When the session was started.
    #[serde(serialize_with = "as_time")]
    pub created_at: Timestamp,
    /// When the store forgets it, if it is not used before.
    #[serde(serialize_with = "as_time")]
    pub expires_at: Timestamp,
    /// How often it was written.
    pub version: u64,
    /// Its cookies.
    pub cookies: Vec<CookieView>,
}

/// What may be seen of a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CookieView {
    /// Its name.
    pub name: String,
    /// The domain it was set for.
    pub domain: String,
    /// The path it was set for.
    pub path: String,
    /// When it expires; `null`: with the session.
    #[serde(serialize_with = "as_optional_time")]
    pub expires_at: Option<Timestamp>,
    /// Whether it is one that means "there is a session".
    pub is_id: bool,
}

fn as_text<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn as_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

fn as_optional_time<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

/// `time` as `2026-11-02T10:00:00.000Z`; what lies beyond the year 9999, which RFC 3339 cannot write, as its end.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    const LAST: u64 = 253_402_300_799_999;
    const DAY: u64 = 86_400_000;
    let millis = time.as_millis().min(LAST);
    let (days, of_day) = (millis / DAY, millis % DAY);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        of_day % 1000
    )
}

type InPath = Result<Path<String>, PathRejection>;

pub(super) async fn show(State(ops): State<Ops>, headers: HeaderMap, path: InPath) -> Response<Body> {
    let id = match admit(&ops, &headers, path) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    match ops.sessions.show(&id).await {
        Ok(Some(view)) => json(StatusCode::OK, &view),
        Ok(None) => no_session(),
        Err(failure) => store_failed(&failure),
    }
}

pub(super) async fn end(State(ops): State<Ops>, headers: HeaderMap, path: InPath) -> Response<Body> {
    let id = match admit(&ops, &headers, path) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    match ops.sessions.end(&id).await {
        Ok(true) => {
            let mut done = Response::new(Body::empty());
            *done.status_mut() = StatusCode::NO_CONTENT;
            done
        }
        Ok(false) => no_session(),
        Err(failure) => store_failed(&failure),
    }
}

/// The token is asked for before the path is looked at.
fn admit(ops: &Ops, headers: &HeaderMap, path: InPath) -> Result<InstallId, Box<Response<Body>>> {
    if let SessionAccess::Nobody = &ops.access {
        let why = "ops.token_file is not set, and this listener can be reached from other machines";
        return Err(Box::new(error(StatusCode::FORBIDDEN, why)));
    }
    if let SessionAccess::Token(token) = &ops.access {
        let shown = headers
            .get(AUTHORIZATION)
            .and_then(|value| bearer_token(value.as_bytes()));
        if !shown.is_some_and(|shown| Credential::any_is(std::slice::from_ref(token), shown)) {
            let mut refusal = error(StatusCode::UNAUTHORIZED, "the operators' token is required");
            refusal
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Err(Box::new(refusal));
        }
    }
    let bad = |reason: &str| Box::new(error(StatusCode::BAD_REQUEST, &format!("not an Install ID: {reason}")));
    let Path(text) = path.map_err(|_| bad("it is not UTF-8"))?;
    InstallId::parse(ops.format, text.as_bytes()).map_err(|why| bad(why.reason()))
}

fn no_session() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "this installation has no session")
}

fn store_failed(failure: &StoreError) -> Response<Body> {
    match failure {
        StoreError::Unreadable(unreadable) => {
            let text = format!("this installation has a session, but {unreadable}; ending it removes the record");
            error(StatusCode::CONFLICT, &text)
        }
        _ => error(StatusCode::SERVICE_UNAVAILABLE, &failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::Request;
    use http::Method;
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use serde_json::{Value, json};

    use super::super::health::Readiness;
    use super::super::router;
    use super::*;
    use crate::metrics::Metrics;
    use crate::session::install_id::Format;

    const ID: &str = "9e201bab-1ccf-47d1-82e0-90d71ee5fd2c";
    const OTHER: &str = "00650000-0008-0000-ac5d-e021b623c9b7";

    /// One session, or a store that is down.
    struct Admin(Mutex<Result<Option<SessionView>, StoreError>>);

    impl SessionAdmin for Admin {
        fn show<'a>(&'a self, id: &'a InstallId) -> StoreFuture<'a, Option<SessionView>> {
            let found = self.0.lock().unwrap().clone();
            Box::pin(async move { Ok(found?.filter(|view| view.key == id.key())) })
        }

        fn end<'a>(&'a self, id: &'a InstallId) -> StoreFuture<'a, bool> {
            let mut held = self.0.lock().unwrap();
            let ended = held.clone().map(|view| view.is_some_and(|view| view.key == id.key()));
            if ended == Ok(true) {
                *held = Ok(None);
            }
            Box::pin(async move { ended })
        }
    }

    fn view() -> SessionView {
        SessionView {
            key: InstallId::parse(Format::Uuid, ID.as_bytes()).unwrap().key(),
            created_at: Timestamp::from_millis(1_793_613_600_123),
            expires_at: Timestamp::from_millis(1_796_205_600_000),
            version: 7,
            cookies: vec![CookieView {
                name: "PHPSESSID".to_owned(),
                domain: "shop.example".to_owned(),
                path: "/".to_owned(),
                expires_at: None,
                is_id: true,
            }],
        }
    }

    fn ops(held: Result<Option<SessionView>, StoreError>, token: Option<&str>) -> Ops {
        Ops {
            readiness: Arc::new(Readiness::default()),
            metrics: Arc::new(Metrics::new(&[])),
            sessions: Arc::new(Admin(Mutex::new(held))),
            format: Format::Uuid,
            access: token.map_or(SessionAccess::Anyone, |token| {
                SessionAccess::Token(Credential::new(token.as_bytes()))
            }),
        }
    }

    async fn call(ops: &Ops, method: Method, id: &str, authorization: Option<&str>) -> (u16, HeaderMap, Value) {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = format!("/sessions/{id}").parse().unwrap();
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, value.parse().unwrap());
        }
        let response = TowerToHyperService::new(router(ops.clone()))
            .call(request)
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(
            !String::from_utf8_lossy(&body).contains(id),
            "the answer repeats the Install ID"
        );
        (
            head.status.as_u16(),
            head.headers,
            serde_json::from_slice(&body).unwrap_or_default(),
        )
    }

    #[tokio::test]
    async fn a_session_is_shown_with_times_and_names() {
        let (status, headers, body) = call(&ops(Ok(Some(view())), None), Method::GET, ID, None).await;
        assert_eq!(status, 200);
        assert_eq!(headers["cache-control"], "no-store");
        let cookie =
            json!({"name": "PHPSESSID", "domain": "shop.example", "path": "/", "expires_at": null, "is_id": true});
        let key = view().key.to_string();
        assert_eq!(
            body,
            json!({
                "key": key, "created_at": "2026-11-02T10:00:00.123Z", "expires_at": "2026-12-02T10:00:00.000Z",
                "version": 7, "cookies": [cookie],
            })
        );
    }

    #[tokio::test]
    async fn an_installation_without_a_session_is_not_found() {
        let ops = ops(Ok(Some(view())), None);
        for method in [Method::GET, Method::DELETE] {
            assert_eq!(call(&ops, method, OTHER, None).await.0, 404);
        }
        assert_eq!(call(&ops, Method::GET, ID, None).await.0, 200);
    }

    #[tokio::test]
    async fn deleting_ends_the_session() {
        let ops = ops(Ok(Some(view())), None);
        let upper = ID.to_uppercase();
        assert_eq!(call(&ops, Method::DELETE, &upper, None).await.0, 204);
        assert_eq!(call(&ops, Method::GET, ID, None).await.0, 404);
        assert_eq!(call(&ops, Method::DELETE, ID, None).await.0, 404);
    }

    #[tokio::test]
    async fn an_outage_is_not_an_absence() {
        let ops = ops(Err(StoreError::Timeout), None);
        for method in [Method::GET, Method::DELETE] {
            assert_eq!(call(&ops, method, ID, None).await.0, 503);
        }
    }

    #[tokio::test]
    async fn the_token_is_required_where_there_is_one() {
        let ops = ops(Ok(Some(view())), Some("s3cret"));
        for method in [Method::GET, Method::DELETE] {
            for wrong in [None, Some("Bearer wrong"), Some("Basic s3cret"), Some("s3cret")] {
                let (status, headers, _) = call(&ops, method.clone(), ID, wrong).await;
                assert_eq!(
                    (status, &headers["www-authenticate"]),
                    (401, &HeaderValue::from_static("Bearer"))
                );
            }
        }
        assert_eq!(call(&ops, Method::GET, "nonsense", None).await.0, 401);
        assert_eq!(call(&ops, Method::GET, ID, Some("Bearer s3cret")).await.0, 200);
        assert_eq!(call(&ops, Method::DELETE, ID, Some("bearer s3cret")).await.0, 204);
    }

    #[tokio::test]
    async fn what_is_no_install_id_is_refused_without_being_repeated() {
        let ops = ops(Ok(None), None);
        for bad in ["nonsense", "00000000-0000-0000-0000-000000000000", "%ff%fe"] {
            assert_eq!(call(&ops, Method::GET, bad, None).await.0, 400, "{bad}");
        }
    }

    #[test]
    fn times_are_told_by_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_704_067_199_000, "2023-12-31T23:59:59.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_millis(millis)), text);
        }
    }
}
