//! From the configuration to how sessions begin, are protected and limited, and are found dead.

use std::sync::Arc;

use super::StartError;
use super::parts::client_tls;
use crate::bridge::admission::Limits;
use crate::bridge::adopt::Adoption;
use crate::bridge::bind::Bind;
use crate::bridge::derive::Derive;
use crate::bridge::lost::Lost;
use crate::bridge::prefetch::Prefetch;
use crate::bridge::sessions::Sessions;
use crate::config::{self, Config, Create};
use crate::session::quota::Quota;
use crate::wire::own_call::{OwnCallOptions, OwnCalls};
use crate::wire::upstream::Upstream;

pub(super) fn limits(limits: &config::Limits) -> Limits {
    let quota = |rate: config::Rate| Quota {
        most: rate.most,
        within: rate.within,
    };
    Limits {
        per_address: limits.new_sessions_per_address.map(quota),
        in_all: limits.new_sessions.map(quota),
    }
}

pub(super) fn bind(bind: &config::Bind) -> Option<Bind> {
    let (v4, v6) = bind.client_address?;
    Some(Bind {
        v4,
        v6,
        reject: bind.on_mismatch == config::OnMismatch::Reject,
    })
}

pub(super) fn adoption(adopt: &config::Adopt, sessions: &Arc<Sessions>) -> Option<Adoption> {
    adopt
        .enabled
        .then(|| Adoption::new(Arc::clone(sessions), adopt.window, adopt.candidates))
}

pub(super) fn lost(lost: &config::Lost) -> Option<Lost> {
    lost.is_set().then(|| Lost {
        statuses: lost.status.clone(),
        redirect: lost.redirect.clone(),
        header: lost.header.clone(),
        with_new_cookie: lost.with_new_cookie,
    })
}

pub(super) fn derive(session: &config::Session) -> Option<Derive> {
    let cookie = session
        .derive
        .cookie
        .clone()
        .filter(|_| session.create == Create::Derive)?;
    let secret = session.derive.secret.as_ref().map(|secret| secret.expose().as_bytes());
    Some(Derive::new(cookie, secret))
}

/// `way`: that of the traffic.
pub(super) fn prefetch(config: &Config, way: &Upstream) -> Result<Option<Prefetch>, StartError> {
    let (upstream, options) = (&config.upstream, &config.session.prefetch);
    if config.session.create != Create::Prefetch {
        return Ok(None);
    }
    let is_tls = upstream.url.is_tls();
    let tls = is_tls.then(|| client_tls("upstream", &upstream.tls)).transpose()?;
    let scheme = if is_tls { "https" } else { "http" };
    let calls = OwnCalls::new(OwnCallOptions {
        base: format!("{scheme}://{}", upstream.url.authority()),
        tls,
        connect_timeout: upstream.connect_timeout,
        idle_timeout: upstream.idle_timeout,
        timeout: upstream.response_timeout,
        body_wait: config.session.body_wait,
        over: upstream.http2.then(|| way.clone()),
    });
    let calls = calls.map_err(|error| StartError(format!("session.prefetch: {error}")))?;
    Ok(Some(Prefetch {
        calls,
        method: options.method.clone(),
        target: options.path.clone(),
        headers: options.headers.clone(),
    }))
}
