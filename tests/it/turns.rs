//! How many requests of one installation the backend works on at once (`session.max_in_flight`).

use futures_util::future::join_all;

use crate::support::InstallId;
use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::real::{Framework, RealShop};
use crate::support::shop::Shop;

fn limited(upstream: &str, most: i64) -> BridgeBuilder {
    Bridge::before(upstream)
        .store("memory:")
        .set("session.max_in_flight", most)
}

/// Sends `count` requests of the installation at once, all of which are answered.
async fn at_once(bridge: &Bridge, id: &InstallId, target: &str, count: usize) {
    let answers = join_all((0..count).map(|_| bridge.send(Call::post(target).of(id)))).await;
    for answer in answers {
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_requests_of_an_installation_go_at_once_than_may() {
    let shop = Shop::start().await;
    let bridge = limited(&shop.url(), 2).start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    shop.most_in_flight();
    // The body is a part of the request: a backend that locks its session gives the lock back at its end.
    for target in ["/basket/add?after=20", "/basket/add?late=20"] {
        at_once(&bridge, &id, target, 20).await;
        assert_eq!(shop.most_in_flight(), 2, "{target}");
    }
    let ids: Vec<_> = (0..10).map(|_| InstallId::random()).collect();
    join_all(ids.iter().map(|id| at_once(&bridge, id, "/basket/add?after=300", 1))).await;
    assert!(shop.most_in_flight() > 2, "others do not wait for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_out_with_what_those_before_it_have_changed() {
    let shop = Shop::start().await;
    let bridge = limited(&shop.url(), 1).id_cookies(&["sid"]).start().await;
    let id = InstallId::random();
    // Each one kills the session ID that it came with. Sent at once to the backend, all but one would lose the basket.
    at_once(&bridge, &id, "/basket/add", 1).await;
    at_once(&bridge, &id, "/rotate?after=5", 20).await;
    assert_eq!(bridge.ok(Call::post("/basket").of(&id)).await["basket"], 1);
    assert_eq!(shop.sessions_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_be_without_the_limit_and_a_turn_that_does_not_come_is_told() {
    let shop = Shop::start().await;
    let bridge = limited(&shop.url(), 1)
        .set("session.turn_wait", "100ms")
        .route("path = \"/none\"\nunlimited = true")
        .start()
        .await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    let slow = bridge.send(Call::post("/basket/add?tag=slow&after=3000").of(&id));
    let others = async {
        shop.wait_for_tag("slow").await;
        let refused = bridge.send(Call::post("/basket").of(&id)).await;
        assert_eq!(refused.status, 503);
        assert!(
            refused.problem().ends_with("session-wait-timeout"),
            "{}",
            refused.text()
        );
        assert!(refused.headers.contains_key("retry-after"));
        assert!(!shop.has_seen("/basket?"), "the backend was not asked");
        bridge.ok(Call::post("/none").of(&id)).await;
    };
    let (slow, ()) = tokio::join!(slow, others);
    assert_eq!(slow.status, 200);
    bridge.ok(Call::post("/basket").of(&id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_gives_its_turn_back() {
    let shop = Shop::start().await;
    let bridge = limited(&shop.url(), 1).start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    for target in ["/basket/add?tag=left&after=300", "/endless?tag=endless"] {
        let tag = if target.contains("left") { "left" } else { "endless" };
        tokio::select! {
            _ = bridge.send(Call::post(target).of(&id)) => {}
            () = shop.wait_for_tag(tag) => {}
        }
        bridge.ok(Call::post("/basket").of(&id)).await;
    }
}

/// PHP locks the session file for the whole of a request, so a single worker is all that one installation can use.
#[tokio::test(flavor = "multi_thread")]
async fn a_php_shop_that_locks_its_sessions_counts_every_request() {
    let shop = RealShop::start(Framework::Php).await;
    let bridge = limited(&shop.url(), 1).id_cookies(&["PHPSESSID"]).start().await;
    let id = InstallId::random();
    at_once(&bridge, &id, "/basket/add", 40).await;
    assert_eq!(bridge.ok(Call::post("/basket").of(&id)).await["basket"], 40);
}
