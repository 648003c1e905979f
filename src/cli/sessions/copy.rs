//! `session-bridge sessions copy`: sessions from one store into another, with a progress bar on a terminal.

use std::fmt;
use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use super::super::health::say;
use super::super::{CopyArgs, EXIT_FAILED, EXIT_USAGE};
use crate::app::{Copying, Progress, Report};
use crate::config::StoreUrl;

/// How often the bar is drawn anew.
const REDRAW: Duration = Duration::from_millis(100);

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How wide the bar is.
const WIDTH: usize = 30;

/// Copies. Exit code 0 when every session that can be read is in the target, 1 when not, 2 for bad usage.
pub(super) async fn run(arguments: CopyArgs) -> ExitCode {
    let (from, to) = match arguments.load() {
        Ok(stores) => stores,
        Err(errors) => return usage(&errors),
    };
    if matches!(from.url, StoreUrl::Memory) || matches!(to.url, StoreUrl::Memory) {
        return usage(&"a store in memory is that of one process: nothing can be copied from or to it");
    }
    let shown = (from.url.to_string(), to.url.to_string());
    if shown.0 == shown.1 {
        return usage(&"--from and --to are the same store");
    }
    let copying = match Copying::open(&from, &to).await {
        Ok(copying) => copying,
        Err(error) => return failed(&error),
    };
    let mut display = Display::new();
    let outcome = if arguments.hand_over {
        copying.hand_over(|progress| display.show(progress)).await
    } else {
        copying.copy(|progress| display.show(progress)).await
    };
    display.end();
    copying.close().await;
    match outcome {
        Ok(report) => {
            tell(&report, &shown, arguments.hand_over);
            ExitCode::from(if report.failed + report.unreadable > 0 {
                EXIT_FAILED
            } else {
                0
            })
        }
        Err(error) => failed(&error),
    }
}

fn usage(what: &impl fmt::Display) -> ExitCode {
    say(what);
    ExitCode::from(EXIT_USAGE)
}

fn failed(what: &impl fmt::Display) -> ExitCode {
    say(what);
    ExitCode::from(EXIT_FAILED)
}

fn tell(report: &Report, (from, to): &(String, String), handed_over: bool) {
    let mut text = format!("from {from}\nto   {to}\n{} sessions copied", report.copied);
    for (count, what) in [
        (report.same, "were there already"),
        (report.kept, "left alone: the target holds a newer one"),
        (report.ended, "ended meanwhile"),
        (report.unreadable, "cannot be read, and were left where they are"),
        (report.failed, "not copied: a store did not take them; run this again"),
    ] {
        if count > 0 && !(handed_over && what == "ended meanwhile") {
            text.push_str(&format!("\n{count} {what}"));
        }
    }
    if handed_over {
        text.push_str(
            "\nall sessions are in the new store: it may be store.url of every replica now, without store.moving_to",
        );
    }
    // There is nobody to tell that telling failed; the exit code says enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// What is seen meanwhile, on standard error: a bar on a terminal, elsewhere a line now and then.
struct Display {
    terminal: bool,
    begun: Instant,
    shown: Option<Instant>,
}

impl Display {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            begun: Instant::now(),
            shown: None,
        }
    }

    fn show(&mut self, progress: Progress) {
        let now = Instant::now();
        let every = if self.terminal { REDRAW } else { LINE_EVERY };
        let is_last = matches!(progress, Progress::Done(done, total) if done == total);
        let is_due = self.shown.is_none_or(|at| now.saturating_duration_since(at) >= every);
        if !is_due && !is_last {
            return;
        }
        self.shown = Some(now);
        if matches!(progress, Progress::Done(0, _)) {
            self.begun = now;
        }
        let line = line(progress, now.saturating_duration_since(self.begun), self.terminal);
        let mut error = std::io::stderr();
        let _ = if self.terminal {
            write!(error, "\r\x1b[K{line}").and_then(|()| error.flush())
        } else {
            writeln!(error, "{line}")
        };
    }

    fn end(&self) {
        if self.terminal && self.shown.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn line(progress: Progress, elapsed: Duration, bar: bool) -> String {
    let (done, total) = match progress {
        Progress::Found(found) => return format!("{found} sessions found"),
        Progress::Done(done, total) => (done, total),
    };
    let whole = u128::try_from(total.max(1)).unwrap_or(1);
    let part = u128::try_from(done).unwrap_or(0);
    let rate = part * 1000 / elapsed.as_millis().max(1);
    let mut text = format!(
        "{:>3} %  {done} of {total} sessions, {rate} a second",
        part * 100 / whole
    );
    if bar {
        let full = usize::try_from(part * u128::try_from(WIDTH).unwrap_or(0) / whole)
            .unwrap_or(WIDTH)
            .min(WIDTH);
        text = format!("[{}{}] {text}", "#".repeat(full), " ".repeat(WIDTH - full));
    }
    if done < total && rate > 0 {
        let left = (whole - part) / rate;
        text.push_str(&format!(", {left} s left"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is_how_fast_and_how_long_it_takes() {
        let second = Duration::from_secs(1);
        assert_eq!(line(Progress::Found(7), second, true), "7 sessions found");
        assert_eq!(
            line(Progress::Done(500, 2000), second, false),
            " 25 %  500 of 2000 sessions, 500 a second, 3 s left"
        );
        let bar = line(Progress::Done(1000, 2000), second, true);
        assert!(bar.starts_with("[###############               ]  50 %"), "{bar}");
        assert_eq!(
            line(Progress::Done(0, 0), Duration::ZERO, false),
            "  0 %  0 of 0 sessions, 0 a second"
        );
        assert!(line(Progress::Done(3, 3), second, true).contains("[##############################] 100 %"));
    }
}
