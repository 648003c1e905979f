//! The store in a Redis that is spoken to over TLS, by a user of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use session_bridge::session::clock::Timestamp;
use session_bridge::session::quota::Quota;
use session_bridge::session::store::{LeaseEnd, Replaced, SessionStore, StoreError};

use super::contract::{Subject, keeps_the_contract};
use super::near::Replica;
use super::redis::open;
use super::{LONG, eventually, key, record, token, version};
use crate::support::bridge::session_bridge;
use crate::support::lasting_port;
use crate::support::pki::{Authority, Identity};
use crate::support::redis::RedisServer;

/// The user of the documentation: what it may do is all that the bridge needs.
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// A server with a second port, for TLS. It speaks in clear on the first one, for the tests to look and to set up.
struct Secured {
    server: RedisServer,
    port: u16,
}

impl Secured {
    fn start(authority: &Authority, identity: &Identity, clients: &str) -> Self {
        // A port that was free may be taken by the time it is wanted.
        for _ in 0..20 {
            let port = lasting_port();
            let port_text = port.to_string();
            let (ca, cert, key) = (text(&authority.file()), text(&identity.cert), text(&identity.key));
            let arguments = [
                ["--tls-port", &port_text],
                ["--tls-ca-cert-file", &ca],
                ["--tls-cert-file", &cert],
                ["--tls-key-file", &key],
                ["--tls-auth-clients", clients],
            ];
            let server = RedisServer::start_with(arguments.as_flattened());
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Self { server, port };
            }
        }
        panic!("redis-server does not listen for TLS: is it built with it, as Debian's is?");
    }
}

pub(super) fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// The lines of `[store]` for this URL, these authorities, and this certificate to show.
pub(super) fn lines(url: &str, ca: Option<&Authority>, identity: Option<&Identity>) -> String {
    let mut lines = format!("url = {url:?}\n");
    if ca.is_some() || identity.is_some() {
        lines.push_str("[store.tls]\n");
    }
    if let Some(ca) = ca {
        let _ = writeln!(lines, "ca = {:?}", text(&ca.file()));
    }
    if let Some(identity) = identity {
        let _ = writeln!(
            lines,
            "cert = {:?}\nkey = {:?}",
            text(&identity.cert),
            text(&identity.key)
        );
    }
    lines
}

async fn connects(lines: &str) {
    let store = open(lines, &Subject::clock()).await.expect("a store");
    eventually("a connection", || async { store.ping().await.is_ok() }).await;
    store.close().await.unwrap();
}

/// Why there is no connection; nothing of it is a secret.
async fn refusal(lines: &str, expected: &str) {
    let store = open(lines, &Subject::clock()).await.expect("a store");
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let outcome = store.load(&key(1)).await;
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
        let reason = format!("{outcome:?}");
        assert!(!reason.contains("hunter"), "{reason}");
        if reason.contains(expected) {
            return;
        }
        assert!(Instant::now() < until, "{expected:?} is not in {reason}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The rules that the documentation gives to the bridge's user, each a word.
fn documented_rules() -> Vec<String> {
    rules_with("+evalsha")
}

/// Those for a cluster.
pub(super) fn documented_rules_of_a_cluster() -> Vec<String> {
    [documented_rules(), rules_with("+asking")].concat()
}

/// The first line of them that has this one.
fn rules_with(rule: &str) -> Vec<String> {
    let lines = OPERATING
        .lines()
        .filter_map(|line| line.strip_prefix("ACL SETUSER bridge "));
    let mut rules = lines.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    rules
        .find(|rules| rules.iter().any(|word| word == rule))
        .expect("the line of the ACL in docs/operating.md")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_over_tls_with_a_client_certificate_by_the_user_of_the_documentation() {
    let authority = Authority::new("ours");
    let server = Secured::start(&authority, &authority.issue(&["127.0.0.1"]), "yes");
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, "correct hunter battery staple\n").unwrap();
    let mut user = vec!["ACL".to_owned(), "SETUSER".to_owned(), "bridge".to_owned()];
    let rules = [documented_rules(), rules_with("+scan")].concat();
    user.extend(rules.into_iter().map(|rule| match rule.strip_prefix('>') {
        Some(_) => ">correct hunter battery staple".to_owned(),
        None => rule,
    }));
    server
        .server
        .command(&user.iter().map(String::as_str).collect::<Vec<_>>());
    server
        .server
        .command(&["ACL", "SETUSER", "default", "-@all", "+acl", "+info", "+config"]);
    let client = authority.issue(&["the bridge"]);
    let number = AtomicU32::new(0);
    keeps_the_contract(|| async {
        let clock = Subject::clock();
        let n = number.fetch_add(1, Ordering::Relaxed);
        let first = format!(
            "timeout = \"20s\"\nkey_prefix = \"session-bridge:{n}:\"\npassword_file = {:?}\n",
            text(&password)
        );
        let url = format!("rediss://bridge@127.0.0.1:{}", server.port);
        Subject {
            store: open(&(first + &lines(&url, Some(&authority), Some(&client))), &clock)
                .await
                .expect("a store"),
            clock,
            real_time: true,
            _keep: Box::new(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_kept_true_over_tls_by_the_user_of_the_documentation() {
    let authority = Authority::new("ours");
    let server = Secured::start(&authority, &authority.issue(&["127.0.0.1"]), "no");
    let rules = [documented_rules(), rules_with("+pttl")].concat();
    let rules = rules
        .iter()
        .map(|rule| if rule.starts_with('>') { ">hunter" } else { rule });
    let user: Vec<_> = ["ACL", "SETUSER", "bridge"].into_iter().chain(rules).collect();
    server.server.command(&user);
    let url = format!("rediss://bridge:hunter@127.0.0.1:{}", server.port);
    let lines = format!("timeout = \"20s\"\n{}", lines(&url, Some(&authority), None));
    let (reader, writer) = (Replica::found_with(&lines).await, Replica::found_with(&lines).await);
    writer.store.create(&key(1), record(1, "x", LONG), None).await.unwrap();
    for seq in 1..200 {
        reader.fill_for_sure(&key(1), seq).await;
        let new = record(seq + 1, "x", LONG);
        let replaced = writer.store.replace(&key(1), version(seq), new, None).await;
        assert_eq!(replaced, Ok(Replaced::Done));
        assert_eq!(reader.at_hand(&key(1)), None, "round {seq}");
    }
}

#[tokio::test]
async fn the_rules_of_the_documentation_are_all_needed() {
    let server = RedisServer::start();
    let rules = documented_rules();
    let commands: Vec<_> = rules.iter().filter(|rule| rule.starts_with('+')).collect();
    assert!(commands.len() > 8, "{rules:?}");
    for without in commands {
        let mut user = vec!["ACL", "SETUSER", "bridge", "reset"];
        user.extend(
            rules
                .iter()
                .filter(|rule| *rule != without)
                .map(|rule| match rule.strip_prefix('>') {
                    Some(_) => ">hunter2",
                    None => rule.as_str(),
                }),
        );
        server.command(&user);
        server.command(&["FLUSHALL"]);
        server.command(&["SCRIPT", "FLUSH"]);
        let url = format!("redis://bridge:hunter2@127.0.0.1:{}/0", server.port());
        let store = open(&format!("url = {url:?}\ntimeout = \"5s\""), &Subject::clock())
            .await
            .unwrap();
        // What is asked beside the requests, or of other forms of Redis.
        let beside = ["+ping", "+role", "+wait", "+select"];
        if !beside.contains(&without.as_str()) {
            let refused = everything(&*store).await;
            assert!(refused.contains("Redis refused"), "{without} is not needed: {refused}");
        }
        store.close().await.unwrap();
    }
}

/// Every call that there is, and what became of them.
async fn everything(store: &dyn SessionStore) -> String {
    let (k, t) = (key(1), token(1));
    let once = Quota { most: 1, within: LONG };
    let outcomes = (
        store.ping().await,
        store.acquire_lease(&k, t, LONG).await,
        store.renew_lease(&k, t, LONG).await,
        store.create(&k, record(1, "x", LONG), Some(t)).await,
        store.load(&k).await,
        store.observe(&k).await,
        store.touch(&k, version(1), LONG).await,
        store.replace(&k, version(1), record(2, "y", LONG), None).await,
        store.release_lease(&k, t, LeaseEnd::Barren).await,
        store.remove(&k, version(2)).await,
        store.take_place(&k, once, Timestamp::MAX).await,
    );
    format!("{outcomes:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_tls_is_told_and_no_secret_with_it() {
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let server = Secured::start(&authority, &authority.issue(&["localhost"]), "no");
    let url = |host: &str| format!("rediss://:hunter2@{host}:{}", server.port);
    let (by_name, by_address) = (url("localhost"), url("127.0.0.1"));
    let untrusted = "the certificate of the server is not trusted: ";
    refusal(
        &lines(&by_name, Some(&other), None),
        &format!("{untrusted}unknown issuer"),
    )
    .await;
    refusal(&lines(&by_name, None, None), &format!("{untrusted}unknown issuer")).await;
    refusal(
        &lines(&by_address, Some(&authority), None),
        &format!("{untrusted}it is for another name"),
    )
    .await;
    // There is no password on this server: TLS is fine.
    refusal(&lines(&by_name, Some(&authority), None), "refused the greeting").await;
    connects(&lines(&by_name.replace(":hunter2@", ""), Some(&authority), None)).await;

    let clear = format!("rediss://:hunter2@127.0.0.1:{}", server.server.port());
    refusal(&lines(&clear, Some(&authority), None), "TLS").await;
    let sealed = format!("redis://:hunter2@127.0.0.1:{}", server.port);
    refusal(&lines(&sealed, None, None), "does the server expect TLS (rediss://)?").await;

    let expired = Secured::start(&authority, &authority.issue_expired(&["127.0.0.1"]), "no");
    let url = format!("rediss://:hunter2@127.0.0.1:{}", expired.port);
    refusal(
        &lines(&url, Some(&authority), None),
        &format!("{untrusted}it has expired"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_has_against_the_bridge_is_told() {
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let server = Secured::start(&authority, &authority.issue(&["127.0.0.1"]), "yes");
    let url = format!("rediss://127.0.0.1:{}", server.port);
    refusal(
        &lines(&url, Some(&authority), None),
        "the server asks for a client certificate",
    )
    .await;
    let foreign = other.issue(&["the bridge"]);
    refusal(
        &lines(&url, Some(&authority), Some(&foreign)),
        "the server does not trust the issuer of our certificate",
    )
    .await;
    let client = authority.issue(&["the bridge"]);
    connects(&lines(&url, Some(&authority), Some(&client))).await;

    server
        .server
        .command(&["ACL", "SETUSER", "bridge", "on", ">right", "~*", "+@all"]);
    let wrong = format!("rediss://bridge:wronghunter@127.0.0.1:{}", server.port);
    refusal(&lines(&wrong, Some(&authority), Some(&client)), "authentication failed").await;

    let mixed = Identity {
        cert: client.cert,
        key: foreign.key,
    };
    let error = open(&lines(&url, Some(&authority), Some(&mixed)), &Subject::clock()).await;
    assert_eq!(
        error.err().expect("an error"),
        "store.tls.key: is not the key of the certificate in cert"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_are_spoken_to_over_tls_as_well() {
    let authority = Authority::new("ours");
    let identity = authority.issue(&["127.0.0.1"]);
    let master = Secured::start(&authority, &identity, "yes");
    let port = lasting_port();
    let lines_of_sentinel = [
        format!("tls-port {port}"),
        format!("tls-ca-cert-file {}", text(&authority.file())),
        format!("tls-cert-file {}", text(&identity.cert)),
        format!("tls-key-file {}", text(&identity.key)),
        "tls-replication yes".to_owned(),
        format!("sentinel monitor m 127.0.0.1 {} 1", master.port),
    ];
    let sentinel = RedisServer::try_start_from_file(&lines_of_sentinel, &["--sentinel"]).expect("a sentinel");
    let url = format!("rediss-sentinel://127.0.0.1:{port}/m");
    let client = authority.issue(&["the bridge"]);
    connects(&lines(&url, Some(&authority), Some(&client))).await;
    let other = Authority::new("another");
    refusal(
        &lines(&url, Some(&other), Some(&client)),
        "no sentinel names the master: the certificate of the server is not trusted: unknown issuer",
    )
    .await;
    drop(sentinel);
}

/// What `session-bridge check` says of the store with these lines, and its exit code.
async fn check(lines: &str) -> (String, Option<i32>) {
    let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bridge.toml");
    let upstream = backend.local_addr().unwrap();
    let text = format!("upstream.url = \"http://{upstream}\"\n[store]\n{lines}");
    std::fs::write(&file, text).unwrap();
    let mut command = session_bridge();
    command.arg("check").arg("--config").arg(&file);
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    let shown = [output.stdout, output.stderr].concat();
    (String::from_utf8(shown).unwrap(), output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_is_wrong_with_the_store_and_when_it_is_right() {
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let server = Secured::start(&authority, &authority.issue(&["127.0.0.1"]), "no");
    server.server.command(&[
        "ACL",
        "SETUSER",
        "bridge",
        "on",
        ">hunter2",
        "~session-bridge:*",
        "+@all",
    ]);
    let url = |password: &str| format!("rediss://bridge:{password}@127.0.0.1:{}/0", server.port);
    let shown = format!("store rediss://127.0.0.1:{}/0: ", server.port);
    for (lines, code, expected) in [
        (lines(&url("hunter2"), Some(&authority), None), 0, "answers"),
        (
            lines(&url("hunter2"), Some(&other), None),
            1,
            "the store is unavailable: the certificate of the server is not trusted: unknown issuer",
        ),
        (
            lines(&url("wronghunter"), Some(&authority), None),
            1,
            "the store is unavailable: the server refused the greeting: authentication failed",
        ),
    ] {
        let (output, exited) = check(&lines).await;
        let mark = if code == 0 { "ok    " } else { "FAILED" };
        assert!(output.contains(&format!("{mark}  {shown}{expected}\n")), "{output}");
        assert_eq!(exited, Some(code), "{output}");
        assert!(!output.contains("hunter"), "{output}");
    }
    let (output, exited) = check("url = \"redis-sentinel://:hunter2@127.0.0.1:1/m\"\n").await;
    assert!(
        output.contains("FAILED  store redis-sentinel://127.0.0.1:1/m: the store is unavailable: no sentinel names the master: cannot connect"),
        "{output}"
    );
    assert_eq!(exited, Some(1));
}
