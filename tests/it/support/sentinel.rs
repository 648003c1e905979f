//! A Redis under Sentinel: one master, two replicas and three sentinels, each a process of its own.

use std::time::{Duration, Instant};

use redis::Value;

use super::redis::RedisServer;

/// The name under which the sentinels know the master.
pub(crate) const NAME: &str = "mymaster";

/// How long the six may take to find each other, and how long a failover may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a server that may be frozen is waited for.
const ASKED: Duration = Duration::from_millis(200);

/// The six servers; all end with the value. The first data server is the master at the start.
pub(crate) struct Sentinels {
    /// The data servers.
    pub(crate) servers: Vec<RedisServer>,
    /// The sentinels.
    pub(crate) sentinels: Vec<RedisServer>,
}

impl Sentinels {
    /// Starts the six and waits until the sentinels know each other and both replicas.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further lines of configuration for the data servers.
    pub(crate) async fn start_with(lines: &[&str]) -> Self {
        let master = data_server(lines, None);
        let replicas = [(); 2].map(|()| data_server(lines, Some(master.port())));
        wait("the replicas to connect", || {
            asked(&master, &["INFO", "replication"]).contains("connected_slaves:2")
        })
        .await;
        tokio::task::block_in_place(|| master.wait_for_replicas(2));
        // Started when the replicas are there, a sentinel finds them by its first look.
        let sentinels = [(); 3].map(|()| sentinel(master.port()));
        for sentinel in &sentinels {
            wait("the sentinels to know each other and the replicas", || {
                let known = sentinel.text(&["INFO", "sentinel"]);
                known.contains("status=ok") && known.contains("slaves=2,sentinels=3")
            })
            .await;
        }
        let servers = std::iter::once(master).chain(replicas).collect();
        Self {
            servers,
            sentinels: sentinels.into(),
        }
    }

    /// What the bridge is told: `redis-sentinel://…`.
    pub(crate) fn url(&self) -> String {
        let addresses = self
            .sentinels
            .iter()
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port()));
        format!("redis-sentinel://{}/{NAME}/0", addresses.collect::<Vec<_>>().join(","))
    }

    /// The data server that most sentinels take for the master now.
    pub(crate) fn master(&self) -> usize {
        let mut votes = vec![0; self.servers.len()];
        for sentinel in &self.sentinels {
            let answer = sentinel.try_command(&["SENTINEL", "get-master-addr-by-name", NAME], ASKED);
            let address: Option<(String, u16)> = answer.ok().and_then(|value| redis::from_redis_value(value).ok());
            let found = self
                .servers
                .iter()
                .position(|server| Some(server.port()) == address.as_ref().map(|a| a.1));
            if let Some(server) = found {
                votes[server] += 1;
            }
        }
        (0..votes.len())
            .max_by_key(|server| votes[*server])
            .expect("data servers")
    }

    /// Asks a sentinel for a failover, as an operator does; what happens then, see [`Sentinels::promoted`].
    pub(crate) async fn failover(&self) {
        wait("a sentinel to begin a failover", || {
            // A sentinel that has just finished one, or does not see a good replica yet, says so.
            let mut answers = self
                .sentinels
                .iter()
                .map(|s| s.try_command(&["SENTINEL", "FAILOVER", NAME], ASKED));
            answers.any(|answer| answer.is_ok_and(|answer| answer == Value::Okay))
        })
        .await;
    }

    /// Waits until another data server than `before` is a master that takes writes; says which, and since when.
    pub(crate) async fn promoted(&self, before: usize) -> (usize, Instant) {
        let mut found = None;
        wait("a new master that takes writes", || {
            let mut others = (0..self.servers.len()).filter(|server| *server != before);
            found = others.find(|server| takes_writes(&self.servers[*server], "any"));
            found.is_some()
        })
        .await;
        (found.expect("it was found"), Instant::now())
    }

    /// Waits until `master` is the master of all others and they have all that it has.
    pub(crate) async fn in_step(&self, master: usize) {
        let replicas = self.servers.len() - 1;
        let connected = format!("connected_slaves:{replicas}");
        let master = &self.servers[master];
        wait("the others to follow the master", || {
            asked(master, &["INFO", "replication"]).contains(&connected)
        })
        .await;
        tokio::task::block_in_place(|| master.wait_for_replicas(replicas));
    }
}

/// Whether it is a master and takes a write of this key; the write changes nothing.
pub(super) fn takes_writes(server: &RedisServer, key: &str) -> bool {
    let role = server.try_command(&["ROLE"], ASKED).ok();
    let role = role.and_then(|value| value.into_sequence().ok()?.into_iter().next());
    role.is_some_and(|role| redis::from_redis_value::<String>(role).is_ok_and(|role| role == "master"))
        && server.try_command(&["PEXPIRE", key, "1", "GT"], ASKED).is_ok()
}

/// The answer to a command as text; empty when there is none soon.
pub(super) fn asked(server: &RedisServer, words: &[&str]) -> String {
    let answer = server.try_command(words, ASKED).ok();
    answer
        .and_then(|value| redis::from_redis_value(value).ok())
        .unwrap_or_default()
}

/// Waits until `condition`, which asks servers, holds.
pub(super) async fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !tokio::task::block_in_place(&mut condition) {
        assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts a server, on another port if need be.
pub(super) fn start(lines: impl Fn() -> Vec<String>, arguments: &[&str]) -> RedisServer {
    // A port that was free may be taken by the time the server wants it.
    let mut attempts = (0..20).filter_map(|_| RedisServer::try_start_from_file(&lines(), arguments));
    attempts.next().expect("redis-server starts")
}

fn data_server(lines: &[&str], master: Option<u16>) -> RedisServer {
    start(
        || {
            let mut all = vec!["save \"\"".to_owned(), "repl-diskless-sync-delay 0".to_owned()];
            all.extend(master.map(|port| format!("replicaof 127.0.0.1 {port}")));
            all.extend(lines.iter().map(|line| (*line).to_owned()));
            all
        },
        &[],
    )
}

fn sentinel(master: u16) -> RedisServer {
    let lines = [
        format!("sentinel monitor {NAME} 127.0.0.1 {master} 2"),
        format!("sentinel down-after-milliseconds {NAME} 500"),
        format!("sentinel failover-timeout {NAME} 2000"),
        format!("sentinel parallel-syncs {NAME} 1"),
    ];
    let sentinel = start(|| lines.to_vec(), &["--sentinel"]);
    // The usual periods are for machines of their own. The tilt above all: a sentinel that was held up for two
    // seconds, as on a busy machine of CI, does nothing for half a minute.
    sentinel.command(&[
        "SENTINEL",
        "DEBUG",
        "PUBLISH-PERIOD",
        "200",
        "INFO-PERIOD",
        "500",
        "ASK-PERIOD",
        "200",
        "PING-PERIOD",
        "200",
        "TILT-TRIGGER",
        "60000",
        "TILT-PERIOD",
        "1000",
    ]);
    sentinel
}
