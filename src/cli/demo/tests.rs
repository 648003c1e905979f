//! The demo shop as a backend, and what the demo prints.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::{COOKIE, SET_COOKIE};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// A visitor of the shop, with the cookie that it was last given.
struct Visitor {
    client: reqwest::Client,
    shop: SocketAddr,
    cookie: Option<String>,
}

struct Answer {
    status: StatusCode,
    set_cookie: Option<String>,
    body: String,
}

impl Visitor {
    fn of(shop: &Shop) -> Self {
        Self::at(shop.address())
    }

    fn at(shop: SocketAddr) -> Self {
        let client = crate::wire::own_call::client(None)
            .unwrap()
            .timeout(DEADLINE)
            .build()
            .unwrap();
        Self {
            client,
            shop,
            cookie: None,
        }
    }

    async fn post(&mut self, path: &str, body: &str) -> Answer {
        let mut request = self
            .client
            .post(format!("http://{}{path}", self.shop))
            .body(body.to_owned());
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let response = request.send().await.unwrap();
        let set_cookie = response
            .headers()
            .get(SET_COOKIE)
            .map(|value| value.to_str().unwrap().to_owned());
        if let Some(line) = &set_cookie {
            self.cookie = Some(line.split(';').next().unwrap().to_owned());
        }
        Answer {
            status: response.status(),
            set_cookie,
            body: response.text().await.unwrap(),
        }
    }

    async fn basket(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.post("/basket", "").await.body).unwrap()
    }
}

#[tokio::test]
async fn a_basket_lasts_as_long_as_its_cookie_is_shown() {
    let shop = shop().await.unwrap();
    let mut visitor = Visitor::of(&shop);
    let first = visitor.post("/basket", r#"{"sku":"tea"}"#).await;
    assert!(first.set_cookie.unwrap().starts_with("shop_session="));
    let second = visitor.post("/basket", r#"{"sku":"cup","installId":"x"}"#).await;
    assert_eq!(second.set_cookie, None);
    assert_eq!(visitor.basket().await["basket"], serde_json::json!(["tea", "cup"]));

    let mut other = Visitor::of(&shop);
    assert_eq!(other.basket().await["basket"], serde_json::json!([]));
}

#[tokio::test]
async fn a_session_id_from_outside_is_answered_with_a_fresh_one() {
    let shop = shop().await.unwrap();
    let mut visitor = Visitor::of(&shop);
    visitor.cookie = Some("shop_session=chosen-by-me".to_owned());
    visitor.post("/basket", r#"{"sku":"tea"}"#).await;
    assert_ne!(visitor.cookie.as_deref(), Some("shop_session=chosen-by-me"));
    assert_eq!(visitor.basket().await["basket"], serde_json::json!(["tea"]));
}

#[tokio::test]
async fn a_log_in_keeps_the_basket_under_a_new_id_and_kills_the_old_one() {
    let shop = shop().await.unwrap();
    let mut visitor = Visitor::of(&shop);
    visitor.post("/basket", r#"{"sku":"tea"}"#).await;
    let before = visitor.cookie.clone();
    visitor.post("/login", r#"{"name":"Ada"}"#).await;
    assert_ne!(visitor.cookie, before);
    assert_eq!(
        visitor.basket().await,
        serde_json::json!({ "name": "Ada", "basket": ["tea"] })
    );

    let mut late = Visitor::of(&shop);
    late.cookie = before;
    assert_eq!(late.basket().await, serde_json::json!({ "name": null, "basket": [] }));
}

#[tokio::test]
async fn a_log_out_takes_the_cookie_back_and_ends_the_session() {
    let shop = shop().await.unwrap();
    let mut visitor = Visitor::of(&shop);
    visitor.post("/login", r#"{"name":"Ada"}"#).await;
    let session = visitor.cookie.clone();
    let answer = visitor.post("/logout", "").await;
    assert_eq!(
        answer.set_cookie.as_deref(),
        Some("shop_session=; Path=/; HttpOnly; Max-Age=0")
    );

    visitor.cookie = session;
    assert_eq!(visitor.basket().await["name"], serde_json::Value::Null);
    assert_eq!(Visitor::of(&shop).post("/logout", "").await.set_cookie, None);
}

#[tokio::test]
async fn what_the_shop_cannot_use_is_refused_and_starts_no_session() {
    let shop = shop().await.unwrap();
    let mut visitor = Visitor::of(&shop);
    let long = format!(r#"{{"sku":"{}"}}"#, "x".repeat(65));
    for (path, body, status) in [
        ("/basket", "{", StatusCode::BAD_REQUEST),
        ("/basket", long.as_str(), StatusCode::UNPROCESSABLE_ENTITY),
        ("/login", "{}", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let answer = visitor.post(path, body).await;
        assert_eq!((answer.status, answer.set_cookie), (status, None), "{path} {body}");
    }
}

#[tokio::test]
async fn two_shops_run_side_by_side() {
    let (one, two) = (shop().await.unwrap(), shop().await.unwrap());
    assert_ne!(one.address(), two.address());
    let mut visitor = Visitor::of(&one);
    visitor.post("/basket", r#"{"sku":"tea"}"#).await;
    visitor.shop = two.address();
    assert_eq!(visitor.basket().await["basket"], serde_json::json!([]));
}

#[tokio::test]
async fn an_exchange_shows_the_start_of_a_cookie_and_no_more() {
    let mut shop = shop().await.unwrap();
    let mut visitor = Visitor::of(&shop);
    visitor.post("/basket", "").await;
    visitor.post("/basket", "").await;
    let cookie = visitor.cookie.unwrap();
    let start: String = cookie.trim_start_matches("shop_session=").chars().take(4).collect();
    let shown: Vec<_> = shop.exchanges().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            format!(
                "bridge → shop   POST /basket (no Cookie)\n\
                 shop → bridge   200 (Set-Cookie: shop_session={start}…; Path=/; HttpOnly)"
            ),
            format!(
                "bridge → shop   POST /basket (Cookie: shop_session={start}…)\n\
                 shop → bridge   200 (no Set-Cookie)"
            ),
        ]
    );
}

/// The least of a bridge: one visitor, whose cookie it keeps.
async fn stand_in_bridge(shop: SocketAddr) -> SocketAddr {
    let visitor = Arc::new(tokio::sync::Mutex::new(Visitor::at(shop)));
    let forward = async |State(visitor): State<Arc<tokio::sync::Mutex<Visitor>>>, request: Request| {
        let path = request.uri().path().to_owned();
        assert!(request.headers().contains_key(wire::INSTALL_ID));
        let body = axum::body::to_bytes(request.into_body(), 1024).await.unwrap();
        let answer = visitor
            .lock()
            .await
            .post(&path, std::str::from_utf8(&body).unwrap())
            .await;
        (answer.status, answer.body).into_response()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(forward).with_state(visitor);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// What a demo has printed so far.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    async fn shows(&self, text: &str) {
        let seen = async {
            while !self.text().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(DEADLINE, seen).await;
        assert!(seen.is_ok(), "{text:?} is not in:\n{}", self.text());
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_demo_shows_a_basket_that_lasts_without_cookies_and_then_whatever_passes_until_it_is_stopped() {
    let shop = shop().await.unwrap();
    let bridge = stand_in_bridge(shop.address()).await;
    let screen = Screen::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut out = screen.clone();
    let demo = tokio::spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        play(shop, bridge, stop, &mut out).await
    });

    screen.shows("Ctrl-C ends the demo.").await;
    let text = screen.text();
    assert_eq!(text.matches("curl -H 'X-Install-Id: ").count(), 3, "{text}");
    assert_eq!(text.matches("app → bridge    ").count(), 3, "{text}");
    assert_eq!(text.matches("(Set-Cookie: shop_session=").count(), 1, "{text}");
    assert_eq!(text.matches("bridge → app    200 (no Set-Cookie)").count(), 3, "{text}");
    assert!(text.contains(r#"{"basket":["tea","cup"],"name":null}"#), "{text}");
    // In the order in which it happened.
    let first = text.split("2. ").next().unwrap();
    let at = |line: &str| first.find(line).unwrap_or_else(|| panic!("{line} is not in:\n{first}"));
    assert!(at("app → bridge") < at("bridge → shop") && at("shop → bridge") < at("bridge → app"));

    Visitor::at(bridge)
        .client
        .get(format!("http://{bridge}/logout"))
        .header("X-Install-Id", "x")
        .send()
        .await
        .unwrap();
    screen.shows("bridge → shop   POST /logout").await;
    stop.send(()).unwrap();
    tokio::time::timeout(DEADLINE, demo).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_demo_ends_with_an_error_when_the_bridge_does_not_answer() {
    let shop = shop().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let mut out = Screen::default();
    let ended = tokio::time::timeout(DEADLINE, play(shop, nobody, std::future::pending(), &mut out))
        .await
        .unwrap();
    assert!(ended.is_err());
}
