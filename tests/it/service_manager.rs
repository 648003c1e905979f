//! What systemd is told, by a real process to a socket of ours; and the unit file that goes with it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::gate::Gate;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, local};

/// The receiving end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    name: OsString,
    _dir: Option<tempfile::TempDir>,
    /// All lines so far, and when they came.
    heard: Vec<(Instant, String)>,
}

impl Manager {
    fn at_path() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self::on(socket, path.into(), Some(dir))
    }

    fn in_the_abstract() -> Self {
        let name = format!("session-bridge-test-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&name).expect("an abstract name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        Self::on(socket, format!("@{name}").into(), None)
    }

    fn on(socket: UnixDatagram, name: OsString, dir: Option<tempfile::TempDir>) -> Self {
        socket.set_nonblocking(true).expect("a socket that does not block");
        Self {
            socket,
            name,
            _dir: dir,
            heard: Vec::new(),
        }
    }

    fn of(&self, builder: BridgeBuilder) -> BridgeBuilder {
        builder.env("NOTIFY_SOCKET", self.name.to_str().expect("UTF-8"))
    }

    fn listen(&mut self) {
        let mut message = [0; 4096];
        loop {
            match self.socket.recv(&mut message) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&message[..length]);
                    let lines = text.lines().map(|line| (Instant::now(), line.to_owned()));
                    self.heard.extend(lines);
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return;
                }
            }
        }
    }

    /// Waits for this line.
    async fn hears(&mut self, line: &str) -> Instant {
        let mut when = None;
        let what = format!("{line:?}, of which systemd is told");
        eventually(&what, Duration::from_secs(10), async || {
            self.listen();
            let heard = self.heard.iter().rfind(|(_, heard)| heard == line);
            when = heard.map(|(at, _)| *at);
            when.is_some()
        })
        .await;
        when.expect("it was heard")
    }

    fn count(&mut self, line: &str) -> usize {
        self.listen();
        self.heard.iter().filter(|(_, heard)| heard == line).count()
    }

    fn position(&self, line: &str) -> usize {
        let found = self.heard.iter().position(|(_, heard)| heard == line);
        found.unwrap_or_else(|| panic!("{line:?} in {:?}", self.heard))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_the_start_and_of_the_stop() {
    let shop = Shop::start().await;
    for mut manager in [Manager::at_path(), Manager::in_the_abstract()] {
        let builder = manager
            .of(Bridge::before(&shop.url()))
            .set("server.drain_delay", "1s")
            .set("server.drain_timeout", "20s");
        let mut bridge = builder.start().await;
        manager.hears("READY=1").await;
        manager.hears("STATUS=ready").await;
        let address = bridge.traffic;
        let slow = tokio::spawn(async move {
            let client = crate::support::client::Client::new(address);
            client
                .send(Call::post("/basket?after=1500").of(&InstallId::random()))
                .await
        });
        shop.wait_for("after=1500").await;
        bridge.signal("TERM");
        manager.hears("STOPPING=1").await;
        // Both times, and what is done after them.
        manager.hears("EXTEND_TIMEOUT_USEC=28000000").await;
        manager
            .hears("STATUS=stopping: 1 requests, 0 tunnels, 1 connections")
            .await;
        assert_eq!(bridge.exit(Duration::from_secs(10)).await.code(), Some(0));
        assert_eq!(slow.await.expect("no panic").expect("an answer").status, 200);
        assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1));
        assert!(manager.position("READY=1") < manager.position("STOPPING=1"));
        assert_eq!(manager.count("WATCHDOG=1"), 0, "no watchdog was asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_follows_readiness_and_a_store_that_is_down_does_not_fail_the_start() {
    let (shop, redis) = (Shop::start().await, RedisServer::start());
    let gate = Gate::to(local(redis.port())).await;
    let mut manager = Manager::at_path();
    gate.cut();
    let builder = manager
        .of(Bridge::before(&shop.url()))
        .store(&format!("redis://127.0.0.1:{}/0", gate.port()));
    let _bridge = builder.start_unready().await;
    let started = Instant::now();
    manager.hears("STATUS=not ready: store").await;
    assert_eq!(manager.count("READY=1"), 0, "the start goes on for a while");
    manager.hears("READY=1").await;
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "it took {:?}",
        started.elapsed()
    );
    gate.open();
    manager.hears("STATUS=ready").await;
    drop(shop);
    manager.hears("STATUS=ready; does not answer: upstream").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_told_twice_in_its_time_until_the_end() {
    let shop = Shop::start().await;
    let mut manager = Manager::at_path();
    let builder = manager
        .of(Bridge::before(&shop.url()))
        .env("WATCHDOG_USEC", "2000000")
        .set("server.drain_delay", "3s");
    let mut bridge = builder.start().await;
    manager.hears("READY=1").await;
    eventually("four beats", Duration::from_secs(10), async || {
        manager.count("WATCHDOG=1") >= 4
    })
    .await;
    bridge.signal("TERM");
    manager.hears("STOPPING=1").await;
    let before = manager.count("WATCHDOG=1");
    eventually("beats while it drains", Duration::from_secs(5), async || {
        manager.count("WATCHDOG=1") >= before + 2
    })
    .await;
    assert_eq!(bridge.exit(Duration::from_secs(10)).await.code(), Some(0));
    let beats: Vec<_> = manager
        .heard
        .iter()
        .filter(|(_, line)| line == "WATCHDOG=1")
        .map(|(at, _)| *at)
        .collect();
    for pair in beats.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(
            (Duration::from_millis(500)..Duration::from_millis(1900)).contains(&gap),
            "{gap:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_of_another_process_is_none_and_a_socket_of_another_kind_stops_nothing() {
    let shop = Shop::start().await;
    let mut manager = Manager::at_path();
    let builder = manager
        .of(Bridge::before(&shop.url()))
        .env("WATCHDOG_USEC", "200000")
        .env("WATCHDOG_PID", "1");
    let mut bridge = builder.start().await;
    manager.hears("STATUS=ready").await;
    bridge.terminate().await;
    assert_eq!(manager.count("WATCHDOG=1"), 0);

    let builder = Bridge::before(&shop.url()).env("NOTIFY_SOCKET", "vsock:2:1234");
    let mut bridge = builder.start().await;
    assert_eq!(bridge.ops(Call::get("/livez")).await.status, 200);
    assert!(
        bridge.logs().contains("the service manager is not told"),
        "{}",
        bridge.logs()
    );
    assert_eq!(bridge.terminate().await.code(), Some(0));
}

/// The settings of a unit file, by section and name; a name may be there several times.
fn unit(text: &str) -> HashMap<(String, String), Vec<String>> {
    let (mut section, mut settings) = (String::new(), HashMap::new());
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("no setting: {line:?}"));
        let key = (section.clone(), name.to_owned());
        settings.entry(key).or_insert_with(Vec::new).push(value.to_owned());
    }
    settings
}

/// `90` or `1min 30s`, as far as the unit file needs it.
fn seconds(text: &str) -> u64 {
    text.strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .unwrap_or_else(|_| panic!("no time in seconds: {text:?}"))
}

#[test]
fn the_unit_file_grants_the_time_that_the_defaults_take() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("config/session-bridge.service")).expect("the unit file");
    let unit = unit(&text);
    let one = |section: &str, name: &str| {
        let values = &unit[&(section.to_owned(), name.to_owned())];
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0].clone()
    };
    assert_eq!(one("Service", "Type"), "notify");
    assert_eq!(one("Service", "NotifyAccess"), "main");
    // systemd counts from SIGTERM, the bridge too.
    let sample = std::fs::read_to_string(root.join("config/session-bridge.toml")).expect("the sample");
    let sample: toml::Table = toml::from_str(&sample).expect("TOML");
    let drain = |key: &str| seconds(sample["server"][key].as_str().expect("a time"));
    assert!(seconds(&one("Service", "TimeoutStopSec")) >= drain("drain_delay") + drain("drain_timeout") + 6);
    assert!(
        seconds(&one("Service", "TimeoutStartSec")) >= 10,
        "READY=1 may take 3 s, SQLite's lock some more"
    );
    assert!(seconds(&one("Service", "WatchdogSec")) >= 10);
    // A second signal would be SIGKILL: the first is the one that drains, and goes to the bridge alone.
    assert_eq!(one("Service", "KillSignal"), "SIGTERM");
    assert_eq!(one("Service", "KillMode"), "mixed");
    let limit: u64 = one("Service", "LimitNOFILE").parse().expect("a number");
    let most = sample["server"]["max_connections"].as_integer().expect("a number");
    assert!(
        limit >= 2 * u64::try_from(most).expect("a positive number"),
        "a descriptor on each side"
    );
    let command = one("Service", "ExecStart");
    let mut words = command.split(' ');
    assert!(
        words.next().is_some_and(|program| program.ends_with("/session-bridge")),
        "{command}"
    );
    assert_eq!(
        words.collect::<Vec<_>>(),
        ["serve", "--config", "/etc/session-bridge/session-bridge.toml"]
    );
    assert_eq!(one("Service", "StateDirectory"), "session-bridge");
    assert_eq!(
        one("Service", "WorkingDirectory"),
        "/var/lib/session-bridge",
        "where session-bridge.db goes"
    );
}
