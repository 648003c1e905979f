//! Waiting for replicas, off the way of everything else.
//!
//! `WAIT` blocks the connection that asks it, and speaks of what that connection wrote. So it has a connection of its
//! own, and asks in rounds: a harmless write, which stands behind every change that Redis has answered by then, and a
//! `WAIT` for it. One round serves all changes that were done when it began; those that come meanwhile are for the
//! next one. So changes never wait for one another, and there is one round at a time, however many they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::link::Link;
use crate::store::patience;

/// At most so often it is told that replicas are behind.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How many changes wait for the next round at most; further ones are not confirmed.
const QUEUE: usize = 16_384;

/// Confirms that replicas have what was changed.
pub(super) struct Replicas {
    queue: mpsc::Sender<Waiting>,
    unconfirmed: AtomicU64,
    told: std::sync::Mutex<Option<Instant>>,
    wanted: u16,
    link: Arc<Link>,
    _rounds: AbortOnDropHandle<()>,
}

/// A change that is done.
struct Waiting {
    until: Instant,
    mark: Cmd,
    confirmed: oneshot::Sender<()>,
}

impl Replicas {
    /// Waits for so many replicas over `link`, which nobody else may use.
    pub(super) fn new(wanted: u16, link: Link) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let link = Arc::new(link);
        let rounds = tokio::spawn(go_round(wanted, Arc::clone(&link), waiting));
        Self {
            queue,
            unconfirmed: AtomicU64::new(0),
            told: std::sync::Mutex::new(None),
            wanted,
            link,
            _rounds: AbortOnDropHandle::new(rounds),
        }
    }

    /// Returns when enough replicas have the change that was just answered, or else at `until`: then it is counted,
    /// and told now and then. The change stands either way. `mark` is a harmless write that this server takes.
    pub(super) async fn confirm(&self, mark: Cmd, until: Instant) {
        let (confirmed, hears) = oneshot::channel();
        let waiting = Waiting { until, mark, confirmed };
        let queued = self.queue.try_send(waiting).is_ok();
        if queued && matches!(patience::within(until, hears).await, Some(Ok(()))) {
            return;
        }
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            drop(told);
            let (wanted, so_far) = (self.wanted, self.unconfirmed());
            warn!(
                wanted,
                so_far, "changes are stored, but fewer replicas of Redis have them than store.wait_replicas"
            );
        }
    }

    /// How many changes were not confirmed.
    pub(super) fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Ordering::Relaxed)
    }

    /// How often a connection was made after the first one.
    pub(super) fn reconnects(&self) -> u64 {
        self.link.reconnects()
    }

    /// Lets go of the connection, for good.
    pub(super) fn close(&self) {
        self.link.close();
    }
}

async fn go_round(wanted: u16, link: Arc<Link>, mut queue: mpsc::Receiver<Waiting>) {
    let mut round = Vec::new();
    loop {
        if round.is_empty() && queue.recv_many(&mut round, QUEUE).await == 0 {
            return;
        }
        while let Ok(waiting) = queue.try_recv() {
            round.push(waiting);
        }
        let now = Instant::now();
        round.retain(|waiting| waiting.until > now && !waiting.confirmed.is_closed());
        // As long as any of them can wait: it ends as soon as the replicas have it.
        let Some(until) = round.iter().map(|waiting| waiting.until).max() else {
            continue;
        };
        // Any will do: all that was changed here stands before it.
        let mark = round.last().map(|waiting| waiting.mark.clone()).unwrap_or_default();
        match wait(wanted, &link, &mark, until).await {
            Some(true) => {
                for waiting in round.drain(..) {
                    // Whoever asked may have given up.
                    let _ = waiting.confirmed.send(());
                }
            }
            // Those that may wait longer are asked for again, with those that came meanwhile.
            Some(false) => {}
            None => tokio::time::sleep_until(until.min(now + Duration::from_millis(20))).await,
        }
    }
}

/// Whether so many replicas had, by `until`, what this Redis had at the beginning; `None`: it was not to be learnt.
async fn wait(wanted: u16, link: &Link, mark: &Cmd, until: Instant) -> Option<bool> {
    let (_, connection) = link.connection(until, None).await.ok()?;
    // `WAIT` with 0 would be without an end.
    let millis = until.saturating_duration_since(Instant::now()).as_millis().max(1);
    let mut wait = redis::cmd("WAIT");
    wait.arg(wanted).arg(u64::try_from(millis).unwrap_or(u64::MAX));
    let both = async { tokio::join!(connection.ask(mark), connection.ask(&wait)) };
    // It answers by itself when the time is over.
    match patience::within(until + Duration::from_millis(100), both).await {
        Some((Ok(Value::Okay), Ok(Value::Int(replicas)))) => {
            link.heard();
            Some(replicas >= i64::from(wanted))
        }
        Some((Ok(marked), Ok(_))) => {
            link.heard();
            if matches!(marked, Value::ServerError(error) if error.code() == "READONLY") {
                link.renew();
            }
            None
        }
        _ => {
            link.suspect();
            None
        }
    }
}
