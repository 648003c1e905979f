//! Replicas that are restarted one after the other while clients go on: no request fails, no session is lost (F6).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::balancer::Balancer;
use crate::support::bridge::Bridge;
use crate::support::client::{Call, Client};
use crate::support::fleet::Fleet;
use crate::support::raw::RawStream;
use crate::support::shop::Shop;
use crate::support::{InstallId, eventually, scaled};

/// Clients that go on until they are told to stop, each on a connection of its own.
#[derive(Clone, Default)]
pub(crate) struct Load {
    pub(crate) stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    pub(crate) installations: Arc<AtomicUsize>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Load {
    /// A client that puts things into its basket and looks at it, `pause` after each answer; every `life` requests it is
    /// another installation. `query` says how slow the shop is to it.
    pub(crate) fn client(
        &self,
        address: SocketAddr,
        query: &'static str,
        pause: Duration,
        life: usize,
    ) -> JoinHandle<()> {
        let load = self.clone();
        tokio::spawn(async move {
            let client = Client::new(address);
            while !load.stop.load(Ordering::SeqCst) {
                let id = InstallId::random();
                load.installations.fetch_add(1, Ordering::SeqCst);
                let mut basket = 0;
                for turn in 0..life {
                    if load.stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let adds = turn % 2 == 0;
                    basket += u64::from(adds);
                    let call = if adds {
                        Call::post(&format!("/basket/add{query}"))
                    } else {
                        Call::get(&format!("/basket{query}"))
                    };
                    if let Err(failure) = load.request(&client, call.of(&id), basket).await {
                        load.failures.lock().expect("no panic while locked").push(failure);
                        break;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        })
    }

    async fn request(&self, client: &Client, call: Call, basket: u64) -> Result<(), String> {
        let what = call.to_string();
        let answer = client.send(call).await.map_err(|error| format!("{what}: {error}"))?;
        if answer.status != 200 {
            return Err(format!("{what}: {} {}", answer.status, answer.text()));
        }
        if answer.headers.contains_key("set-cookie") {
            return Err(format!("{what}: a Set-Cookie came through"));
        }
        let shown = &answer.json()["basket"];
        if *shown != basket {
            return Err(format!("{what}: {shown} in the basket, {basket} expected"));
        }
        self.served.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no panic while locked").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_behind_a_balancer_fail_no_request_and_lose_no_session() {
    let restarts = scaled(4, 50);
    let mut fleet = Fleet::configured(3, |builder| builder.set("server.drain_delay", "2s")).await;
    let addresses: Vec<_> = fleet.bridges.iter().map(|bridge| bridge.traffic).collect();
    let balancer = Balancer::before(&addresses, "/healthz").await;
    let well = async |slot| {
        let healthy = async || balancer.is_healthy(slot);
        eventually(
            "the balancer to find the replica well",
            Duration::from_secs(10),
            healthy,
        )
        .await;
    };
    for slot in 0..3 {
        well(slot).await;
    }

    let load = Load::default();
    let mut clients = Vec::new();
    for number in 0..8 {
        let pause = Duration::from_millis(5 + 3 * number);
        clients.push(load.client(balancer.address(), "", pause, usize::MAX));
    }
    for _ in 0..4 {
        clients.push(load.client(balancer.address(), "?after=700", Duration::ZERO, usize::MAX));
    }
    // Longer than `drain_delay`: these end only when nothing is accepted any more.
    for _ in 0..2 {
        clients.push(load.client(balancer.address(), "?after=4000", Duration::ZERO, usize::MAX));
    }
    for _ in 0..2 {
        clients.push(load.client(balancer.address(), "?after=10", Duration::from_millis(20), 6));
    }

    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for restart in 0..restarts {
        let slot = restart % 3;
        let before = load.served();
        eventually("load", Duration::from_secs(10), async || load.served() > before + 50).await;
        let told = Instant::now();
        fleet.bridges[slot].signal("TERM");
        let status = fleet.bridges[slot].exit(Duration::from_secs(20)).await;
        longest = longest.max(told.elapsed());
        assert_eq!(status.code(), Some(0), "{}", fleet.bridges[slot].logs());
        assert!(!balancer.is_healthy(slot), "the balancer has noticed");
        fleet.bridges[slot] = fleet.builder.clone().start().await;
        balancer.replace(slot, fleet.bridges[slot].traffic);
        well(slot).await;
        assert_eq!(
            (load.failures(), balancer.failures()),
            (vec![], vec![]),
            "restart {restart}"
        );
    }
    load.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no panic");
    }
    assert_eq!((load.failures(), balancer.failures()), (vec![], vec![]));
    let installations = load.installations.load(Ordering::SeqCst);
    assert_eq!(fleet.shop.sessions_started(), installations, "one session each");
    eprintln!(
        "{restarts} restarts in {:?}, the longest drain {longest:?}: {} requests of {installations} installations, none failed",
        begun.elapsed(),
        load.served(),
    );
}

/// A client that honours `Connection: close`, until nobody listens any more. How many requests it had answered, and how
/// many of the answers said that the connection goes.
async fn until_refused(address: SocketAddr, pause: Duration) -> (usize, usize) {
    let id = InstallId::random();
    let (mut served, mut closed) = (0, 0);
    while let Ok(mut stream) = RawStream::try_connect(address).await {
        loop {
            let method = if served % 2 == 0 { "GET" } else { "POST" };
            let request = format!(
                "{method} /basket/add HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Install-Id: {}\r\nContent-Length: 0\r\n\r\n",
                id.as_str()
            );
            let (head, body) = stream.exchange(request).await;
            served += 1;
            let shown: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((head.status(), &shown["basket"]), (200, &served.into()));
            if head.one("connection").eq_ignore_ascii_case("close") {
                closed += 1;
                break;
            }
            tokio::time::sleep(pause).await;
        }
    }
    (served, closed)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_honour_connection_close_see_no_failure_while_a_replica_drains() {
    let shop = Shop::start().await;
    let mut bridge = Bridge::before(&shop.url())
        .id_cookies(&["sid"])
        .set("server.drain_delay", "1s")
        .start()
        .await;
    let address = bridge.traffic;
    let clients: Vec<_> = (0..24)
        .map(|number| tokio::spawn(until_refused(address, Duration::from_millis(number * 10))))
        .collect();
    eventually("load", Duration::from_secs(20), async || shop.count() > 300).await;
    assert_eq!(bridge.terminate().await.code(), Some(0));
    for client in clients {
        let (served, closed) = client.await.expect("no request fails");
        assert!(served > closed && closed > 0, "{served} answers, {closed} said close");
    }
    assert_eq!(shop.sessions_started(), 24);
}
