//! gRPC, by a real server and a real client, in clear and over TLS.

use std::process::Command as StdCommand;

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::real::{PYTHON, python};

/// `tests/backends/grpc/server.py`, on a port of its own; killed on drop.
struct Server {
    address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

async fn server() -> Server {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command: StdCommand = python("grpc/server.py");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let mut process = Process::start("the gRPC server", command, dir.path(), PYTHON);
    let mut port = None;
    eventually("the gRPC server's port", Duration::from_secs(30), async || {
        assert!(
            process.exited().is_none(),
            "it ended:\n{}\nto install what it needs: {PYTHON}",
            process.output()
        );
        port = process
            .stdout()
            .lines()
            .find_map(|line| line.strip_prefix("port ")?.parse().ok());
        port.is_some()
    })
    .await;
    Server {
        address: local(port.expect("it was found")),
        _process: process,
        _dir: dir,
    }
}

/// What `tests/backends/grpc/client.py` saw through the bridge.
async fn calls(bridge: &Bridge, id: &InstallId) -> Json {
    let mut client = Command::from(python("grpc/client.py"));
    client
        .args([bridge.traffic.to_string().as_str(), id.as_str()])
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), client.output()).await;
    let output = output.expect("it ends").expect(PYTHON);
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON; {errors}"))
}

/// The values of this name in metadata.
fn named<'a>(metadata: &'a Json, name: &str) -> Vec<&'a str> {
    let pairs = metadata.as_array().expect("pairs").iter();
    pairs
        .filter(|pair| pair[0] == name)
        .map(|pair| pair[1].as_str().expect("a text"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_pass_and_share_one_session() {
    let (server, authority) = (server().await, Authority::new("ours"));
    let secure = secured(server.address, &authority).await;
    let ca = authority.file().to_str().expect("UTF-8").to_owned();
    for bridge in [
        before(&format!("http://{}", server.address)),
        before(&format!("https://{secure}")).set("upstream.tls.ca", ca),
    ] {
        let bridge = bridge.id_cookies(&["sid"]).start().await;
        let said = calls(&bridge, &InstallId::random()).await;
        // The cookie of the first call came with the others, and with the metadata of the client.
        assert_eq!(said["first"]["answer"], "1 apple apple http");
        assert_eq!(named(&said["first"]["initial"], "x-started"), ["1"]);
        assert_eq!(said["second"]["answer"], "2 pear pear http");
        assert!(named(&said["second"]["initial"], "x-started").is_empty());
        for call in ["first", "second", "third"] {
            for metadata in ["initial", "trailing"] {
                assert!(named(&said[call][metadata], "set-cookie").is_empty(), "{said}");
            }
        }
        assert_eq!(named(&said["second"]["trailing"], "x-sum"), ["2"]);
        assert_eq!((&said["counted"], &said["total"]), (&json!(499_500), &json!("2000000")));
        assert_eq!(
            said["conversation"],
            json!({ "heard": ["eno", "owt", "eerht"], "rest": 0, "code": "OK" })
        );
        assert_eq!(said["refusal"]["code"], "FAILED_PRECONDITION");
        assert_eq!(said["refusal"]["details"], "nothing left: 0 %");
        assert_eq!(named(&said["refusal"]["trailing"], "x-why"), ["sold-out"]);
        assert_eq!(said["bridge_refusal"], "INTERNAL", "a 400, as gRPC clients read it");
        assert_eq!(said["third"]["answer"], "3 plum plum http");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_client_gives_up_ends_at_the_server() {
    let server = server().await;
    let bridge = before(&format!("http://{}", server.address))
        .id_cookies(&["sid"])
        .start()
        .await;
    let said = calls(&bridge, &InstallId::random()).await;
    assert_eq!(said["deadline"], json!({ "code": "DEADLINE_EXCEEDED", "learns": true }));
    assert_eq!(said["cancelled"], json!({ "heard": 3, "learns": true }));
}
