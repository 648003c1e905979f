//! Who may have a session: binding to a network (rule B1) and adoption (rule B2).

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::bridge::{Bridge, BridgeBuilder, strings};
use crate::support::client::Call;
use crate::support::fleet::Fleet;
use crate::support::shop::Shop;
use crate::support::{InstallId, scaled};

/// Clients are told apart by what a balancer on this machine says.
fn behind_a_balancer(builder: BridgeBuilder) -> BridgeBuilder {
    builder.set("server.trusted_proxies", strings(&["127.0.0.1"]))
}

fn bound(builder: BridgeBuilder) -> BridgeBuilder {
    behind_a_balancer(builder).set("session.bind.client_address", "/24,/56")
}

fn from(address: &str, call: Call) -> Call {
    call.header("x-forwarded-for", address)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_presented_from_another_network_never_gets_the_session() {
    let shop = Shop::start().await;
    let bridge = bound(Bridge::before(&shop.url()).id_cookies(&["sid"])).start().await;
    let id = InstallId::random();
    let own = bridge
        .ok(from("192.0.2.1", Call::post("/login?user=anna").of(&id)))
        .await;
    assert_eq!(
        bridge.ok(from("192.0.2.77", Call::post("/basket/add").of(&id))).await["basket"],
        1
    );
    for elsewhere in ["192.0.3.1", "2001:db8::1", "2001:db8:0:100::1"] {
        let theirs = bridge.ok(from(elsewhere, Call::post("/basket").of(&id))).await;
        assert_eq!(
            (&theirs["basket"], &theirs["user"]),
            (&0.into(), &serde_json::Value::Null),
            "{elsewhere}"
        );
        assert_ne!(theirs["session"], own["session"]);
        // A session of its own, which lasts, and whose log-in is nobody else's.
        let again = bridge.ok(from(elsewhere, Call::post("/basket/add").of(&id))).await;
        assert_eq!(
            (&again["basket"], &again["session"]),
            (&1.into(), &theirs["session"]),
            "{elsewhere}"
        );
        bridge
            .ok(from(elsewhere, Call::post("/login?user=mallory").of(&id)))
            .await;
    }
    let mine = bridge.ok(from("192.0.2.200", Call::post("/basket").of(&id))).await;
    assert_eq!(
        (&mine["basket"], &mine["user"]),
        (&1.into(), &"anna".into()),
        "the owner notices nothing"
    );
    assert_eq!(mine["session"], own["session"]);
    assert_eq!(shop.sessions_started(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_from_elsewhere_is_refused_where_that_is_asked_for() {
    let shop = Shop::start().await;
    let bridge = behind_a_balancer(Bridge::before(&shop.url()).id_cookies(&["sid"]))
        .set("session.bind.client_address", "exact")
        .set("session.bind.on_mismatch", "reject")
        .start()
        .await;
    let id = InstallId::random();
    bridge.ok(from("192.0.2.1", Call::post("/basket/add").of(&id))).await;
    let refused = bridge.send(from("192.0.2.2", Call::post("/basket").of(&id))).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (403, "session-bound-elsewhere")
    );
    assert_eq!(shop.count(), 1, "the backend was not asked");
    bridge.ok(from("192.0.2.1", Call::post("/basket/add").of(&id))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_no_trusted_proxy_cannot_say_where_it_is() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url())
        .id_cookies(&["sid"])
        .set("session.bind.client_address", "exact")
        .start()
        .await;
    let id = InstallId::random();
    let first = bridge.ok(from("192.0.2.1", Call::post("/basket").of(&id))).await;
    let second = bridge.ok(from("192.0.2.2", Call::post("/basket").of(&id))).await;
    assert_eq!(first["session"], second["session"], "both are 127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_requests_from_three_networks_at_once_on_three_replicas_share_no_session() {
    let fleet = Fleet::configured(3, bound).await;
    fleet.shop.set_start_delay(Duration::from_millis(50));
    for round in 0..scaled(5, 50) {
        let id = InstallId::random();
        let requests = (0..45).map(|n| {
            let (network, id) = (n % 3, id.clone());
            let call = from(&format!("192.0.{network}.{n}"), Call::post("/basket/add").of(&id));
            let bridge = fleet.turn(n / 3);
            async move {
                (
                    network,
                    bridge.ok(call).await["session"].as_str().expect("a session").to_owned(),
                )
            }
        });
        let mut sessions: HashMap<usize, HashSet<String>> = HashMap::new();
        for (network, session) in join_all(requests).await {
            sessions.entry(network).or_default().insert(session);
        }
        let all: HashSet<&String> = sessions.values().flatten().collect();
        assert_eq!(all.len(), 3, "round {round}: {sessions:?}");
        assert!(
            sessions.values().all(|of_network| of_network.len() == 1),
            "round {round}: {sessions:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_costs_no_other_network_its_own() {
    let shop = Shop::start().await;
    let bridge = bound(
        Bridge::before(&shop.url())
            .id_cookies(&["sid"])
            .auth_paths(&["/login*", "/logout*"]),
    )
    .set("limits.new_sessions_per_address", "1/h")
    .start()
    .await;
    let id = InstallId::random();
    // Whoever learnt the ID was there first, and goes.
    bridge.ok(from("192.0.3.1", Call::post("/basket").of(&id))).await;
    let own = bridge
        .ok(from("192.0.2.1", Call::post("/login?user=anna").of(&id)))
        .await;
    bridge.ok(from("192.0.3.1", Call::post("/logout").of(&id))).await;
    for _ in 0..2 {
        let mine = bridge.ok(from("192.0.2.1", Call::post("/basket/add").of(&id))).await;
        assert_eq!(
            (&mine["user"], &mine["session"]),
            (&"anna".into(), &own["session"]),
            "another client has ended the session"
        );
    }
    assert_eq!(shop.sessions_started(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_from_elsewhere_keeps_no_session_alive() {
    let shop = Shop::start().await;
    let bridge = bound(Bridge::before(&shop.url()).id_cookies(&["sid"]))
        .set("session.idle_timeout", "3s")
        .start()
        .await;
    let id = InstallId::random();
    let own = bridge.ok(from("192.0.2.1", Call::post("/basket").of(&id))).await;
    let used = Instant::now();
    while used.elapsed() < Duration::from_millis(3500) {
        bridge.ok(from("192.0.3.1", Call::post("/basket").of(&id))).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let later = bridge.ok(from("192.0.2.1", Call::post("/basket").of(&id))).await;
    assert_ne!(later["session"], own["session"], "others have kept it alive");
}

fn adopting(builder: BridgeBuilder) -> BridgeBuilder {
    behind_a_balancer(builder)
        .set("install_id.on_missing", "pass")
        .set("session.adopt.enabled", true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_id_goes_on_with_the_newest_session_of_its_address_in_which_nothing_is_at_stake() {
    let fleet = Fleet::configured(2, adopting).await;
    let (old, new) = (InstallId::random(), InstallId::random());
    let look = |id: &InstallId| from("192.0.2.1", Call::get("/basket").of(id));
    fleet.turn(0).ok(look(&old)).await;
    let newest = fleet.turn(1).ok(look(&new)).await;
    for replica in 0..2 {
        let adopted = fleet.turn(replica).ok(from("192.0.2.1", Call::get("/basket"))).await;
        assert_eq!(
            (&adopted["session"], &adopted["started"]),
            (&newest["session"], &false.into())
        );
    }
    let other = fleet.turn(0).ok(from("192.0.2.2", Call::get("/basket"))).await;
    assert_eq!(
        (&other["started"], other["cookies"].as_str()),
        (&true.into(), Some("")),
        "another address"
    );
    // What does something adopts nothing.
    let does = fleet.turn(0).ok(from("192.0.2.1", Call::post("/basket/add"))).await;
    assert_eq!(does["started"], true);
    assert_eq!(fleet.turn(1).ok(look(&new)).await["basket"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_which_something_was_done_is_adopted_by_nobody_from_when_the_backend_is_asked() {
    let fleet = Fleet::configured(2, adopting).await;
    let id = InstallId::random();
    fleet.turn(0).ok(from("192.0.2.1", Call::get("/basket").of(&id))).await;
    // While it is under way already.
    let does = fleet
        .turn(0)
        .ok(from("192.0.2.1", Call::post("/basket/add?tag=slow&after=1000").of(&id)));
    let looks = async {
        fleet.shop.wait_for_tag("slow").await;
        fleet.turn(1).ok(from("192.0.2.1", Call::get("/basket"))).await
    };
    let (does, looks) = tokio::join!(does, looks);
    assert_eq!((&does["basket"], &looks["started"]), (&1.into(), &true.into()));
    let later = fleet.turn(1).ok(from("192.0.2.1", Call::get("/basket"))).await;
    assert_eq!((&later["started"], &later["basket"]), (&true.into(), &0.into()));
    // A session that began with it never was adoptable.
    let at_once = InstallId::random();
    fleet
        .turn(0)
        .ok(from("192.0.2.9", Call::post("/basket/add").of(&at_once)))
        .await;
    assert_eq!(
        fleet.turn(0).ok(from("192.0.2.9", Call::get("/basket"))).await["started"],
        true
    );
    assert_eq!(
        fleet
            .turn(1)
            .ok(from("192.0.2.9", Call::post("/basket").of(&at_once)))
            .await["basket"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_its_turn_adopts_nothing_in_which_something_was_done_meanwhile() {
    let shop = Shop::start().await;
    let bridge = adopting(Bridge::before(&shop.url()))
        .set("session.max_in_flight", 1)
        .start()
        .await;
    let id = InstallId::random();
    bridge.ok(from("192.0.2.1", Call::get("/basket").of(&id))).await;
    let look = bridge.ok(from("192.0.2.1", Call::get("/basket?tag=slow&after=700").of(&id)));
    let does = async {
        shop.wait_for_tag("slow").await;
        bridge.ok(from("192.0.2.1", Call::post("/basket/add").of(&id))).await
    };
    let stranger = async {
        shop.wait_for_tag("slow").await;
        // Behind the one that does something; before it, there is nothing to see.
        tokio::time::sleep(Duration::from_millis(200)).await;
        bridge.ok(from("192.0.2.1", Call::get("/basket"))).await
    };
    let (_, does, stranger) = tokio::join!(look, does, stranger);
    assert_eq!((&does["basket"], &stranger["basket"]), (&1.into(), &0.into()));
    assert_ne!(does["session"], stranger["session"]);
}
