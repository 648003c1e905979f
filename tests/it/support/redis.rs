//! A real Redis for tests: its own process, its own port, nothing on the disk, gone with the value.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult, Value};
use tempfile::TempDir;

use super::lasting_port;

/// How long a server may take to start.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The name of a server's configuration file.
const FILE: &str = "redis.conf";

/// How long a server may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// How long replicas may take to have what was written.
const REPLICATED_WITHIN: Duration = Duration::from_secs(10);

/// The program of the server: `redis-server`, or another one of the same protocol, such as `valkey-server`.
fn program() -> std::path::PathBuf {
    std::env::var_os("SESSION_BRIDGE_TEST_REDIS").map_or_else(|| "redis-server".into(), Into::into)
}

/// A `redis-server` on a free port of this machine.
pub(crate) struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    /// Its configuration file, when it has one: read at the start and rewritten by the server.
    file: Option<&'static str>,
    directory: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server and waits until it accepts connections.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with further arguments for `redis-server`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        // A port that was free may be taken by the time the server wants it: another one is tried then.
        for _ in 0..20 {
            let mut server = Self::prepare(arguments);
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// A server that is not running yet, see [`RedisServer::restart`].
    pub(crate) fn prepare(arguments: &[&str]) -> Self {
        Self {
            port: lasting_port(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            file: None,
            directory: TempDir::new().expect("a temporary directory"),
            process: None,
        }
    }

    /// Starts a server that keeps its configuration, with these lines, in a file, so that what it is told while it
    /// runs (`REPLICAOF`, `CONFIG REWRITE`) outlives it. `arguments` are for `redis-server`, such as `--sentinel`.
    /// `None` when it does not start.
    pub(crate) fn try_start_from_file(lines: &[String], arguments: &[&str]) -> Option<Self> {
        let mut server = Self::prepare(arguments);
        let text = format!("port {}\nbind 127.0.0.1\n{}\n", server.port, lines.join("\n"));
        std::fs::write(server.directory.path().join(FILE), text).expect("a configuration file");
        server.file = Some(FILE);
        server.try_start().then_some(server)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How a client gets there.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    /// Thaws it.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Kills it: its connections break, and new ones are refused.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            process.wait().expect("the end of redis-server");
        }
    }

    /// Starts it (again) on the same port, with the data that its configuration made it keep, and waits until it
    /// accepts connections.
    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(self.try_start(), "redis-server does not start on port {}", self.port);
    }

    /// The answer to a command, asked on a connection of its own.
    pub(crate) fn command(&self, words: &[&str]) -> Value {
        self.raw(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    /// The same, for arguments that are no text.
    pub(crate) fn raw(&self, words: &[&[u8]]) -> Value {
        ask(self.port, words, ANSWERED_WITHIN).expect("an answer")
    }

    /// A connection to keep, for commands that must get through when no new one would.
    pub(crate) fn connection(&self) -> Connection {
        connect(self.port, ANSWERED_WITHIN).expect("a connection")
    }

    /// The answer to a command, when there is one within `patience`.
    pub(crate) fn try_command(&self, words: &[&str], patience: Duration) -> RedisResult<Value> {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        ask(self.port, &words, patience)
    }

    /// Waits until this many replicas have everything that was written before.
    ///
    /// A replica may say that its link is up long before the master sends it anything: this writes something, and asks
    /// for it.
    pub(crate) fn wait_for_replicas(&self, replicas: usize) {
        let until = Instant::now() + REPLICATED_WITHIN;
        let mut connection = connect(self.port, REPLICATED_WITHIN).expect("a connection");
        // A node of a cluster takes only keys that are its own.
        let mark = |number: usize| format!("test:mark:{number}");
        let own = (0..1000).find(|number| {
            query(
                &mut connection,
                &[b"SET", mark(*number).as_bytes(), b"", b"PX", b"60000"],
            )
            .is_ok()
        });
        let own = mark(own.expect("a key that this server takes"));
        let wanted = replicas.to_string();
        let got = query(&mut connection, &[b"WAIT", wanted.as_bytes(), b"9000"]).expect("an answer");
        let got: usize = redis::from_redis_value(got).expect("a number");
        query(&mut connection, &[b"DEL", own.as_bytes()]).expect("an answer");
        assert!(
            got >= replicas && Instant::now() < until,
            "{got} of {replicas} replicas have it"
        );
    }

    /// Takes no writes any more, for `pause`, and waits until its replicas have all that it has: nothing is lost then
    /// when it dies.
    pub(crate) fn hold_writes(&self, pause: Duration, replicas: &[&Self]) {
        self.command(&["CLIENT", "PAUSE", &pause.as_millis().to_string(), "WRITE"]);
        let offset = |server: &Self, name: &str| {
            let text = server.text(&["INFO", "replication"]);
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().parse::<u64>().ok())
        };
        let until = Instant::now() + REPLICATED_WITHIN;
        let mine = offset(self, "master_repl_offset:").expect("an offset");
        while !replicas
            .iter()
            .all(|replica| offset(replica, "slave_repl_offset:") >= Some(mine))
        {
            assert!(Instant::now() < until, "the replicas do not catch up");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it is a replica now.
    pub(crate) fn is_replica(&self) -> bool {
        let answer = self.try_command(&["INFO", "replication"], Duration::from_millis(200));
        let text: RedisResult<String> = answer.and_then(|value| Ok(redis::from_redis_value(value)?));
        text.is_ok_and(|text| text.contains("role:slave"))
    }

    /// The answer to a command, as text.
    pub(crate) fn text(&self, words: &[&str]) -> String {
        redis::from_redis_value(self.command(words)).expect("text")
    }

    /// The answer to a command, as a number.
    pub(crate) fn number(&self, words: &[&str]) -> i64 {
        redis::from_redis_value(self.command(words)).expect("a number")
    }

    /// The names of all keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        redis::from_redis_value(self.command(&["KEYS", "*"])).expect("names")
    }

    /// How often a command was carried out, those inside scripts included.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let line = format!("cmdstat_{command}:calls=");
        let statistics = self.text(&["INFO", "commandstats"]);
        let count = statistics.lines().find_map(|text| text.strip_prefix(line.as_str()));
        count
            .and_then(|text| text.split(',').next())
            .map_or(0, |count| count.parse().expect("a count"))
    }

    /// How many commands were carried out, those inside scripts included.
    pub(crate) fn all_calls(&self) -> u64 {
        let statistics = self.text(&["INFO", "commandstats"]);
        let counts = statistics
            .lines()
            .filter_map(|text| text.split_once(":calls=")?.1.split(',').next());
        counts.map(|count| count.parse::<u64>().expect("a count")).sum()
    }

    /// The connections by which it tells of changes (`CLIENT TRACKING`), by their numbers.
    pub(crate) fn tracking_connections(&self) -> Vec<u64> {
        let field = |line: &str, name: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(name));
            value.unwrap_or_default().to_owned()
        };
        let list = self.text(&["CLIENT", "LIST"]);
        let tracking = list.lines().filter(|line| field(line, "flags=").contains('t'));
        tracking
            .map(|line| field(line, "id=").parse().expect("a number"))
            .collect()
    }

    fn try_start(&mut self) -> bool {
        let port = self.port.to_string();
        let usual = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ];
        // What is an argument as well wins over the file at each start.
        let first: &[&str] = self.file.as_ref().map_or(&usual, std::slice::from_ref);
        let program = program();
        let process = Command::new(&program)
            .args(first)
            .args(&self.arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = self.process.insert(process.unwrap_or_else(|error| {
            let program = program.display();
            panic!("{program} cannot be run ({error}); on Debian and Ubuntu: apt-get install redis-server")
        }));
        let until = Instant::now() + START_WITHIN;
        while Instant::now() < until {
            if process.try_wait().expect("the state of redis-server").is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("a running server");
        let sent = Command::new("kill")
            .args([format!("-{signal}"), process.id().to_string()])
            .status();
        assert!(sent.expect("kill").success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The answer of the server at `port` to a command, on a connection of its own.
fn ask(port: u16, words: &[&[u8]], patience: Duration) -> RedisResult<Value> {
    query(&mut connect(port, patience)?, words)
}

fn connect(port: u16, patience: Duration) -> RedisResult<Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0"))?;
    let connection = client.get_connection_with_timeout(patience)?;
    connection.set_read_timeout(Some(patience))?;
    Ok(connection)
}

fn query(connection: &mut Connection, words: &[&[u8]]) -> RedisResult<Value> {
    let (name, arguments) = words.split_first().expect("the name of a command");
    let mut command = redis::Cmd::new();
    command.arg(*name).arg(arguments).query(connection)
}
