//! What the service manager is told of a running bridge: when it serves, how it is, that it is alive, that it stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::service_manager::ServiceManager;
use crate::lifecycle::{Drain, Load};
use crate::ops::health::{Readiness, Report};
use crate::wire::server::EdgeStats;

/// How often it is looked whether there is something new.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the start counts as going on while the bridge is not ready. Not longer: a store that is down is no reason
/// for the service manager to give this process up, which serves as soon as the store is back.
const START: Duration = Duration::from_secs(3);

/// Tells it all, until it is aborted. `longest`: how long the shutdown may take.
///
/// A task of the runtime that serves, so that the watchdog is told nothing when that hangs.
pub(super) async fn run(
    manager: ServiceManager,
    readiness: Arc<Readiness>,
    drain: Drain,
    stats: Arc<EdgeStats>,
    longest: Duration,
) {
    let beat = manager.watchdog().map(|limit| limit / 2);
    let mut told = Told::new(manager);
    let started = Instant::now();
    let (mut is_started, mut is_stopping, mut next_beat) = (false, false, started);
    loop {
        let draining = drain.is_draining();
        let status = if draining {
            stopping(stats.load())
        } else {
            status(&readiness.report())
        };
        let mut lines = Vec::new();
        if !is_started && (readiness.is_ready() || draining || started.elapsed() >= START) {
            is_started = true;
            lines.push("READY=1".to_owned());
        }
        if draining && !is_stopping {
            is_stopping = true;
            lines.push("STOPPING=1".to_owned());
            lines.push(format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros()));
        }
        let mut next_look = Instant::now() + LOOK_EVERY;
        if let Some(beat) = beat {
            if next_beat <= Instant::now() {
                next_beat = Instant::now() + beat;
                lines.push("WATCHDOG=1".to_owned());
            }
            next_look = next_look.min(next_beat);
        }
        told.tell(lines, status).await;
        if draining {
            tokio::time::sleep_until(next_look).await;
        } else {
            // At once when the shutdown begins.
            let _ = tokio::time::timeout_at(next_look, drain.draining()).await;
        }
    }
}

/// Tells what is new.
struct Told {
    manager: ServiceManager,
    status: String,
    failing: bool,
}

impl Told {
    const fn new(manager: ServiceManager) -> Self {
        Self {
            manager,
            status: String::new(),
            failing: false,
        }
    }

    async fn tell(&mut self, mut lines: Vec<String>, status: String) {
        if self.status != status {
            lines.push(format!("STATUS={status}"));
            self.status = status;
        }
        if lines.is_empty() {
            return;
        }
        let told = self.manager.tell(&lines).await;
        if let Err(error) = &told
            && !self.failing
        {
            tracing::warn!(%error, "the service manager does not listen");
        }
        self.failing = told.is_err();
    }
}

fn status(report: &Report) -> String {
    let failing = |required: bool| -> Vec<&str> {
        let parts = report.parts.iter();
        parts
            .filter(|(_, part)| !part.ok && part.required == required)
            .map(|(name, _)| *name)
            .collect()
    };
    let (required, reported) = (failing(true).join(", "), failing(false).join(", "));
    match (report.ready, reported.is_empty()) {
        (true, true) => "ready".to_owned(),
        (true, false) => format!("ready; does not answer: {reported}"),
        (false, _) => format!("not ready: {required}"),
    }
}

fn stopping(load: Load) -> String {
    let Load {
        connections,
        requests,
        tunnels,
    } = load;
    format!("stopping: {requests} requests, {tunnels} tunnels, {connections} connections")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::health::Weight;

    #[test]
    fn the_status_names_what_fails() {
        let mut readiness = Readiness::default();
        let store = readiness.part("store", Weight::Required);
        let upstream = readiness.part("upstream", Weight::Reported);
        assert_eq!(status(&readiness.report()), "not ready: store");
        store.ok();
        assert_eq!(status(&readiness.report()), "ready; does not answer: upstream");
        upstream.ok();
        assert_eq!(status(&readiness.report()), "ready");
    }
}
