//! A request that has reached the backend is seen through to its response head and committed, even when the client has
//! hung up (rule S4).
//!
//! The edge drops the future of a request whose connection is gone. This wrapper moves what is left of it to a task of its
//! own instead, from the moment it is marked as dispatched; before that, nothing is lost by letting go.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::task::TaskTracker;

thread_local! {
    /// The work that is being polled on this thread has been dispatched in this poll.
    static DISPATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Said by the work on a request: from here on it is seen through.
pub fn dispatched() {
    DISPATCHED.set(true);
}

/// See the [module](self).
pub struct SeenThrough<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    dispatched: bool,
    tasks: TaskTracker,
}

impl<T: Send + 'static> SeenThrough<T> {
    /// Wraps `work`, which tells when it is [`dispatched`].
    #[must_use]
    pub fn new(tasks: TaskTracker, work: Pin<Box<dyn Future<Output = T> + Send>>) -> Self {
        Self {
            work: Some(work),
            dispatched: false,
            tasks,
        }
    }
}

impl<T: Send + 'static> Future for SeenThrough<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = self.work.as_mut() else {
            return Poll::Pending;
        };
        let outer = DISPATCHED.replace(false);
        let polled = work.as_mut().poll(context);
        self.dispatched |= DISPATCHED.replace(outer);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for SeenThrough<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && self.dispatched
        {
            self.tasks.spawn(async move { drop(work.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_that_was_dispatched_goes_on_when_its_owner_is_dropped() {
        let tasks = TaskTracker::new();
        let (go, wait) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel::<()>();
        let steps = async move {
            super::dispatched();
            let _ = wait.await;
            let _ = done.send(());
        };
        let mut work = Box::pin(SeenThrough::new(tasks.clone(), Box::pin(steps)));
        assert!(futures_util::poll!(&mut work).is_pending());
        drop(work);
        go.send(()).unwrap();
        seen.await.expect("the work was dropped");
    }

    #[tokio::test]
    async fn work_that_was_not_dispatched_is_let_go() {
        let tasks = TaskTracker::new();
        let (done, seen) = oneshot::channel::<()>();
        let steps = async move {
            std::future::pending::<()>().await;
            let _ = done.send(());
        };
        let mut work = Box::pin(SeenThrough::new(tasks.clone(), Box::pin(steps)));
        assert!(futures_util::poll!(&mut work).is_pending());
        drop(work);
        seen.await.expect_err("the work went on");
        assert_eq!(tasks.len(), 0);
    }

    #[tokio::test]
    async fn what_is_said_in_one_work_is_of_that_alone() {
        let tasks = TaskTracker::new();
        let inner = SeenThrough::new(tasks.clone(), Box::pin(async { super::dispatched() }));
        let work = async move {
            inner.await;
            std::future::pending::<()>().await;
        };
        let mut outer = Box::pin(SeenThrough::new(tasks.clone(), Box::pin(work)));
        assert!(futures_util::poll!(&mut outer).is_pending());
        drop(outer);
        assert_eq!(tasks.len(), 0);
    }
}
