//! `session-bridge sessions`: look at one installation's session, or end it, by asking a running bridge; or `copy` all of
//! them from one store into another.

mod copy;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};

use super::health::{operators_url, say};
use super::{EXIT_FAILED, EXIT_USAGE, SessionArgs, SessionsCommand};
use crate::config::Ops;
use crate::wire::own_call;

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the operators' listener. Exit code 0 when there is such a session, 1 when there is none or nobody answers, 2 for
/// a bad configuration.
pub async fn run(command: SessionsCommand) -> ExitCode {
    let (method, arguments) = match command {
        SessionsCommand::Show(arguments) => (Method::GET, arguments),
        SessionsCommand::End(arguments) => (Method::DELETE, arguments),
        SessionsCommand::Copy(arguments) => return copy::run(arguments).await,
    };
    let ops = match arguments.config.load_ops() {
        Ok(ops) => ops,
        Err(errors) => {
            say(&errors);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match ask(method, &arguments, &ops).await {
        Ok(answer) => {
            let _ = writeln!(std::io::stdout(), "{answer}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(&why);
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn ask(method: Method, arguments: &SessionArgs, ops: &Ops) -> Result<String, String> {
    let base = operators_url(ops.listen);
    let mut url = Url::parse(&base).map_err(text)?;
    url.path_segments_mut()
        .map_err(|()| "ops.listen is no address that can be asked".to_owned())?
        .extend(["sessions", arguments.install_id.expose()]);
    let client = own_call::client(None)?.timeout(TIMEOUT).build().map_err(text)?;
    let mut request = client.request(method, url);
    if let Some(token) = &ops.token {
        request = request.bearer_auth(token.expose());
    }
    // The URL holds the Install ID: it is not repeated.
    let unreachable = |error: reqwest::Error| format!("no bridge answers at {base}: {}", super::health::reason(&error));
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let body = response.text().await.map_err(unreachable)?;
    match status {
        StatusCode::NO_CONTENT => Ok("ended: the next request of this installation starts a new session".to_owned()),
        StatusCode::OK => Ok(pretty(&body)),
        _ => Err(reason(&body).unwrap_or_else(|| format!("the bridge answered {status}"))),
    }
}

fn pretty(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| json.to_owned())
}

fn reason(json: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    value.get("error")?.as_str().map(str::to_owned)
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}
