//! Real database servers for tests: PostgreSQL and MariaDB from Debian's packages, each with its own files and port,
//! gone with the value.
//!
//! Both refuse to run as root: the tests hand them over to the users that the packages have made. New files are copies of
//! those that were made once and are kept under `target`.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::lasting_port;
use super::process::{Process, await_stop};

/// How long a server may take to start.
const START_WITHIN: Duration = Duration::from_secs(60);

/// The password of the user `bridge`; one that has to be written with care in a URL.
pub(crate) const PASSWORD: &str = "p@ss/word";

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
}

/// A database server on a free port of this machine.
pub(crate) struct SqlServer {
    kind: Kind,
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    process: Option<Process>,
}

impl SqlServer {
    /// Starts a server with the user `bridge` and the empty database `shop`, and waits until it answers.
    pub(crate) fn start(kind: Kind) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let files = directory.path().join("data");
        copy(&template(kind), &files);
        hand_over(kind, directory.path());
        let mut server = Self {
            kind,
            port: lasting_port(),
            arguments: Vec::new(),
            directory,
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
        self.url_as("bridge:p%40ss%2Fword")
    }

    /// The same, for this login.
    pub(crate) fn url_as(&self, login: &str) -> String {
        self.url_at(login, self.port)
    }

    /// The same, past this port.
    pub(crate) fn url_at(&self, login: &str, port: u16) -> String {
        let scheme = match self.kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        };
        format!("{scheme}://{login}@127.0.0.1:{port}/shop")
    }

    /// Arguments for its next start.
    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    /// A directory that the server can read.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Gives a file in its directory to the server's user, who alone may read it then.
    pub(crate) fn hand_over(&self, name: &str) {
        hand_over(self.kind, &self.directory.path().join(name));
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub(crate) fn stop(&self) {
        self.signal("STOP").into_iter().for_each(await_stop);
    }

    /// Thaws it.
    pub(crate) fn resume(&self) {
        let _ = self.signal("CONT");
    }

    /// Kills it with all its processes: its connections break, and new ones are refused.
    pub(crate) fn kill(&mut self) {
        if self.process.is_some() {
            let _ = self.signal("KILL");
        }
        self.process = None;
    }

    /// To the server, and to the processes that PostgreSQL has for its connections, each in a group of its own.
    /// Returns who they are.
    fn signal(&self, signal: &str) -> Vec<u32> {
        let process = self.process.as_ref().expect("a running server");
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.id()));
        process.signal(signal);
        let mut all = vec![process.id()];
        for child in children.unwrap_or_default().split_whitespace() {
            // It may have ended by itself.
            let _ = Command::new("kill")
                .args([&format!("-{signal}"), child])
                .stderr(Stdio::null())
                .status();
            all.extend(child.parse::<u32>());
        }
        all
    }

    /// Carries out a statement, and returns the number in the first column of the first row, if there is one.
    pub(crate) async fn query(&self, statement: &str) -> Option<i64> {
        use sqlx::{AssertSqlSafe, Connection as _, Row as _};
        let statement = AssertSqlSafe(statement.to_owned());
        match self.kind {
            Kind::Postgres => {
                let mut connection = sqlx::PgConnection::connect(&self.url()).await.expect("a connection");
                let row = sqlx::raw_sql(statement).fetch_optional(&mut connection).await;
                row.expect("an answer").map(|row| row.get(0))
            }
            Kind::MariaDb => {
                let mut connection = sqlx::MySqlConnection::connect(&self.url()).await.expect("a connection");
                let row = sqlx::raw_sql(statement).fetch_optional(&mut connection).await;
                row.expect("an answer").map(|row| row.get(0))
            }
        }
    }

    /// Starts it (again) on the same port with the same data, and waits until it accepts connections.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.directory.path().join("data/postmaster.pid"));
        let mut command = self.command();
        command.args(&self.arguments);
        let output = TempDir::new_in(self.directory.path()).expect("a directory").keep();
        let mut process = Process::start(program_name(self.kind), command, &output, install(self.kind));
        let until = Instant::now() + START_WITHIN;
        // PostgreSQL accepts connections before it answers.
        while !answers(self.kind, self.port) {
            assert!(
                process.exited().is_none() && Instant::now() < until,
                "{:?} does not start: {}",
                self.kind,
                process.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(process);
    }

    /// Has somebody change all rows of sessions, to what they are, in a transaction that ends after this time: until then
    /// whoever wants to write one of them waits. Returns when that has begun.
    pub(crate) async fn hold_rows(&self, time: Duration) -> JoinHandle<()> {
        use sqlx::Connection as _;
        const BEGIN: &str = "BEGIN";
        const CHANGE: &str = "UPDATE session_bridge_records SET sweep_at = sweep_at";
        const END: &str = "COMMIT";
        match self.kind {
            Kind::Postgres => {
                let mut connection = sqlx::PgConnection::connect(&self.url()).await.expect("a connection");
                for statement in [BEGIN, CHANGE] {
                    sqlx::raw_sql(statement)
                        .execute(&mut connection)
                        .await
                        .expect("an answer");
                }
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    sqlx::raw_sql(END).execute(&mut connection).await.expect("an answer");
                })
            }
            Kind::MariaDb => {
                let mut connection = sqlx::MySqlConnection::connect(&self.url()).await.expect("a connection");
                for statement in [BEGIN, CHANGE] {
                    sqlx::raw_sql(statement)
                        .execute(&mut connection)
                        .await
                        .expect("an answer");
                }
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    sqlx::raw_sql(END).execute(&mut connection).await.expect("an answer");
                })
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = as_its_user(self.kind, &program(self.kind, program_name(self.kind)));
        let files = self.directory.path().join("data");
        let port = self.port.to_string();
        match self.kind {
            Kind::Postgres => {
                command.arg("-D").arg(files).args(["-p", &port]);
                let settings = [
                    "listen_addresses=127.0.0.1",
                    "unix_socket_directories=",
                    "fsync=off",
                    "max_connections=300",
                    "shared_buffers=32MB",
                ];
                settings.iter().for_each(|setting| {
                    command.args(["-c", setting]);
                });
            }
            Kind::MariaDb => {
                command.args(MARIADB).arg(format!("--datadir={}", files.display()));
                command.args([&format!("--port={port}"), "--bind-address=127.0.0.1"]);
                let beside = |name: &str| files.join(name).display().to_string();
                command.args([
                    format!("--socket={}", beside("s")),
                    format!("--pid-file={}", beside("p")),
                ]);
                command.args(["--max-connections=300", "--skip-log-bin"]);
            }
        }
        command
    }
}

/// What each run of MariaDB is told, the first one too: nothing has to survive a power cut.
const MARIADB: [&str; 5] = [
    "--no-defaults",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--skip-name-resolve",
];

const fn program_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "postgres",
        Kind::MariaDb => "mariadbd",
    }
}

const fn install(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "apt-get install postgresql",
        Kind::MariaDb => "apt-get install mariadb-server",
    }
}

/// Where a program is: Debian keeps those of PostgreSQL out of the way, one directory a version.
fn program(kind: Kind, name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let out_of_the_way = versions.map(|version| version.path().join("bin"));
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let usual: Vec<_> = std::env::split_paths(&usual).chain(["/usr/sbin".into()]).collect();
    let found = out_of_the_way
        .chain(usual)
        .map(|place| place.join(name))
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not there; on Debian and Ubuntu: {}", install(kind)))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Runs `program` as the user that the package has made, where the tests run as root.
fn as_its_user(kind: Kind, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let user = match kind {
        Kind::Postgres => "postgres",
        Kind::MariaDb => "mysql",
    };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}")]);
    command.arg("--clear-groups").arg(program);
    command
}

/// Gives a place and all in it to that user.
fn hand_over(kind: Kind, place: &Path) {
    if is_root() {
        let user = match kind {
            Kind::Postgres => "postgres:postgres",
            Kind::MariaDb => "mysql:mysql",
        };
        run(Command::new("chown").args(["-R", user]).arg(place));
    }
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn run(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("a program that can be run");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Drop for SqlServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The files of a fresh server with the user `bridge` and the database `shop`.
fn template(kind: Kind) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _turn = MAKING.lock().expect("no panic while locked");
    let version = Command::new(program(kind, program_name(kind)))
        .arg("--version")
        .output();
    let version = version.expect("a version").stdout;
    let version = String::from_utf8_lossy(&version).replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(version.trim_end_matches('-'));
    if made.exists() {
        return made;
    }
    let scratch = TempDir::new().expect("a temporary directory");
    let files = scratch.path().join("data");
    hand_over(kind, scratch.path());
    match kind {
        Kind::Postgres => {
            let secret = scratch.path().join("password");
            std::fs::write(&secret, PASSWORD).expect("a file");
            hand_over(kind, &secret);
            let mut initdb = as_its_user(kind, &program(kind, "initdb"));
            initdb
                .current_dir(scratch.path())
                .arg("-D")
                .arg(&files)
                .arg("--pwfile")
                .arg(&secret);
            run(initdb.args(["-U", "bridge", "-A", "scram-sha-256", "-N", "-E", "UTF8", "--locale=C"]));
            single(kind, &files, "CREATE DATABASE shop;\n");
        }
        Kind::MariaDb => {
            let mut install = as_its_user(kind, &program(kind, "mariadb-install-db"));
            install
                .current_dir(scratch.path())
                .args(MARIADB)
                .arg(format!("--datadir={}", files.display()));
            run(install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]));
            let statements = format!(
                "CREATE DATABASE shop;\nFLUSH PRIVILEGES;\nCREATE USER bridge IDENTIFIED BY '{PASSWORD}';\n\
                 GRANT ALL ON *.* TO bridge WITH GRANT OPTION;\nDELETE FROM mysql.global_priv WHERE User='';\n"
            );
            single(kind, &files, &statements);
        }
    }
    let moving = made.with_extension("new");
    let _ = std::fs::remove_dir_all(&moving);
    copy(&files, &moving);
    std::fs::rename(&moving, &made).expect("a template");
    made
}

/// Has the server carry out statements, one a line, without any connection.
fn single(kind: Kind, files: &Path, statements: &str) {
    let mut command = as_its_user(kind, &program(kind, program_name(kind)));
    match kind {
        Kind::Postgres => command.arg("--single").arg("-D").arg(files).arg("postgres"),
        Kind::MariaDb => command
            .args(MARIADB)
            .arg(format!("--datadir={}", files.display()))
            .arg("--bootstrap"),
    };
    let mut input = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut input, statements.as_bytes()).expect("a file");
    std::io::Seek::rewind(&mut input).expect("a file");
    let output = command
        .current_dir(files)
        .stdin(input)
        .output()
        .expect("a server that can be run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && !text.contains("[ERROR]"),
        "{command:?}: {text}"
    );
}

/// Whether it takes log-ins: MariaDB begins to speak by itself.
fn answers(kind: Kind, port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    match kind {
        Kind::Postgres => {
            // The beginning of a log-in, which is refused while it is starting.
            let packet = b"\0\0\0\x15\0\x03\0\0user\0bridge\0\0";
            let mut answer = [0; 400];
            let length = stream
                .write_all(packet)
                .and_then(|()| stream.read(&mut answer))
                .unwrap_or(0);
            let text = String::from_utf8_lossy(&answer[..length]).into_owned();
            length > 0 && !text.contains("57P03")
        }
        Kind::MariaDb => stream.read(&mut [0; 1]).is_ok_and(|length| length == 1),
    }
}
