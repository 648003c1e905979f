//! The accept loop.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::place::Place;
use super::{Edge, EdgeService, begin};

/// How many connections beyond the limit are told so at the same time. While there are that many, none is accepted.
pub const OVERLOAD_REFUSALS: usize = 256;

/// How long a peer may be silent before the kernel asks whether it is still there: for those that vanished without a
/// word from a connection on which nothing is due, such as an event stream or a WebSocket.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// An overload is logged no more often than this; it is counted each time.
const WARN_EVERY: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

struct Server<S> {
    edge: Arc<Edge>,
    service: S,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// Accepts until the shutdown is closing, then serves what the kernel has accepted already, and closes the listener.
pub(super) async fn run<S: EdgeService>(listener: TcpListener, edge: Arc<Edge>, service: S) {
    let limit = edge.options.max_connections.clamp(1, Semaphore::MAX_PERMITS);
    let mut closing = pin!(edge.drain.closing());
    let server = Arc::new(Server {
        edge,
        service,
        slots: Arc::new(Semaphore::new(limit)),
        refusals: Arc::new(Semaphore::new(OVERLOAD_REFUSALS)),
    });
    let (mut pause, mut warned) = (FIRST_PAUSE, None::<Instant>);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((io, peer)) => {
                pause = FIRST_PAUSE;
                // Not given up for a shutdown, which would reset this connection: refusals take seconds at most.
                let seat = server.seat().await;
                if matches!(seat, Some(Seat::Refused(_))) && warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    tracing::warn!(limit, "too many connections: refusing");
                    warned = Some(Instant::now());
                }
                server.start(io, peer, seat);
            }
            Err(error) => {
                tokio::select! {
                    () = &mut closing => break,
                    () = server.pause_after(&error, &mut pause) => {}
                }
            }
        }
    }
    if let Err(error) = server.serve_backlog(listener) {
        tracing::warn!(%error, "connections that were waiting to be accepted are lost");
    }
}

fn prepare(io: &TcpStream) -> io::Result<()> {
    io.set_nodelay(true)?;
    SockRef::from(io).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))
}

enum Seat {
    Served(OwnedSemaphorePermit),
    Refused(OwnedSemaphorePermit),
}

impl<S: EdgeService> Server<S> {
    fn seat_now(&self) -> Option<Seat> {
        let served = self.slots.clone().try_acquire_owned().map(Seat::Served);
        served
            .or_else(|_| self.refusals.clone().try_acquire_owned().map(Seat::Refused))
            .ok()
    }

    /// Waits for the sooner of being served and being refused.
    async fn seat(&self) -> Option<Seat> {
        if let Some(seat) = self.seat_now() {
            return Some(seat);
        }
        tokio::select! {
            biased;
            slot = self.slots.clone().acquire_owned() => slot.map(Seat::Served).ok(),
            slot = self.refusals.clone().acquire_owned() => slot.map(Seat::Refused).ok(),
        }
    }

    fn start(self: &Arc<Self>, io: TcpStream, peer: SocketAddr, seat: Option<Seat>) {
        self.edge.stats.accepted.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = prepare(&io) {
            // Such as of a client that is gone already. It is served all the same, only less well.
            tracing::debug!(%error, "a socket option could not be set");
        }
        let server = self.clone();
        match seat {
            Some(Seat::Served(slot)) => {
                let place = Place::take(server.edge.clone(), slot);
                self.edge.drain.spawn(async move {
                    let (service, edge) = (server.service.clone(), server.edge.clone());
                    begin::serve(io, peer, service, place, edge).await;
                });
            }
            Some(Seat::Refused(slot)) => {
                self.edge.drain.spawn(async move {
                    tokio::select! {
                        () = begin::refuse(io, peer, &server.edge) => {}
                        () = server.edge.drain.forced() => {}
                    }
                    drop(slot);
                });
            }
            // Only closed semaphores have no seats, and nobody closes these.
            None => {}
        }
    }

    /// The clients of these have their connection, and may have sent a request: closing the listener would reset them.
    fn serve_backlog(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        loop {
            let (io, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            io.set_nonblocking(true)?;
            self.start(TcpStream::from_std(io)?, peer, self.seat_now());
        }
    }

    async fn pause_after(&self, error: &io::Error, pause: &mut Duration) {
        self.edge.stats.accept_errors.fetch_add(1, Ordering::Relaxed);
        let of_the_peer = [
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::Interrupted,
        ];
        if of_the_peer.contains(&error.kind()) {
            tracing::debug!(%error, "a connection was gone before it was accepted");
            return;
        }
        tracing::error!(%error, pause = ?*pause, "cannot accept connections");
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }
}
