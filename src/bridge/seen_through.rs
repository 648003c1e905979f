//! A request that has reached the backend is seen through to its response head and committed, even when the client has
//! hung up (rule S4).
//!
//! The edge drops the future of a request whose connection is gone. This wrapper moves what is left of it to a task of its
//! own instead, from the moment it is marked as dispatched; before that, nothing is lost by letting go.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio_util::task::TaskTracker;

/// Marks the point from which a request is seen through.
#[derive(Clone, Debug, Default)]
pub struct Dispatched(Arc<AtomicBool>);

impl Dispatched {
    /// From here on.
    pub fn mark(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// See the [module](self).
pub struct SeenThrough<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    dispatched: Dispatched,
    tasks: TaskTracker,
}

impl<T: Send + 'static> SeenThrough<T> {
    /// Wraps `work`, which has the other clone of the mark.
    #[must_use]
    pub fn new(tasks: TaskTracker, dispatched: Dispatched, work: Pin<Box<dyn Future<Output = T> + Send>>) -> Self {
        Self {
            work: Some(work),
            dispatched,
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
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for SeenThrough<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && self.dispatched.0.load(Ordering::Acquire)
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
        let dispatched = Dispatched::default();
        let mark = dispatched.clone();
        let steps = async move {
            mark.mark();
            let _ = wait.await;
            let _ = done.send(());
        };
        let mut work = Box::pin(SeenThrough::new(tasks.clone(), dispatched, Box::pin(steps)));
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
        let mut work = Box::pin(SeenThrough::new(tasks.clone(), Dispatched::default(), Box::pin(steps)));
        assert!(futures_util::poll!(&mut work).is_pending());
        drop(work);
        seen.await.expect_err("the work went on");
        assert_eq!(tasks.len(), 0);
    }
}
