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

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long work that was forced to stop has to let go before [`Shutdown::run`] returns.
const FORCED_GRACE: Duration = Duration::from_secs(1);

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
    Forced,
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
    draining: CancellationToken,
    closing: CancellationToken,
    forced: CancellationToken,
    tracker: TaskTracker,
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

    fn advance(&self, to: Stage) {
        self.shared.stage.fetch_max(to as u8, Ordering::AcqRel);
        if to >= Stage::Draining {
            self.shared.draining.cancel();
        }
        if to >= Stage::Closing {
            self.shared.closing.cancel();
            self.shared.tracker.close();
        }
        if to >= Stage::Forced {
            self.shared.forced.cancel();
        }
    }
}

/// Tells a [`Shutdown`] to begin; a second time, to stop waiting.
#[derive(Clone, Debug)]
pub struct Trigger(mpsc::UnboundedSender<&'static str>);

impl Trigger {
    /// Begins the shutdown, or ends it at once where it has begun. `why` is for the log.
    pub fn fire(&self, why: &'static str) {
        // Nobody listens any more: the shutdown is over, which is what was asked for.
        let _ = self.0.send(why);
    }

    /// Fires on every SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed, which leaves the process with the default of dying by them.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let trigger = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = terminate.recv() => trigger.fire("SIGTERM"),
                    Some(()) = interrupt.recv() => trigger.fire("SIGINT"),
                    () = trigger.0.closed() => return,
                    else => return,
                }
            }
        });
        Ok(())
    }
}

/// The side of the one who stops the others.
#[derive(Debug)]
pub struct Shutdown {
    drain: Drain,
    delay: Duration,
    timeout: Duration,
    sender: mpsc::UnboundedSender<&'static str>,
    fired: mpsc::UnboundedReceiver<&'static str>,
}

impl Shutdown {
    /// `delay`: how long the listener serves on once the shutdown has begun (`drain_delay`). `timeout`: how long
    /// requests have to finish after that (`drain_timeout`).
    #[must_use]
    pub fn new(delay: Duration, timeout: Duration) -> Self {
        let (sender, fired) = mpsc::unbounded_channel();
        Self {
            drain: Drain::new(),
            delay,
            timeout,
            sender,
            fired,
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
        Trigger(self.sender.clone())
    }

    /// Waits to be told, then takes everything through the stages. Returns when nothing runs any more, or when what
    /// still ran has been dropped. `connections`: how many of clients are open, for the log.
    pub async fn run(mut self, connections: impl Fn() -> u64 + Send) -> Ended {
        // `self.sender` keeps the channel open: `recv` ends only by being fired.
        let why = self.fired.recv().await.unwrap_or_default();
        tracing::info!(signal = why, delay = ?self.delay, "shutting down: not ready any more");
        self.drain.advance(Stage::Draining);
        let delay = self.delay;
        if self.hurried(tokio::time::sleep(delay)).await {
            return self.force("a second signal", connections()).await;
        }
        self.drain.advance(Stage::Closing);
        tracing::info!(connections = connections(), timeout = ?self.timeout, "shutting down: closing");
        let (timeout, tracker) = (self.timeout, self.drain.shared.tracker.clone());
        let mut in_time = false;
        let finished = async {
            in_time = tokio::time::timeout(timeout, tracker.wait()).await.is_ok();
        };
        if self.hurried(finished).await {
            return self.force("a second signal", connections()).await;
        }
        if !in_time {
            return self.force("drain_timeout has passed", connections()).await;
        }
        tracing::info!("shut down");
        self.drain.advance(Stage::Forced);
        Ended::Clean
    }

    /// Runs `step` unless it is fired again first: `true` then.
    async fn hurried(&mut self, step: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = step => false,
            _ = self.fired.recv() => true,
        }
    }

    async fn force(self, why: &'static str, connections: u64) -> Ended {
        tracing::warn!(why, connections, "shutting down by force: what is open is dropped");
        self.drain.advance(Stage::Forced);
        // Tasks that mind `forced` end here; one that does not is left to die with the runtime.
        let _ = tokio::time::timeout(FORCED_GRACE, self.drain.shared.tracker.wait()).await;
        Ended::Forced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn started() -> (Trigger, Drain, JoinHandle<Ended>) {
        let shutdown = Shutdown::new(DELAY, TIMEOUT);
        let (trigger, drain) = (shutdown.trigger(), shutdown.drain());
        (trigger, drain, tokio::spawn(shutdown.run(|| 0)))
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_on_for_the_delay_and_ends_when_the_work_is_done() {
        let (trigger, drain, run) = started();
        let work = drain.hold();
        assert_eq!(drain.stage(), Stage::Running);
        let begun = tokio::time::Instant::now();
        trigger.fire("test");
        drain.draining().await;
        assert_eq!(drain.stage(), Stage::Draining);
        drain.closing().await;
        assert_eq!(begun.elapsed().as_secs(), DELAY.as_secs());
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(drain.stage(), Stage::Closing);
        assert!(!run.is_finished());
        drop(work);
        assert_eq!(run.await.unwrap(), Ended::Clean);
        assert_eq!(begun.elapsed().as_secs(), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_outlives_the_timeout_is_dropped() {
        let (trigger, drain, run) = started();
        let minds = drain.clone();
        let task = drain.spawn(async move { minds.forced().await });
        let begun = tokio::time::Instant::now();
        trigger.fire("test");
        assert_eq!(run.await.unwrap(), Ended::Forced);
        assert_eq!(begun.elapsed().as_secs(), (DELAY + TIMEOUT).as_secs());
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_the_delay_and_the_wait_at_once() {
        for first_wait in [Duration::from_secs(1), DELAY + Duration::from_secs(1)] {
            let (trigger, drain, run) = started();
            let minds = drain.clone();
            drop(drain.spawn(async move { minds.forced().await }));
            let begun = tokio::time::Instant::now();
            trigger.fire("first");
            tokio::time::sleep(first_wait).await;
            assert!(!run.is_finished());
            trigger.fire("second");
            assert_eq!(run.await.unwrap(), Ended::Forced);
            assert_eq!(begun.elapsed().as_secs(), first_wait.as_secs());
            assert_eq!(drain.stage(), Stage::Forced);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_mind_cannot_hold_the_process() {
        let (trigger, drain, run) = started();
        let _never = drain.hold();
        trigger.fire("first");
        trigger.fire("second");
        assert_eq!(run.await.unwrap(), Ended::Forced);
    }

    #[tokio::test]
    async fn sigterm_begins_and_sigint_then_forces() {
        let (trigger, drain, run) = started();
        trigger.on_signals().unwrap();
        let _work = drain.hold();
        let kill = async |signal: &str| {
            let process = std::process::id().to_string();
            assert!(
                tokio::process::Command::new("kill")
                    .args([signal, &process])
                    .status()
                    .await
                    .unwrap()
                    .success()
            );
        };
        kill("-TERM").await;
        tokio::time::timeout(DELAY, drain.draining()).await.expect("begun");
        assert_eq!(drain.stage(), Stage::Draining);
        kill("-INT").await;
        tokio::time::timeout(DELAY, drain.forced()).await.expect("forced");
        assert_eq!(run.await.unwrap(), Ended::Forced);
    }
}
