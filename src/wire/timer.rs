//! A deadline that is cheap to move on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

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
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                *wakes = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        *wakes = Some(task);
        Poll::Pending
    }
}
