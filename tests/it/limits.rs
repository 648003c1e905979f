//! How many sessions may be started (rule B3, `limits`).

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use tokio::time::Instant;

use crate::support::bridge::{Bridge, BridgeBuilder, strings};
use crate::support::client::{Answer, Call};
use crate::support::fleet::Fleet;
use crate::support::shop::Shop;
use crate::support::{InstallId, scaled};

/// Clients are told apart by what a balancer on this machine says.
fn behind_a_balancer(builder: BridgeBuilder) -> BridgeBuilder {
    builder.set("server.trusted_proxies", strings(&["127.0.0.1"]))
}

fn from(address: &str, call: Call) -> Call {
    call.header("x-forwarded-for", address)
}

fn is_refused(answer: &Answer) -> bool {
    if answer.status == 200 {
        return false;
    }
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (429, "too-many-new-sessions")
    );
    let wait: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!((1..=66).contains(&wait), "{wait}");
    true
}

/// IDs that nobody has seen, the same for the same seed.
fn invented(seed: u64) -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || uuid::Uuid::from_u128(random.u128(1..)).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_invented_ids_starts_no_more_sessions_than_may_and_known_installations_are_served() {
    let fleet = Fleet::configured(3, |builder| {
        behind_a_balancer(builder).set("limits.new_sessions_per_address", "30/m")
    })
    .await;
    let known: Vec<_> = (0..20).map(|_| InstallId::random()).collect();
    for (n, id) in known.iter().enumerate() {
        let call = from(&format!("198.51.100.{n}"), Call::post("/basket/add").of(id));
        fleet.turn(n).ok(call).await;
    }
    assert_eq!(fleet.shop.sessions_started(), 20);

    let (count, began) = (scaled(20_000, 1_000_000), Instant::now());
    let flood = async {
        let requests = stream::iter(invented(1).take(count).enumerate()).map(|(n, id)| {
            let call = Call::post("/basket/add").header("x-install-id", &id);
            let bridge = fleet.turn(n);
            async move { is_refused(&bridge.send(from("203.0.113.9", call)).await) }
        });
        let requests = requests.buffer_unordered(48);
        requests.fold(0, async |sum, refused| sum + usize::from(!refused)).await
    };
    tokio::pin!(flood);
    let (mut served, mut slowest) = (0, Duration::ZERO);
    let started = loop {
        let id = &known[served % known.len()];
        // From the flooded address too: whoever has a session is not counted.
        let call = from("203.0.113.9", Call::post("/basket").of(id));
        let (sent, bridge) = (Instant::now(), fleet.turn(served));
        tokio::select! {
            started = &mut flood => break started,
            json = bridge.ok(call) => assert_eq!(json["basket"], 1),
        }
        slowest = slowest.max(sent.elapsed());
        served += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let took = began.elapsed();
    eprintln!(
        "{count} invented IDs in {took:?}: {started} sessions; {served} requests of known installations, the slowest took {slowest:?}"
    );
    let minutes = usize::try_from(took.as_secs()).unwrap() / 60 + 1;
    assert!((30..=30 * minutes).contains(&started), "{started} in {took:?}");
    assert_eq!(fleet.shop.sessions_started(), 20 + started);
    assert!(served > 20, "{served}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_all_over_all_replicas_no_more_sessions_are_started_than_may() {
    let fleet = Fleet::configured(3, |builder| builder.set("limits.new_sessions", "50/h")).await;
    let ids: Vec<_> = (0..200).map(|_| InstallId::random()).collect();
    let calls = ids.iter().enumerate();
    let answers = join_all(calls.map(|(n, id)| fleet.turn(n).send(Call::post("/basket/add").of(id)))).await;
    let served: Vec<_> = ids
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.status == 200)
        .collect();
    assert_eq!((served.len(), fleet.shop.sessions_started()), (50, 50));
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (429, "too-many-new-sessions")
        );
    }
    for (n, (id, _)) in served.iter().enumerate() {
        assert_eq!(fleet.turn(n).ok(Call::post("/basket/add").of(id)).await["basket"], 2);
    }
    assert!(!fleet.shop.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_requests_of_one_installation_take_one_place_together() {
    let fleet = Fleet::configured(3, |builder| builder.set("limits.new_sessions", "1/h")).await;
    fleet.shop.set_start_delay(Duration::from_millis(200));
    let id = InstallId::random();
    join_all((0..60).map(|n| fleet.turn(n).ok(Call::post("/basket/add").of(&id)))).await;
    assert_eq!(fleet.shop.sessions_started(), 1);
    for bridge in &fleet.bridges {
        let refused = bridge.send(Call::post("/basket").of(&InstallId::random())).await;
        assert_eq!(refused.status, 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_starts_no_session_is_not_counted() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url())
        .id_cookies(&["sid"])
        .set("limits.new_sessions_per_address", "1/h")
        .start()
        .await;
    let id = InstallId::random();
    for _ in 0..5 {
        bridge.ok(Call::post("/none").of(&id)).await;
    }
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    let refused = bridge.send(Call::post("/none").of(&InstallId::random())).await;
    assert_eq!(refused.status, 429, "it might start one");
    bridge.ok(Call::post("/basket").of(&id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_no_trusted_proxy_speaks_for_nobody_else() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url())
        .id_cookies(&["sid"])
        .set("limits.new_sessions_per_address", "1/h")
        .start()
        .await;
    bridge
        .ok(from("198.51.100.1", Call::post("/basket").of(&InstallId::random())))
        .await;
    for n in 2..5 {
        let call = Call::post("/basket").of(&InstallId::random());
        assert_eq!(bridge.send(from(&format!("198.51.100.{n}"), call)).await.status, 429);
    }
    assert_eq!(shop.count(), 1, "the backend was not asked");
}
