//! The stores: one suite for all of them, and what is particular to each.

mod cluster;
mod contract;
mod memcached;
mod memory;
mod moving;
mod near;
mod redis;
mod sealed;
mod secured;
mod sentinel;
mod sql;
mod sqlite;

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use session_bridge::session::store::{Key, LeaseToken, NewRecord, Payload, Version};

/// A time to live that no test outlasts.
const LONG: Duration = Duration::from_secs(3600);

/// A key of its own for each `n`.
fn key(n: u32) -> Key {
    let mut digest = [0x5a; 16];
    digest[..4].copy_from_slice(&n.to_be_bytes());
    // The last byte chooses the part of a store in this process.
    digest[15] = n.to_be_bytes()[3];
    Key::from_digest(digest)
}

fn version(seq: u64) -> Version {
    Version {
        seq,
        nonce: u32::try_from(seq % 1000).unwrap() + 7,
    }
}

fn token(n: u128) -> LeaseToken {
    LeaseToken(n)
}

/// A record of version `seq` with the payload `text`.
fn record(seq: u64, text: &str, ttl: Duration) -> NewRecord {
    NewRecord {
        version: version(seq),
        ttl,
        payload: Payload(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// Waits until `condition` holds, for ten seconds at most.
async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let until = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < until, "in vain waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
