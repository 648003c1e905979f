//! What the signals of the operating system mean.
//!
//! | signal | |
//! |---|---|
//! | SIGTERM, SIGINT | begin the shutdown; a second one of either ends it at once |
//! | SIGHUP | is told in the log and changes nothing: there is nothing to reload |
//! | SIGPIPE | is ignored, by Rust's own doing: a reader of the log that goes away does not end the process |

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Trigger;

/// The signals that came since it was made. From then on none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the handlers cannot be installed, which leaves the process with the default of dying by them.
    pub fn take_over() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one that asks to stop; its name.
    pub async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => return "SIGTERM",
                Some(()) = self.interrupt.recv() => return "SIGINT",
                Some(()) = self.hang_up.recv() => {
                    tracing::info!("SIGHUP changes nothing: a new configuration needs a restart");
                }
                // Only a runtime that is being dropped closes all of them.
                else => return "the end of the runtime",
            }
        }
    }

    /// Fires `trigger` on each one that asks to stop. For ever: it is to be run in a task of its own.
    pub async fn fire(mut self, trigger: Trigger) {
        loop {
            let why = self.stop().await;
            trigger.fire(why);
        }
    }
}
