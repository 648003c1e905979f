//! A small load balancer: it asks each replica for its health, and sends requests to those that are well.
//!
//! It keeps connections to clients and to replicas, honours `Connection: close`, and sends nothing twice: whatever
//! goes wrong behind it is seen before it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::client::{Call, Client};
use super::local;

/// How often it asks for the health of a replica.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// The balancer; it stops on drop.
pub(crate) struct Balancer {
    address: SocketAddr,
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

struct Inner {
    slots: Vec<Slot>,
    turn: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// The place of one replica.
struct Slot {
    replica: Mutex<Arc<Replica>>,
}

struct Replica {
    address: SocketAddr,
    healthy: AtomicBool,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Replica {
    fn at(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            healthy: AtomicBool::new(false),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// A connection that is open as far as can be seen.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        loop {
            let kept = self.idle.lock().expect("no panic while locked").pop();
            let Some(mut kept) = kept else { break };
            if kept.ready().await.is_ok() {
                return Ok(kept);
            }
        }
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| format!("no connection: {error}"))?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("no HTTP: {error}"))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn forward(&self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, String> {
        let mut sender = self.connection().await?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| format!("no response: {error:?}"))?;
        let (mut head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| format!("the body broke off: {error:?}"))?;
        let closes = head
            .headers
            .get(header::CONNECTION)
            .is_some_and(|value| value == "close");
        if !closes {
            self.idle.lock().expect("no panic while locked").push(sender);
        }
        head.headers.remove(header::CONNECTION);
        Ok(Response::from_parts(head, Full::new(body.to_bytes())))
    }

    /// On a connection of its own each time.
    async fn check(&self, path: &str) {
        let answer = tokio::time::timeout(CHECK_EVERY * 5, Client::new(self.address).send(Call::get(path))).await;
        let healthy = matches!(answer, Ok(Ok(answer)) if answer.status == 200);
        self.healthy.store(healthy, Ordering::SeqCst);
    }
}

impl Balancer {
    /// Before the replicas at these addresses, each in a slot of its own.
    pub(crate) async fn before(replicas: &[SocketAddr], health_path: &'static str) -> Self {
        let listener = TcpListener::bind(local(0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let inner = Arc::new(Inner {
            slots: replicas
                .iter()
                .map(|address| Slot {
                    replica: Mutex::new(Replica::at(*address)),
                })
                .collect(),
            turn: AtomicUsize::new(0),
            failures: Mutex::new(Vec::new()),
        });
        let mut tasks = vec![tokio::spawn(accept(listener, Arc::clone(&inner)))];
        for slot in 0..replicas.len() {
            let inner = Arc::clone(&inner);
            tasks.push(tokio::spawn(async move {
                loop {
                    inner.replica(slot).check(health_path).await;
                    tokio::time::sleep(CHECK_EVERY).await;
                }
            }));
        }
        Self { address, inner, tasks }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the replica in this slot gets requests.
    pub(crate) fn is_healthy(&self, slot: usize) -> bool {
        self.inner.replica(slot).healthy.load(Ordering::SeqCst)
    }

    /// Another replica takes the slot; it gets requests once it is found well.
    pub(crate) fn replace(&self, slot: usize, address: SocketAddr) {
        *self.inner.slots[slot].replica.lock().expect("no panic while locked") = Replica::at(address);
    }

    /// What went wrong between it and the replicas.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.inner.failures.lock().expect("no panic while locked").clone()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Inner {
    fn replica(&self, slot: usize) -> Arc<Replica> {
        Arc::clone(&self.slots[slot].replica.lock().expect("no panic while locked"))
    }

    /// The next one in turn that is well.
    fn pick(&self) -> Result<Arc<Replica>, String> {
        let turn = self.turn.fetch_add(1, Ordering::SeqCst);
        (0..self.slots.len())
            .map(|step| self.replica((turn + step) % self.slots.len()))
            .find(|replica| replica.healthy.load(Ordering::SeqCst))
            .ok_or_else(|| "no replica is well".to_owned())
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let what = format!("{} {}", request.method(), request.uri());
        let forwarded = async {
            let (mut head, body) = request.into_parts();
            head.headers.remove(header::CONNECTION);
            let body = body.collect().await.map_err(|error| format!("no request: {error:?}"))?;
            let replica = self.pick()?;
            replica
                .forward(Request::from_parts(head, Full::new(body.to_bytes())))
                .await
                .map_err(|why| format!("{}: {why}", replica.address))
        };
        forwarded.await.unwrap_or_else(|why| {
            let failure = format!("{what}: {why}");
            self.failures
                .lock()
                .expect("no panic while locked")
                .push(failure.clone());
            let mut response = Response::new(Full::new(Bytes::from(failure)));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
    }
}

async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let inner = Arc::clone(&inner);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let inner = Arc::clone(&inner);
                async move { Ok::<_, Infallible>(inner.answer(request).await) }
            });
            // Clients leave in the middle of it when their test ends.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
