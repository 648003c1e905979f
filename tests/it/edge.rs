//! How connections of clients begin, and what is spoken on them.

mod descriptors;
mod http2;
mod proxy_protocol;
mod tls;

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::pki::{Authority, Identity};

const SOON: Duration = Duration::from_secs(10);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const REQUEST: &str =
    "GET /a HTTP/1.1\r\nHost: shop.example\r\nX-Install-Id: 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c\r\n\r\n";

/// A program that the tests need, run to its end.
async fn run(program: &str, install: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await;
    output.expect("it ends").unwrap_or_else(|error| {
        panic!("{program} could not be started ({error}); to install it: apt-get install {install}")
    })
}

/// What curl is answered by `https://shop.example:PORT/a`, or why not.
async fn curl(bridge: &Bridge, authority: &Authority, more: &[&str]) -> Result<String, String> {
    let port = bridge.traffic.port();
    let (ca, url) = (authority.file(), format!("https://shop.example:{port}/a"));
    let resolve = format!("shop.example:{port}:127.0.0.1");
    let mut arguments = vec!["--silent", "--show-error", "--noproxy", "*", "--resolve", &resolve];
    arguments.extend(["--cacert", ca.to_str().expect("UTF-8")]);
    arguments.extend(["-H", "X-Install-Id: 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c"]);
    arguments.extend(more);
    arguments.push(&url);
    let output = run("curl", "curl", &arguments).await;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn with_tls(backend: &str, identity: &Identity) -> BridgeBuilder {
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    Bridge::before(backend)
        .set("server.tls.cert", text(&identity.cert))
        .set("server.tls.key", text(&identity.key))
}

async fn connect(
    authority: &Authority,
    address: SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    connect_over(authority, TcpStream::connect(address).await.expect("a connection")).await
}

async fn connect_over(
    authority: &Authority,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let ca = std::fs::read_to_string(authority.file()).expect("a file");
    let client = session_bridge::tls::Client::new(Some(&ca), None).expect("a client");
    client.connect("shop.example", stream).await
}

/// Reads until the end, which must be one in order.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await;
    read.expect("an end").expect("an end in order");
    String::from_utf8_lossy(&bytes).into_owned()
}
