//! What the tests are made of: bridges, backends, clients, and ways to break them.

pub(crate) mod balancer;
pub(crate) mod bridge;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod crowd;
pub(crate) mod fleet;
pub(crate) mod gate;
pub(crate) mod memcached;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod real;
pub(crate) mod redis;
pub(crate) mod sentinel;
pub(crate) mod shop;
pub(crate) mod sql;
pub(crate) mod witness;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use self::redis::RedisServer;

/// The ID of one installation, drawn at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstallId(String);

impl InstallId {
    pub(crate) fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    /// One that begins with [`InstallId::MARK`], to be searched for.
    pub(crate) fn marked(number: usize) -> Self {
        Self(format!("{}-4000-8000-{number:012x}", Self::MARK))
    }

    /// See [`InstallId::marked`].
    pub(crate) const MARK: &str = "5ec2e75e-0d0a";

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// `count`, or `full` when SESSION_BRIDGE_TEST_FULL=1 asks for the full counts.
pub(crate) fn scaled(count: usize, full: usize) -> usize {
    if std::env::var_os("SESSION_BRIDGE_TEST_FULL").is_some_and(|value| value == "1") {
        full
    } else {
        count
    }
}

/// Waits until `condition` holds; fails the test when it does not within `deadline`.
pub(crate) async fn eventually(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A kind of store that tests run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Sqlite,
    Redis,
}

/// A store for the bridges of one test; its server is stopped on drop.
pub(crate) struct TestStore {
    url: String,
    _server: Option<RedisServer>,
}

impl TestStore {
    pub(crate) async fn start(kind: StoreKind) -> Self {
        match kind {
            StoreKind::Sqlite => Self {
                url: "sqlite".to_owned(),
                _server: None,
            },
            StoreKind::Redis => {
                let server = RedisServer::start();
                Self {
                    url: server.url(),
                    _server: Some(server),
                }
            }
        }
    }

    /// What [`bridge::BridgeBuilder::store`] takes.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// A port for a server that a test stops and starts again.
///
/// It lies below those that the kernel gives to outgoing connections and to whoever asks for any port, so that nobody
/// takes it while the server is down; and it is given out once only.
pub(crate) fn lasting_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1000 {
        let port = fastrand::u16(20_000..32_768);
        let free = std::net::TcpListener::bind(local(port)).is_ok();
        if free && GIVEN.lock().expect("no panic while locked").insert(port) {
            return port;
        }
    }
    panic!("no free port between 20000 and 32768");
}

/// A port on which nothing listens.
pub(crate) fn unused_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// Where `port` is on this machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
