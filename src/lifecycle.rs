//! Stopping without dropping a request (F6).
//!
//! [`Shutdown`] is told to stop, by a signal or by [`Trigger::fire`], and walks through the [`Stage`]s. Everything
//! that has to stop holds a [`Drain`]: it can ask for the stage, wait for one, and be waited for.
//!
//! ```text
//! Running ──first signal──▶ Draining ──drain_delay──▶ Closing ──all work done──▶ ended
//!                              │                         └──drain_timeout──▶ Forced ──▶ ended
//!                              └──────────── second signal, at any time ────▶ Forced
//! ```
//!
//! While *draining*, readiness fails so that the load balancer looks elsewhere, and the listener serves on: requests
//! that are on their way still find it. Every response says `Connection: close`, so that clients leave by themselves
//! before a connection is closed under them. While *closing*, nothing is accepted and idle connections are closed.
//! When *forced*, requests and tunnels are cut.
//!
//! What was cut decides [how it ended](Ended): idle connections never count. Tunnels have no end of their own, so that
//! closing them at `drain_timeout` is how they end; a second signal cuts them before their time.

pub mod service_manager;
pub mod signals;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long work that was forced to stop has to let go before [`Shutdown::run`] returns.
pub const FORCED_GRACE: Duration = Duration::from_secs(1);

/// How often it is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How far the process is on its way out. Stages only ever grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serving.
    Running,
    /// Not ready any more, serving on.
    Draining,
    /// Accepts nothing new, finishes what it has.
    Closing,
    /// Drops what is left.
    Forced,
}

impl Stage {
    const fn from_u8(stage: u8) -> Self {
        match stage {
            0 => Self::Running,
            1 => Self::Draining,
            2 => Self::Closing,
            _ => Self::Forced,
        }
    }
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All work was finished.
    Clean,
    /// Work was dropped: `drain_timeout` had passed, or a second signal came.
    Dropped,
}

/// What is open at one moment of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections of clients, idle and upgraded ones included.
    pub connections: u64,
    /// Requests that have not been answered to their end.
    pub requests: u64,
    /// Upgraded connections.
    pub tunnels: u64,
}

/// The side of those who have to stop. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The same as the tokens say, but readable without their locks, for every request.
    stage: AtomicU8,
    closing_since: OnceLock<Instant>,
    draining: CancellationToken,
    closing: CancellationToken,
    forced: CancellationToken,
    /// What accepts and serves connections.
    tracker: TaskTracker,
    /// What outlives its request.
    work: TaskTracker,
}

impl Drain {
    /// A handle on which nothing is ever asked to stop, until an owning [`Shutdown`] says so.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The present stage. One atomic load.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage::from_u8(self.shared.stage.load(Ordering::Acquire))
    }

    /// Whether the shutdown has begun: readiness fails, responses say `Connection: close`.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.stage() >= Stage::Draining
    }

    /// Since when nothing new is accepted, once that is so.
    #[must_use]
    pub fn closing_since(&self) -> Option<Instant> {
        if self.stage() < Stage::Closing {
            return None;
        }
        self.shared.closing_since.get().copied()
    }

    /// Waits until the shutdown begins.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.shared.draining.clone().cancelled_owned()
    }

    /// Waits until nothing new may be accepted.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + 'static {
        self.shared.closing.clone().cancelled_owned()
    }

    /// Waits until everything has to be dropped.
    pub fn forced(&self) -> impl Future<Output = ()> + Send + 'static {
        self.shared.forced.clone().cancelled_owned()
    }

    /// A token that is cancelled when everything has to be dropped.
    #[must_use]
    pub fn forced_token(&self) -> CancellationToken {
        self.shared.forced.child_token()
    }

    /// Starts a task that the shutdown waits for. It is not cut off: one that may run for long minds [`Self::forced`].
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.tracker.spawn(task)
    }

    /// The shutdown waits for as long as the token lives.
    pub fn hold(&self) -> TaskTrackerToken {
        self.shared.tracker.token()
    }

    /// Where work is started that outlives its request. The shutdown waits for it once all connections are gone; what
    /// is left of it when the grace after being forced is over, is dropped.
    #[must_use]
    pub fn work(&self) -> TaskTracker {
        self.shared.work.clone()
    }

    /// Waits until nothing runs any more. Only work starts work, once the connections are gone.
    async fn idle(&self) {
        self.shared.tracker.wait().await;
        self.shared.work.wait().await;
    }

    fn advance(&self, to: Stage) {
        if to >= Stage::Closing {
            // First: who sees the stage finds the time.
            let _ = self.shared.closing_since.set(Instant::now());
        }
        self.shared.stage.fetch_max(to as u8, Ordering::AcqRel);
        if to >= Stage::Draining {
            self.shared.draining.cancel();
        }
        if to >= Stage::Closing {
            self.shared.closing.cancel();
            self.shared.tracker.close();
            self.shared.work.close();
        }
        if to >= Stage::Forced {
            self.shared.forced.cancel();
        }
    }
}

/// Tells a [`Shutdown`] to begin; a second time, to stop waiting.
#[derive(Clone, Debug, Default)]
pub struct Trigger(Arc<Fired>);

#[derive(Debug, Default)]
struct Fired {
    once: AtomicBool,
    why: OnceLock<&'static str>,
    begun: CancellationToken,
    aborted: CancellationToken,
}

impl Trigger {
    /// Begins the shutdown, or ends it at once where it has begun. `why` is for the log.
    pub fn fire(&self, why: &'static str) {
        if self.0.once.swap(true, Ordering::AcqRel) {
            self.0.aborted.cancel();
        } else {
            let _ = self.0.why.set(why);
            self.0.begun.cancel();
        }
    }

    /// Waits until it is fired for the second time.
    pub fn aborted(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.aborted.clone().cancelled_owned()
    }
}

/// The side of the one who stops the others.
#[derive(Debug)]
pub struct Shutdown {
    drain: Drain,
    delay: Duration,
    timeout: Duration,
    trigger: Trigger,
}

/// Why a shutdown goes on to the last stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// All the time that was granted has passed.
    Deadline,
    /// Nobody wants to wait.
    Aborted,
}

impl Shutdown {
    /// `delay`: how long the listener serves on once the shutdown has begun (`drain_delay`). `timeout`: how long
    /// requests have to finish after that (`drain_timeout`).
    #[must_use]
    pub fn new(delay: Duration, timeout: Duration) -> Self {
        Self {
            drain: Drain::new(),
            delay,
            timeout,
            trigger: Trigger::default(),
        }
    }

    /// The handle for those who have to stop.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// What begins it.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        self.trigger.clone()
    }

    /// The longest it takes once it has begun.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.delay.saturating_add(self.timeout).saturating_add(FORCED_GRACE)
    }

    /// Waits to be told, then takes everything through the stages. Returns when nothing runs any more, or when what
    /// still ran has been dropped. `load`: what is open.
    pub async fn run(self, load: impl Fn() -> Load + Send) -> Ended {
        self.trigger.0.begun.cancelled().await;
        let signal = self.trigger.0.why.get().copied().unwrap_or_default();
        self.drain.advance(Stage::Draining);
        let Load {
            connections,
            requests,
            tunnels,
        } = load();
        tracing::info!(
            signal, delay = ?self.delay, connections, requests, tunnels,
            "shutting down: not ready any more, serving on"
        );
        if self.hurried(tokio::time::sleep(self.delay)).await {
            return self.force(Cut::Aborted, load()).await;
        }
        self.drain.advance(Stage::Closing);
        match self.finish(&load).await {
            Ok(()) => {
                tracing::info!("shut down: nothing was dropped");
                self.drain.advance(Stage::Forced);
                Ended::Clean
            }
            Err(cut) => self.force(cut, load()).await,
        }
    }

    /// Waits until all is done, and tells now and then for what.
    async fn finish(&self, load: &(impl Fn() -> Load + Send)) -> Result<(), Cut> {
        let deadline = Instant::now() + self.timeout;
        let work = self.drain.work();
        loop {
            let Load {
                connections,
                requests,
                tunnels,
            } = load();
            let left = deadline.saturating_duration_since(Instant::now());
            tracing::info!(
                connections, requests, tunnels, tasks = tasks(&work, tunnels), at_most = ?left,
                "shutting down: nothing is accepted any more, waiting for what is open"
            );
            tokio::select! {
                biased;
                () = self.drain.idle() => return Ok(()),
                () = self.trigger.aborted() => return Err(Cut::Aborted),
                () = tokio::time::sleep_until(deadline) => return Err(Cut::Deadline),
                () = tokio::time::sleep(TELL_EVERY) => {}
            }
        }
    }

    /// Runs `step` unless it is fired again first: `true` then.
    async fn hurried(&self, step: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = self.trigger.aborted() => true,
            () = step => false,
        }
    }

    async fn force(&self, cut: Cut, left: Load) -> Ended {
        let Load {
            connections,
            requests,
            tunnels,
        } = left;
        let work = self.drain.work();
        let tasks = tasks(&work, tunnels);
        let why = match cut {
            Cut::Deadline => "drain_timeout has passed",
            Cut::Aborted => "a second signal",
        };
        tracing::warn!(
            why,
            connections,
            requests,
            tunnels,
            tasks,
            "shutting down by force: what is open is dropped"
        );
        self.drain.advance(Stage::Forced);
        // Tasks that mind `forced` end here; one that does not is left to die with the runtime.
        let _ = tokio::time::timeout(FORCED_GRACE, self.drain.idle()).await;
        let cut_short = requests + if cut == Cut::Aborted { tunnels } else { 0 };
        if cut_short == 0 && work.is_empty() {
            tracing::info!("shut down: no request was dropped");
            Ended::Clean
        } else {
            tracing::warn!(requests, tunnels, tasks = work.len(), "shut down: work was dropped");
            Ended::Dropped
        }
    }
}

/// The work that is no tunnel: each tunnel is a task, too.
fn tasks(work: &TaskTracker, tunnels: u64) -> u64 {
    u64::try_from(work.len()).unwrap_or(u64::MAX).saturating_sub(tunnels)
}

#[cfg(test)]
mod tests;
