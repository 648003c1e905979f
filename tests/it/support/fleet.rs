//! Replicas of the bridge over one Redis, before one shop.

use super::bridge::{Bridge, BridgeBuilder};
use super::redis::RedisServer;
use super::shop::Shop;

/// Several bridge processes that share a store and a backend.
pub(crate) struct Fleet {
    pub(crate) shop: Shop,
    pub(crate) bridges: Vec<Bridge>,
    /// How each replica was configured, to start one more.
    pub(crate) builder: BridgeBuilder,
    pub(crate) redis: RedisServer,
}

impl Fleet {
    /// `replicas` processes with the usual settings.
    pub(crate) async fn of(replicas: usize) -> Self {
        Self::configured(replicas, |builder| builder).await
    }

    /// `replicas` processes, each configured by `configure`.
    pub(crate) async fn configured(replicas: usize, configure: impl FnOnce(BridgeBuilder) -> BridgeBuilder) -> Self {
        let (shop, redis) = (Shop::start().await, RedisServer::start());
        let builder = configure(builder(&shop, &redis.url()));
        let bridges = start(replicas, &builder).await;
        Self {
            shop,
            bridges,
            builder,
            redis,
        }
    }

    /// The replica whose turn it is at `step`.
    pub(crate) fn turn(&self, step: usize) -> &Bridge {
        &self.bridges[step % self.bridges.len()]
    }
}

/// The usual settings, with the store at this URL.
pub(crate) fn builder(shop: &Shop, store: &str) -> BridgeBuilder {
    Bridge::before(&shop.url())
        .store(store)
        // Thousands of requests at once, unoptimised, on a machine that does other things too: the usual deadlines would
        // be missed for that alone.
        .set("store.timeout", "5s")
        .set("upstream.connect_timeout", "10s")
        .set("session.create_wait", "30s")
        .id_cookies(&["sid"])
        .auth_paths(&["/login*", "/logout*"])
}

/// Starts `replicas` processes.
pub(crate) async fn start(replicas: usize, builder: &BridgeBuilder) -> Vec<Bridge> {
    let mut bridges = Vec::new();
    for _ in 0..replicas {
        bridges.push(builder.clone().start().await);
    }
    bridges
}
