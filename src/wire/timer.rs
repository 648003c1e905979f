//! A deadline that is cheap to move on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep};

/// Wakes its task no later than the deadline it was last asked about. A deadline that moves on, as it does with every
/// request, leaves the timer where it is: it fires once too early and is set anew then.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Armed>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// The task that it will wake, as long as it has not. Told by its address: the sleep holds on to that task, so that no
    /// other can have it.
    wakes: Option<usize>,
}

impl Timer {
    /// Ready once `deadline` has passed; else the task is woken then, or before.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let Armed { sleep, wakes } = self.0.get_or_insert_with(|| Armed {
            sleep: Box::pin(tokio::time::sleep_until(deadline)),
            wakes: None,
        });
        let task = cx.waker().data().addr();
        // To ask it again what it was asked before is not free.
        if *wakes == Some(task) && sleep.deadline() <= deadline && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        // A task that has used up its budget is called again at once, and the sleep does not take note of it.
        let mut noted = has_budget_remaining();
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                *wakes = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
            noted = has_budget_remaining();
        }
        *wakes = noted.then_some(task);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::task::coop::consume_budget;
    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn use_up_budget(cx: &mut Context<'_>) {
        while has_budget_remaining() {
            let _ = pin!(consume_budget()).poll(cx);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_asked_first_without_any_budget_left_is_woken_all_the_same() {
        for asked_elsewhere in [false, true] {
            let mut timer = Timer::default();
            let deadline = Instant::now() + SECOND;
            if asked_elsewhere {
                (timer, _) = tokio::spawn(async move {
                    let polled = poll_fn(|cx| Poll::Ready(timer.poll(cx, deadline))).await;
                    (timer, polled)
                })
                .await
                .unwrap();
            }
            let mut first = true;
            let passed = poll_fn(|cx| {
                if std::mem::take(&mut first) {
                    use_up_budget(cx);
                }
                timer.poll(cx, deadline)
            });
            timeout(2 * SECOND, passed).await.expect("nobody woke the task");
            assert_eq!(Instant::now().duration_since(deadline).as_secs(), 0);
        }
    }
}
