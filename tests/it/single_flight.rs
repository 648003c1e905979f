//! One installation, one session (S1, S2, S3).

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value as Json;
use tokio::time::Instant;

use crate::support::InstallId;
use crate::support::client::Call;
use crate::support::cluster::ClusterNodes;
use crate::support::fleet::{self, Fleet};
use crate::support::memcached::MemcachedServer;
use crate::support::raw::RawStream;
use crate::support::sentinel::Sentinels;
use crate::support::shop::Shop;
use crate::support::sql::{Kind, SqlServer};

const SECOND: Duration = Duration::from_secs(1);

/// Sends `count` requests of one installation at once, in turn over the replicas; all must be answered with 200.
async fn at_once(fleet: &Fleet, id: &InstallId, count: usize, call: impl Fn(usize) -> Call) -> Vec<Json> {
    join_all((0..count).map(|n| fleet.turn(n).ok(call(n).of(id)))).await
}

fn sessions(answers: &[Json]) -> HashSet<&str> {
    answers
        .iter()
        .map(|json| json["session"].as_str().expect("a session"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_requests_on_three_replicas_start_one_session() {
    let fleet = Fleet::of(3).await;
    fleet.shop.set_start_delay(Duration::from_millis(300));
    let id = InstallId::random();
    let answers = at_once(&fleet, &id, 1000, |_| Call::post("/basket/add")).await;
    assert_eq!(fleet.shop.sessions_started(), 1);
    assert_eq!(sessions(&answers).len(), 1, "all of them were in that session");
    assert_eq!(
        fleet.bridges[0].ok(Call::post("/basket").of(&id)).await["basket"],
        1000,
        "and none was lost"
    );
}

/// The same over another store than Redis, and once more with two hundred installations at once.
async fn storm(store: &str) {
    let shop = Shop::start().await;
    shop.set_start_delay(Duration::from_millis(300));
    let bridges = fleet::start(3, &fleet::builder(&shop, store)).await;
    let at_once = async |id: &InstallId, count: usize| {
        let calls = (0..count).map(|n| bridges[n % 3].ok(Call::post("/basket/add").of(id)));
        join_all(calls).await
    };
    let id = InstallId::random();
    let answers = at_once(&id, 1000).await;
    assert_eq!(shop.sessions_started(), 1);
    assert_eq!(sessions(&answers).len(), 1, "all of them were in that session");
    assert_eq!(
        bridges[0].ok(Call::post("/basket").of(&id)).await["basket"],
        1000,
        "and none was lost"
    );
    shop.set_start_delay(Duration::from_millis(50));
    let ids: Vec<_> = (0..200).map(|_| InstallId::random()).collect();
    let answers = join_all(ids.iter().map(|id| at_once(id, 5))).await;
    assert_eq!(shop.sessions_started(), 201);
    assert!(answers.iter().all(|answers| sessions(answers).len() == 1));
    assert_eq!(sessions(&answers.concat()).len(), 200, "nobody shares a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_requests_start_one_session_over_postgres() {
    let server = SqlServer::start(Kind::Postgres);
    storm(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_requests_start_one_session_over_mariadb() {
    let server = SqlServer::start(Kind::MariaDb);
    storm(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_requests_start_one_session_over_memcached() {
    let servers = [(); 3].map(|()| MemcachedServer::start());
    storm(&MemcachedServer::url_of(&servers)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_requests_start_one_session_under_sentinel() {
    let redis = Sentinels::start().await;
    storm(&redis.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_first_requests_start_one_session_over_a_cluster() {
    let redis = ClusterNodes::start().await;
    storm(&redis.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_installations_with_twenty_requests_each_start_two_hundred_sessions() {
    let fleet = Fleet::of(3).await;
    fleet.shop.set_start_delay(Duration::from_millis(50));
    let ids: Vec<_> = (0..200).map(|_| InstallId::random()).collect();
    let answers = join_all(
        ids.iter()
            .map(|id| at_once(&fleet, id, 20, |_| Call::post("/basket/add"))),
    )
    .await;
    assert_eq!(fleet.shop.sessions_started(), 200);
    for answers in &answers {
        assert_eq!(sessions(answers).len(), 1, "each installation has its one session");
    }
    assert_eq!(sessions(&answers.concat()).len(), 200, "and shares it with nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_takes_twenty_seconds_to_start_a_session_starts_one() {
    let fleet = Fleet::configured(3, |builder| {
        builder
            .set("session.create_wait", "30s")
            .set("upstream.response_timeout", "30s")
    })
    .await;
    fleet.shop.set_start_delay(20 * SECOND);
    let answers = at_once(&fleet, &InstallId::random(), 30, |_| Call::post("/basket/add")).await;
    assert_eq!(
        fleet.shop.sessions_started(),
        1,
        "the lease was renewed for as long as the leader worked"
    );
    assert_eq!(sessions(&answers).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_session_ends_by_create_wait() {
    let fleet = Fleet::configured(2, |builder| builder.set("session.create_wait", "500ms")).await;
    fleet.shop.set_start_delay(4 * SECOND);
    let id = InstallId::random();
    let leading = fleet.bridges[0].send(Call::post("/basket/add?leader=1").of(&id));
    let waiting = async {
        fleet.shop.wait_for("leader").await;
        let start = Instant::now();
        let answer = fleet.bridges[1].send(Call::post("/basket/add").of(&id)).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (503, "session-wait-timeout")
        );
        assert!(!answer.header("retry-after").is_empty(), "it says when to come again");
        assert!(
            (Duration::from_millis(450)..2 * SECOND).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    };
    let (led, ()) = tokio::join!(leading, waiting);
    assert_eq!(led.status, 200);
    assert_eq!(fleet.shop.sessions_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiters_of_a_killed_leader_go_on_within_three_seconds() {
    let mut fleet = Fleet::of(2).await;
    let mut leader = fleet.bridges.remove(0);
    let id = InstallId::random();
    let address = leader.traffic;
    let head = format!(
        "POST /basket/add?before=60000 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n",
        id.as_str()
    );
    let mut stream = RawStream::connect(address).await;
    stream.write(format!("{head}Content-Length: 0\r\n\r\n")).await;
    fleet.shop.wait_for("before=60000").await;

    let waiting = at_once(&fleet, &id, 5, |_| Call::post("/basket/add?waiter=1"));
    let killing = async {
        // The waiters must be under way; that they reach the shop is what must not happen yet.
        tokio::time::sleep(SECOND / 2).await;
        assert!(!fleet.shop.has_seen("waiter"), "they wait for the leader");
        leader.kill();
        Instant::now()
    };
    let (answers, killed) = tokio::join!(waiting, killing);
    assert!(
        killed.elapsed() < 3 * SECOND,
        "they went on after {:?}",
        killed.elapsed()
    );
    assert_eq!(sessions(&answers).len(), 1);
    assert_eq!(fleet.shop.sessions_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_leader_passes_the_lead_on() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    let leading = fleet.bridges[0].send(Call::post("/abort?before=300").of(&id));
    let waiting = async {
        fleet.shop.wait_for("/abort").await;
        at_once(&fleet, &id, 6, |_| Call::post("/basket/add")).await
    };
    let (led, answers) = tokio::join!(leading, waiting);
    assert_eq!((led.status, led.problem().as_str()), (502, "upstream-bad-response"));
    assert_eq!(sessions(&answers).len(), 1);
    assert_eq!(fleet.shop.sessions_started(), 1);
    let aborted = fleet
        .shop
        .seen()
        .iter()
        .filter(|seen| seen.starts_with("/abort"))
        .count();
    assert_eq!(aborted, 1, "a request that reached the backend is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_starts_no_session_frees_safe_waiters_together() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    let leading = fleet.bridges[0].send(Call::get("/none?before=500&leader=1").of(&id));
    let waiting = async {
        fleet.shop.wait_for("leader").await;
        fleet.shop.most_in_flight();
        at_once(&fleet, &id, 10, |_| Call::get("/none?before=500")).await;
    };
    let (led, ()) = tokio::join!(leading, waiting);
    assert_eq!(led.status, 200);
    assert_eq!(
        fleet.shop.most_in_flight(),
        10,
        "they waited for the leader, and then went on together"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_starts_no_session_frees_unsafe_waiters_in_turn() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    at_once(&fleet, &id, 6, |_| Call::post("/none?before=100")).await;
    assert_eq!(fleet.shop.count(), 6);
    assert_eq!(
        fleet.shop.most_in_flight(),
        1,
        "each of them could have started a session"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_is_not_the_session_cookie_is_kept_and_is_no_session() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    fleet.bridges[0]
        .ok(Call::post("/cookies")
            .of(&id)
            .header("x-set-cookie", "csrf=abc; path=/"))
        .await;
    fleet.shop.set_start_delay(Duration::from_millis(300));
    let answers = at_once(&fleet, &id, 10, |_| Call::post("/basket/add")).await;
    assert_eq!(fleet.shop.sessions_started(), 1, "one request at a time could start it");
    for answer in &answers {
        let cookies = answer["cookies"].as_str().expect("cookies");
        assert!(cookies.contains("csrf=abc"), "the other cookie went along: {cookies}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_go_on_when_the_leaders_response_has_ended() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    let leading = fleet.bridges[0].ok(Call::post("/basket/add?before=300&late=800").of(&id));
    let waiting = async {
        fleet.shop.wait_for("late").await;
        at_once(&fleet, &id, 10, |_| Call::post("/basket/add")).await
    };
    let (led, mut answers) = tokio::join!(leading, waiting);
    answers.push(led);
    assert_eq!(
        fleet.shop.sessions_started(),
        1,
        "the session was saved before it was used"
    );
    assert_eq!(sessions(&answers).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_between_the_head_and_the_end_of_the_leaders_response_waits_for_the_end() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    let mut leader = RawStream::connect(fleet.bridges[0].traffic).await;
    let head = format!(
        "POST /basket/add?late=800 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n",
        id.as_str()
    );
    leader.write(format!("{head}Content-Length: 0\r\n\r\n")).await;
    let head = leader.head().await.expect("a head");
    let (answers, _) = tokio::join!(
        at_once(&fleet, &id, 4, |_| Call::post("/basket/add")),
        leader.body(&head)
    );
    assert_eq!(
        fleet.shop.sessions_started(),
        1,
        "the session was saved before it was used"
    );
    assert_eq!(sessions(&answers).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_response_of_the_leader_holds_the_waiters_no_longer_than_body_wait() {
    let fleet = Fleet::configured(2, |builder| builder.set("session.body_wait", "500ms")).await;
    let id = InstallId::random();
    let mut leader = RawStream::connect(fleet.bridges[0].traffic).await;
    let head = format!(
        "GET /endless?before=300 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n\r\n",
        id.as_str()
    );
    leader.write(head).await;
    fleet.shop.wait_for("/endless").await;
    let (answers, elapsed) = async {
        let start = Instant::now();
        let answers = at_once(&fleet, &id, 5, |_| Call::post("/basket/add")).await;
        (answers, start.elapsed())
    }
    .await;
    assert!(elapsed < 3 * SECOND, "they waited {elapsed:?}");
    assert_eq!(sessions(&answers).len(), 1);
    assert_eq!(fleet.shop.sessions_started(), 1);
    assert_eq!(leader.head().await.expect("the leader's response").status(), 200);
}
