//! The traffic listener: its health path, and everything else for the bridge.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use hyper::service::Service;

use crate::bridge::Bridge;
use crate::bridge::seen_through::SeenThrough;
use crate::config::Config;
use crate::ops::health::Readiness;
use crate::session::clock::Clock;
use crate::wire::headers;
use crate::wire::server::ClientAddr;

/// Where requests go. Every request of every client comes through here: no router, since there is one path to know.
#[derive(Clone)]
pub(super) struct Traffic {
    bridge: Bridge,
    health: Option<Arc<Health>>,
}

struct Health {
    path: String,
    readiness: Arc<Readiness>,
    clock: Arc<dyn Clock>,
}

impl Traffic {
    pub(super) fn new(config: &Config, bridge: Bridge, readiness: Arc<Readiness>, clock: Arc<dyn Clock>) -> Self {
        let health = config
            .server
            .health_path
            .clone()
            .map(|path| Arc::new(Health { path, readiness, clock }));
        Self { bridge, health }
    }
}

impl Health {
    fn is_asked(&self, request: &Request<Body>) -> bool {
        request.uri().path() == self.path && matches!(*request.method(), Method::GET | Method::HEAD)
    }

    /// Answers of the bridge's own carry the request ID as those of the backend do.
    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let mut response = self.readiness.response().map(Body::from);
        let id = headers::request_id(request.headers(), self.clock.now().as_millis());
        response.headers_mut().insert(&headers::X_REQUEST_ID, id);
        response
    }
}

impl Service<Request<Body>> for Traffic {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Body>) -> Answer {
        if let Some(health) = self.health.as_ref().filter(|health| health.is_asked(&request)) {
            return Answer::Ready(Some(health.answer(&request)));
        }
        match request.extensions().get::<ClientAddr>() {
            Some(&ClientAddr(peer)) => Answer::Bridge(self.bridge.clone().handle(peer, request)),
            // Not from our edge, which names the peer of every connection: nothing is known of who asks.
            None => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                Answer::Ready(Some(response))
            }
        }
    }
}

/// An answer, there already or in the making.
pub(super) enum Answer {
    Ready(Option<Response<Body>>),
    Bridge(SeenThrough<Response<Body>>),
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(response) => response
                .take()
                .map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Bridge(bridge) => Pin::new(bridge).poll(cx).map(Ok),
        }
    }
}
