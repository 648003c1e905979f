//! The request body on its way to the backend, watched so that deadlines and blame are right.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

/// How far an upload has come.
#[derive(Debug)]
pub(super) struct Upload {
    started: Instant,
    /// When the client last sent some of it: nanoseconds after `started`.
    last_frame: AtomicU64,
    ended: AtomicBool,
    failed: AtomicBool,
    awaits_client: AtomicBool,
}

impl Upload {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            last_frame: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            awaits_client: AtomicBool::new(false),
        }
    }

    /// Nothing more of it will be sent.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The client broke it off.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The backend would take more, the client sends nothing.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client.load(Ordering::Acquire)
    }

    /// When the client last sent some of it, or ended it.
    pub(super) fn last_moved(&self) -> Instant {
        self.started + Duration::from_nanos(self.last_frame.load(Ordering::Acquire))
    }

    fn moved(&self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_frame.store(nanos, Ordering::Release);
    }
}

/// A request body that keeps its [`Upload`] up to date. A request without a body has none to keep.
#[derive(Debug)]
pub(super) struct UploadBody {
    body: Body,
    upload: Option<Arc<Upload>>,
}

impl UploadBody {
    pub(super) fn new(body: Body) -> (Self, Option<Arc<Upload>>) {
        let upload = (!body.is_end_stream()).then(|| Arc::new(Upload::new()));
        (
            Self {
                body,
                upload: upload.clone(),
            },
            upload,
        )
    }
}

impl HttpBody for UploadBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let Some(upload) = &self.upload else { return polled };
        upload.awaits_client.store(polled.is_pending(), Ordering::Release);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(frame) => {
                upload.moved();
                match frame {
                    Some(Ok(_)) if !self.body.is_end_stream() => {}
                    Some(Err(_)) => {
                        upload.failed.store(true, Ordering::Release);
                        upload.ended.store(true, Ordering::Release);
                    }
                    Some(Ok(_)) | None => upload.ended.store(true, Ordering::Release),
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for UploadBody {
    /// hyper does not ask for the end of a body whose last byte it has seen: it drops it.
    fn drop(&mut self) {
        if let Some(upload) = &self.upload
            && !upload.ended()
        {
            upload.moved();
            upload.ended.store(true, Ordering::Release);
        }
    }
}
