//! `session-bridge health`: is a running bridge ready?

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use super::{EXIT_FAILED, EXIT_USAGE, HealthArgs};
use crate::wire::own_call;

/// How long the whole question may take: less than container runtimes commonly wait.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How many bytes of an answer are shown.
const SHOWN: usize = 2048;

/// Asks, says on standard error why not, and tells the exit code: 0 ready, 1 not ready, 2 bad configuration.
pub async fn run(arguments: HealthArgs) -> ExitCode {
    let url = match url_to_ask(arguments) {
        Ok(url) => url,
        Err(why) => {
            say(&why);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match ask(&url, TIMEOUT).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format_args!("not ready: {why}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Writes a line to standard error.
pub fn say(what: &impl fmt::Display) {
    // There is nobody to tell that telling failed; the exit code says enough.
    let _ = writeln!(std::io::stderr(), "{what}");
}

fn url_to_ask(arguments: HealthArgs) -> Result<String, String> {
    if let Some(url) = arguments.url {
        return Ok(url);
    }
    let ops = arguments.config.load_ops().map_err(|errors| errors.to_string())?;
    if ops.listen.port() == 0 {
        return Err("ops.listen has port 0, a free one each time: say with --url where to ask".to_owned());
    }
    Ok(format!("{}/readyz", operators_url(ops.listen)))
}

/// Where the operators' listener is, as seen from this machine.
pub(super) fn operators_url(mut listen: SocketAddr) -> String {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    format!("http://{listen}")
}

/// `Ok` after a 200, else why not.
async fn ask(url: &str, timeout: Duration) -> Result<(), String> {
    if url
        .get(..8)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
    {
        return Err(
            "no certificate is checked here, so https:// is not asked: the operators' listener answers \
                    /readyz without TLS"
                .to_owned(),
        );
    }
    let client = own_call::client(None)?
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .build()
        .map_err(|error| reason(&error))?;
    let mut response = client.get(url).send().await.map_err(|error| reason(&error))?;
    let status = response.status();
    if status == reqwest::StatusCode::OK {
        return Ok(());
    }
    let mut body = Vec::new();
    while body.len() < SHOWN
        && let Ok(Some(part)) = response.chunk().await
    {
        body.extend_from_slice(&part);
    }
    body.truncate(SHOWN);
    let body: String = String::from_utf8_lossy(&body)
        .chars()
        .filter(|c| !c.is_control() || *c == '\n')
        .collect();
    Err(format!("{status} {}", body.trim()).trim_end().to_owned())
}

/// What went wrong, down to the cause. The URL is left out: it may hold a password, and whoever asks knows it.
pub(super) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let what = if error.is_connect() {
        "cannot connect"
    } else {
        "cannot ask"
    };
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes
        .last()
        .map_or_else(|| what.to_owned(), |cause| format!("{what}: {cause}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives this answer once: where it answers, and the request line that it saw.
    async fn answering(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{}/readyz", operators_url(listener.local_addr().unwrap()));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length])
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        });
        (url, server)
    }

    #[tokio::test]
    async fn a_200_means_ready() {
        let (url, server) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(ask(&url, TIMEOUT).await, Ok(()));
        assert_eq!(server.await.unwrap(), "GET /readyz HTTP/1.1");
    }

    #[tokio::test]
    async fn anything_else_is_told_with_its_reason() {
        let (url, _server) =
            answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 14\r\n\r\n{\"store\":\"x\"}\n").await;
        assert_eq!(
            ask(&url, TIMEOUT).await,
            Err("503 Service Unavailable {\"store\":\"x\"}".to_owned())
        );
        let (url, _server) = answering("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(ask(&url, TIMEOUT).await, Err("302 Found".to_owned()));
    }

    #[tokio::test]
    async fn a_server_that_is_silent_or_not_there_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{}/readyz", operators_url(listener.local_addr().unwrap()));
        assert_eq!(
            ask(&url, Duration::from_millis(50)).await,
            Err("no answer in time".to_owned())
        );
        drop(listener);
        let why = ask(&url, TIMEOUT).await.unwrap_err();
        assert!(why.starts_with("cannot connect: "), "{why}");
        let why = ask("http://u:hunter2@h:port/", TIMEOUT).await.unwrap_err();
        assert!(why.starts_with("cannot ask") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn an_unspecified_address_is_asked_by_loopback() {
        let url = |listen: &str| format!("{}/readyz", operators_url(listen.parse().unwrap()));
        assert_eq!(url("0.0.0.0:9090"), "http://127.0.0.1:9090/readyz");
        assert_eq!(url("[::]:1"), "http://[::1]:1/readyz");
        assert_eq!(url("10.0.0.7:9090"), "http://10.0.0.7:9090/readyz");
    }
}
