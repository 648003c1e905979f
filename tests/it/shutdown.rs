//! SIGTERM: readiness fails at once, what is under way is finished, and what does not end is cut in time (F6).

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{Bridge, session_bridge};
use crate::support::client::{Call, Client};
use crate::support::gate::Gate;
use crate::support::process::Process;
use crate::support::raw::{RawBackend, RawStream};
use crate::support::redis::RedisServer;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, local, unused_port};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_fails_readiness_at_once_and_finishes_what_is_under_way() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .set("server.drain_delay", "2s")
        .start()
        .await;
    let address = bridge.traffic;
    let slow = tokio::spawn(async move {
        Client::new(address)
            .send(Call::post("/basket/add?after=3000").of(&InstallId::random()))
            .await
    });
    shop.wait_for("after=3000").await;

    let told = Instant::now();
    bridge.signal("TERM");
    eventually("readiness to fail", Duration::from_millis(500), async || {
        bridge.ready().await == Some(503)
    })
    .await;
    assert_eq!(
        bridge.send(Call::get("/healthz")).await.status,
        503,
        "on the traffic listener too"
    );
    assert_eq!(bridge.ops(Call::get("/livez")).await.status, 200);
    // The load balancer has not noticed yet: new connections are still served.
    let late = Client::new(address)
        .send(Call::post("/basket").of(&InstallId::random()))
        .await;
    assert_eq!(late.expect("served during drain_delay").status, 200);
    assert!(told.elapsed() < Duration::from_secs(2), "all this within drain_delay");

    let status = bridge.exit(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    let answer = slow
        .await
        .expect("no panic")
        .expect("the request under way is answered");
    assert_eq!((answer.status, &answer.json()["basket"]), (200, &1.into()));
    assert!(
        told.elapsed() >= Duration::from_millis(2900),
        "it waited for the request under way"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_hold_the_exit() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url()).start().await;
    let _silent = RawStream::connect(bridge.traffic).await;
    let mut idle = RawStream::connect(bridge.traffic).await;
    let id = InstallId::random();
    let request = format!(
        "GET /none HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n\r\n",
        id.as_str()
    );
    assert_eq!(idle.exchange(request).await.0.status(), 200);
    let told = Instant::now();
    assert_eq!(bridge.terminate().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(5), "it took {:?}", told.elapsed());
    assert!(idle.head().await.is_none(), "the idle connection was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_finished_by_drain_timeout_is_cut() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .set("server.drain_timeout", "1s")
        .start()
        .await;
    let mut endless = RawStream::connect(bridge.traffic).await;
    let id = InstallId::random();
    endless
        .write(format!(
            "GET /endless HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\n\r\n",
            id.as_str()
        ))
        .await;
    assert_eq!(endless.head().await.expect("a response").status(), 200);
    let told = Instant::now();
    assert_eq!(bridge.terminate().await.code(), Some(1), "work had to be dropped");
    let took = told.elapsed();
    let logs = bridge.logs();
    let forced = logs.lines().find(|line| line.contains("shutting down by force"));
    assert!(forced.is_some_and(|line| line.contains("\"connections\":1,")), "{logs}");
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&took),
        "it took {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_the_draining() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .set("server.drain_delay", "20s")
        .start()
        .await;
    bridge.signal("TERM");
    eventually("readiness to fail", Duration::from_secs(1), async || {
        bridge.ready().await == Some(503)
    })
    .await;
    let told = Instant::now();
    bridge.signal("TERM");
    bridge.exit(Duration::from_secs(5)).await;
    assert!(told.elapsed() < Duration::from_secs(3), "it took {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_sqlite_survives_a_restart_and_a_crash() {
    let (shop, dir) = (Shop::start().await, tempfile::tempdir().expect("a temporary directory"));
    let url = format!("sqlite://{}", dir.path().join("sessions.db").display());
    let builder = Bridge::before(&shop.url()).store(&url).id_cookies(&["sid"]);
    let id = InstallId::random();
    let mut bridge = builder.clone().start().await;
    assert_eq!(bridge.ok(Call::post("/basket/add").of(&id)).await["basket"], 1);
    assert_eq!(bridge.terminate().await.code(), Some(0));
    let mut bridge = builder.clone().start().await;
    assert_eq!(
        bridge.ok(Call::post("/basket/add").of(&id)).await["basket"],
        2,
        "after a restart"
    );
    bridge.kill();
    let bridge = builder.start().await;
    assert_eq!(
        bridge.ok(Call::post("/basket/add").of(&id)).await["basket"],
        3,
        "after a crash"
    );
    assert_eq!(shop.sessions_started(), 1);
}

/// A request of its own installation, by hand.
fn request(method: &str, target: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\nContent-Length: 0\r\n\r\n",
        InstallId::random().as_str()
    )
}

async fn wait_until_draining(bridge: &Bridge) {
    eventually("readiness to fail", Duration::from_secs(1), async || {
        bridge.ready().await == Some(503)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_a_draining_replica_says_close_refusals_too() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .set("server.drain_delay", "2s")
        .start()
        .await;
    // These were open before; that there is no word before the signal is the other half.
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = RawStream::connect(bridge.traffic).await;
        assert_eq!(stream.exchange(request("GET", "/basket")).await.0.one("connection"), "");
        streams.push(stream);
    }
    bridge.signal("TERM");
    wait_until_draining(&bridge).await;
    for (stream, (sent, status)) in streams.iter_mut().zip([
        (request("GET", "/basket"), 200),
        (request("POST", "/status/500"), 500),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("G\u{1}T / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 503),
    ]) {
        let (head, _) = stream.exchange(&sent).await;
        assert_eq!((head.status(), head.one("connection")), (status, "close"), "{sent}");
        assert!(stream.head().await.is_none(), "and it is closed");
    }
    assert_eq!(bridge.exit(Duration::from_secs(10)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_at_once_with_0_when_nothing_is_dropped_and_with_1_when_a_request_is() {
    let shop = Shop::start().await;
    for (delay, busy, code) in [("20s", false, 0), ("20s", true, 1), ("0s", true, 1)] {
        let mut bridge = Bridge::before(&shop.url())
            .set("server.drain_delay", delay)
            .start()
            .await;
        let mut idle = RawStream::connect(bridge.traffic).await;
        assert_eq!(idle.exchange(request("GET", "/basket")).await.0.status(), 200);
        let mut slow = RawStream::connect(bridge.traffic).await;
        if busy {
            let tag = InstallId::random();
            slow.write(request("GET", &format!("/basket?before=30000&tag={}", tag.as_str())))
                .await;
            shop.wait_for_tag(tag.as_str()).await;
        }
        bridge.signal("TERM");
        wait_until_draining(&bridge).await;
        if delay == "0s" {
            eventually("the listener to close", Duration::from_secs(2), async || {
                RawStream::try_connect(bridge.traffic).await.is_err()
            })
            .await;
        }
        assert_eq!(bridge.ops(Call::get("/metrics")).await.status, 200, "to the very end");
        let told = Instant::now();
        bridge.signal("INT");
        assert_eq!(
            bridge.exit(Duration::from_secs(5)).await.code(),
            Some(code),
            "{delay} {busy}"
        );
        assert!(told.elapsed() < Duration::from_secs(3), "it took {:?}", told.elapsed());
        let logs = bridge.logs();
        let forced = logs.lines().find(|line| line.contains("shutting down by force"));
        let requests = format!("\"requests\":{},", u8::from(busy));
        assert!(forced.is_some_and(|line| line.contains(&requests)), "{logs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_metrics_are_answered_until_the_last_request_is_done() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url()).start().await;
    let mut slow = RawStream::connect(bridge.traffic).await;
    slow.write(request("GET", "/basket?after=2500")).await;
    shop.wait_for("after=2500").await;
    bridge.signal("TERM");
    eventually("the listener to close", Duration::from_secs(2), async || {
        RawStream::try_connect(bridge.traffic).await.is_err()
    })
    .await;
    let ready = bridge.ops(Call::get("/readyz")).await;
    assert_eq!((ready.status, &ready.json()["draining"]), (503, &true.into()));
    assert!(bridge.metrics().await.contains("session_bridge_client_connections 1\n"));
    // It is written by a thread of its own, a moment later.
    eventually(
        "the line that says what is waited for",
        Duration::from_secs(2),
        async || {
            let logs = bridge.logs();
            let mut waiting = logs.lines().filter(|line| line.contains("waiting for what is open"));
            waiting.any(|line| line.contains("\"requests\":1,"))
        },
    )
    .await;
    assert_eq!(slow.head().await.expect("a response").status(), 200);
    assert_eq!(bridge.exit(Duration::from_secs(5)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_last_until_drain_timeout_and_hold_no_idle_connection() {
    let backend = RawBackend::scripted(|request, mut stream| async move {
        if request.head.one("upgrade").is_empty() {
            return stream.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
        stream
            .write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        while let [byte] = stream.bytes(1).await.as_slice() {
            stream.write([byte.to_ascii_uppercase()]).await;
        }
    })
    .await;
    let mut bridge = Bridge::before(&backend.url())
        .set("server.drain_timeout", "3s")
        .start()
        .await;
    let mut tunnel = RawStream::connect(bridge.traffic).await;
    let upgrade =
        request("GET", "/socket").replace("Content-Length: 0\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    tunnel.write(upgrade).await;
    assert_eq!(tunnel.head().await.expect("a response").status(), 101);
    let mut idle = RawStream::connect(bridge.traffic).await;
    assert_eq!(idle.exchange(request("GET", "/")).await.0.status(), 200);

    let told = Instant::now();
    bridge.signal("TERM");
    assert!(idle.head().await.is_none(), "the idle connection was closed");
    assert!(told.elapsed() < Duration::from_secs(2), "it took {:?}", told.elapsed());
    tunnel.write("a").await;
    assert_eq!(tunnel.bytes(1).await, b"A");
    assert_eq!(tunnel.rest().await, b"", "closed in the end");
    assert!(
        told.elapsed() >= Duration::from_millis(2900),
        "it took {:?}",
        told.elapsed()
    );
    assert_eq!(
        bridge.exit(Duration::from_secs(3)).await.code(),
        Some(0),
        "that is how tunnels end"
    );
    let logs = bridge.logs();
    let forced = logs.lines().find(|line| line.contains("shutting down by force"));
    let counted = |line: &str| line.contains("\"tunnels\":1,") && line.contains("\"requests\":0,");
    assert!(forced.is_some_and(counted), "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_and_a_log_that_nobody_reads_stop_nothing() {
    let shop = Shop::start().await;
    let bridge = Bridge::before(&shop.url()).start().await;
    bridge.signal("HUP");
    eventually("a word about SIGHUP", Duration::from_secs(5), async || {
        bridge.logs().contains("SIGHUP changes nothing")
    })
    .await;
    assert_eq!(
        bridge.send(Call::get("/basket").of(&InstallId::random())).await.status,
        200
    );

    // The pipes of standard output and standard error lose their readers, as when what collects the log is restarted.
    let (mut child, client) = piped(&shop).await;
    drop((child.stdout.take(), child.stderr.take()));
    for _ in 0..3 {
        let answer = client.send(Call::get("/basket").of(&InstallId::random())).await;
        assert_eq!(answer.expect("an answer").status, 200);
    }
    assert_eq!(ended_by_sigterm(&mut child).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_reader_hangs_stops_nothing() {
    let shop = Shop::start().await;
    // Nobody reads the pipes, which hold 64 KiB each: about two hundred requests.
    let (mut child, client) = piped(&shop).await;
    let install = InstallId::random();
    for _ in 0..600 {
        let answer = client.send(Call::get("/basket").of(&install)).await;
        assert_eq!(answer.expect("an answer").status, 200);
    }
    assert_eq!(client.send(Call::get("/healthz")).await.expect("an answer").status, 200);
    assert_eq!(ended_by_sigterm(&mut child).await, Some(0));
}

/// A bridge whose standard output and standard error are pipes, once it is ready.
async fn piped(shop: &Shop) -> (tokio::process::Child, Client) {
    let port = unused_port();
    let mut command = session_bridge();
    let child = tokio::process::Command::from({
        command
            .args([
                "serve",
                "--upstream",
                &shop.url(),
                "--listen",
                &format!("127.0.0.1:{port}"),
            ])
            .args(["--store", "memory:"])
            .env("SESSION_BRIDGE_OPS__LISTEN", "127.0.0.1:0")
            .env("SESSION_BRIDGE_SERVER__DRAIN_DELAY", "0s")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command
    })
    .kill_on_drop(true)
    .spawn()
    .expect("session-bridge starts");
    let client = Client::new(local(port));
    eventually(
        "the bridge to be ready",
        Duration::from_secs(10),
        async || matches!(client.send(Call::get("/healthz")).await, Ok(answer) if answer.status == 200),
    )
    .await;
    (child, client)
}

/// The exit code after a SIGTERM.
async fn ended_by_sigterm(child: &mut tokio::process::Child) -> Option<i32> {
    let pid = child.id().expect("it runs").to_string();
    let killed = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.expect("kill runs").success());
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    status.expect("it exits").expect("its status").code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_start_ends_it() {
    let (shop, dir) = (Shop::start().await, tempfile::tempdir().expect("a temporary directory"));
    let url = format!("sqlite://{}", dir.path().join("sessions.db").display());
    let _first = Bridge::before(&shop.url()).store(&url).start().await;
    // The second one waits for the lock of the first.
    let mut command = session_bridge();
    command
        .args([
            "serve",
            "--upstream",
            &shop.url(),
            "--listen",
            "127.0.0.1:0",
            "--store",
            &url,
        ])
        .env("SESSION_BRIDGE_OPS__LISTEN", "127.0.0.1:0");
    let mut second = Process::start("session-bridge", command, dir.path(), "cargo build");
    eventually("the signals to be taken over", Duration::from_secs(5), async || {
        second.catches(15)
    })
    .await;
    let told = Instant::now();
    second.signal("TERM");
    let status = second.exit(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0), "{}", second.output());
    assert!(told.elapsed() < Duration::from_secs(1), "it took {:?}", told.elapsed());
    assert!(
        second.output().contains("stopped before the bridge was started"),
        "{}",
        second.output()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_stored_in_the_end_is_told_by_the_exit_code() {
    let (shop, redis) = (Shop::start().await, RedisServer::start());
    let gate = Gate::to(local(redis.port())).await;
    let mut bridge = Bridge::before(&shop.url())
        .store(&format!("redis://127.0.0.1:{}/0", gate.port()))
        .id_cookies(&["sid"])
        .set("server.drain_timeout", "3s")
        .start()
        .await;
    let address = bridge.traffic;
    let first = tokio::spawn(async move {
        let call = Call::post("/basket/add?after=500").of(&InstallId::random());
        Client::new(address).send(call).await
    });
    shop.wait_for("after=500").await;
    gate.cut();
    assert_eq!(first.await.expect("no panic").expect("an answer").status, 200);
    assert!(bridge.metrics().await.contains("session_bridge_commits_pending 1\n"));
    bridge.signal("TERM");
    assert_eq!(
        bridge.exit(Duration::from_secs(20)).await.code(),
        Some(1),
        "{}",
        bridge.logs()
    );
}
