//! A real Redis for tests: its own process, its own port, nothing on the disk, gone with the value.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Value;
use tempfile::TempDir;

/// How long a server may take to start.
const START_WITHIN: Duration = Duration::from_secs(10);

/// A `redis-server` on a free port of this machine.
pub(crate) struct RedisServer {
    port: u16,
    arguments: Vec<String>,
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
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        Self {
            port: free.expect("a free port").port(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            directory: TempDir::new().expect("a temporary directory"),
            process: None,
        }
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

    /// Starts it (again), empty, on the same port, and waits until it accepts connections.
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
        let client = redis::Client::open(self.url()).expect("the URL of the server");
        let mut connection = client
            .get_connection_with_timeout(Duration::from_secs(5))
            .expect("a connection");
        let (name, arguments) = words.split_first().expect("the name of a command");
        let mut command = redis::Cmd::new();
        command
            .arg(*name)
            .arg(arguments)
            .query(&mut connection)
            .expect("an answer")
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

    fn try_start(&mut self) -> bool {
        let process = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(&self.arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = self.process.insert(process.unwrap_or_else(|error| {
            panic!("redis-server cannot be run ({error}); on Debian and Ubuntu: apt-get install redis-server")
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
