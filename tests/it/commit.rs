//! What a response changes is stored before it goes out, and no older response undoes it (S4, C1, C2, C3).

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::Value as Json;

use crate::support::bridge::Bridge;
use crate::support::client::Call;
use crate::support::fleet::Fleet;
use crate::support::raw::RawStream;
use crate::support::{InstallId, eventually, scaled};

#[tokio::test(flavor = "multi_thread")]
async fn the_next_request_finds_every_change_on_any_replica() {
    let fleet = Fleet::of(3).await;
    let (installations, changes) = (20, scaled(100, 1000));
    join_all((0..installations).map(async |offset| {
        let id = InstallId::random();
        fleet.turn(offset).ok(Call::post("/basket/add").of(&id)).await;
        for step in 0..changes {
            // The ID that the request came with is dead when its response comes.
            let rotated = fleet.turn(offset + step + 1).ok(Call::post("/rotate").of(&id)).await;
            assert_eq!(
                (&rotated["started"], &rotated["basket"]),
                (&false.into(), &1.into()),
                "change {step}"
            );
        }
    }))
    .await;
    assert_eq!(fleet.shop.sessions_started(), installations);
    assert_eq!(fleet.shop.count(), installations * (changes + 1));
}

/// One schedule: what is sent, where and with what delays, all drawn from its seed.
struct Schedule<'a> {
    fleet: &'a Fleet,
    seed: u64,
    random: fastrand::Rng,
    id: InstallId,
    tags: usize,
}

impl<'a> Schedule<'a> {
    fn of(fleet: &'a Fleet, seed: u64) -> Self {
        Self {
            fleet,
            seed,
            random: fastrand::Rng::with_seed(seed),
            id: InstallId::random(),
            tags: 0,
        }
    }

    fn bridge(&mut self) -> &'a Bridge {
        self.fleet.turn(self.random.usize(..self.fleet.bridges.len()))
    }

    fn delays(&mut self) -> String {
        format!("before={}&after={}", self.random.u32(..40), self.random.u32(..80))
    }

    /// Requests that are under way while something else happens, each with a tag to know it by.
    fn stragglers(&mut self) -> Vec<(&'a Bridge, Call, String)> {
        let count = self.random.usize(2..6);
        let mut stragglers = Vec::new();
        for _ in 0..count {
            self.tags += 1;
            let tag = format!("{}-{}", self.id.as_str(), self.tags);
            let query = format!("{}&tag={tag}", self.delays());
            let call = match self.random.u8(..4) {
                0 => Call::get(&format!("/basket?{query}")),
                1 => Call::get(&format!("/refresh?{query}")),
                2 => Call::post(&format!("/refresh?{query}")),
                _ => Call::post(&format!("/basket/add?{query}")),
            };
            stragglers.push((self.bridge(), call.of(&self.id), tag));
        }
        stragglers
    }

    /// Sends `call`, and `stragglers` before and beside it; all of them have ended when this returns.
    ///
    /// With `after_their_arrival`, `call` goes out when every straggler is at the shop.
    async fn among_stragglers(&mut self, call: Call, after_their_arrival: bool) -> Json {
        let (bridge, call) = (self.bridge(), call.of(&self.id));
        let (calls, tags): (Vec<_>, Vec<_>) = self
            .stragglers()
            .into_iter()
            .map(|(bridge, call, tag)| (bridge.ok(call), tag))
            .unzip();
        let main = async {
            if after_their_arrival {
                join_all(tags.iter().map(|tag| self.fleet.shop.wait_for_tag(tag))).await;
            }
            bridge.ok(call).await
        };
        tokio::join!(main, join_all(calls)).0
    }

    async fn run(mut self) {
        let seed = self.seed;
        let first = self.bridge();
        first.ok(Call::post("/basket/add").of(&self.id)).await;
        for round in 0..2 {
            let user = format!("user{round}");
            let login = Call::post(&format!("/login?user={user}&{}", self.delays()));
            let beside = self.random.bool();
            self.among_stragglers(login, beside).await;
            let shown = self.bridge().ok(Call::get("/basket").of(&self.id)).await;
            assert_eq!(
                shown["user"],
                user.as_str(),
                "seed {seed}: the log-in was lost: {shown}"
            );

            let logout = Call::post(&format!("/logout?{}", self.delays()));
            // A request that comes after the log-out rightly starts a session; those before it must not bring one.
            self.among_stragglers(logout, true).await;
            let shown = self.bridge().ok(Call::get("/basket").of(&self.id)).await;
            assert_eq!(
                shown["user"],
                Json::Null,
                "seed {seed}: the log-out was undone: {shown}"
            );
            assert_eq!(
                shown["started"], true,
                "seed {seed}: an older response brought a session back: {shown}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_five_hundred_schedules_no_log_in_is_lost_and_no_log_out_undone() {
    let fleet = Fleet::of(2).await;
    stream::iter(0..500)
        .for_each_concurrent(24, |seed| Schedule::of(&fleet, seed).run())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slower_older_response_does_not_overwrite_a_newer_one() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    fleet.bridges[0].ok(Call::post("/basket/add").of(&id)).await;
    // It says the ID of before, with a new expiry, when the other request has long changed it.
    let older = fleet.bridges[0].ok(Call::post("/refresh?after=600").of(&id));
    let newer = async {
        fleet.shop.wait_for("/refresh").await;
        fleet.bridges[1].ok(Call::post("/rotate").of(&id)).await
    };
    let (_, newer) = tokio::join!(older, newer);
    for bridge in &fleet.bridges {
        let shown = bridge.ok(Call::get("/basket").of(&id)).await;
        assert_eq!(
            (&shown["session"], &shown["started"]),
            (&newer["session"], &false.into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_by_a_page_view_does_not_expose_the_log_in_to_an_older_basket_call() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    fleet.bridges[0].ok(Call::post("/basket/add").of(&id)).await;
    // Its session is dead when it is looked up, and it ends last, with a session of its own.
    let older = fleet.bridges[0].ok(Call::post("/basket/add?before=300&after=300").of(&id));
    let log_in = async {
        fleet.shop.wait_for("before=300").await;
        fleet.bridges[1].ok(Call::post("/login?user=anna").of(&id)).await;
        fleet.bridges[1].ok(Call::get("/rotate").of(&id)).await
    };
    let (older, rotated) = tokio::join!(older, log_in);
    assert_eq!(
        older["started"], true,
        "the older request got another session from the backend"
    );
    for bridge in &fleet.bridges {
        let shown = bridge.ok(Call::get("/basket").of(&id)).await;
        assert_eq!(
            (&shown["user"], &shown["session"]),
            (&"anna".into(), &rotated["session"])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_of_equal_rank_the_first_commit_stays() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    fleet.bridges[0].ok(Call::post("/basket/add").of(&id)).await;
    let set = |line: &str, query: &str| {
        Call::post(&format!("/cookies?{query}"))
            .of(&id)
            .header("x-set-cookie", line)
    };
    fleet.bridges[0].ok(set("promo=old; path=/", "x=0")).await;
    let slow = fleet.bridges[0].ok(set("promo=slow; path=/", "after=500"));
    let fast = async {
        fleet.shop.wait_for("after=500").await;
        fleet.bridges[1].ok(set("promo=fast; path=/", "x=1")).await;
    };
    tokio::join!(slow, fast);
    let shown = fleet.bridges[0].ok(Call::get("/basket").of(&id)).await;
    assert!(
        shown["cookies"].as_str().expect("cookies").contains("promo=fast"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_different_cookies_at_once_are_all_kept() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    fleet.bridges[0].ok(Call::post("/basket/add").of(&id)).await;
    join_all((0..20).map(|n| {
        let call = Call::post("/cookies?before=20")
            .of(&id)
            .header("x-set-cookie", &format!("c{n}={n}; path=/"));
        fleet.turn(n).ok(call)
    }))
    .await;
    let shown = fleet.bridges[1].ok(Call::get("/basket").of(&id)).await;
    let cookies: Vec<_> = shown["cookies"].as_str().expect("cookies").split("; ").collect();
    for n in 0..20 {
        assert!(
            cookies.contains(&format!("c{n}={n}").as_str()),
            "c{n} was lost: {cookies:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_lost_the_session_cookie_leaves_no_other_cookie_behind() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    fleet.bridges[0].ok(Call::post("/basket/add").of(&id)).await;
    let other = Call::post("/cookies?after=500").of(&id);
    let other = other
        .header("x-set-cookie", "sid=another; path=/")
        .header("x-set-cookie", "csrf=another; path=/");
    let log_in = async {
        fleet.shop.wait_for("after=500").await;
        fleet.bridges[1].ok(Call::post("/login").of(&id)).await
    };
    tokio::join!(fleet.bridges[0].ok(other), log_in);
    let shown = fleet.bridges[0].ok(Call::get("/basket").of(&id)).await;
    assert_eq!(shown["user"], "anna");
    assert!(
        !shown["cookies"].as_str().expect("cookies").contains("csrf"),
        "it spoke for another session: {shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_request_whose_client_hung_up_still_starts_the_one_session() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    hang_up_during(&fleet, &id, "/basket/add?after=500").await;
    let next = fleet.bridges[1].ok(Call::post("/basket/add").of(&id)).await;
    assert_eq!(
        (&next["basket"], &next["started"]),
        (&2.into(), &false.into()),
        "{next}"
    );
    assert_eq!(fleet.shop.sessions_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_client_hung_up_is_stored() {
    let fleet = Fleet::of(2).await;
    let id = InstallId::random();
    fleet.bridges[0].ok(Call::post("/basket/add").of(&id)).await;
    let record = async || {
        fleet.bridges[1]
            .ops(Call::get(&format!("/sessions/{}", id.as_str())))
            .await
            .text()
    };
    let before = record().await;
    hang_up_during(&fleet, &id, "/rotate?after=500").await;
    eventually("the record to change", Duration::from_secs(5), async || {
        record().await != before
    })
    .await;
    let next = fleet.bridges[1].ok(Call::post("/basket").of(&id)).await;
    assert_eq!(
        (&next["basket"], &next["started"]),
        (&1.into(), &false.into()),
        "{next}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_used_outlives_its_idle_timeout() {
    let fleet = Fleet::configured(2, |builder| builder.set("session.idle_timeout", "3s")).await;
    let id = InstallId::random();
    fleet.bridges[0].ok(Call::post("/basket/add").of(&id)).await;
    for step in 0..14 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let shown = fleet.turn(step).ok(Call::get("/basket").of(&id)).await;
        assert_eq!((&shown["basket"], &shown["started"]), (&1.into(), &false.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_is_not_to_be_kept_is_dropped_and_counted() {
    let fleet = Fleet::configured(1, |builder| builder.set("session.cookies", vec!["sid", "cart*"])).await;
    let (bridge, id) = (&fleet.bridges[0], InstallId::random());
    bridge.ok(Call::post("/basket/add").of(&id)).await;
    let set = Call::post("/cookies").of(&id).header("x-set-cookie", "ads=1; path=/");
    bridge.ok(set.header("x-set-cookie", "cart_id=2; path=/")).await;
    let shown = bridge.ok(Call::get("/basket").of(&id)).await;
    let cookies = shown["cookies"].as_str().expect("cookies");
    assert!(cookies.contains("cart_id=2") && !cookies.contains("ads"), "{cookies}");
    let metrics = bridge.metrics().await;
    let counted = |line: &&str| line.contains("cookies_dropped") && !line.starts_with('#') && line.ends_with(" 1");
    assert_eq!(metrics.lines().filter(counted).count(), 1, "{metrics}");
}

/// Sends a POST to the first replica and closes the connection once it is at the shop.
async fn hang_up_during(fleet: &Fleet, id: &InstallId, target: &str) {
    let mut stream = RawStream::connect(fleet.bridges[0].traffic).await;
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n",
        id.as_str()
    );
    stream.write(format!("{head}Content-Length: 0\r\n\r\n")).await;
    fleet.shop.wait_for(target).await;
}
