//! Real frameworks behind the bridge: their sessions work for a client without cookies.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::bridge::{Bridge, BridgeBuilder, strings};
use crate::support::client::{Answer, Call, Client};
use crate::support::pki::Authority;
use crate::support::real::{Framework, RealShop};
use crate::support::shop::Shop;
use crate::support::{InstallId, StoreKind, TestStore, eventually};

/// Every framework with every store.
macro_rules! for_each_backend_and_store {
    ($($framework:ident $name:ident $store:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let shop = RealShop::start(Framework::$framework).await;
            let store = TestStore::start(StoreKind::$store).await;
            let bridge = bridge(&shop, &store).start().await;
            the_basket_survives_and_is_nobody_elses(&shop, &bridge).await;
            a_log_in_lasts_until_the_log_out(&shop, &bridge).await;
            screens_open_with_many_requests_at_once(&shop, &bridge).await;
        }
    )*};
}

for_each_backend_and_store! {
    Php php_sessions_work_without_cookies_over_sqlite Sqlite;
    Php php_sessions_work_without_cookies_over_redis Redis;
    Flask flask_sessions_work_without_cookies_over_sqlite Sqlite;
    Flask flask_sessions_work_without_cookies_over_redis Redis;
    Express express_sessions_work_without_cookies_over_sqlite Sqlite;
    Express express_sessions_work_without_cookies_over_redis Redis;
    Django django_sessions_work_without_cookies_over_sqlite Sqlite;
    Django django_sessions_work_without_cookies_over_redis Redis;
}

fn bridge(shop: &RealShop, store: &TestStore) -> BridgeBuilder {
    Bridge::before(&shop.url())
        .store(store.url())
        .id_cookies(&[shop.framework().id_cookie()])
        .auth_paths(&["/login*", "/logout*"])
}

/// Sends a POST with cookies of the client's own, which are nobody's business, and checks both sides for cookies.
async fn post(bridge: &Bridge, id: &InstallId, target: &str) -> Json {
    let call = Call::post(target)
        .of(id)
        .header("cookie", "intruder=1; PHPSESSID=evil; connect.sid=evil; session=evil");
    let answer = bridge.send(call).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    assert!(
        !answer.headers.contains_key("set-cookie"),
        "{target} lets a cookie out: {:?}",
        answer.headers
    );
    let json = answer.json();
    let names = json["cookies"].as_array().expect("names");
    assert!(
        !names.contains(&"intruder".into()),
        "{target}: the client's cookie came through: {json}"
    );
    json
}

async fn the_basket_survives_and_is_nobody_elses(shop: &RealShop, bridge: &Bridge) {
    let (anna, boris) = (InstallId::random(), InstallId::random());
    for step in 1..=5 {
        assert_eq!(post(bridge, &anna, "/basket/add").await["basket"], step);
    }
    assert_eq!(
        post(bridge, &boris, "/basket").await["basket"],
        0,
        "another installation begins with nothing"
    );
    assert_eq!(post(bridge, &boris, "/basket/add").await["basket"], 1);
    let shown = post(bridge, &anna, "/basket").await;
    assert_eq!(shown["basket"], 5, "and changes nothing for the first one");
    assert!(
        shown["cookies"]
            .as_array()
            .expect("names")
            .contains(&shop.framework().id_cookie().into()),
        "{shown}"
    );
}

async fn a_log_in_lasts_until_the_log_out(shop: &RealShop, bridge: &Bridge) {
    let id = InstallId::random();
    let before = post(bridge, &id, "/basket/add").await;
    assert_eq!(before["user"], Json::Null);
    let at_login = post(bridge, &id, "/login?user=anna").await;
    assert_eq!(at_login["user"], "anna");
    for _ in 0..3 {
        let later = post(bridge, &id, "/basket").await;
        assert_eq!(later["user"], "anna", "later requests are logged in");
        assert_eq!(later["basket"], 1, "the basket came along");
        assert_ne!(later["session"], before["session"], "under another session ID");
        if shop.framework().keeps_sessions() {
            assert_eq!(later["session"], at_login["session"]);
        }
    }
    post(bridge, &id, "/logout").await;
    let fresh = post(bridge, &id, "/basket").await;
    assert_eq!(fresh["user"], Json::Null, "the log-out ended it");
    assert_eq!(fresh["basket"], 0, "and the next request starts afresh");
    assert_eq!(
        post(bridge, &id, "/basket/add").await["basket"],
        1,
        "with a session that lasts"
    );
    assert_eq!(post(bridge, &id, "/basket").await["basket"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_work_with_a_backend_that_is_spoken_to_over_tls() {
    let (ca, clients) = (Authority::new("backends"), Authority::new("bridges"));
    let ours = clients.issue(&["bridge"]);
    let shop = RealShop::start_secured(&ca.issue(&["127.0.0.1"]), Some(&clients)).await;
    let store = TestStore::start(StoreKind::Sqlite).await;
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let with = |authority: &Authority| {
        Bridge::before(&format!("https://{}", shop.address()))
            .store(store.url())
            .id_cookies(&["session"])
            .set("upstream.tls.ca", path(&authority.file()))
            .set("upstream.tls.cert", path(&ours.cert))
            .set("upstream.tls.key", path(&ours.key))
    };
    let bridge = with(&ca).start().await;
    the_basket_survives_and_is_nobody_elses(&shop, &bridge).await;

    let distrusting = with(&clients).start().await;
    let answer = distrusting.send(Call::post("/basket").of(&InstallId::random())).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("upstream-unreachable"), "{}", answer.text());
    // Lines are written by a thread of their own.
    let told = async || distrusting.logs().contains("unknown issuer");
    eventually("the reason in the log", Duration::from_secs(10), told).await;
}

/// A client without cookies passes Django's protection through a log-in that rotates the token, over `http` and over
/// `https`, for which Django wants to know where a request comes from.
async fn djangos_csrf_protection_is_passed(proto: &str) {
    let shop = RealShop::start(Framework::Django).await;
    let store = TestStore::start(StoreKind::Redis).await;
    let plain = bridge(&shop, &store).set("server.trusted_proxies", strings(&["127.0.0.1"]));
    let crossing = bridge(&shop, &store)
        .set("server.trusted_proxies", strings(&["127.0.0.1"]))
        .set("session.csrf.cookie", "csrftoken")
        .set("session.csrf.header", "X-CSRFToken");
    let id = InstallId::random();
    let call = |target: &str| Call::post(target).of(&id).header("x-forwarded-proto", proto);
    {
        let without = plain.start().await;
        assert_eq!(without.ok(call("/basket/add")).await["basket"], 1);
        let refused = without.send(call("/guarded/basket/add")).await;
        assert_eq!(refused.status, 403, "the shop is protected: {}", refused.text());
    }
    let bridge = crossing.start().await;
    assert_eq!(bridge.ok(call("/guarded/basket/add")).await["basket"], 2);
    for round in 0..3 {
        assert_eq!(
            bridge.ok(call("/guarded/login?user=anna")).await["user"],
            "anna",
            "round {round}"
        );
        let later = bridge.ok(call("/guarded/basket/add")).await;
        assert_eq!(
            (&later["user"], &later["basket"]),
            (&"anna".into(), &(3 + round).into())
        );
    }
    assert_eq!(bridge.ok(call("/guarded/logout")).await["user"], Json::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn djangos_csrf_protection_is_passed_over_http() {
    djangos_csrf_protection_is_passed("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn djangos_csrf_protection_is_passed_over_https() {
    djangos_csrf_protection_is_passed("https").await;
}

/// Framework's own locking decides what becomes of baskets that change at once, so only reads follow the first ones.
async fn screens_open_with_many_requests_at_once(shop: &RealShop, bridge: &Bridge) {
    let id = InstallId::random();
    let first = futures_util::future::join_all((0..8).map(|_| post(bridge, &id, "/basket/add"))).await;
    if shop.framework().keeps_sessions() {
        let sent_none = first
            .iter()
            .filter(|json| json["cookies"].as_array().expect("names").is_empty())
            .count();
        assert_eq!(
            sent_none, 1,
            "one request started the session, the others went on with it"
        );
        let later = post(bridge, &id, "/basket").await;
        // Express and Django save the last state of a session over the one before it.
        let exact = shop.framework() == Framework::Php;
        let basket = later["basket"].as_u64().expect("a number");
        assert!(if exact { basket == 8 } else { (1..=8).contains(&basket) }, "{later}");
    }
}

/// A client that keeps cookies, as a browser would, without a bridge.
struct Browser {
    client: Client,
    jar: Vec<(String, String)>,
}

impl Browser {
    fn of(address: SocketAddr) -> Self {
        Self {
            client: Client::new(address),
            jar: Vec::new(),
        }
    }

    async fn post(&mut self, target: &str) -> Answer {
        let mut call = Call::post(target);
        if !self.jar.is_empty() {
            let pairs: Vec<_> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            call = call.header("cookie", &pairs.join("; "));
        }
        let answer = self.client.send(call).await.expect("an answer");
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().expect("ASCII");
            let (name, value) = line.split(';').next().expect("a pair").split_once('=').expect("a pair");
            self.jar.retain(|(kept, _)| kept != name);
            if !line.to_lowercase().contains("max-age=0") && !line.contains("01 Jan 1970") {
                self.jar.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }
}

/// The shops are what the tests take them for: stateful for those who keep cookies, and only for those.
async fn is_stateful_for_a_client_that_keeps_cookies(address: SocketAddr, id_cookie: &str) {
    let (mut keeps, mut other) = (Browser::of(address), Browser::of(address));
    let first = keeps.post("/basket/add").await;
    assert!(
        first.headers.contains_key("set-cookie"),
        "a session starts: {:?}",
        first.headers
    );
    assert_eq!(keeps.post("/basket/add").await.json()["basket"], 2);
    assert_eq!(
        other.post("/basket").await.json()["basket"],
        0,
        "another client has another basket"
    );
    keeps
        .jar
        .iter()
        .find(|(name, _)| name == id_cookie)
        .expect("the cookie that names the session");

    let before = keeps.post("/basket").await.json();
    assert!(
        keeps.post("/login?user=anna").await.headers.contains_key("set-cookie"),
        "the session ID rotates"
    );
    let after = keeps.post("/basket").await.json();
    assert_eq!((&after["user"], &after["basket"]), (&"anna".into(), &2.into()));
    assert_ne!(after["session"], before["session"]);

    assert!(
        keeps.post("/logout").await.headers.contains_key("set-cookie"),
        "the cookie is deleted"
    );
    assert!(!keeps.jar.iter().any(|(name, _)| name == id_cookie), "{:?}", keeps.jar);
    let fresh = keeps.post("/basket").await.json();
    assert_eq!((&fresh["user"], &fresh["basket"]), (&Json::Null, &0.into()));

    let mut forgets = Browser::of(address);
    for _ in 0..2 {
        assert_eq!(
            forgets.post("/basket/add").await.json()["basket"],
            1,
            "without cookies nothing lasts"
        );
        forgets.jar.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_php_shop_is_stateful_for_a_client_that_keeps_cookies() {
    let shop = RealShop::start(Framework::Php).await;
    is_stateful_for_a_client_that_keeps_cookies(shop.address(), Framework::Php.id_cookie()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flask_shop_is_stateful_for_a_client_that_keeps_cookies() {
    let shop = RealShop::start(Framework::Flask).await;
    is_stateful_for_a_client_that_keeps_cookies(shop.address(), Framework::Flask.id_cookie()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_express_shop_is_stateful_for_a_client_that_keeps_cookies() {
    let shop = RealShop::start(Framework::Express).await;
    is_stateful_for_a_client_that_keeps_cookies(shop.address(), Framework::Express.id_cookie()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_django_shop_is_stateful_for_a_client_that_keeps_cookies() {
    let shop = RealShop::start(Framework::Django).await;
    is_stateful_for_a_client_that_keeps_cookies(shop.address(), Framework::Django.id_cookie()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_in_this_process_is_stateful_for_a_client_that_keeps_cookies() {
    let shop = Shop::start().await;
    is_stateful_for_a_client_that_keeps_cookies(shop.address(), "sid").await;
    assert_eq!(
        shop.sessions_started(),
        5,
        "one for each client, and one after each lost cookie"
    );
}
