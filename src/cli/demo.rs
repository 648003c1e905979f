//! `session-bridge demo`: a stateful shop, a bridge before it, and an app without cookies that fills a basket.
//!
//! [`run`] starts the [`shop`], puts a bridge before it and has it [played](play).

mod shop;
mod wire;

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use http::header::CONTENT_TYPE;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::EXIT_FAILED;
use super::health::say;
use crate::app::App;
use crate::config::{Config, ConfigErrors, File, Flags, Sources};
use crate::wire::own_call;

pub use shop::{Shop, shop};
pub use wire::Exchange;

/// Where the bridge of a demo listens, and where it does when that is taken.
const LISTEN: &str = "127.0.0.1:8080";
const LISTEN_ANYWHERE: &str = "127.0.0.1:0";

/// The store of a demo that can write no file.
const MEMORY: &str = "memory:";

/// How long the demo's app waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A request of the demo's app.
struct Step {
    says: &'static str,
    method: Method,
    path: &'static str,
    body: &'static str,
}

/// A basket that is filled and then read: without a session each answer would know of one thing at most.
const STEPS: [Step; 3] = [
    Step {
        says: "Put tea into the basket.",
        method: Method::POST,
        path: "/basket",
        body: r#"{"sku":"tea"}"#,
    },
    Step {
        says: "Put a cup into it, too.",
        method: Method::POST,
        path: "/basket",
        body: r#"{"sku":"cup"}"#,
    },
    Step {
        says: "Both are still there.",
        method: Method::GET,
        path: "/basket",
        body: "",
    },
];

/// Runs the demo until SIGINT or SIGTERM. Exit code 1 when something could not be started.
pub async fn run() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format_args!("the demo cannot run: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn start() -> Result<(), Box<dyn std::error::Error>> {
    // From here on a signal ends the demo, and not the process with its folder left behind.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let shop = shop().await?;
    let folder = Folder::create(&std::env::temp_dir());
    let app = bind(&shop, folder.as_ref()).await?;
    let (bridge, trigger) = (app.addresses().traffic, app.trigger());
    let running = tokio::spawn(app.run());
    let played = play(shop, bridge, stop, &mut io::stdout()).await;
    trigger.fire("the demo is over");
    running.await?;
    Ok(played?)
}

/// A folder of the demo alone, which goes with it.
struct Folder(PathBuf);

impl Folder {
    /// Nobody can guess its name or look into it.
    fn create(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!("session-bridge-demo-{}", Uuid::new_v4()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn store(&self) -> String {
        format!("sqlite://{}", self.0.join("sessions.db").display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is the place for what is temporary: what stays there is cleared by others.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A bridge with its store in `folder`, or in memory where nothing can be written there.
async fn bind(shop: &Shop, folder: Result<&Folder, &io::Error>) -> Result<App, Box<dyn std::error::Error>> {
    let why: String = match folder {
        Ok(folder) => match bind_with(shop, &folder.store()).await {
            Ok(app) => return Ok(app),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let app = bind_with(shop, MEMORY).await?;
    say(&format_args!(
        "no store can be made in {}, so sessions are kept in memory: {why}\n",
        std::env::temp_dir().display()
    ));
    Ok(app)
}

async fn bind_with(shop: &Shop, store: &str) -> Result<App, Box<dyn std::error::Error>> {
    match App::bind(&config(shop, store, LISTEN)?).await {
        Ok(app) => Ok(app),
        // The usual port is taken: any other will do.
        Err(_) => Ok(App::bind(&config(shop, store, LISTEN_ANYWHERE)?).await?),
    }
}

/// What a user would write for that shop.
fn config(shop: &Shop, store: &str, listen: &str) -> Result<Config, ConfigErrors> {
    let environment = [
        ("SESSION_BRIDGE_OPS__LISTEN", LISTEN_ANYWHERE),
        ("SESSION_BRIDGE_SESSION__ID_COOKIES", shop::COOKIE_NAME),
        ("SESSION_BRIDGE_SESSION__AUTH_PATHS", "/login,/logout"),
        ("SESSION_BRIDGE_SERVER__DRAIN_DELAY", "0s"),
        ("SESSION_BRIDGE_SERVER__DRAIN_TIMEOUT", "1s"),
    ];
    Config::load(&Sources {
        file: File::None,
        environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
        flags: Flags {
            upstream: Some(format!("http://{}", shop.address()).into()),
            listen: Some(listen.to_owned()),
            store: Some(store.to_owned().into()),
        },
    })
}

/// Plays the app of a demo: sends three requests of one installation to the bridge at `bridge`, each written to
/// `out` as a `curl` line together with what went over the wire, and then shows what passes the shop until `stop`
/// is done.
///
/// # Errors
/// When `out` cannot be written to, or when the bridge does not answer.
pub async fn play(
    mut shop: Shop,
    bridge: SocketAddr,
    stop: impl Future<Output = ()> + Send,
    out: &mut (impl Write + Send),
) -> io::Result<()> {
    let mut stop = pin!(stop);
    tokio::select! {
        () = &mut stop => return Ok(()),
        shown = show_steps(&mut shop, bridge, out) => shown?,
    }
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            exchange = shop.exchange() => match exchange {
                Some(exchange) => writeln!(out, "{exchange}")?,
                None => return Err(io::Error::other("the demo shop has ended")),
            },
        }
    }
}

async fn show_steps(shop: &mut Shop, bridge: SocketAddr, out: &mut (impl Write + Send)) -> io::Result<()> {
    let install_id = Uuid::new_v4().to_string();
    writeln!(
        out,
        "A shop that keeps its baskets in cookie sessions: http://{}",
        shop.address()
    )?;
    writeln!(out, "session-bridge before it:                         http://{bridge}")?;
    writeln!(out, "\nAn app that knows no cookies, only its Install ID:")?;
    let app = own_call::client(None)
        .map_err(io::Error::other)?
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_TIMEOUT)
        .build()
        .map_err(io::Error::other)?;
    for (number, step) in STEPS.iter().enumerate() {
        writeln!(out, "\n{}. {}", number + 1, step.says)?;
        writeln!(out, "{}", step.curl(bridge, &install_id))?;
        let response = step.send(&app, bridge, &install_id).await.map_err(io::Error::other)?;
        let answer = wire::answer_to_app(response.status(), response.headers());
        let body = response.text().await.map_err(io::Error::other)?;
        writeln!(
            out,
            "{}",
            wire::request_of_app(step.method.as_str(), step.path, &install_id)
        )?;
        for exchange in shop.exchanges() {
            writeln!(out, "{exchange}")?;
        }
        writeln!(out, "{answer}")?;
        writeln!(out, "{}", body.trim_end())?;
    }
    writeln!(
        out,
        "\nThese lines work in another terminal as well, and so do POST /login {{\"name\":\"Ada\"}} and POST /logout;"
    )?;
    writeln!(
        out,
        "what passes between the bridge and the shop is shown here. Ctrl-C ends the demo.\n"
    )?;
    out.flush()
}

impl Step {
    fn url(&self, bridge: SocketAddr) -> String {
        format!("http://{bridge}{}", self.path)
    }

    /// The same request for a person's terminal.
    fn curl(&self, bridge: SocketAddr, install_id: &str) -> String {
        let body = if self.body.is_empty() {
            String::new()
        } else {
            // Not --json, which older versions of curl do not have.
            format!(" -H 'Content-Type: application/json' -d '{}'", self.body)
        };
        format!("curl -H 'X-Install-Id: {install_id}'{body} {}", self.url(bridge))
    }

    async fn send(
        &self,
        app: &reqwest::Client,
        bridge: SocketAddr,
        install_id: &str,
    ) -> reqwest::Result<reqwest::Response> {
        let mut request = app
            .request(self.method.clone(), self.url(bridge))
            .header(wire::INSTALL_ID, install_id);
        if !self.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json").body(self.body);
        }
        request.send().await
    }
}

#[cfg(test)]
mod tests;
