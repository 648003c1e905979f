//! A fail-over while it happens: the server that is being promoted, asked itself until it says that it is a master.
//!
//! Moving early saves up to a second of service, and, where the old master is still there (`SENTINEL FAILOVER`), what
//! would be written to it after that and be lost.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;
use tracing::debug;

use super::{Answer, Shared, best, text};
use crate::store::redis::Address;
use crate::store::redis::dial::{Target, dial};
use crate::store::redis::place::is_master;

/// Where the sentinel that leads a fail-over tells which server it promotes.
pub(super) const CHANNEL: &str = "+failover-state-wait-promotion";

/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// For how long: a promotion that takes longer is left to what the sentinels name in the end.
const ASK_FOR: Duration = Duration::from_secs(10);

/// For how long the outcome counts, until the sentinels name it themselves.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// What is known of a fail-over.
pub(super) enum Promotion {
    /// Nothing.
    None,
    /// That server is being promoted.
    Promised(Address),
    /// It is the master, which counts until then.
    Done(Answer, Instant),
}

impl Promotion {
    /// The master that came of it.
    pub(super) fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Done(answer, until) if *until > Instant::now() => Some(answer),
            Self::Done(..) | Self::Promised(_) | Self::None => None,
        }
    }
}

/// The server that a message says is being promoted for the master of that name. The text is `slave NAME HOST PORT @
/// MASTER HOST PORT`.
pub(super) fn told(message: &[Value], master: &str) -> Option<Address> {
    let [channel, details] = message else { return None };
    if text(channel) != Some(CHANNEL) {
        return None;
    }
    let words: Vec<_> = text(details)?.split(' ').collect();
    match words.as_slice() {
        ["slave", _, host, port, "@", name, ..] if *name == master => Some(Address {
            host: (*host).to_owned(),
            port: port.parse().ok()?,
        }),
        _ => None,
    }
}

impl Shared {
    /// That server is being promoted: waits, beside everything else, until it is a master.
    pub(super) fn promised(self: &Arc<Self>, server: Address) {
        let Some(target) = self.server.get().cloned() else {
            return;
        };
        {
            let mut state = self.state();
            if matches!(&state.promotion, Promotion::Promised(now) if *now == server) {
                return;
            }
            state.promotion = Promotion::Promised(server.clone());
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let stop = shared.stop.clone();
            stop.run_until_cancelled(async {
                let target = Target {
                    host: server.host.clone(),
                    port: server.port,
                    ..target
                };
                let promoted = tokio::time::timeout(ASK_FOR, until_master(&target)).await;
                shared.promoted(&server, promoted.is_ok());
            })
            .await;
        });
    }

    fn promoted(&self, server: &Address, is_master: bool) {
        let mut state = self.state();
        // Another fail-over may have begun meanwhile.
        if !matches!(&state.promotion, Promotion::Promised(now) if now == server) {
            return;
        }
        state.promotion = match best(state.said.values().flatten(), None) {
            // Its epoch will be at least the next one. What the sentinels name by now need not be told twice.
            Some((epoch, named)) if is_master && named != *server => {
                debug!(master = %server, "a server was promoted to be the master");
                let answer = Answer {
                    epoch: epoch.saturating_add(1),
                    master: server.clone(),
                };
                Promotion::Done(answer, Instant::now() + COUNTS_FOR)
            }
            _ => Promotion::None,
        };
        self.settle(state);
    }
}

/// Returns when the server says that it is a master.
async fn until_master(target: &Target) {
    loop {
        if let Ok(live) = dial(target, None).await {
            let mut asked = Ok(false);
            while matches!(asked, Ok(false)) {
                asked = is_master(&live, target.timeout).await;
                if matches!(asked, Ok(true)) {
                    return;
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_read_of_the_master_that_is_meant_and_of_no_other() {
        let word = |text: &str| Value::BulkString(text.into());
        let details = "slave 127.0.0.1:7002 127.0.0.1 7002 @ mymaster 127.0.0.1 7001";
        let message = [word(CHANNEL), word(details)];
        let server = told(&message, "mymaster").unwrap();
        assert_eq!((server.host.as_str(), server.port), ("127.0.0.1", 7002));
        assert!(told(&message, "another").is_none());
        let elsewhere = [word("+switch-master"), word(details)];
        assert!(told(&elsewhere, "mymaster").is_none());
        assert!(told(&[word(CHANNEL), word("slave x")], "mymaster").is_none());
    }
}
