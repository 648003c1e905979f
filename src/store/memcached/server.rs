//! One server: its connection is made, and made again, in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Address;
use super::link::{self, Link};
use crate::session::store::StoreError;

/// How long the making of a connection may take, if `store.timeout` is not longer.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How long to wait between two connections; up to twice that, so that replicas do not come all at once.
const PACE: Duration = Duration::from_millis(50);

/// A server.
pub(super) struct Server {
    address: Address,
    state: watch::Receiver<State>,
    made: Arc<AtomicU64>,
    timeout: Duration,
    keeper: AbortOnDropHandle<()>,
}

#[derive(Clone)]
enum State {
    Up(Arc<Link>),
    Down { since: Instant, why: Arc<str> },
}

impl Server {
    /// Begins to connect to it.
    pub(super) fn keep(address: Address, timeout: Duration) -> Self {
        let (told, state) = watch::channel(down("there is no connection yet"));
        let made = Arc::new(AtomicU64::new(0));
        let keeper = tokio::spawn(keep(
            address.clone(),
            CONNECT_WITHIN.max(timeout),
            told,
            Arc::clone(&made),
        ));
        Self {
            address,
            state,
            made,
            timeout,
            keeper: AbortOnDropHandle::new(keeper),
        }
    }

    /// The connection. Without one: waited for until `by`, and not at all when it has been away for longer than a call may
    /// take.
    pub(super) async fn link(&self, by: Instant) -> Result<Arc<Link>, StoreError> {
        let mut state = self.state.clone();
        loop {
            let why = match &*state.borrow_and_update() {
                State::Up(link) if !link.is_dead() => return Ok(Arc::clone(link)),
                State::Up(_) => Arc::from("the connection was lost"),
                State::Down { since, why } if since.elapsed() > self.timeout => {
                    return Err(StoreError::Unavailable(why.to_string()));
                }
                State::Down { why, .. } => Arc::clone(why),
            };
            match tokio::time::timeout_at(by, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(StoreError::Unavailable(why.to_string())),
            }
        }
    }

    /// What follows `prefix` in the keys of all items that begin with it, by a connection of its own.
    pub(super) async fn names(&self, prefix: &str, by: Instant) -> Result<Vec<String>, StoreError> {
        let listed = tokio::time::timeout_at(by, link::names(&self.address, prefix)).await;
        listed
            .map_err(|_| StoreError::Timeout)?
            .map_err(StoreError::Unavailable)
    }

    /// Connections made in place of another one.
    pub(super) fn reconnects(&self) -> u64 {
        self.made.load(Ordering::Relaxed).saturating_sub(1)
    }

    pub(super) fn close(&self) {
        self.keeper.abort();
        if let State::Up(link) = &*self.state.borrow() {
            link.close();
        }
    }
}

fn down(why: impl Into<Arc<str>>) -> State {
    State::Down {
        since: Instant::now(),
        why: why.into(),
    }
}

async fn keep(address: Address, within: Duration, told: watch::Sender<State>, made: Arc<AtomicU64>) {
    loop {
        let opened = tokio::time::timeout(within, Link::open(&address)).await;
        match opened {
            Ok(Ok(link)) => {
                made.fetch_add(1, Ordering::Relaxed);
                let link = Arc::new(link);
                told.send_replace(State::Up(Arc::clone(&link)));
                link.died().await;
                told.send_replace(down(format!("the connection to {address} was lost")));
            }
            Ok(Err(why)) => still_down(&told, why),
            Err(_) => still_down(&told, format!("{address} does not answer")),
        }
        tokio::time::sleep(PACE.mul_f64(1.0 + fastrand::f64())).await;
    }
}

/// The reason may have changed; since when it is away has not.
fn still_down(told: &watch::Sender<State>, reason: String) {
    told.send_modify(|state| match state {
        State::Down { why, .. } => *why = reason.into(),
        State::Up(_) => *state = down(reason),
    });
}
