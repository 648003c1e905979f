//! A real Memcached for tests: its own process, its own port, gone with the value.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::lasting_port;
use super::process::{Process, await_stop};

/// How long it may take to start, and to answer.
const WITHIN: Duration = Duration::from_secs(10);

/// A `memcached` on a free port of this machine.
pub(crate) struct MemcachedServer {
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    process: Option<Process>,
}

impl MemcachedServer {
    /// Starts a server and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with further arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let mut server = Self {
            port: lasting_port(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            directory: TempDir::new().expect("a temporary directory"),
            process: None,
        };
        server.restart();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What `store.url` says.
    pub(crate) fn url(&self) -> String {
        Self::url_of(std::slice::from_ref(self))
    }

    /// The same for several servers.
    pub(crate) fn url_of(servers: &[Self]) -> String {
        let hosts: Vec<_> = servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect();
        format!("memcached://{}", hosts.join(","))
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub(crate) fn stop(&self) {
        self.running().signal("STOP");
        await_stop(self.running().id());
    }

    /// Thaws it.
    pub(crate) fn resume(&self) {
        self.running().signal("CONT");
    }

    /// Kills it, with all that it holds.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it (again) on the same port, empty, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("memcached");
        command.args([
            "-l",
            "127.0.0.1",
            "-U",
            "0",
            "-u",
            "nobody",
            "-p",
            &self.port.to_string(),
        ]);
        command.args(&self.arguments);
        let install = "apt-get install memcached";
        let process = self
            .process
            .insert(Process::start("memcached", command, self.directory.path(), install));
        let until = Instant::now() + WITHIN;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let exited = process.exited();
            assert!(
                exited.is_none() && Instant::now() < until,
                "memcached does not start: {}",
                process.output()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running server")
    }

    /// The first line of the answer to a command, and the value after it where there is one.
    pub(crate) fn ask(&self, command: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("a connection");
        stream.set_read_timeout(Some(WITHIN)).expect("a deadline");
        stream.write_all(command).expect("a command");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).expect("an answer");
        let size = line.strip_prefix("VA ").and_then(|rest| rest.split([' ', '\r']).next());
        let mut value = vec![0; size.map_or(0, |size| size.parse().expect("a size"))];
        stream.read_exact(&mut value).expect("a value");
        (line.trim_end().to_owned(), value)
    }

    /// Stores a value that never expires under a key.
    pub(crate) fn set(&self, name: &str, value: &[u8]) {
        let command = [format!("ms {name} {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        assert_eq!(self.ask(&command).0, "HD");
    }

    /// How many seconds an item has left; `None` where there is none.
    pub(crate) fn seconds_left(&self, name: &str) -> Option<i64> {
        let (line, _) = self.ask(format!("mg {name} t\r\n").as_bytes());
        let left = line.strip_prefix("HD t")?;
        Some(left.parse().expect("a number"))
    }

    /// A figure of `stats`.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("a connection");
        stream.write_all(b"stats\r\n").expect("a command");
        let lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
        let prefix = format!("STAT {name} ");
        let found = lines
            .take_while(|line| line != "END")
            .find_map(|line| line.strip_prefix(&prefix).map(str::to_owned));
        found.expect("a figure").parse().expect("a number")
    }
}
