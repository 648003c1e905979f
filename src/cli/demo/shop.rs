//! A small shop with cookie sessions, as a backend framework would make them.
//!
//! It makes up its session IDs itself and takes none from outside, gives a new one at log-in, and takes the cookie
//! back at log-out. The basket is kept in the session and nowhere else.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /basket`, `POST /basket` | shows the basket |
//! | `POST /basket {"sku":"tea"}` | puts a thing into it |
//! | `POST /login {"name":"Ada"}` | logs in; the session goes on under a new ID |
//! | `POST /logout` | ends the session |

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::wire::{Exchange, Seen};

/// The port that the shop takes when it is free.
const USUAL_PORT: u16 = 8000;
/// The name of the session cookie.
pub(super) const COOKIE_NAME: &str = "shop_session";
/// With this many sessions the shop forgets all of them, rather than take ever more memory.
const MAX_SESSIONS: usize = 10_000;
/// How many things fit into a basket.
const MAX_BASKET: usize = 100;
/// The longest name or SKU, in bytes.
const MAX_TEXT: usize = 64;
/// How many exchanges wait for a reader; what comes beyond is not shown.
const EXCHANGES: usize = 256;

/// The demo shop, serving until it is dropped.
#[derive(Debug)]
pub struct Shop {
    address: SocketAddr,
    exchanges: mpsc::Receiver<Exchange>,
    server: JoinHandle<()>,
}

/// Starts the shop on a loopback port: 8000 where that is free, any other where it is not.
///
/// # Errors
/// When no port of the loopback address can be bound.
pub async fn shop() -> io::Result<Shop> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, USUAL_PORT)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
    };
    let address = listener.local_addr()?;
    let (sender, exchanges) = mpsc::channel(EXCHANGES);
    let router = router(sender);
    let server = tokio::spawn(async move {
        // It ends only with the task: accept errors are retried inside.
        let _ = axum::serve(listener, router).await;
    });
    Ok(Shop {
        address,
        exchanges,
        server,
    })
}

impl Shop {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request and its answer, as the shop saw them, in the order of the answers. `None` when the shop
    /// has ended.
    pub async fn exchange(&mut self) -> Option<Exchange> {
        self.exchanges.recv().await
    }

    /// Those exchanges that have not been read yet. An exchange is here before its answer leaves the shop.
    pub fn exchanges(&mut self) -> Vec<Exchange> {
        std::iter::from_fn(|| self.exchanges.try_recv().ok()).collect()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn router(exchanges: mpsc::Sender<Exchange>) -> Router {
    Router::new()
        .route("/basket", get(basket).post(basket))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .with_state(Sessions::default())
        .layer(middleware::from_fn_with_state(exchanges, record))
}

/// Notes what came and what goes, for the person who watches.
async fn record(State(exchanges): State<mpsc::Sender<Exchange>>, request: Request, next: Next) -> Response {
    let seen = Seen::of(&request);
    let response = next.run(request).await;
    // Nobody reading, or reading too slowly, is no reason to hold up the shop.
    let _ = exchanges.try_send(seen.answered(response.status(), response.headers()));
    response
}

/// What the shop remembers of a visitor.
#[derive(Clone, Debug, Default)]
struct Session {
    name: Option<String>,
    basket: Vec<String>,
}

impl Session {
    fn shown(&self) -> Value {
        json!({ "name": self.name, "basket": self.basket })
    }
}

/// All sessions, by their ID.
#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<String, Session>>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        // A handler that panicked left whole sessions behind: there is nothing to mend.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `change` work on the session of the request, or on a new one where the request has none that the shop
    /// knows. Returns the answer's fields, and the ID where it is new.
    fn visit(&self, headers: &HeaderMap, change: impl FnOnce(&mut Session)) -> (Value, Option<String>) {
        let mut sessions = self.lock();
        if let Some(session) = session_id(headers).and_then(|id| sessions.get_mut(id)) {
            change(session);
            return (session.shown(), None);
        }
        let (shown, id) = Self::begin(&mut sessions, Session::default(), change);
        (shown, Some(id))
    }

    /// Like [`Sessions::visit`], but the session always goes on under a new ID, and the old one is dead.
    fn rename(&self, old_id: Option<&str>, change: impl FnOnce(&mut Session)) -> (Value, String) {
        let mut sessions = self.lock();
        let session = old_id.and_then(|id| sessions.remove(id)).unwrap_or_default();
        Self::begin(&mut sessions, session, change)
    }

    fn begin(
        sessions: &mut HashMap<String, Session>,
        mut session: Session,
        change: impl FnOnce(&mut Session),
    ) -> (Value, String) {
        if sessions.len() >= MAX_SESSIONS {
            sessions.clear();
        }
        change(&mut session);
        let shown = session.shown();
        // Random, and of this shop's making only.
        let id = Uuid::new_v4().simple().to_string();
        sessions.insert(id.clone(), session);
        (shown, id)
    }
}

/// The value of the session cookie in the request.
fn session_id(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

/// What a request may say. Other members (`installId`) are none of the shop's business.
#[derive(Debug, Default, Deserialize)]
struct Order {
    sku: Option<String>,
    name: Option<String>,
}

/// Reads the body; an empty one says nothing. What cannot be read, or is too long, becomes the answer.
fn order(body: &[u8]) -> Result<Order, Refusal> {
    if body.is_empty() {
        return Ok(Order::default());
    }
    let order: Order = serde_json::from_slice(body).map_err(|_| {
        Refusal(
            StatusCode::BAD_REQUEST,
            "the body is not JSON, or not of the shape that is expected",
        )
    })?;
    let long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > MAX_TEXT);
    if long(&order.sku) || long(&order.name) {
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, "that is too long"));
    }
    Ok(order)
}

async fn basket(State(sessions): State<Sessions>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let order = order(&body)?;
    let (shown, new_id) = sessions.visit(&headers, |session| {
        if session.basket.len() < MAX_BASKET {
            session.basket.extend(order.sku);
        }
    });
    Ok(answer(StatusCode::OK, &shown, new_id.as_deref().and_then(set_cookie)))
}

async fn login(State(sessions): State<Sessions>, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let name = order(&body)?
        .name
        .ok_or(Refusal(StatusCode::UNPROCESSABLE_ENTITY, "a name is needed to log in"))?;
    // The session goes on under another ID, so that nobody who knew the old one is logged in too.
    let (shown, id) = sessions.rename(session_id(&headers), |session| session.name = Some(name));
    Ok(answer(StatusCode::OK, &shown, set_cookie(&id)))
}

async fn logout(State(sessions): State<Sessions>, headers: HeaderMap) -> Response {
    let ended = session_id(&headers).and_then(|id| sessions.lock().remove(id)).is_some();
    let taken_back = ended.then(|| HeaderValue::from_static("shop_session=; Path=/; HttpOnly; Max-Age=0"));
    answer(StatusCode::OK, &json!({ "logged_out": ended }), taken_back)
}

fn set_cookie(id: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("{COOKIE_NAME}={id}; Path=/; HttpOnly")).ok()
}

/// A request that the shop does not serve: the status, and why.
struct Refusal(StatusCode, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(self.0, &json!({ "error": self.1 }), None)
    }
}

fn answer(status: StatusCode, body: &Value, cookie: Option<HeaderValue>) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    let mut response = (status, headers, format!("{body}\n")).into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
