//! Sealed records, records of other versions, and records that cannot be read, seen from outside.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use redis::Value;
use serde_json::Value as Json;
use session_bridge::store::sealed::KeyId;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::RwLock;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, scaled};

/// How long a record's head is in Redis: layout, version, expiry.
const HEAD: usize = 21;

const MINUTE: Duration = Duration::from_secs(60);

/// A key and the file that it is in.
struct KeyFile {
    bytes: [u8; 32],
    path: PathBuf,
    _dir: TempDir,
}

impl KeyFile {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let bytes: [u8; 32] = Sha256::digest(name).into();
        std::fs::write(&path, hex(&bytes)).unwrap();
        Self { bytes, path, _dir: dir }
    }

    fn id(&self) -> String {
        KeyId::of(&self.bytes).to_string()
    }

    fn entry(&self) -> String {
        self.path.display().to_string()
    }

    /// What every payload that it sealed begins with.
    fn mark(&self) -> Vec<u8> {
        [vec![0xa1], from_hex(&self.id())].concat()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.trim_end().len()).step_by(2).map(digit).collect()
}

fn with_keys(builder: BridgeBuilder, entries: &[String]) -> BridgeBuilder {
    let entries = entries.iter().map(|entry| toml::Value::from(entry.as_str()));
    builder.set("store.encryption_key_files", entries.collect::<Vec<_>>())
}

/// The name of an installation's record in Redis, and its digest.
fn names(id: &InstallId) -> (String, String) {
    let digest = hex(&Sha256::digest(id.as_str())[..16]);
    (format!("session-bridge:{{{digest}}}"), digest)
}

fn value(redis: &RedisServer, name: &str) -> Vec<u8> {
    match redis.command(&["GET", name]) {
        Value::BulkString(bytes) => bytes,
        other => panic!("{name} is {other:?}"),
    }
}

fn put(redis: &RedisServer, name: &str, value: &[u8]) {
    redis.raw(&[b"SET", name.as_bytes(), value, b"PX", b"1000000"]);
}

fn counted(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("{series} is not among the metrics"))
        .trim()
        .parse()
        .unwrap()
}

fn unreadable(reason: &str) -> String {
    format!("session_bridge_records_unreadable_total{{reason=\"{reason}\"}}")
}

/// A shop, a Redis and a way to start bridges between them.
struct World {
    shop: Shop,
    redis: RedisServer,
    builder: BridgeBuilder,
}

impl World {
    async fn new() -> Self {
        let (shop, redis) = (Shop::start().await, RedisServer::start());
        let builder = Bridge::before(&shop.url())
            .store(&redis.url())
            .set("store.timeout", "5s")
            .id_cookies(&["sid"]);
        Self { shop, redis, builder }
    }

    /// How the records of all installations begin.
    fn marks(&self, length: usize) -> Vec<Vec<u8>> {
        let keys = self.redis.keys();
        let records = keys.iter().filter(|name| name.ends_with('}'));
        // What is remembered of sessions that were ended is never written anew, and outlives any session here.
        let records = records.filter(|name| self.redis.number(&["PTTL", name]) <= 20_000);
        let found = records.filter_map(|name| match self.redis.command(&["GET", name]) {
            Value::BulkString(record) => Some(record[HEAD..HEAD + length].to_vec()),
            // It was ended since it was listed.
            Value::Nil => None,
            other => panic!("{name} is {other:?}"),
        });
        found.collect()
    }
}

/// Shoppers who go through whichever replicas there are, in turn, until they are told to stop.
struct Shoppers {
    stop: AtomicBool,
    replicas: [RwLock<Arc<Bridge>>; 2],
    served: AtomicUsize,
    /// How many have come.
    came: AtomicUsize,
}

impl Shoppers {
    /// A request that must be served, and what it says of the basket.
    async fn basket(&self, turn: u64, path: &str, id: &InstallId) -> u64 {
        let replica = usize::try_from(turn % 2).unwrap();
        let bridge = Arc::clone(&*self.replicas[replica].read().await);
        let answer = bridge.ok(Call::post(path).of(id)).await;
        self.served.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        answer["basket"].as_u64().unwrap_or_default()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// One who stays. With an odd `number` the cookie never changes: its record is written once, and only touched since.
    async fn stays(&self, number: u64) {
        let id = InstallId::marked(self.came.fetch_add(1, Ordering::Relaxed));
        for added in 1.. {
            if !self.goes_on() {
                return;
            }
            let basket = self.basket(number + added, "/basket/add", &id).await;
            assert_eq!(basket, added, "a session was lost or mixed up");
            if number.is_multiple_of(2) && added % 10 == 0 {
                assert_eq!(self.basket(number + added + 1, "/rotate", &id).await, added);
            }
        }
    }

    /// Some who come, shop at both replicas and log out, one after the other.
    async fn come_and_go(&self) {
        while self.goes_on() {
            let number = self.came.fetch_add(1, Ordering::Relaxed);
            let id = InstallId::marked(number);
            for added in 1..=4 {
                assert_eq!(self.basket(number as u64 + added, "/basket/add", &id).await, added);
            }
            self.basket(number as u64, "/logout", &id).await;
        }
    }

    async fn all(&self) {
        let staying = futures_util::future::join_all((0..12).map(|number| self.stays(number)));
        tokio::join!(staying, self.come_and_go());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_is_turned_on_rotated_and_turned_off_under_load_without_a_failed_request() {
    let world = World::new().await;
    let builder = world.builder.clone().set("session.idle_timeout", "10s");
    let (old, new) = (KeyFile::new("old.key"), KeyFile::new("new.key"));
    let clear = "clear".to_owned();
    let start = async |entries: &[String], accept_clear: bool| {
        let builder = with_keys(builder.clone(), entries).set("store.accept_clear", accept_clear);
        Arc::new(builder.start().await)
    };
    let shoppers = Arc::new(Shoppers {
        stop: AtomicBool::new(false),
        replicas: [RwLock::new(start(&[], true).await), RwLock::new(start(&[], true).await)],
        served: AtomicUsize::new(0),
        came: AtomicUsize::new(0),
    });
    let served = || shoppers.served.load(Ordering::Relaxed);
    let load = tokio::spawn({
        let shoppers = Arc::clone(&shoppers);
        async move { shoppers.all().await }
    });

    let in_clear = vec![1_u8];
    // A list, whether records in clear are accepted, and what all records begin with before the next step.
    let steps: [(Vec<String>, bool, Option<Vec<u8>>); 9] = [
        (vec![clear.clone(), old.entry()], true, None),
        (vec![old.entry()], true, Some(old.mark())),
        (vec![old.entry()], false, None),
        (vec![old.entry(), new.entry()], false, None),
        (vec![new.entry(), old.entry()], false, Some(new.mark())),
        (vec![new.entry()], false, None),
        (vec![new.entry()], true, None),
        (vec![clear.clone(), new.entry()], true, Some(in_clear)),
        (Vec::new(), true, None),
    ];
    for (entries, accept_clear, until) in steps {
        for replica in &shoppers.replicas {
            let next = start(&entries, accept_clear).await;
            *replica.write().await = next;
            let before = served();
            eventually("requests through the new replica", MINUTE, async || {
                assert!(!load.is_finished(), "a request failed");
                served() > before + scaled(50, 1000)
            })
            .await;
        }
        // Every record is in use or is removed, so this takes no longer than a tenth of the timeout and a little.
        if let Some(mark) = until {
            eventually("every record to be written anew", MINUTE, async || {
                world.marks(mark.len()).iter().all(|found| *found == mark)
            })
            .await;
        }
    }
    shoppers.stop.store(true, Ordering::Relaxed);
    load.await.expect("no request failed");
    let came = shoppers.came.load(Ordering::Relaxed);
    assert!(came > 12 + 18, "some came in between: {came}");
    assert_eq!(world.shop.sessions_started(), came, "one session for each of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ids_of_the_keys_and_a_file_that_others_may_read_are_told_at_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    let (open, private) = (KeyFile::new("open.key"), KeyFile::new("private.key"));
    for (key, mode) in [(&open, 0o644), (&private, 0o600)] {
        std::fs::set_permissions(&key.path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let entries = [private.entry(), "clear".to_owned(), open.entry()];
    let logs = with_keys(world.builder.clone(), &entries).start().await.logs();
    assert!(
        logs.contains(&format!("{}, clear, {}", private.id(), open.id())),
        "{logs}"
    );
    let warnings = logs.lines().filter(|line| line.contains("may read this sealing key"));
    let warnings: Vec<_> = warnings.collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains(&open.entry()) && warnings[0].contains("WARN"),
        "{logs}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_its_key_overwrites_nothing_and_says_so_once() {
    let world = World::new().await;
    let key = KeyFile::new("only.key");
    let good = with_keys(world.builder.clone(), &[key.entry()]).start().await;
    let forgetful = world.builder.clone().start().await;
    let id = InstallId::random();
    let first = good.ok(Call::post("/basket/add").of(&id)).await;
    let (name, digest) = names(&id);
    let before = value(&world.redis, &name);
    assert!(before[HEAD..].starts_with(&key.mark()));

    for _ in 0..50 {
        let refused = forgetful.send(Call::post("/basket/add").of(&id)).await;
        assert_eq!(refused.status, 503);
        assert_eq!(refused.json()["type"], "urn:session-bridge:problem:store-unavailable");
    }
    assert_eq!(value(&world.redis, &name), before);
    assert_eq!(counted(&forgetful.metrics().await, &unreadable("unknown_key")), 50);
    let logs = forgetful.logs();
    let told: Vec<&str> = logs
        .lines()
        .filter(|line| line.contains("a record cannot be read"))
        .collect();
    // One now and one every ten seconds; fifty requests do not take a minute.
    assert!((1..=6).contains(&told.len()), "{told:#?}");
    let line: Json = serde_json::from_str(told[0]).unwrap();
    let fields = line.get("fields").unwrap_or(&line);
    assert_eq!(
        (&fields["install"], &fields["reason"]),
        (&digest.into(), &"unknown_key".into())
    );
    assert_eq!(line["level"], "ERROR");

    let path = format!("/sessions/{}", id.as_str());
    let shown = forgetful.ops(Call::get(&path)).await;
    let text = shown.text();
    assert_eq!(shown.status, 409, "{text}");
    assert!(
        text.contains("sealed with a key that this replica does not have"),
        "{text}"
    );
    let again = good.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(again["session"], first["session"]);

    let ended = forgetful.ops(Call::new(http::Method::DELETE, &path)).await;
    assert_eq!(ended.status, 204);
    let next = good.ok(Call::post("/basket").of(&id)).await;
    assert_eq!(next["started"], true);
}

/// Values that cannot be read, and why, given a record that can be, and the record of another installation.
fn bad_values(good: &[u8], of_another: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        bytes
    };
    vec![
        ("unknown_format", with(0, 2)),
        ("unknown_format", with(HEAD, 0xa2)),
        ("unknown_key", with(HEAD + 1, !good[HEAD + 1])),
        ("not_authentic", with(good.len() - 1, !good[good.len() - 1])),
        ("not_authentic", with(12, !good[12])),
        ("not_authentic", of_another.to_vec()),
        ("not_sealed", with(HEAD, 1)),
        ("garbled", good[..10].to_vec()),
        ("garbled", good[..HEAD + 12].to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_an_outage_under_reject_and_a_new_session_under_replace() {
    let world = World::new().await;
    let key = KeyFile::new("only.key");
    let builder = with_keys(world.builder.clone(), &[key.entry()]).set("store.accept_clear", false);
    let reject = builder.clone().start().await;
    let replace = builder.set("store.on_unreadable", "replace").start().await;
    let (id, other) = (InstallId::random(), InstallId::random());
    reject.ok(Call::post("/basket/add").of(&id)).await;
    let theirs = reject.ok(Call::post("/login?user=anna").of(&other)).await;
    let (name, _) = names(&id);
    let (good, of_another) = (value(&world.redis, &name), value(&world.redis, &names(&other).0));

    for (reason, bad) in bad_values(&good, &of_another) {
        put(&world.redis, &name, &bad);
        let counts = async |bridge: &Bridge| counted(&bridge.metrics().await, &unreadable(reason));
        let before = (counts(&reject).await, counts(&replace).await);
        let refused = reject.send(Call::post("/basket/add").of(&id)).await;
        assert_eq!(refused.status, 503, "{reason}: {}", refused.text());
        assert_eq!(value(&world.redis, &name), bad, "{reason}: it was left alone");
        assert_eq!(counts(&reject).await, before.0 + 1, "{reason}");

        let fresh = replace.ok(Call::post("/basket/add").of(&id)).await;
        assert_eq!(
            (&fresh["started"], &fresh["basket"]),
            (&true.into(), &1.into()),
            "{reason}"
        );
        assert_ne!(fresh["session"], theirs["session"], "{reason}");
        assert_eq!(counts(&replace).await, before.1 + 1, "{reason}");
        let again = reject.ok(Call::post("/basket/add").of(&id)).await;
        assert_eq!(
            (&again["session"], &again["basket"]),
            (&fresh["session"], &2.into()),
            "{reason}"
        );
    }

    world.redis.command(&["DEL", &name]);
    world.redis.command(&["RPUSH", &name, "a list"]);
    assert_eq!(reject.send(Call::post("/basket").of(&id)).await.status, 503);
    let ended = reject
        .ops(Call::new(http::Method::DELETE, &format!("/sessions/{}", id.as_str())))
        .await;
    assert_eq!(ended.status, 204);
    assert_eq!(reject.ok(Call::post("/basket").of(&id)).await["started"], true);
    let still = reject.ok(Call::post("/basket").of(&other)).await;
    assert_eq!(still["session"], theirs["session"], "the other one has noticed nothing");
}

/// A record as version 0.1.0 stores it; it holds the cookies `PHPSESSID` and `promo`.
const RELEASED: &str = include_str!("../golden/record-format-1.hex");

/// What a later version may have added, as format 2 holds it.
const ADDED: &[u8] = b"\x03\x05hello\xac\x02\x00";

#[tokio::test(flavor = "multi_thread")]
async fn records_of_the_version_before_and_of_the_one_to_come_are_served_and_written_back_in_their_form() {
    let world = World::new().await;
    let bridge = world.builder.clone().id_cookies(&["promo"]).start().await;
    let released = from_hex(RELEASED);
    let to_come = [&[2], &released[1..], ADDED].concat();
    for (form, tail, payload) in [(1_u8, &[][..], &released), (2, ADDED, &to_come)] {
        let id = InstallId::random();
        let (name, _) = names(&id);
        let mut head = vec![1, 0, 0, 0, 0, 0, 0, 1, 46, 0, 0, 0, 9];
        head.extend(4_000_000_000_000_u64.to_be_bytes());
        put(&world.redis, &name, &[&head, payload.as_slice()].concat());

        let shown = bridge.ops(Call::get(&format!("/sessions/{}", id.as_str()))).await;
        assert_eq!(shown.status, 200, "{}", shown.text());
        assert!(shown.text().contains("promo"), "{}", shown.text());
        let answer = bridge
            .send(Call::post("/cookies").of(&id).header("x-set-cookie", "more=1; path=/"))
            .await;
        assert_eq!(answer.status, 200);

        let written = value(&world.redis, &name);
        assert_eq!(
            (written[8], written[HEAD]),
            (47, form),
            "another version of the same form"
        );
        let holds = |text: &[u8]| written.windows(text.len()).any(|window| window == text);
        assert!(holds(b"promo") && holds(b"more"));
        assert!(written.ends_with(tail));
    }

    let id = InstallId::random();
    let (name, _) = names(&id);
    let mut later = vec![1; HEAD];
    later.extend(b"\x03 nobody here knows");
    put(&world.redis, &name, &later);
    assert_eq!(bridge.send(Call::post("/basket").of(&id)).await.status, 503);
    assert_eq!(value(&world.redis, &name), later, "a form to come is left alone");
    assert_eq!(counted(&bridge.metrics().await, &unreadable("unknown_format")), 1);
}
