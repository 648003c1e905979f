//! The command line and the configuration, as a user meets them: exit codes and words.

use std::time::Duration;

use crate::support::bridge::{Bridge, session_bridge};
use crate::support::client::Call;
use crate::support::memcached::MemcachedServer;
use crate::support::pki::Authority;
use crate::support::process::Process;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::sql::{Kind, SqlServer};
use crate::support::{InstallId, unused_port};

/// A run of the program that came to its end.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    fn assert_says(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
    }
}

/// Runs the program in a directory with this `session-bridge.toml`, until it ends by itself.
pub(crate) async fn run(arguments: &[&str], config: Option<&str>, env: &[(&str, &str)]) -> Run {
    let dir = tempfile::tempdir().expect("a temporary directory");
    if let Some(config) = config {
        std::fs::write(dir.path().join("session-bridge.toml"), config).expect("a configuration file");
    }
    let mut command = session_bridge();
    command
        .current_dir(dir.path())
        .args(arguments)
        .envs(env.iter().copied());
    let mut process = Process::start("session-bridge", command, dir.path(), "cargo build");
    let status = process.exit(Duration::from_secs(60)).await;
    Run {
        code: status.code().expect("no signal ended it"),
        stdout: process.stdout(),
        stderr: process.stderr(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_named_with_its_file_its_line_and_the_nearest_right_one() {
    let config = "[upstream]\nurl = \"http://127.0.0.1:1\"\n\n[session]\nidle_timeot = \"30d\"\n";
    for arguments in [&["serve"][..], &["check"], &[]] {
        let run = run(arguments, Some(config), &[]).await;
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
        run.assert_says(&["session-bridge.toml:5", "session.idle_timeot", "idle_timeout"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_errors_are_reported_at_once_and_none_shows_a_value() {
    let config =
        "upstream.url = \"ftp://needle1\"\nserver.listen = \"needle2\"\nstore.timeout = \"needle3\"\nnonsense = 1\n";
    let run = run(&["check"], Some(config), &[]).await;
    assert_eq!(run.code, 2);
    run.assert_says(&["upstream.url", "server.listen", "store.timeout", "nonsense"]);
    run.assert_says(&[
        "session-bridge.toml:1",
        "session-bridge.toml:2",
        "session-bridge.toml:3",
        "session-bridge.toml:4",
    ]);
    assert!(
        !run.stderr.contains("needle"),
        "any value may be a secret in the wrong place: {}",
        run.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_upstream_a_missing_file_and_an_unknown_flag_or_variable_are_bad_usage() {
    let no_upstream = run(&["serve"], None, &[]).await;
    assert_eq!(no_upstream.code, 2);
    no_upstream.assert_says(&["upstream.url"]);

    let no_file = run(&["serve", "--config", "nowhere.toml"], None, &[]).await;
    assert_eq!(no_file.code, 2);
    no_file.assert_says(&["nowhere.toml"]);

    let empty = run(&["serve"], None, &[("SESSION_BRIDGE_CONFIG", "")]).await;
    assert_eq!(empty.code, 2);
    empty.assert_says(&["the name of the file is empty", "SESSION_BRIDGE_CONFIG"]);

    let bad_flag = run(&["serve", "--lisen", "127.0.0.1:0"], None, &[]).await;
    assert_eq!(bad_flag.code, 2);
    bad_flag.assert_says(&["--lisen", "--listen"]);

    let variable = ("SESSION_BRIDGE_STOER__URL", "memory:");
    let bad_variable = run(&["check"], Some("upstream.url = \"http://127.0.0.1:1\""), &[variable]).await;
    assert_eq!(bad_variable.code, 2);
    bad_variable.assert_says(&["SESSION_BRIDGE_STOER__URL", "SESSION_BRIDGE_STORE__URL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_told_and_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("a bound address").to_string();
    let config = "upstream.url = \"http://127.0.0.1:1\"\nops.listen = \"127.0.0.1:0\"\nstore.url = \"memory:\"\n";
    let run = run(&["serve", "--listen", &listen], Some(config), &[]).await;
    assert_eq!(run.code, 1, "{}", run.stderr);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains(&listen), "it names the address: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_beat_the_environment_and_the_environment_beats_the_file() {
    let (shop, wrong) = (Shop::start().await, format!("http://127.0.0.1:{}", unused_port()));
    let id = InstallId::random();

    let by_env = Bridge::before(&wrong)
        .env("SESSION_BRIDGE_UPSTREAM__URL", &shop.url())
        .start_unready()
        .await;
    assert_eq!(
        by_env.send(Call::get("/none").of(&id)).await.status,
        200,
        "the environment beats the file"
    );

    let by_flag = Bridge::before(&wrong).env("SESSION_BRIDGE_UPSTREAM__URL", &wrong);
    let by_flag = by_flag
        .argument("--upstream")
        .argument(&shop.url())
        .start_unready()
        .await;
    assert_eq!(
        by_flag.send(Call::get("/none").of(&id)).await.status,
        200,
        "a flag beats both"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_whether_store_and_upstream_answer() {
    let shop = Shop::start().await;
    let config = |upstream: &str, store: &str| format!("upstream.url = \"{upstream}\"\nstore.url = \"{store}\"\n");
    let good = run(&["check"], Some(&config(&shop.url(), "memory:")), &[]).await;
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);

    let no_upstream = run(
        &["check"],
        Some(&config(&format!("http://127.0.0.1:{}", unused_port()), "memory:")),
        &[],
    )
    .await;
    assert_eq!(no_upstream.code, 1, "{}{}", no_upstream.stdout, no_upstream.stderr);

    let no_store = run(
        &["check"],
        Some(&config(&shop.url(), &format!("redis://127.0.0.1:{}", unused_port()))),
        &[],
    )
    .await;
    assert_eq!(no_store.code, 1, "{}{}", no_store.stdout, no_store.stderr);

    // A folder where the file should be.
    let folder = run(&["check"], Some(&config(&shop.url(), "sqlite://.")), &[]).await;
    assert_eq!(folder.code, 1, "{}{}", folder.stdout, folder.stderr);
    let line = folder
        .stdout
        .lines()
        .find(|line| line.contains("FAILED"))
        .expect("a failure");
    assert!(line.contains("store sqlite://.: "), "{line}");
    assert!(!line.contains("store.url"), "the store is named once: {line}");

    let none = run(&["check"], Some(""), &[]).await;
    assert_eq!(none.code, 2);
    none.assert_says(&["upstream.url", "serve --upstream"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_install_id_is_wrong_usage() {
    for command in ["show", "end"] {
        for empty in ["", " "] {
            let run = run(&["sessions", command, empty], None, &[]).await;
            assert_eq!(run.code, 2, "{}{}", run.stdout, run.stderr);
            run.assert_says(&["an Install ID is never empty"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_exits_with_0_only_for_a_bridge_that_is_ready() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).start().await;
    let ready = run(
        &["health", "--url", &format!("http://{}/readyz", bridge.ops)],
        None,
        &[],
    )
    .await;
    assert_eq!(ready.code, 0, "{}", ready.stderr);
    let nobody = run(
        &["health", "--url", &format!("http://127.0.0.1:{}/readyz", unused_port())],
        None,
        &[],
    )
    .await;
    assert_eq!(nobody.code, 1);
    assert!(!nobody.stderr.is_empty(), "it says why");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_show_and_end_tell_everything_but_values() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).id_cookies(&["sid"]).start().await;
    let id = InstallId::random();
    let config = format!("upstream.url = \"{}\"\nops.listen = \"{}\"\n", shop.url(), bridge.ops);
    let sessions = async |what: &str| run(&["sessions", what, id.as_str()], Some(&config), &[]).await;

    assert_eq!(sessions("show").await.code, 1, "there is none yet");
    let first = bridge.ok(Call::post("/basket/add").of(&id)).await;
    let shown = sessions("show").await;
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("sid"), "the name of the cookie: {}", shown.stdout);
    assert!(!shown.stdout.contains("shop"), "never its value: {}", shown.stdout);

    assert_eq!(sessions("end").await.code, 0);
    let next = bridge.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(next["started"], true, "the next request starts afresh");
    assert_ne!(next["session"], first["session"]);

    drop(bridge);
    let nobody = sessions("show").await;
    assert_eq!(nobody.code, 1);
    nobody.assert_says(&["no bridge answers at http://127.0.0.1:", "Connection refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_version_are_told_without_a_configuration() {
    let version = run(&["--version"], None, &[]).await;
    assert_eq!(
        (version.code, version.stdout.trim()),
        (0, concat!("session-bridge ", env!("CARGO_PKG_VERSION")))
    );
    let help = run(&["--help"], None, &[]).await;
    assert_eq!(help.code, 0);
    for command in ["serve", "demo", "check", "sessions", "health"] {
        assert!(help.stdout.contains(command), "{command} is not in: {}", help.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_no_store_where_none_is_used() {
    let shop = Shop::start().await;
    let config = format!(
        "upstream.url = \"{}\"\nstore.url = \"redis://127.0.0.1:1\"\nsession.create = \"derive\"\n\
         session.derive.cookie = \"SID\"\n",
        shop.url()
    );
    let good = run(&["check"], Some(&config), &[]).await;
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    assert!(good.stdout.contains("store: none is used"), "{}", good.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_the_user_at_redis_may_not_do_and_leaves_nothing_for_long() {
    let shop = Shop::start().await;
    let redis = RedisServer::start();
    redis.command(&["ACL", "SETUSER", "bridge", "on", ">pass", "~*", "+@all"]);
    let url = format!("redis://bridge:pass@127.0.0.1:{}", redis.port());
    let config = format!("upstream.url = \"{}\"\nstore.url = \"{url}\"\n", shop.url());
    let good = run(&["check"], Some(&config), &[]).await;
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    for key in redis.keys() {
        assert!(redis.number(&["PTTL", &key]) <= 30_000, "{key}");
    }
    for command in [
        "get", "mget", "getrange", "setrange", "pexpire", "del", "incr", "evalsha",
    ] {
        redis.command(&["ACL", "SETUSER", "bridge", "+@all", &format!("-{command}")]);
        let lacking = run(&["check"], Some(&config), &[]).await;
        assert_eq!(lacking.code, 1, "{command}: {}", lacking.stdout);
        assert!(!lacking.stdout.contains("pass"), "{}", lacking.stdout);
    }
    redis.command(&["ACL", "SETUSER", "bridge", "+@all"]);
    let near = format!("{config}near_cache.enabled = true\n");
    let good = run(&["check"], Some(&near), &[]).await;
    assert_eq!(good.code, 0, "{}", good.stdout);
    for command in ["client|tracking", "pttl"] {
        redis.command(&["ACL", "SETUSER", "bridge", "+@all", &format!("-{command}")]);
        let lacking = run(&["check"], Some(&near), &[]).await;
        assert_eq!(lacking.code, 1, "{command}: {}", lacking.stdout);
        assert!(lacking.stdout.contains("near_cache"), "{}", lacking.stdout);
    }
    redis.command(&["ACL", "SETUSER", "bridge", "+@all"]);
    redis.command(&["ACL", "SETUSER", "bridge", "-time"]);
    let limited = format!("{config}limits.new_sessions = \"30/m\"\n");
    assert_eq!(run(&["check"], Some(&limited), &[]).await.code, 1, "limits need TIME");
    redis.command(&["ACL", "SETUSER", "bridge", "+@all"]);
    let unreplicated = run(&["check"], Some(&format!("{config}store.wait_replicas = 1\n")), &[]).await;
    assert_eq!(unreplicated.code, 0, "{}", unreplicated.stdout);
    assert!(
        unreplicated.stdout.contains("fewer replicas"),
        "{}",
        unreplicated.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_databases_and_memcached_and_says_what_memcached_forgets() {
    let shop = Shop::start().await;
    let checked = async |url: &str| {
        let config = format!("upstream.url = \"{}\"\nstore.url = \"{url}\"\n", shop.url());
        run(&["check"], Some(&config), &[]).await
    };
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let mut server = SqlServer::start(kind);
        let good = checked(&server.url()).await;
        assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
        let wrong = checked(&server.url_as("bridge:hunter2")).await;
        assert_eq!(wrong.code, 1, "{}", wrong.stdout);
        server.kill();
        let down = checked(&server.url()).await;
        assert_eq!(down.code, 1, "{}", down.stdout);
        for said in [&good, &wrong, &down] {
            let said = format!("{}{}", said.stdout, said.stderr);
            assert!(
                !said.contains("hunter2") && !said.contains("p%40ss") && !said.contains("p@ss"),
                "{said}"
            );
        }
    }
    let mut servers = [(); 2].map(|()| MemcachedServer::start());
    let url = MemcachedServer::url_of(&servers);
    let good = checked(&url).await;
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    assert!(good.stdout.contains("Memcached forgets"), "{}", good.stdout);
    servers[1].kill();
    let half = checked(&url).await;
    assert_eq!(half.code, 1, "one of the servers is away: {}", half.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_looks_at_the_certificate_and_health_asks_a_bridge_with_one_in_clear() {
    let (shop, authority) = (Shop::start().await, Authority::new("ours"));
    let (one, other) = (authority.issue(&["a.test"]), authority.issue(&["b.test"]));
    let config = |key: &std::path::Path, ops: &str| {
        format!(
            "upstream.url = \"{}\"\nstore.url = \"memory:\"\nops.listen = \"{ops}\"\n\
             [server]\nlisten = \"127.0.0.1:0\"\ntls = {{ cert = {:?}, key = {key:?} }}\n",
            shop.url(),
            one.cert
        )
    };
    let good = run(&["check"], Some(&config(&one.key, "127.0.0.1:0")), &[]).await;
    assert_eq!(good.code, 0, "{}", good.stdout);
    assert!(
        good.stdout.contains("ok      certificate server.tls"),
        "{}",
        good.stdout
    );
    let bad = config(&other.key, "127.0.0.1:0");
    let said = "server.tls.key: is not the key of the certificate in cert";
    let checked = run(&["check"], Some(&bad), &[]).await;
    assert_eq!(checked.code, 1, "{}", checked.stdout);
    assert!(checked.stdout.contains(said), "{}", checked.stdout);
    let served = run(&["serve"], Some(&bad), &[]).await;
    assert_eq!(served.code, 1, "{}", served.stdout);
    assert!(
        format!("{}{}", served.stdout, served.stderr).contains(said),
        "{}",
        served.stdout
    );

    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let bridge = Bridge::before(&shop.url())
        .set("server.tls.cert", path(&one.cert))
        .set("server.tls.key", path(&one.key))
        .start()
        .await;
    let health = run(&["health"], Some(&config(&one.key, &bridge.ops.to_string())), &[]).await;
    assert_eq!(health.code, 0, "{}", health.stderr);
    let url = format!("https://{}/healthz", bridge.traffic);
    let by_tls = run(&["health", "--url", &url], None, &[]).await;
    assert_eq!(by_tls.code, 1);
    by_tls.assert_says(&["the operators' listener"]);
}
