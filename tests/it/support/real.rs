//! Shops on real frameworks, as processes: their own sessions, untouched.
//!
//! All of them answer `/basket/add`, `/basket`, `/login?user=` and `/logout` with JSON: `basket`, `user`, `session`
//! (a digest of the session's ID or value) and `cookies` (the names that came).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::pki::{Authority, Identity};
use super::process::Process;
use super::{eventually, local, unused_port};

/// Which framework.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framework {
    Php,
    Flask,
    Express,
    Django,
}

/// A running shop; killed on drop, all its workers too.
pub(crate) struct RealShop {
    framework: Framework,
    address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Framework {
    /// The cookie that means "there is a session".
    pub(crate) fn id_cookie(self) -> &'static str {
        match self {
            Self::Php => "PHPSESSID",
            Self::Flask => "session",
            Self::Express => "connect.sid",
            Self::Django => "sessionid",
        }
    }

    /// Whether a log-out leaves the client with no session at all, or with a fresh one.
    pub(crate) fn keeps_sessions(self) -> bool {
        self != Self::Flask
    }
}

impl RealShop {
    /// Starts the shop on a free port and waits until it takes connections.
    pub(crate) async fn start(framework: Framework) -> Self {
        Self::start_with(framework, &[]).await
    }

    /// A shop on Flask that speaks TLS with this identity. It asks its clients for a certificate of `clients`, if given.
    pub(crate) async fn start_secured(identity: &Identity, clients: Option<&Authority>) -> Self {
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let mut arguments = vec![
            "--certfile".into(),
            path(&identity.cert),
            "--keyfile".into(),
            path(&identity.key),
        ];
        if let Some(authority) = clients {
            // 2: ssl.CERT_REQUIRED.
            arguments.extend([
                "--ca-certs".into(),
                path(&authority.file()),
                "--cert-reqs".into(),
                "2".into(),
            ]);
        }
        Self::start_with(Framework::Flask, &arguments).await
    }

    /// A shop on PHP that takes any session ID, as PHP does unless it is told otherwise.
    pub(crate) async fn start_lenient() -> Self {
        Self::start_in(Framework::Php, &[], &[("SHOP_TAKES_ANY_ID", "1")]).await
    }

    async fn start_with(framework: Framework, arguments: &[String]) -> Self {
        Self::start_in(framework, arguments, &[]).await
    }

    async fn start_in(framework: Framework, arguments: &[String], variables: &[(&str, &str)]) -> Self {
        // The port is free when it is looked for, not surely when it is used: another one is tried then.
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let address = local(unused_port());
            let (mut command, install) = command(framework, address, dir.path());
            command.args(arguments).envs(variables.iter().copied());
            let mut process = Process::start(&format!("{framework:?}"), command, dir.path(), install);
            let mut ended = false;
            eventually(
                &format!("{framework:?} on {address}"),
                Duration::from_secs(30),
                async || {
                    ended = process.exited().is_some();
                    ended || TcpStream::connect(address).await.is_ok()
                },
            )
            .await;
            if !ended {
                return Self {
                    framework,
                    address,
                    _process: process,
                    _dir: dir,
                };
            }
            assert!(
                process.output().to_lowercase().contains("in use"),
                "{framework:?} ended at once:\n{}",
                process.output()
            );
        }
        panic!("{framework:?} found no free port");
    }

    pub(crate) fn framework(&self) -> Framework {
        self.framework
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// The command that serves the shop, and the line that installs what it needs.
fn command(framework: Framework, address: SocketAddr, dir: &Path) -> (Command, &'static str) {
    let source = root().join("tests/backends");
    let port = address.port().to_string();
    let listen = format!("{}:{port}", Ipv4Addr::LOCALHOST);
    match framework {
        Framework::Php => {
            let mut php = Command::new("php");
            php.env("PHP_CLI_SERVER_WORKERS", "4");
            php.arg("-d").arg(format!("session.save_path={}", dir.display()));
            php.args(["-d", "session.use_strict_mode=1", "-d", "display_errors=stderr"]);
            php.args(["-S", &listen]).arg(source.join("php/index.php"));
            (php, "apt-get install -y php-cli")
        }
        Framework::Flask => (gunicorn(&listen, &source.join("flask"), "shop:app", dir), PYTHON),
        Framework::Django => {
            let mut migrate = Command::new(root().join("target/test-python/bin/python"));
            let database = dir.join("shop.db");
            migrate
                .arg(source.join("django/shop.py"))
                .env("SHOP_DATABASE", &database)
                .env("SHOP_SECRET", "migration");
            let made = migrate
                .output()
                .unwrap_or_else(|error| panic!("no Python: {error}; to install it: {PYTHON}"));
            assert!(
                made.status.success(),
                "no database: {}",
                String::from_utf8_lossy(&made.stderr)
            );
            let mut django = gunicorn(&listen, &source.join("django"), "shop:application", dir);
            django.env("SHOP_DATABASE", database);
            (django, PYTHON)
        }
        Framework::Express => {
            let source = source.join("express");
            assert!(
                source.join("node_modules/express").exists(),
                "Express is missing; to install it: {NODE}"
            );
            let mut node = Command::new("node");
            node.arg(source.join("shop.js")).env("PORT", port);
            (node, NODE)
        }
    }
}

/// Python with a program of `tests/backends`.
pub(crate) fn python(program: &str) -> Command {
    let mut python = Command::new(root().join("target/test-python/bin/python"));
    python.arg(root().join("tests/backends").join(program));
    python
}

/// The line that installs Python and its packages.
pub(crate) const PYTHON: &str =
    "python3 -m venv target/test-python && target/test-python/bin/pip install -r tests/backends/requirements.txt";
const NODE: &str = "apt-get install -y nodejs npm && npm ci --prefix tests/backends/express";

fn gunicorn(listen: &str, source: &Path, application: &str, dir: &Path) -> Command {
    let mut gunicorn = Command::new(root().join("target/test-python/bin/gunicorn"));
    gunicorn
        .args(["--workers", "2", "--threads", "4", "--bind", listen, "--chdir"])
        .arg(source)
        .arg(application);
    gunicorn.arg("--worker-tmp-dir").arg(dir);
    // Without it Python would leave compiled files among the sources.
    gunicorn.env("PYTHONDONTWRITEBYTECODE", "1");
    gunicorn.env("SHOP_SECRET", uuid::Uuid::new_v4().to_string());
    gunicorn
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
