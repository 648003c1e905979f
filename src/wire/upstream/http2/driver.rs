//! The task that moves the frames of a connection, and looks after it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use h2::{Ping, PingPong};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::link::{GOODBYE, Status};
use super::links::Links;
use super::watch::Watched;
use crate::wire::upstream::stream::Stream;

/// A backend that owes an answer and has said nothing for this long is asked whether it is still there.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long it has to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing new happens is asked again after this long only: servers of gRPC take more than one ping
/// in five minutes for abuse.
const PING_AGAIN: Duration = Duration::from_secs(330);

/// How often a connection is looked at: whether it is idle for too long, or silent.
const TICK: Duration = Duration::from_millis(250);

/// Moves the frames of a connection, for as long as it lives.
pub(super) struct Driver {
    connection: Connection<Watched<Stream>, Bytes>,
    pings: Option<PingPong>,
    status: Arc<Status>,
    links: Weak<Links>,
    tick: Interval,
    /// When the backend was last asked, and whether it has yet to answer.
    asked: Option<Instant>,
    owes_pong: bool,
}

impl Driver {
    pub(super) fn new(
        mut connection: Connection<Watched<Stream>, Bytes>,
        status: Arc<Status>,
        links: &Arc<Links>,
    ) -> Self {
        let mut tick = interval((links.idle_timeout() / 2).clamp(Duration::from_millis(20), TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            pings: connection.ping_pong(),
            connection,
            status,
            links: Arc::downgrade(links),
            tick,
            asked: None,
            owes_pong: false,
        }
    }

    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        self.status.uses().ended = true;
        let links = self.links.upgrade();
        // Ends what is still open.
        drop(self);
        if let Some(links) = links {
            links.has_changed();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of HTTP/2 to the upstream ended");
            }
            return Poll::Ready(());
        }
        let room = self.connection.max_concurrent_send_streams();
        let had = self.status.room.swap(room, Ordering::AcqRel);
        if (room > had || self.status.watch.is_leaving())
            && let Some(links) = self.links.upgrade()
        {
            links.has_changed();
        }
        if let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            self.owes_pong = false;
        }
        while self.tick.poll_tick(cx).is_ready() {
            if let Some(links) = self.links.upgrade() {
                links.sweep();
            }
            if self.is_done(Instant::now()) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Looks after a silent backend, and a goodbye that takes too long: `true` when the connection is to be dropped.
    fn is_done(&mut self, now: Instant) -> bool {
        let uses = self.status.uses();
        let (live, begun, released) = (uses.live, uses.begun, uses.released);
        drop(uses);
        if released.is_some_and(|since| now.duration_since(since) >= GOODBYE) {
            return true;
        }
        let heard = self.status.watch.heard();
        if self.owes_pong {
            let asked = self.asked.unwrap_or(now);
            let is_dead = now.duration_since(asked.max(heard)) >= PING_TIMEOUT;
            if is_dead {
                let _ = self.status.verdict.set("it did not answer to a ping");
            }
            return is_dead;
        }
        let news = begun.map_or(heard, |begun| begun.max(heard));
        let due = match self.asked {
            Some(asked) if asked >= news => asked + PING_AGAIN,
            _ => news + PING_AFTER,
        };
        if live > 0
            && now >= due
            && let Some(pings) = &mut self.pings
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            (self.asked, self.owes_pong) = (Some(now), true);
        }
        false
    }
}
