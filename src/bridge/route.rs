//! What applies to which request: the first route that matches, else the defaults.

use std::time::Duration;

use http::{Method, Uri};

use crate::session::glob::Glob;
use crate::session::record::Rank;

/// Whether requests of a route have a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionUse {
    /// Yes; a missing Install ID is a matter of `install_id.on_missing`.
    Required,
    /// With an Install ID, yes; without one they go on without.
    Optional,
    /// No: they are forwarded without one, and cookies are stripped.
    Off,
}

/// How requests of a kind are treated.
#[derive(Clone, Debug)]
pub struct Route {
    /// Of the path.
    pub path: Glob,
    /// Empty: all.
    pub methods: Vec<Method>,
    /// Whether they have a session.
    pub session: SessionUse,
    /// Whether they log in or out.
    pub auth: bool,
    /// Whether they neither count nor wait where the requests of an installation are limited.
    pub unlimited: bool,
    /// Whether they may be sent once more where their session turns out to be dead (rule C4). Requests with a safe method
    /// may anyway.
    pub replay: bool,
    /// From the end of the upload to the response head.
    pub response_timeout: Duration,
    /// Requests that log in or out by `session.auth_paths`.
    pub auth_paths: Vec<Glob>,
}

impl Route {
    /// A name for logs: the pattern as it was written.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.as_str()
    }

    /// How much the response to that request may decide (rule C1).
    #[must_use]
    pub fn rank(&self, method: &Method, uri: &Uri) -> Rank {
        if self.auth || self.auth_paths.iter().any(|glob| names_request(glob, uri)) {
            Rank::Auth
        } else if method.is_safe() {
            Rank::Safe
        } else {
            Rank::Unsafe
        }
    }

    fn matches(&self, method: &Method, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.contains(method)) && self.path.matches(path.as_bytes())
    }
}

/// A pattern with a `?` speaks of path and query, one without of the path alone.
fn names_request(glob: &Glob, uri: &Uri) -> bool {
    if glob.as_str().contains('?') {
        let whole = uri.path_and_query().map_or(uri.path(), http::uri::PathAndQuery::as_str);
        glob.matches(whole.as_bytes())
    } else {
        glob.matches(uri.path().as_bytes())
    }
}

/// All routes, in order.
#[derive(Clone, Debug)]
pub struct Routes {
    routes: Vec<Route>,
    otherwise: Route,
}

impl Routes {
    /// `routes` in the order in which they are tried; `otherwise` where none matches.
    #[must_use]
    pub const fn new(routes: Vec<Route>, otherwise: Route) -> Self {
        Self { routes, otherwise }
    }

    /// The route of a request.
    #[must_use]
    pub fn find(&self, method: &Method, path: &str) -> &Route {
        self.routes
            .iter()
            .find(|route| route.matches(method, path))
            .unwrap_or(&self.otherwise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> Route {
        Route {
            path: Glob::new(path),
            methods: Vec::new(),
            session: SessionUse::Required,
            auth: false,
            unlimited: false,
            replay: false,
            response_timeout: Duration::from_secs(1),
            auth_paths: vec![Glob::new("/login"), Glob::new("/?logout=*"), Glob::new("/auth/*")],
        }
    }

    #[test]
    fn the_first_route_that_matches_applies() {
        let posts = Route {
            methods: vec![Method::POST],
            ..route("/feed/*")
        };
        let routes = Routes::new(vec![posts, route("/feed/*"), route("/feed/x")], route("*"));
        assert_eq!(routes.find(&Method::POST, "/feed/x").methods, [Method::POST]);
        assert!(routes.find(&Method::GET, "/feed/x").methods.is_empty());
        assert_eq!(routes.find(&Method::GET, "/feed/x").name(), "/feed/*");
        assert_eq!(routes.find(&Method::GET, "/").name(), "*");
    }

    #[test]
    fn c1_the_rank_of_a_request() {
        for (method, target, rank) in [
            (Method::GET, "/", Rank::Safe),
            (Method::HEAD, "/basket", Rank::Safe),
            (Method::POST, "/basket", Rank::Unsafe),
            (Method::DELETE, "/basket", Rank::Unsafe),
            (Method::POST, "/login", Rank::Auth),
            (Method::GET, "/login?next=/", Rank::Auth),
            (Method::POST, "/login/x", Rank::Unsafe),
            (Method::GET, "/?logout=yes", Rank::Auth),
            (Method::GET, "/?page=2", Rank::Safe),
            (Method::GET, "/auth/a/b", Rank::Auth),
        ] {
            let uri = target.parse().unwrap();
            assert_eq!(route("*").rank(&method, &uri), rank, "{method} {target}");
        }
    }

    #[test]
    fn c1_a_route_can_be_told_to_log_in_or_out() {
        let uri = "/x".parse().unwrap();
        assert_eq!(
            Route {
                auth: true,
                ..route("*")
            }
            .rank(&Method::GET, &uri),
            Rank::Auth
        );
    }
}
