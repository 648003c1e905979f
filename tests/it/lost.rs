//! A session that the backend does not know any more (rule C4, `session.lost`).

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value as Json;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::fleet::Fleet;
use crate::support::shop::Shop;
use crate::support::{InstallId, scaled};

const BODY: &str = r#"{"items":[1,2,3]}"#;

fn told(builder: BridgeBuilder) -> BridgeBuilder {
    builder
        .set("session.lost.status", vec![401])
        .set("session.lost.redirect", "/login*")
        .set("session.lost.header", "X-Session: dead")
        .route("path = \"/member\"\nreplay = true")
}

fn bridge(shop: &Shop) -> BridgeBuilder {
    let builder = Bridge::before(&shop.url()).id_cookies(&["sid"]);
    told(builder.auth_paths(&["/login*", "/logout*"]))
}

/// How many requests of that path have come.
fn count(shop: &Shop, path: &str) -> usize {
    shop.seen().iter().filter(|target| target.starts_with(path)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_session_is_healed_in_one_request_and_nobody_sees_it() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop).start().await;
    for dead in ["401", "redirect", "header", "401-fresh"] {
        let id = InstallId::random();
        let target = format!("/member?dead={dead}");
        assert_eq!(bridge.ok(Call::post(&target).of(&id).body(BODY)).await["basket"], 1);
        assert_eq!(bridge.ok(Call::post(&target).of(&id).body(BODY)).await["basket"], 2);
        shop.forget_all();
        let before = count(&shop, &target);
        let answer = bridge.send(Call::post(&target).of(&id).body(BODY)).await;
        assert_eq!(answer.status, 200, "{dead}: {}", answer.text());
        assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("location"));
        let json = answer.json();
        assert_eq!((&json["basket"], &json["started"]), (&1.into(), &true.into()), "{dead}");
        assert_eq!(count(&shop, &target) - before, 2, "{dead}: it was sent once more");
        let later = bridge.ok(Call::post(&target).of(&id).body(BODY)).await;
        assert_eq!(
            (&later["basket"], &later["session"]),
            (&2.into(), &json["session"]),
            "{dead}"
        );
    }
    let metrics = bridge.metrics().await;
    assert!(
        metrics.contains("session_bridge_sessions_lost_total{answer=\"healed\"} 4"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_again_gets_a_401_and_the_next_request_starts_afresh() {
    let shop = Shop::start().await;
    let limited = bridge(&shop).set("session.replay_body", "16B").start().await;
    let plain = Bridge::before(&shop.url())
        .id_cookies(&["sid"])
        .set("session.lost.redirect", "/login")
        .set("session.lost.status", vec![401])
        .start()
        .await;
    // A body beyond the limit; a method that is not safe on a route that does not say so.
    for (bridge, dead) in [(&limited, "redirect"), (&plain, "redirect"), (&plain, "401")] {
        let id = InstallId::random();
        let target = format!("/member?dead={dead}");
        bridge.ok(Call::post(&target).of(&id).body(BODY)).await;
        shop.forget_all();
        let before = count(&shop, &target);
        let answer = bridge.send(Call::post(&target).of(&id).body(BODY)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "session-lost"));
        assert!(!answer.headers.contains_key("location") && !answer.headers.contains_key("set-cookie"));
        assert_eq!(count(&shop, &target) - before, 1, "it was not sent again");
        let fresh = bridge.ok(Call::post(&target).of(&id).body(BODY)).await;
        assert_eq!((&fresh["basket"], &fresh["started"]), (&1.into(), &true.into()));
    }
    // A safe method needs no route.
    let id = InstallId::random();
    plain.ok(Call::get("/member").of(&id)).await;
    shop.forget_all();
    assert_eq!(plain.ok(Call::get("/member").of(&id)).await["started"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_page_that_a_fresh_session_gets_too_is_a_401_and_the_fresh_session_stays() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop).start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/login?user=anna").of(&id)).await;
    let target = "/member?guarded=1&dead=redirect";
    assert_eq!(bridge.ok(Call::get(target).of(&id)).await["user"], "anna");
    shop.forget_all();
    let answer = bridge.send(Call::get(target).of(&id)).await;
    assert_eq!((answer.status, answer.problem().as_str()), (401, "session-lost"));
    // Once logged in again, all is well.
    bridge.ok(Call::post("/login?user=anna").of(&id)).await;
    assert_eq!(bridge.ok(Call::get(target).of(&id)).await["user"], "anna");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_that_fails_says_nothing_of_the_session() {
    let shop = Shop::start().await;
    let bridge = told(Bridge::before(&shop.url()).id_cookies(&["sid"]))
        .auth_paths(&["/status/401*"])
        .start()
        .await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    let answer = bridge.send(Call::post("/status/401").of(&id)).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (401, "application/json")
    );
    assert_eq!(
        bridge.ok(Call::post("/basket").of(&id)).await["basket"],
        2,
        "the session is as it was"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_new_cookie_a_guest_who_is_sent_to_the_log_in_page_keeps_the_basket() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop).set("session.lost.with_new_cookie", true).start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    let guest = bridge.send(Call::post("/member?guarded=1&dead=redirect").of(&id)).await;
    assert_eq!((guest.status, guest.header("location")), (302, "/login?next=/member"));
    assert_eq!(
        bridge.ok(Call::post("/basket").of(&id)).await["basket"],
        1,
        "the basket is as it was"
    );
    shop.forget_all();
    let healed = bridge.ok(Call::post("/member?dead=401-fresh").of(&id)).await;
    assert_eq!(
        healed["started"], true,
        "a cookie that the shop did not know is another matter"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_find_the_session_dead_on_however_many_replicas_one_session_takes_its_place() {
    let fleet = Fleet::configured(3, told).await;
    for round in 0..scaled(5, 50) {
        let id = InstallId::random();
        fleet.turn(round).ok(Call::post("/member").of(&id)).await;
        fleet.shop.forget_all();
        fleet.shop.set_start_delay(Duration::from_millis(30));
        let before = fleet.shop.sessions_started();
        let answers = join_all((0..60).map(|n| fleet.turn(n).ok(Call::post("/member").of(&id).body(BODY)))).await;
        let sessions: HashSet<&Json> = answers.iter().map(|answer| &answer["session"]).collect();
        assert_eq!(sessions.len(), 1, "round {round}");
        assert_eq!(fleet.shop.sessions_started() - before, 1, "round {round}");
        let shown = fleet.turn(round).ok(Call::post("/basket").of(&id)).await;
        assert_eq!(
            shown["basket"], 60,
            "round {round}: none was lost and none counted twice"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_taken_the_place_of_the_dead_one_meanwhile_is_gone_on_with() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop).start().await;
    // Whatever it was that replaced it: the report has the last word over nothing.
    for (started, change) in (1..).zip([
        Call::post("/login?user=anna"),
        Call::post("/rotate"),
        Call::get("/rotate"),
    ]) {
        let id = InstallId::random();
        bridge.ok(Call::post("/basket/add").of(&id)).await;
        // It is sent with the session ID that the other one is about to replace, and finds it dead.
        let tag = format!("slow{started}");
        let slow = bridge.ok(Call::post(&format!("/member?tag={tag}&before=500")).of(&id));
        let other = async {
            shop.wait_for_tag(&tag).await;
            bridge.ok(change.clone().of(&id)).await
        };
        let (slow, other) = tokio::join!(slow, other);
        assert_eq!(slow["user"], other["user"], "{change}");
        let now = bridge.ok(Call::post("/basket").of(&id)).await;
        assert_eq!(
            (&now["basket"], &now["session"]),
            (&2.into(), &slow["session"]),
            "{change}"
        );
        assert_eq!(shop.sessions_started(), started, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_turn_of_a_request_that_is_sent_again_is_its_own() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop).set("session.max_in_flight", 1).start().await;
    let id = InstallId::random();
    bridge.ok(Call::post("/member").of(&id)).await;
    shop.forget_all();
    shop.most_in_flight();
    let answers = join_all((0..10).map(|_| bridge.ok(Call::post("/member?after=5").of(&id)))).await;
    assert_eq!(answers.len(), 10);
    assert_eq!(shop.most_in_flight(), 1);
    assert_eq!(bridge.ok(Call::post("/basket").of(&id)).await["basket"], 10);
}
