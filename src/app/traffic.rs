//! The traffic listener: its health path, and everything else for the bridge.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Method;

use crate::bridge::Bridge;
use crate::bridge::seen_through::SeenThrough;
use crate::config::Config;
use crate::ops::health::Readiness;
use crate::session::clock::Clock;
use crate::wire::body::Body;
use crate::wire::fields::name;
use crate::wire::headers;
use crate::wire::message::{Request, Response};
use crate::wire::server::{Came, EdgeService};

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
    fn is_asked(&self, request: &Request) -> bool {
        let head = &request.head;
        head.uri.path() == self.path && matches!(head.method, Method::GET | Method::HEAD)
    }

    /// Answers of the bridge's own carry the request ID as those of the backend do.
    fn answer(&self, request: &Request) -> Response {
        let mut response = Response::from(self.readiness.response().map(Body::from));
        let id = headers::request_id(&request.head.fields, self.clock.now().as_millis());
        response.head.fields.insert(name::X_REQUEST_ID, id);
        response
    }
}

impl EdgeService for Traffic {
    type Future = Answer;

    fn call(&self, request: Request, came: Came) -> Answer {
        match self.health.as_ref().filter(|health| health.is_asked(&request)) {
            Some(health) => Answer::Ready(Some(Box::new(health.answer(&request)))),
            None => Answer::Bridge(self.bridge.clone().handle(request, came)),
        }
    }
}

/// An answer, there already or in the making.
pub(super) enum Answer {
    Ready(Option<Box<Response>>),
    Bridge(SeenThrough<Response>),
}

impl Future for Answer {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        match self.get_mut() {
            Self::Ready(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(*response)),
            Self::Bridge(bridge) => Pin::new(bridge).poll(cx),
        }
    }
}
