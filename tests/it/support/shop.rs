//! A stateful shop in this process, which does what a test tells it to.
//!
//! It makes up its own session IDs (cookie `sid`), takes none from outside, and answers a dead one with a fresh
//! session, as PHP does. Every request may carry these in its query, in milliseconds:
//!
//! | parameter | wait |
//! |---|---|
//! | `before` | before the session is looked up |
//! | `after` | when the work is done, before the response head |
//! | `late` | between the head and the end of the body; the session is saved only then, as Express does |
//!
//! | path | what it does |
//! |---|---|
//! | `/basket` | shows the session, starting one if need be |
//! | `/basket/add` | puts one thing more into the basket |
//! | `/login?user=` | the log-in: a new session ID, the old one is dead |
//! | `/logout` | the session is dead, its cookie is deleted |
//! | `/rotate` | a new session ID without any log-in, the old one is dead |
//! | `/refresh` | sends the cookie again as it is, with a new expiry |
//! | `/member` | as `/basket/add`, but to a dead `sid` it answers as the parameter `dead` says: `401`, `redirect` to `/login`, `header` (`X-Session: dead`), with a fresh cookie beside for `401-fresh`; and to anybody who is not logged in likewise with `guarded=1` |
//! | `/none` | has nothing to do with sessions |
//! | `/cookies` | starts no session; sends each `x-set-cookie` of the request as a `Set-Cookie` |
//! | `/status/{code}` | as `/basket/add`, with that status |
//! | `/endless` | as `/basket/add`, and the body never ends |
//! | `/abort` | starts no session and closes the connection without an answer |
//!
//! Responses are JSON: `basket`, `user`, `session` (a digest of the ID), `started` (whether this request started it),
//! and `cookies` (all of what came as `Cookie`).

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::{eventually, local};

/// The shop; it stops on drop.
pub(crate) struct Shop {
    address: SocketAddr,
    inner: Arc<Inner>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    start_delay: Mutex<Duration>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<String, Session>,
    started: usize,
    seen: Vec<String>,
    tags: HashSet<String>,
    in_flight: usize,
    most_in_flight: usize,
}

#[derive(Clone, Debug, Default)]
struct Session {
    basket: u64,
    user: Option<String>,
}

/// What a request does to its session, worked out before the response is built.
struct Outcome {
    id: String,
    session: Session,
    started: bool,
    set_cookie: Option<String>,
}

type Body = BoxBody<Bytes, Infallible>;

impl Shop {
    pub(crate) async fn start() -> Self {
        // Several bridges may open all their connections at the same moment.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(local(0)).expect("a free port");
        let listener = socket.listen(4096).expect("a listener");
        let address = listener.local_addr().expect("a bound address");
        let inner = Arc::new(Inner::default());
        let serving = Arc::clone(&inner);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self {
            address,
            inner,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long starting a session takes from now on.
    pub(crate) fn set_start_delay(&self, delay: Duration) {
        *self.inner.start_delay.lock().expect("no panic while locked") = delay;
    }

    /// How many sessions it has ever started.
    pub(crate) fn sessions_started(&self) -> usize {
        self.inner.state().started
    }

    /// Path and query of all requests so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.inner.state().seen.clone()
    }

    /// How many requests have come so far.
    pub(crate) fn count(&self) -> usize {
        self.inner.state().seen.len()
    }

    /// Whether a request with this text in its path and query has come.
    pub(crate) fn has_seen(&self, part: &str) -> bool {
        self.inner.state().seen.iter().any(|target| target.contains(part))
    }

    /// Waits for a request with this text in its path and query.
    pub(crate) async fn wait_for(&self, part: &str) {
        let what = format!("a request with {part:?} at the shop");
        eventually(&what, Duration::from_secs(10), async || self.has_seen(part)).await;
    }

    /// Waits for the request with this value of the parameter `tag`.
    pub(crate) async fn wait_for_tag(&self, tag: &str) {
        let what = format!("the request {tag} at the shop");
        eventually(&what, Duration::from_secs(10), async || {
            self.inner.state().tags.contains(tag)
        })
        .await;
    }

    /// The most requests that were being served at one moment since the last call of this.
    pub(crate) fn most_in_flight(&self) -> usize {
        let mut state = self.inner.state();
        std::mem::replace(&mut state.most_in_flight, 0)
    }

    /// Kills the session of everybody, as a restart of the shop does.
    pub(crate) fn forget_all(&self) {
        self.inner.state().sessions.clear();
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }
}

impl State {
    /// The session named by the request's cookie; a fresh one where there is none alive.
    fn find(&self, headers: &HeaderMap) -> Option<(String, Session)> {
        let id = sid(headers)?;
        self.sessions.get(&id).map(|session| (id, session.clone()))
    }
}

/// Counts a request as being served for as long as it lives, also when its connection breaks.
struct InFlight(Arc<Inner>);

impl InFlight {
    fn enter(inner: &Arc<Inner>) -> Self {
        let mut state = inner.state();
        state.in_flight += 1;
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
        Self(Arc::clone(inner))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}

async fn serve(stream: TcpStream, inner: Arc<Inner>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, Arc::clone(&inner)));
    let mut first = [0; 3];
    if matches!(stream.peek(&mut first).await, Ok(3)) && &first == b"PRI" {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
        return;
    }
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The error of a service makes hyper close the connection.
type Aborted = &'static str;

async fn answer(request: Request<Incoming>, inner: Arc<Inner>) -> Result<Response<Body>, Aborted> {
    let (head, body) = request.into_parts();
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
        .to_owned();
    let parameters = Parameters::of(&target);
    let in_flight = InFlight::enter(&inner);
    {
        let mut state = inner.state();
        state.seen.push(target.clone());
        state.tags.extend(parameters.get("tag").map(str::to_owned));
    }
    body.collect().await.map_err(|_| "the body broke off")?;
    parameters.pause("before").await;

    let path = head.uri.path();
    if let "/none" | "/cookies" | "/abort" = path {
        parameters.pause("after").await;
        if path == "/abort" {
            return Err("as asked");
        }
        let mut response = Response::new(whole(json!({ "cookies": cookies(&head.headers) }).to_string()));
        for line in head.headers.get_all("x-set-cookie") {
            response.headers_mut().append(header::SET_COOKIE, line.clone());
        }
        return Ok(response);
    }

    if path == "/member"
        && let Some(response) = turned_away(&parameters, &head.headers, &inner)
    {
        return Ok(response);
    }

    let late = parameters.millis("late");
    let outcome = work(path, &parameters, &head.headers, &inner, late > Duration::ZERO).await;
    parameters.pause("after").await;
    let text = json!({
        "basket": outcome.session.basket,
        "user": outcome.session.user,
        "session": digest(&outcome.id),
        "started": outcome.started,
        "cookies": cookies(&head.headers),
    })
    .to_string();
    let mut response = Response::new(if path == "/endless" {
        endless(text)
    } else if late > Duration::ZERO {
        saved_late(
            text,
            late,
            outcome.id.clone(),
            outcome.session.clone(),
            Arc::clone(&inner),
            in_flight,
        )
    } else {
        whole(text)
    });
    if let Some(line) = outcome.set_cookie {
        let line = HeaderValue::try_from(line).expect("a field value");
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(code) = path.strip_prefix("/status/") {
        *response.status_mut() = code.parse::<StatusCode>().expect("a status code");
    }
    Ok(response)
}

/// What a shop says that does not know the session, or the user.
fn turned_away(parameters: &Parameters, headers: &HeaderMap, inner: &Inner) -> Option<Response<Body>> {
    let found = inner.state().find(headers);
    let is_dead = found.is_none() && sid(headers).is_some();
    let is_guest = found.is_none_or(|(_, session)| session.user.is_none());
    let is_turned_away = is_dead || (is_guest && parameters.get("guarded").is_some());
    if !is_turned_away {
        return None;
    }
    let mut response = Response::new(whole("log in, please".to_owned()));
    let fields = response.headers_mut();
    match parameters.get("dead").unwrap_or("401") {
        "redirect" => {
            fields.insert(header::LOCATION, HeaderValue::from_static("/login?next=/member"));
            *response.status_mut() = StatusCode::FOUND;
        }
        "header" => drop(fields.insert("x-session", HeaderValue::from_static("dead"))),
        how => {
            if how == "401-fresh" && is_dead {
                let line = format!("sid={}; path=/; HttpOnly", new_id());
                fields.insert(header::SET_COOKIE, HeaderValue::try_from(line).expect("a field value"));
            }
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
    }
    Some(response)
}

/// Finds or starts the session, does what `path` says, and saves it unless that is to happen late.
async fn work(path: &str, parameters: &Parameters, headers: &HeaderMap, inner: &Arc<Inner>, late: bool) -> Outcome {
    if inner.state().find(headers).is_none() && path != "/logout" {
        let delay = *inner.start_delay.lock().expect("no panic while locked");
        tokio::time::sleep(delay).await;
    }
    let mut state = inner.state();
    let found = state.find(headers);
    if path == "/logout" {
        if let Some((id, _)) = found {
            state.sessions.remove(&id);
        }
        let deletion = "sid=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; Max-Age=0; path=/; HttpOnly";
        let (id, session) = (String::new(), Session::default());
        return Outcome {
            id,
            session,
            started: false,
            set_cookie: Some(deletion.to_owned()),
        };
    }
    let started = found.is_none();
    let (mut id, mut session) = found.unwrap_or_else(|| {
        state.started += 1;
        (new_id(), Session::default())
    });
    match path {
        "/basket/add" | "/endless" | "/member" => session.basket += 1,
        "/login" => session.user = Some(parameters.get("user").unwrap_or("anna").to_owned()),
        _ if path.starts_with("/status/") => session.basket += 1,
        _ => {}
    }
    let renamed = !started && matches!(path, "/login" | "/rotate");
    if renamed {
        state.sessions.remove(&id);
        id = new_id();
    }
    if !late {
        state.sessions.insert(id.clone(), session.clone());
    }
    let max_age = if path == "/refresh" { "; Max-Age=3600" } else { "" };
    let tell = started || renamed || path == "/refresh";
    let set_cookie = tell.then(|| format!("sid={id}; path=/; HttpOnly{max_age}"));
    Outcome {
        id,
        session,
        started,
        set_cookie,
    }
}

fn new_id() -> String {
    format!("shop{}", uuid::Uuid::new_v4().simple())
}

/// The value of the cookie `sid`; the first one, as frameworks take it.
fn sid(headers: &HeaderMap) -> Option<String> {
    cookies(headers)
        .split("; ")
        .find_map(|pair| pair.strip_prefix("sid="))
        .map(str::to_owned)
}

/// All that came as `Cookie`.
fn cookies(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(|v| String::from_utf8_lossy(v.as_bytes()))
        .collect();
    values.join("; ")
}

/// Names a session without telling its ID.
pub(crate) fn digest(id: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(id.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn whole(text: String) -> Body {
    Full::from(text).boxed()
}

/// The body without its last byte; that one and the saving of the session come `late`.
fn saved_late(
    text: String,
    late: Duration,
    id: String,
    session: Session,
    inner: Arc<Inner>,
    in_flight: InFlight,
) -> Body {
    let mut text = Bytes::from(text);
    let last = text.split_off(text.len() - 1);
    let frames = stream::unfold((0, in_flight), move |(step, in_flight)| {
        let (text, last) = (text.clone(), last.clone());
        let (id, session, inner) = (id.clone(), session.clone(), Arc::clone(&inner));
        async move {
            let bytes = match step {
                0 => text,
                1 => {
                    tokio::time::sleep(late).await;
                    inner.state().sessions.insert(id, session);
                    last
                }
                _ => return None,
            };
            Some((Ok(Frame::data(bytes)), (step + 1, in_flight)))
        }
    });
    StreamBody::new(frames).boxed()
}

/// The text, then a byte each 100 ms for ever.
fn endless(text: String) -> Body {
    let frames = stream::unfold(Some(text), |text| async move {
        let bytes = match text {
            Some(text) => Bytes::from(text),
            None => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Bytes::from_static(b" ")
            }
        };
        Some((Ok(Frame::data(bytes)), None))
    });
    StreamBody::new(frames).boxed()
}

/// The query of a request.
struct Parameters(HashMap<String, String>);

impl Parameters {
    fn of(target: &str) -> Self {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.get(name).map_or(0, |value| value.parse().expect("milliseconds")))
    }

    async fn pause(&self, name: &str) {
        tokio::time::sleep(self.millis(name)).await;
    }
}
