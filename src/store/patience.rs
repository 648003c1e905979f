//! A deadline that tells a slow server from a busy process.
//!
//! When thousands of requests arrive in one moment, an answer may lie in the socket, long since there, while the tasks
//! that would read it wait for their turn. Calling that an outage would refuse requests for nothing, and suspect a good
//! connection on top. What tells the two apart is the timer: it fires on time in a process that is at leisure.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

/// How late a timer may fire in a process that is at leisure: timers here are of whole milliseconds.
const AT_LEISURE: Duration = Duration::from_millis(15);

/// How often the deadline is moved by as much as its timer was late.
const EXTENSIONS: usize = 4;

/// Waits for `call` until `deadline`, and for as much longer as this process was itself late in noticing. `None` when
/// the time has passed.
pub(super) async fn within<F: Future>(deadline: Instant, call: F) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut until = deadline;
    for times in 0..=EXTENSIONS {
        if let Ok(output) = tokio::time::timeout_at(until, &mut call).await {
            return Some(output);
        }
        until = moved(until, times)?;
    }
    None
}

/// Where a deadline moves that has moved so many times already, and whose timer was set to `until` and fires now. `None`:
/// it has passed.
pub(super) fn moved(until: Instant, times: usize) -> Option<Instant> {
    let now = Instant::now();
    let late = now.saturating_duration_since(until);
    (late >= AT_LEISURE && times < EXTENSIONS).then(|| now + late)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_given_up_on_time() {
        let started = Instant::now();
        assert_eq!(within(soon(), std::future::pending::<()>()).await, None);
        assert!(started.elapsed() >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn an_answer_that_is_there_is_taken_though_the_process_was_too_busy_to_look() {
        let (answer, asked) = oneshot::channel();
        let waiting = within(soon(), asked);
        let reading = async {
            // The thread of this runtime is kept from everything else beyond the deadline, and the answer is read only
            // some turns after that.
            std::thread::sleep(Duration::from_millis(120));
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            answer.send("here").unwrap();
        };
        let (answered, ()) = tokio::join!(waiting, reading);
        assert_eq!(answered, Some(Ok("here")));
    }
}
