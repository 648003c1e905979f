//! A real bridge process.

use std::net::SocketAddr;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::TempDir;

use super::client::{Answer, Call, Client};
use super::eventually;
use super::process::Process;

/// How a bridge is to be configured: the keys of the configuration file, in dotted form.
#[derive(Clone, Debug)]
pub(crate) struct BridgeBuilder {
    config: toml::Table,
    env: Vec<(String, String)>,
    arguments: Vec<String>,
}

/// `session-bridge serve`, ready to serve; killed on drop.
pub(crate) struct Bridge {
    process: Process,
    _dir: TempDir,
    /// Where clients connect.
    pub(crate) traffic: SocketAddr,
    /// Where operators connect.
    pub(crate) ops: SocketAddr,
    client: Client,
    ops_client: Client,
}

impl BridgeBuilder {
    /// Sets one key, such as `session.create_wait`.
    pub(crate) fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().expect("a key");
        let mut table = &mut self.config;
        for part in parts {
            let entry = table
                .entry(part)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = entry.as_table_mut().expect("a table");
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// The store: `memory:`, `redis://…`; `sqlite` stands for a database in the bridge's own directory.
    pub(crate) fn store(self, url: &str) -> Self {
        self.set("store.url", url)
    }

    /// Cookies of these names mean that there is a session.
    pub(crate) fn id_cookies(self, names: &[&str]) -> Self {
        self.set("session.id_cookies", strings(names))
    }

    /// Requests to these paths log in or out.
    pub(crate) fn auth_paths(self, globs: &[&str]) -> Self {
        self.set("session.auth_paths", strings(globs))
    }

    /// Adds a `[[route]]` with these lines.
    pub(crate) fn route(mut self, lines: &str) -> Self {
        let route: toml::Table = toml::from_str(lines).expect("a route in TOML");
        let routes = self
            .config
            .entry("route")
            .or_insert_with(|| toml::Value::Array(Vec::new()));
        routes.as_array_mut().expect("an array").push(toml::Value::Table(route));
        self
    }

    /// Sets an environment variable of the process.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument after `serve --config FILE`.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn start(self) -> Bridge {
        let bridge = self.start_unready().await;
        eventually("the bridge to be ready", Duration::from_secs(10), async || {
            bridge.ready().await == Some(200)
        })
        .await;
        bridge
    }

    /// Starts the process and waits only until its listeners are bound.
    pub(crate) async fn start_unready(self) -> Bridge {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = self.config;
        if let Some(url) = config.get_mut("store").and_then(|store| store.get_mut("url"))
            && url.as_str() == Some("sqlite")
        {
            *url = format!("sqlite://{}", dir.path().join("sessions.db").display()).into();
        }
        let file = dir.path().join("session-bridge.toml");
        std::fs::write(&file, toml::to_string(&config).expect("TOML")).expect("a configuration file");
        let mut command = session_bridge();
        command.current_dir(dir.path()).arg("serve").arg("--config").arg(&file);
        command.args(&self.arguments).envs(self.env);
        let mut process = Process::start("session-bridge", command, dir.path(), "cargo build");

        let mut listening = None;
        eventually(
            "the line \"listening\" in the bridge's log",
            Duration::from_secs(10),
            async || {
                let exited = process.exited();
                let output = process.output();
                assert!(exited.is_none(), "the bridge exited with {exited:?}:\n{output}");
                listening = process.stdout().lines().find_map(listening_line);
                listening.is_some()
            },
        )
        .await;
        let (traffic, ops) = listening.expect("the line was found");
        Bridge {
            process,
            _dir: dir,
            traffic,
            ops,
            client: Client::new(traffic),
            ops_client: Client::new(ops),
        }
    }
}

impl Bridge {
    /// A bridge before the backend at `upstream`, with its sessions in memory and everything else that tests need.
    pub(crate) fn before(upstream: &str) -> BridgeBuilder {
        BridgeBuilder {
            config: toml::Table::new(),
            env: Vec::new(),
            arguments: Vec::new(),
        }
        .set("upstream.url", upstream)
        .set("server.listen", "127.0.0.1:0")
        .set("server.drain_delay", "0s")
        .set("ops.listen", "127.0.0.1:0")
        .set("store.url", "memory:")
        .set("log.format", "json")
    }

    /// Sends a request to the traffic listener.
    pub(crate) async fn send(&self, call: Call) -> Answer {
        let what = call.to_string();
        self.client
            .send(call)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Sends a request that must be answered with 200 and JSON.
    pub(crate) async fn ok(&self, call: Call) -> Json {
        let what = call.to_string();
        let answer = self.send(call).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        answer.json()
    }

    /// Sends a request to the operators' listener.
    pub(crate) async fn ops(&self, call: Call) -> Answer {
        let what = call.to_string();
        self.ops_client
            .send(call)
            .await
            .unwrap_or_else(|error| panic!("{what} on the ops listener: {error}"))
    }

    /// The status of /readyz; `None` while nothing answers.
    pub(crate) async fn ready(&self) -> Option<u16> {
        self.ops_client
            .send(Call::get("/readyz"))
            .await
            .ok()
            .map(|answer| answer.status)
    }

    /// The text of /metrics.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.ops(Call::get("/metrics")).await;
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// Everything written to stdout and stderr so far.
    pub(crate) fn logs(&self) -> String {
        self.process.output()
    }

    /// Its process ID.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it without warning, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends a signal, such as `TERM` or `STOP`, and returns at once.
    pub(crate) fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Waits for the process to end.
    pub(crate) async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        self.process.exit(deadline).await
    }

    /// SIGTERM, and how the process ended.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.exit(Duration::from_secs(40)).await
    }
}

/// The program under test, free of any configuration from the environment of the tests.
pub(crate) fn session_bridge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_session-bridge"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SESSION_BRIDGE_") {
            command.env_remove(name);
        }
    }
    command
}

/// The addresses of the traffic and the operators' listener, when this is the log line that tells them.
fn listening_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Json = serde_json::from_str(line).ok()?;
    // tracing's JSON puts fields beside the message, in "fields" or at the top.
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")? != "listening" {
        return None;
    }
    let address = |name: &str| fields.get(name)?.as_str()?.parse().ok();
    Some((address("traffic")?, address("ops")?))
}

/// A list for [`BridgeBuilder::set`].
pub(crate) fn strings(values: &[&str]) -> toml::Value {
    toml::Value::Array(values.iter().map(|value| toml::Value::from(*value)).collect())
}
