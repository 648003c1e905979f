//! Which of a name's addresses takes a connection first (RFC 8305, "Happy Eyeballs").
//!
//! They are tried in the order in which the resolver has put them (RFC 6724), the families by turns; each is begun as soon as the one
//! before has failed, and no later than [`NEXT_AFTER`] behind it, which goes on beside it. So an address that does not
//! answer costs a quarter of a second, not a share of the deadline.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::wire::timer::Timer;

/// How long an attempt is alone: the "Connection Attempt Delay" of RFC 8305 §5.
const NEXT_AFTER: Duration = Duration::from_millis(250);

struct Attempt {
    address: SocketAddr,
    connecting: Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>,
}

struct Race {
    waiting: std::vec::IntoIter<SocketAddr>,
    under_way: Vec<Attempt>,
    /// Why others are not.
    failures: Vec<String>,
    /// When the next one begins.
    next: Instant,
    timer: Timer,
}

/// A connection to the first of `addresses` that takes one.
///
/// # Errors
/// Why not, for each of them.
pub(super) async fn first(addresses: Vec<SocketAddr>, deadline: Instant) -> Result<TcpStream, Vec<String>> {
    let begun = Instant::now();
    let mut race = Race {
        waiting: by_turns(addresses).into_iter(),
        under_way: Vec::new(),
        failures: Vec::new(),
        next: begun,
        timer: Timer::default(),
    };
    let won = timeout_at(deadline, poll_fn(|cx| race.poll(cx))).await;
    let Race {
        waiting,
        under_way,
        mut failures,
        ..
    } = race;
    match won {
        Ok(Some(stream)) => return Ok(stream),
        Ok(None) => {}
        Err(_) => {
            let limit = deadline.duration_since(begun);
            let silent = under_way.iter().map(|attempt| attempt.address);
            failures.extend(silent.map(|address| format!("{address}: no answer within {limit:?}")));
            failures.extend(waiting.map(|address| format!("{address}: not tried within {limit:?}")));
        }
    }
    Err(failures)
}

impl Race {
    /// `None` when all have failed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<TcpStream>> {
        loop {
            let before = self.under_way.len();
            if let Some(stream) = self.poll_attempts(cx) {
                return Poll::Ready(Some(stream));
            }
            let has_failed = self.under_way.len() < before;
            if !has_failed && self.timer.poll(cx, self.next).is_pending() {
                return Poll::Pending;
            }
            match self.waiting.next() {
                Some(address) => {
                    self.next = Instant::now() + NEXT_AFTER;
                    self.under_way.push(Attempt {
                        address,
                        connecting: Box::pin(TcpStream::connect(address)),
                    });
                }
                None if self.under_way.is_empty() => return Poll::Ready(None),
                None => return Poll::Pending,
            }
        }
    }

    fn poll_attempts(&mut self, cx: &mut Context<'_>) -> Option<TcpStream> {
        let mut won = None;
        let failures = &mut self.failures;
        self.under_way.retain_mut(|attempt| {
            if won.is_some() {
                return true;
            }
            match attempt.connecting.as_mut().poll(cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(stream)) => won = Some(stream),
                Poll::Ready(Err(error)) => failures.push(format!("{}: {error}", attempt.address)),
            }
            false
        });
        won
    }
}

/// The families by turns, beginning with that of the first; within each the order stays (RFC 8305 §4).
fn by_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let leads_with_6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == leads_with_6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::with_capacity(first.len() + second.len());
    loop {
        let pair = [first.next(), second.next()];
        if pair.iter().all(Option::is_none) {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// An address that never answers: its listener has no room for another connection.
    struct Silent {
        address: SocketAddr,
        listener: Socket,
        _queue: Vec<Socket>,
    }

    async fn silent() -> Silent {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        // Until one is not answered any more.
        while tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address))
            .await
            .is_ok()
        {
            let one = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            one.set_nonblocking(true).unwrap();
            let _ = one.connect(&address.into());
            queue.push(one);
            assert!(queue.len() < 16, "the queue has no end");
        }
        Silent {
            address,
            listener,
            _queue: queue,
        }
    }

    /// Bound, so that nobody else gets the port, and not listening.
    fn refusing() -> SocketAddr {
        static HELD: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        HELD.lock().unwrap().push(socket);
        address
    }

    async fn open() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    async fn timed(addresses: Vec<SocketAddr>) -> (SocketAddr, Duration) {
        let begun = Instant::now();
        let stream = first(addresses, begun + LIMIT).await.unwrap();
        (stream.peer_addr().unwrap(), begun.elapsed())
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_the_next_up_for_a_moment_only() {
        let (silent, open) = (silent().await, open().await);
        let good = open.local_addr().unwrap();
        let (peer, took) = timed(vec![silent.address, good]).await;
        assert_eq!(peer, good);
        assert!(NEXT_AFTER <= took && took < LIMIT / 4, "{took:?}");
        // Three of them at a time: each a moment behind the one before.
        let (peer, took) = timed(vec![silent.address, silent.address, silent.address, good]).await;
        assert_eq!(peer, good);
        assert!(3 * NEXT_AFTER <= took && took < LIMIT / 2, "{took:?}");
    }

    #[tokio::test]
    async fn after_a_refusal_the_next_address_is_tried_at_once() {
        let open = open().await;
        let good = open.local_addr().unwrap();
        let (peer, took) = timed(vec![refusing(), refusing(), refusing(), good]).await;
        assert_eq!(peer, good);
        assert!(took < NEXT_AFTER, "{took:?}");
    }

    #[tokio::test]
    async fn an_address_that_answers_late_still_wins_over_those_that_fail() {
        let (silent, open) = (silent().await, open().await);
        let good = open.local_addr().unwrap();
        // The silent one is under way while the others are refused.
        let (peer, took) = timed(vec![silent.address, refusing(), good]).await;
        assert_eq!(peer, good);
        assert!(took < 2 * NEXT_AFTER, "{took:?}");
        // Room is made for the one that was waited for.
        let late = first(vec![silent.address, refusing()], Instant::now() + LIMIT);
        let make_room = async {
            tokio::time::sleep(2 * NEXT_AFTER).await;
            silent.listener.set_nonblocking(true).unwrap();
            loop {
                let _ = silent.listener.accept();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let late: Result<_, Vec<String>> = tokio::select! {
            late = late => late,
            () = make_room => unreachable!("it has no end"),
        };
        assert_eq!(late.unwrap().peer_addr().unwrap(), silent.address);
    }

    #[tokio::test]
    async fn the_deadline_bounds_all_of_them_and_each_is_accounted_for() {
        let silent = silent().await;
        let (begun, limit) = (Instant::now(), Duration::from_millis(400));
        let addresses = vec![silent.address, refusing(), silent.address, silent.address];
        let failures = first(addresses, begun + limit).await.unwrap_err();
        assert!(begun.elapsed() < LIMIT / 4, "{:?}", begun.elapsed());
        assert_eq!(failures.len(), 4, "{failures:?}");
        assert!(first(Vec::new(), begun + LIMIT).await.unwrap_err().is_empty());
    }

    #[test]
    fn the_families_take_turns_and_each_keeps_its_order() {
        let parse = |text: &str| -> Vec<SocketAddr> { text.split(' ').map(|one| one.parse().unwrap()).collect() };
        for (given, tried) in [
            (
                "[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1 2.2.2.2:1",
                "[::1]:1 1.1.1.1:1 [::2]:1 2.2.2.2:1 [::3]:1",
            ),
            ("1.1.1.1:1 [::1]:1 [::2]:1", "1.1.1.1:1 [::1]:1 [::2]:1"),
            ("1.1.1.1:1 2.2.2.2:1", "1.1.1.1:1 2.2.2.2:1"),
        ] {
            assert_eq!(by_turns(parse(given)), parse(tried));
        }
    }

    #[tokio::test]
    async fn the_families_are_tried_by_turns() {
        let port = refusing().port();
        let addresses = ["[::1]", "[::1]", "127.0.0.1"].map(|ip| format!("{ip}:{port}").parse().unwrap());
        let failures = first(addresses.to_vec(), Instant::now() + LIMIT).await.unwrap_err();
        let tried = failures.iter().map(|failure| failure.contains("[::1]"));
        assert_eq!(tried.collect::<Vec<_>>(), [true, false, true], "{failures:?}");
    }
}
