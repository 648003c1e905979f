//! What the bridge asks of Redis and leaves there, counted by Redis itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, scaled};

/// How long a new session counts as one that is still being started (S1), here: requests look closer at it until then.
const BODY_WAIT: Duration = Duration::from_millis(50);

fn before(shop: &Shop, redis: &RedisServer) -> BridgeBuilder {
    Bridge::before(&shop.url())
        .store(&redis.url())
        .set("session.body_wait", "50ms")
        .id_cookies(&["sid"])
        .auth_paths(&["/login*", "/logout*"])
}

/// How many commands Redis was sent, but for those that have nothing to do with requests: readiness (the bridge's and
/// the connection's own) and this very question. A script is one command, and what it does are some more.
fn commands(redis: &RedisServer) -> u64 {
    let statistics = redis.text(&["INFO", "commandstats"]);
    let calls = statistics.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let of_requests = !matches!(name, "info" | "set" | "ping" | "role") && !name.contains('|');
        of_requests.then(|| {
            rest.split(',')
                .next()
                .expect("a count")
                .parse::<u64>()
                .expect("a number")
        })
    });
    calls.sum()
}

/// Sessions of `count` installations that are older than [`BODY_WAIT`].
async fn sessions(bridge: &Bridge, count: usize) -> Vec<InstallId> {
    let ids: Vec<_> = (0..count).map(|_| InstallId::random()).collect();
    for id in &ids {
        bridge.ok(Call::post("/basket/add").of(id)).await;
    }
    tokio::time::sleep(BODY_WAIT).await;
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_session_costs_redis_one_command() {
    let (shop, redis) = (Shop::start().await, RedisServer::start());
    let bridge = before(&shop, &redis).start().await;
    let ids = sessions(&bridge, 20).await;
    let (all, loads) = (commands(&redis), redis.calls("get"));
    for _ in 0..10 {
        for id in &ids {
            bridge.ok(Call::post("/basket").of(id)).await;
        }
    }
    assert_eq!(redis.calls("get") - loads, 200, "a load each");
    assert_eq!(commands(&redis) - all, 200, "and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_without_an_expiry() {
    let (shop, redis) = (Shop::start().await, RedisServer::start());
    let bridge = before(&shop, &redis).start().await;
    let ids = sessions(&bridge, 30).await;
    for (number, id) in ids.iter().enumerate() {
        let path = ["/login", "/rotate", "/logout", "/refresh", "/basket/add"][number % 5];
        bridge.ok(Call::post(path).of(id)).await;
        // One that starts no session leaves the count of such leaders, one that is being started a lease.
        bridge.ok(Call::post("/none").of(&InstallId::random())).await;
    }
    let slow = InstallId::random();
    let starting = bridge.send(Call::post("/basket/add?before=500&tag=slow").of(&slow));
    let looking = async {
        shop.wait_for_tag("slow").await;
        let keys = redis.keys();
        for kind in [":lease", ":barren", ":ping"] {
            assert!(
                keys.iter().any(|key| key.ends_with(kind)),
                "{kind} is not among {keys:?}"
            );
        }
        assert!(keys.iter().filter(|key| key.ends_with('}')).count() >= 24, "{keys:?}");
        for key in keys {
            // -2: it has run out since.
            assert_ne!(redis.number(&["PTTL", &key]), -1, "{key}");
        }
    };
    tokio::join!(starting, looking);
}

#[tokio::test(flavor = "multi_thread")]
async fn sliding_writes_at_most_once_in_a_tenth_of_the_timeout() {
    let (shop, redis) = (Shop::start().await, RedisServer::start());
    let builder = before(&shop, &redis).set("session.idle_timeout", "5s");
    let (here, there) = (builder.clone().start().await, builder.start().await);
    let started = Instant::now();
    let ids = sessions(&here, 5).await;
    let (scripts, moves) = (redis.calls("evalsha") + redis.calls("eval"), redis.calls("pexpire"));
    let mut requests = 0_u64;
    while started.elapsed() < Duration::from_millis(2600) {
        for id in &ids {
            for bridge in [&here, &there] {
                bridge.ok(Call::post("/basket").of(id)).await;
                requests += 1;
            }
        }
    }
    let (scripts, moves) = (
        redis.calls("evalsha") + redis.calls("eval") - scripts,
        redis.calls("pexpire") - moves,
    );
    // A tenth is half a second: five times in 2.6 s, at least four of them whatever the machine does. Two replicas may
    // see at the same moment that it is time.
    let tenths = u64::try_from(started.elapsed().as_millis() / 500).expect("a small number");
    let each = u64::try_from(ids.len()).expect("a small number");
    eprintln!("{moves} moves and {scripts} changes for {requests} requests in {tenths} tenths");
    assert!(moves >= 4 * each, "it does slide: {moves}");
    assert!(moves <= 2 * tenths * each, "{moves} in {tenths} tenths");
    assert!(
        scripts <= 2 * tenths * each + 2,
        "and nothing else is written: {scripts}"
    );
    assert!(requests > 10 * scripts, "{requests} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_sessions_take_less_than_600_megabytes() {
    let (shop, redis) = (Shop::start().await, RedisServer::start());
    let bridge = before(&shop, &redis)
        .set("store.key_prefix", "session-bridge:")
        .start()
        .await;
    // What a shop keeps: a session ID, a CSRF token that lives as long, a language, a basket.
    let id = InstallId::random();
    let mut call = Call::get("/cookies").of(&id);
    for line in [
        "sid=6f1d0a8e5b3c4792a1e8d7c6b5a49382; Path=/; HttpOnly; SameSite=Lax",
        "csrftoken=Zk3xN8wQp5Rt7Yv2Bm9Ls4Dj6Hf1GcAeUiOoPqWrTyXzKnMbVcXzLkJhGfDsAqWe; Path=/; Max-Age=31449600",
        "language=de-DE; Path=/; Max-Age=31536000",
        "basket=c0ffee12; Path=/; Max-Age=604800",
    ] {
        call = call.header("x-set-cookie", line);
    }
    bridge.ok(call).await;
    let mut key = None;
    eventually("the record", Duration::from_secs(5), async || {
        key = redis.keys().into_iter().find(|key| key.ends_with('}'));
        key.is_some()
    })
    .await;
    let key = key.expect("it was found");
    let size = redis.number(&["STRLEN", &key]);
    let redis::Value::BulkString(record) = redis.command(&["DUMP", &key]) else {
        panic!("no record");
    };

    let count = scaled(100_000, 1_000_000);
    let used = || {
        let text = redis.text(&["INFO", "memory"]);
        let line = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.expect("used_memory").trim().parse::<usize>().expect("a number")
    };
    let before = used();
    let mut connection = redis.connection();
    for first in (0..count).step_by(1000) {
        let mut batch = redis::pipe();
        for number in first..first + 1000 {
            let name = format!("session-bridge:{{{number:032x}}}");
            batch
                .cmd("RESTORE")
                .arg(name)
                .arg(2_592_000_000_u64)
                .arg(record.as_slice())
                .ignore();
        }
        batch.query::<()>(&mut connection).expect("they are taken");
    }
    let each = (used() - before) / count;
    eprintln!("{count} sessions with records of {size} bytes take {each} bytes each: {each} MB a million");
    assert!(each < 600, "{each} bytes a session");
}
