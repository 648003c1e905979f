//! How a session starts otherwise than by a client's request (rule S5, `session.create`).

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;

use crate::support::bridge::{Bridge, BridgeBuilder};
use crate::support::client::Call;
use crate::support::fleet::Fleet;
use crate::support::pki::Authority;
use crate::support::raw::RawStream;
use crate::support::real::{Framework, RealShop};
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, unused_port};

fn prefetching(builder: BridgeBuilder) -> BridgeBuilder {
    builder
        .set("session.create", "prefetch")
        .set("session.prefetch.path", "/basket?of=bridge")
}

fn bridge(shop: &Shop) -> BridgeBuilder {
    prefetching(Bridge::before(&shop.url()).id_cookies(&["sid"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_a_first_post_that_fails_in_the_backend_still_leaves_a_usable_session() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop).start().await;
    let id = InstallId::random();
    let failed = bridge.send(Call::post("/abort").of(&id)).await;
    assert_eq!(
        (failed.status, failed.problem().as_str()),
        (502, "upstream-bad-response")
    );
    assert_eq!(shop.seen(), ["/basket?of=bridge", "/abort"]);
    let next = bridge.ok(Call::post("/basket/add").of(&id)).await;
    assert_eq!((&next["started"], &next["basket"]), (&false.into(), &1.into()));
    assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["basket"], 2);
    assert_eq!(shop.sessions_started(), 1);
    assert_eq!(shop.seen().len(), 4, "it is asked for once");
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_many_first_requests_on_three_replicas_ask_for_one_session() {
    let fleet = Fleet::configured(3, prefetching).await;
    fleet.shop.set_start_delay(Duration::from_millis(200));
    let id = InstallId::random();
    let answers = join_all((0..90).map(|n| fleet.turn(n).ok(Call::post("/basket/add").of(&id)))).await;
    assert!(answers.iter().all(|json| json["started"] == false));
    assert_eq!(fleet.shop.sessions_started(), 1);
    let asked = fleet
        .shop
        .seen()
        .iter()
        .filter(|target| target.contains("of=bridge"))
        .count();
    assert_eq!(asked, 1);
    assert_eq!(fleet.turn(0).ok(Call::post("/basket").of(&id)).await["basket"], 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_that_fails_is_told_and_the_clients_request_is_not_sent() {
    let shop = Shop::start().await;
    for (path, status, slug) in [
        ("/status/500?p=1", 502, "session-prefetch-failed"),
        ("/none?p=1", 502, "session-prefetch-failed"),
        // A redirect, which is not followed.
        ("/member?guarded=1&dead=redirect&p=1", 502, "session-prefetch-failed"),
        ("/abort?p=1", 502, "session-prefetch-failed"),
        ("/basket?before=2000&p=1", 504, "session-prefetch-timeout"),
    ] {
        let bridge = bridge(&shop)
            .set("session.prefetch.path", path)
            .set("upstream.response_timeout", "500ms")
            .start()
            .await;
        let before = shop.count();
        let answer = bridge.send(Call::post("/basket/add").of(&InstallId::random())).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, slug), "{path}");
        let seen = shop.seen().split_off(before);
        assert_eq!(seen.len(), 1, "{path}: {seen:?}");
        assert!(!shop.has_seen("/login"), "{path}");
        eventually("the cause in the log", Duration::from_secs(5), async || {
            bridge.logs().contains("prefetch: the ")
        })
        .await;
    }
    let nowhere = prefetching(Bridge::before(&format!("http://127.0.0.1:{}", unused_port())));
    let answer = nowhere
        .start()
        .await
        .send(Call::post("/basket").of(&InstallId::random()))
        .await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (502, "session-prefetch-failed")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_is_seen_through_when_the_client_has_left_and_the_next_one_goes_on_with_it() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop)
        .set("session.prefetch.path", "/basket?tag=slow&before=500")
        .start()
        .await;
    let id = InstallId::random();
    {
        let mut client = RawStream::connect(bridge.traffic).await;
        let head = format!(
            "POST /basket/add HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n",
            id.as_str()
        );
        client.write(format!("{head}Content-Length: 0\r\n\r\n")).await;
        shop.wait_for_tag("slow").await;
    }
    assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["started"], false);
    assert_eq!(shop.sessions_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_takes_the_clients_name_and_address_along_and_the_configured_fields() {
    let shop = Shop::start().await;
    let bridge = bridge(&shop)
        .set("session.prefetch.path", "/cookies")
        .set(
            "session.prefetch.headers.X-Set-Cookie",
            "sid=given; Path=/; Domain=shop.example",
        )
        .start()
        .await;
    let call = Call::post("/cookies")
        .of(&InstallId::random())
        .header("host", "app.shop.example");
    assert_eq!(
        bridge.ok(call).await["cookies"],
        "sid=given",
        "the domain of the client's request holds"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_works_with_real_frameworks() {
    for framework in [Framework::Php, Framework::Django, Framework::Express] {
        let shop = RealShop::start(framework).await;
        // Django starts a session when there is something to keep.
        let path = if framework == Framework::Django {
            "/basket/add"
        } else {
            "/basket"
        };
        let bridge = Bridge::before(&shop.url())
            .id_cookies(&[framework.id_cookie()])
            .set("session.create", "prefetch")
            .set("session.prefetch.path", path)
            .start()
            .await;
        let id = InstallId::random();
        let first = bridge.ok(Call::post("/basket/add").of(&id)).await;
        let second = bridge.ok(Call::post("/basket/add").of(&id)).await;
        assert_eq!(first["session"], second["session"], "{framework:?}");
        let names = first["cookies"].as_array().expect("names");
        assert!(names.contains(&framework.id_cookie().into()), "{framework:?}: {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_goes_to_a_backend_over_tls_as_requests_do() {
    let (ca, clients) = (Authority::new("backends"), Authority::new("bridges"));
    let ours = clients.issue(&["bridge"]);
    let shop = RealShop::start_secured(&ca.issue(&["127.0.0.1"]), Some(&clients)).await;
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let trusting = |authority: &Authority| {
        Bridge::before(&format!("https://{}", shop.address()))
            .id_cookies(&[Framework::Flask.id_cookie()])
            .set("session.create", "prefetch")
            // Flask starts a session when there is something to keep.
            .set("session.prefetch.path", "/basket/add")
            .set("upstream.tls.ca", path(&authority.file()))
            .set("upstream.tls.cert", path(&ours.cert))
            .set("upstream.tls.key", path(&ours.key))
    };
    let bridge = trusting(&ca).start().await;
    let ids: Vec<InstallId> = (0..5).map(|_| InstallId::random()).collect();
    for round in 2..=3 {
        for id in &ids {
            let answer = bridge.ok(Call::post("/basket/add").of(id)).await;
            assert_eq!(answer["basket"], round);
            let names = answer["cookies"].as_array().expect("names");
            assert!(names.contains(&Framework::Flask.id_cookie().into()), "{answer}");
        }
    }

    let distrusting = trusting(&clients).start().await;
    let refused = distrusting
        .send(Call::post("/basket/add").of(&InstallId::random()))
        .await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (502, "session-prefetch-failed")
    );
}

fn deriving(upstream: &str, secret: Option<&str>) -> BridgeBuilder {
    let builder = Bridge::before(upstream)
        // Nobody listens there, and nobody asks.
        .store(&format!("redis://127.0.0.1:{}", unused_port()))
        .set("session.create", "derive")
        .set("session.derive.cookie", "PHPSESSID");
    match secret {
        Some(file) => builder.set("session.derive.secret_file", file),
        None => builder,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn derive_three_replicas_without_any_store_give_the_same_session() {
    let shop = RealShop::start_lenient().await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").expect("a file");
    for secret in [None, Some(file.to_str().expect("UTF-8"))] {
        let replicas = [
            deriving(&shop.url(), secret).start().await,
            deriving(&shop.url(), secret).start().await,
            deriving(&shop.url(), secret).start().await,
        ];
        let (anna, boris) = (InstallId::random(), InstallId::random());
        for (step, bridge) in replicas.iter().cycle().take(9).enumerate() {
            let answer = bridge.send(Call::post("/basket/add").of(&anna)).await;
            assert_eq!(answer.json()["basket"], step + 1);
            assert!(!answer.headers.contains_key("set-cookie"));
        }
        assert_eq!(replicas[1].ok(Call::post("/basket").of(&boris)).await["basket"], 0);
        // However the ID is written.
        let shouted = Call::post("/basket").header("x-install-id", &anna.as_str().to_uppercase());
        assert_eq!(replicas[2].ok(shouted).await["basket"], 9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn derive_sends_the_id_or_its_hmac_and_lets_no_cookie_in_or_out() {
    let shop = Shop::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef").expect("a file");
    let id = InstallId::random();
    let plain = deriving(&shop.url(), None).start().await;
    let call = || {
        Call::post("/cookies")
            .of(&id)
            .header("cookie", "PHPSESSID=evil")
            .header("x-set-cookie", "PHPSESSID=other; Path=/")
    };
    for _ in 0..2 {
        let answer = plain.send(call()).await;
        assert_eq!(answer.json()["cookies"], format!("PHPSESSID={}", id.as_str()));
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    let keyed = deriving(&shop.url(), file.to_str()).start().await;
    let cookies = keyed.ok(call()).await["cookies"].as_str().expect("text").to_owned();
    let value = cookies.strip_prefix("PHPSESSID=").expect("the cookie");
    assert!(value.len() == 64 && !cookies.contains(id.as_str()), "{cookies}");
    assert!(plain.logs().contains("\"store\":\"none\""), "{}", plain.logs());
    for bridge in [&plain, &keyed] {
        assert!(!bridge.logs().contains(value) && !bridge.logs().contains(id.as_str()));
    }
}
