//! Profiles (`upstream.profile`), against the real frameworks.

use serde_json::Value as Json;

use crate::support::InstallId;
use crate::support::bridge::Bridge;
use crate::support::client::{Answer, Call, Client};
use crate::support::real::{Framework, RealShop};

fn is_guest(answer: &Answer) -> bool {
    match answer.status {
        302 => answer.header("location").contains("login"),
        status => status == 401 && answer.body.is_empty(),
    }
}

/// With nothing configured but the profile, and the path of the log-in where the shop has one of its own.
async fn a_profile_is_all_it_takes(framework: Framework, profile: &str) {
    let shop = RealShop::start(framework).await;
    let mut builder = Bridge::before(&shop.url()).set("upstream.profile", profile);
    if framework == Framework::Django {
        builder = builder.auth_paths(&["/login*", "/logout*", "/guarded/login*"]);
    }
    let bridge = builder.start().await;
    let (id, other) = (InstallId::random(), InstallId::random());
    assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["basket"], 1);
    assert_eq!(bridge.ok(Call::post("/basket").of(&other)).await["basket"], 0);
    // A guest who is sent to the log-in has lost nothing.
    let guest = bridge.send(Call::get("/member").of(&id)).await;
    assert!(is_guest(&guest), "{}: {:?}", guest.status, guest.headers);
    assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["basket"], 2);

    let logged_in = bridge.ok(Call::post("/login?user=anna").of(&id)).await;
    assert_eq!(logged_in["user"], "anna");
    assert_eq!(bridge.ok(Call::get("/member").of(&id)).await["user"], "anna");

    // The backend forgets everybody.
    let forgot = Client::new(shop.address())
        .send(Call::post("/forget"))
        .await
        .expect("an answer");
    assert_eq!(forgot.status, 200);
    let lost = bridge.send(Call::get("/member").of(&id)).await;
    assert_eq!((lost.status, lost.problem().as_str()), (401, "session-lost"));
    assert!(!lost.headers.contains_key("location") && !lost.headers.contains_key("set-cookie"));
    let fresh = bridge.ok(Call::post("/basket/add").of(&id)).await;
    assert_eq!((&fresh["basket"], &fresh["user"]), (&1.into(), &Json::Null));
    assert_eq!(bridge.ok(Call::post("/login?user=anna").of(&id)).await["user"], "anna");
    assert_eq!(bridge.ok(Call::get("/member").of(&id)).await["user"], "anna");
    if framework == Framework::Django {
        // Its protection against CSRF is passed without any further word.
        assert_eq!(
            bridge.ok(Call::post("/guarded/basket/add").of(&id)).await["user"],
            "anna"
        );
    }
    assert_eq!(bridge.ok(Call::post("/logout").of(&id)).await["user"], Json::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profile_of_django_is_all_it_takes() {
    a_profile_is_all_it_takes(Framework::Django, "django").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profile_of_php_is_all_it_takes() {
    a_profile_is_all_it_takes(Framework::Php, "php").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profile_of_express_is_all_it_takes() {
    a_profile_is_all_it_takes(Framework::Express, "express").await;
}
