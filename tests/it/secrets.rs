//! No secret leaves the bridge on a way that is not its own (I4, F5).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;

use crate::support::bridge::Bridge;
use crate::support::client::Call;
use crate::support::gate::Gate;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, local, scaled};

const API_KEY: &str = "apikeyneedle-5f0c1d";
const WRONG_KEY: &str = "wrongkeyneedle-77aa";
const STORE_PASSWORD: &str = "storepasswordneedle";
/// What records are sealed with, as its file has it.
const SEALING_KEY: &str = "5ea11e0c0ffee1234567890abcdef00d11223344556677889900aabbccddeeff";
/// Parts of it: as above, as base64 in lower case, as a list of numbers.
const SEALING_KEY_PARTS: [&str; 3] = ["5ea11e0c0ffee", "xqeeda/+4snf", "94, 161, 30"];
/// In every cookie that the client sends, which goes nowhere.
const CLIENT_COOKIE: &str = "clientcookieneedle";
/// In every cookie that the backend sets besides its session.
const BACKEND_COOKIE: &str = "backendcookieneedle";

/// Fails when a secret of this test is in `text`, or a session ID of the shop: `shop` and 32 hexadecimal digits.
fn assert_no_secret_in(place: &str, text: &str) {
    let lower = text.to_lowercase();
    let bare_id = InstallId::MARK.replace('-', "");
    let needles = [
        API_KEY,
        WRONG_KEY,
        STORE_PASSWORD,
        CLIENT_COOKIE,
        BACKEND_COOKIE,
        InstallId::MARK,
        &bare_id,
    ];
    for needle in needles.into_iter().chain(SEALING_KEY_PARTS) {
        if let Some(line) = lower.lines().find(|line| line.contains(needle)) {
            panic!("{needle} is in {place}: {line}");
        }
    }
    let session = lower.match_indices("shop").find(|(at, _)| {
        lower
            .as_bytes()
            .get(at + 4..at + 36)
            .is_some_and(|id| id.iter().all(u8::is_ascii_hexdigit))
    });
    assert!(session.is_none(), "a session ID is in {place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_logs_nor_metrics_nor_refusals_nor_redis_keys_show_a_secret() {
    let shop = Shop::start().await;
    let password = format!(">{STORE_PASSWORD}");
    let redis = RedisServer::start_with(&["--user", "bridge", "on", &password, "~*", "&*", "+@all"]);
    let gate = Gate::to(local(redis.port())).await;
    let api_keys = vec![toml::Value::from(API_KEY)];
    let sealing_key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(sealing_key.path(), SEALING_KEY).unwrap();
    let sealing_keys = vec![toml::Value::from(sealing_key.path().to_str().unwrap())];
    let bridge = Bridge::before(&shop.url())
        .store(&format!("redis://bridge:{STORE_PASSWORD}@127.0.0.1:{}/0", gate.port()))
        .id_cookies(&["sid"])
        .auth_paths(&["/login*", "/logout*"])
        .set("access.api_keys", api_keys)
        .set("store.encryption_key_files", sealing_keys)
        .set("upstream.response_timeout", "400ms")
        .set("log.level", "trace")
        .start()
        .await;

    let ids: Vec<_> = (0..50).map(InstallId::marked).collect();
    let refusals = AtomicUsize::new(0);
    let requests = scaled(2_000, 10_000);
    let exchange = async |step: usize| {
        let id = &ids[step / 10 % ids.len()];
        let answer = bridge.send(request(step, id)).await;
        if answer.header("content-type") == "application/problem+json" {
            refusals.fetch_add(1, Ordering::Relaxed);
            assert_no_secret_in("a refusal", &answer.text());
        }
        assert_no_secret_in("the head of a response", &format!("{:?}", answer.headers));
    };
    stream::iter(0..requests).for_each_concurrent(32, exchange).await;
    for id in &ids {
        bridge.ok(Call::post("/basket").of(id).header("key", API_KEY)).await;
    }
    let keys = redis.keys();
    // Records that the key opens no more: those are told too. What remembers a log-out looks alike and is not read.
    for sealed in keys.iter().filter(|name| name.ends_with('}')).take(ids.len()) {
        redis.command(&["SETRANGE", sealed, "40", "broken"]);
    }
    stream::iter(0..requests / 4).for_each_concurrent(8, exchange).await;
    gate.cut();
    stream::iter(0..100).for_each_concurrent(8, exchange).await;

    assert!(
        refusals.load(Ordering::Relaxed) > requests / 10,
        "refusals were among them"
    );
    assert!(
        keys.len() >= ids.len(),
        "there is a key for each installation: {keys:?}"
    );
    assert_no_secret_in("the keys in Redis", &keys.join("\n"));
    let last = Call::get("/").header("x-request-id", "the-last-one");
    bridge.send(last.header("key", API_KEY)).await;
    eventually("the log of all of them", Duration::from_secs(10), async || {
        bridge.logs().contains("the-last-one")
    })
    .await;
    let logs = bridge.logs();
    assert!(
        logs.contains("TRACE") || logs.contains("DEBUG"),
        "the log is at its most talkative"
    );
    assert!(logs.contains("a record cannot be read"), "the broken record was met");
    assert_no_secret_in("the log", &logs);
    assert_no_secret_in("the metrics", &bridge.metrics().await);
    let session = bridge.ops(Call::get(&format!("/sessions/{}", ids[0].as_str()))).await;
    assert_no_secret_in("what operators are shown of a session", &session.text());
    assert_no_secret_in("the status page", &bridge.ops(Call::get("/")).await.text());
}

/// Requests of every kind: served, refused, broken, with the ID in the header and in the body.
fn request(step: usize, id: &InstallId) -> Call {
    let in_header = |call: Call| call.of(id);
    let in_body = |call: Call| call.body(format!("{{\"installId\": \"{}\", \"x\":, }}", id.as_str()));
    let call = match step % 10 {
        0 => in_header(Call::post("/basket/add")),
        1 => in_body(Call::post("/basket/add")),
        2 => in_header(Call::post("/login?user=anna")),
        3 => in_header(Call::post("/rotate")),
        4 => in_header(Call::post("/cookies").header("x-set-cookie", &format!("promo={BACKEND_COOKIE}{step}; path=/"))),
        5 => in_header(Call::post("/cookies").header(
            "x-set-cookie",
            &format!("__Host-x={BACKEND_COOKIE}; domain=elsewhere.example"),
        )),
        6 => in_header(Call::post("/abort")),
        7 => Call::post("/basket").header("x-install-id", &format!("{}x", id.as_str())),
        8 if step % 50 == 8 => in_header(Call::post("/none?before=2000")),
        8 => Call::post("/basket"),
        _ => in_header(Call::post("/logout")),
    };
    let call = call.header("cookie", &format!("sid={CLIENT_COOKIE}; x={CLIENT_COOKIE}"));
    match step % 7 {
        0 => call.header("authorization", &format!("Bearer {WRONG_KEY}")),
        1 => call.header("key", API_KEY),
        _ => call.header("authorization", &format!("Bearer {API_KEY}")),
    }
}
