//! A backend that knows whose session it is: each answer says which installation started the session and which one
//! asks now, so that a session given to the wrong one cannot go unseen.
//!
//! `/visit` shows the session, starting one where there is none; `/rotate` gives it a new ID, and the old one is dead.
//! A session keeps its number whatever its ID. Now and then, as a seed says, it takes its time or closes the
//! connection without an answer, before or after the work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The longest that it takes when it takes its time.
const SLOW: Duration = Duration::from_millis(250);

/// The backend; it stops on drop.
pub(crate) struct Witness {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

struct State {
    random: fastrand::Rng,
    /// Of a thousand requests, how many meet a fault.
    faults: u32,
    sessions: HashMap<String, Session>,
    /// How many sessions an installation has started.
    starts: HashMap<String, usize>,
    started: u64,
}

#[derive(Clone)]
struct Session {
    owner: String,
    number: u64,
}

/// What befalls a request.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Slow(Duration),
    ClosedBefore,
    ClosedAfter,
}

impl Witness {
    /// Of a thousand requests `faults` are slow or cut off.
    pub(crate) async fn start(seed: u64, faults: u32) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(super::local(0)).expect("a free port");
        let listener: TcpListener = socket.listen(1024).expect("a listener");
        let address = listener.local_addr().expect("a bound address");
        let state = Arc::new(Mutex::new(State {
            random: fastrand::Rng::with_seed(seed),
            faults,
            sessions: HashMap::new(),
            starts: HashMap::new(),
            started: 0,
        }));
        let serving = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self {
            address,
            state,
            accepting,
        }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// From now on so many of a thousand requests meet a fault.
    pub(crate) fn set_faults(&self, faults: u32) {
        self.state.lock().expect("no panic while locked").faults = faults;
    }

    /// How many sessions this installation has started.
    pub(crate) fn starts(&self, id: &str) -> usize {
        let state = self.state.lock().expect("no panic while locked");
        state.starts.get(id).copied().unwrap_or_default()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The error of a service makes hyper close the connection.
async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, String> {
    let (head, body) = request.into_parts();
    body.collect().await.map_err(|_| "the body broke off")?;
    let fault = state.lock().expect("no panic while locked").fault();
    if matches!(fault, Fault::ClosedBefore) {
        return Err("as drawn".to_owned());
    }
    let asks = head
        .headers
        .get("x-install-id")
        .expect("an Install ID")
        .to_str()
        .expect("ASCII");
    let cookies = head
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(|value| value.to_str().expect("ASCII"));
    let cookies: Vec<_> = cookies.flat_map(|value| value.split("; ")).collect();
    assert!(cookies.len() < 2, "one cookie was ever set: {cookies:?}");
    let id = cookies.first().and_then(|pair| pair.strip_prefix("sid="));
    let (session, new_id, started) = {
        let mut state = state.lock().expect("no panic while locked");
        state.work(asks, id, head.uri.path() == "/rotate")
    };
    match fault {
        Fault::ClosedAfter => return Err("as drawn".to_owned()),
        Fault::Slow(time) => tokio::time::sleep(time).await,
        Fault::None | Fault::ClosedBefore => {}
    }
    let text = json!({ "asks": asks, "owner": session.owner, "session": session.number, "started": started });
    let mut response = Response::new(Full::from(text.to_string()));
    if let Some(id) = new_id {
        let line = HeaderValue::try_from(format!("sid={id}; Path=/; HttpOnly")).expect("a field value");
        response.headers_mut().insert(header::SET_COOKIE, line);
    }
    Ok(response)
}

impl State {
    fn fault(&mut self) -> Fault {
        if self.random.u32(..1000) >= self.faults {
            return Fault::None;
        }
        match self.random.u32(..4) {
            0 => Fault::ClosedBefore,
            1 => Fault::ClosedAfter,
            _ => Fault::Slow(SLOW.mul_f64(self.random.f64())),
        }
    }

    /// The session, its new ID when it has one, and whether it was started just now.
    fn work(&mut self, asks: &str, id: Option<&str>, rotate: bool) -> (Session, Option<String>, bool) {
        let found = id.and_then(|id| self.sessions.get(id).cloned().map(|session| (id, session)));
        match found {
            Some((_, session)) if !rotate => (session, None, false),
            Some((id, session)) => {
                self.sessions.remove(id);
                (session.clone(), Some(self.keep(session)), false)
            }
            None => {
                self.started += 1;
                *self.starts.entry(asks.to_owned()).or_default() += 1;
                let session = Session {
                    owner: asks.to_owned(),
                    number: self.started,
                };
                (session.clone(), Some(self.keep(session)), true)
            }
        }
    }

    fn keep(&mut self, session: Session) -> String {
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.sessions.insert(id.clone(), session);
        id
    }
}
