//! The gate breaks connections in the way that it says: what tests with faults rest on.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::support::gate::{Gate, Way};
use crate::support::{eventually, local};

/// Long enough for bytes that pass.
const SOON: Duration = Duration::from_secs(5);

/// How long nothing must come.
const SILENCE: Duration = Duration::from_millis(100);

/// A gate before a server that sends back what it gets, and a counter of the connections that ended at the server.
async fn gate_to_echo() -> (Gate, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ends = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = ends.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
    });
    (Gate::to(address).await, ends)
}

async fn connect(gate: &Gate) -> TcpStream {
    TcpStream::connect(local(gate.port())).await.unwrap()
}

/// Sends a word and says how long it took to come back.
async fn echo(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"word").await.unwrap();
    let mut back = [0; 4];
    timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"word");
    start.elapsed()
}

/// What a read comes to: the number of bytes, or the error; `None` when nothing comes.
async fn read(stream: &mut TcpStream, patience: Duration) -> Option<Result<usize, ErrorKind>> {
    let read = timeout(patience, stream.read(&mut [0; 64])).await.ok()?;
    Some(read.map_err(|error| error.kind()))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_and_take_the_time_they_are_told() {
    let (gate, _) = gate_to_echo().await;
    let mut stream = connect(&gate).await;
    echo(&mut stream).await;
    gate.delay(Way::Up, Duration::from_millis(60), Duration::ZERO);
    gate.delay(Way::Down, Duration::from_millis(40), Duration::from_millis(50));
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(echo(&mut stream).await);
    }
    assert!(times.iter().all(|time| *time >= Duration::from_millis(99)), "{times:?}");
    gate.delay(Way::Up, Duration::ZERO, Duration::ZERO);
    gate.delay(Way::Down, Duration::ZERO, Duration::ZERO);
    eventually("no delay", SOON, async || {
        echo(&mut stream).await < Duration::from_millis(60)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_closes_and_a_refusal_does_not_listen() {
    let (gate, _) = gate_to_echo().await;
    let mut stream = connect(&gate).await;
    echo(&mut stream).await;
    gate.cut();
    assert_eq!(read(&mut stream, SOON).await, Some(Ok(0)));
    assert_eq!(read(&mut connect(&gate).await, SOON).await, Some(Ok(0)));
    gate.open();
    let mut stream = connect(&gate).await;
    echo(&mut stream).await;
    gate.refuse().await;
    assert_eq!(read(&mut stream, SOON).await, Some(Ok(0)));
    let refused = TcpStream::connect(local(gate.port())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    gate.open();
    eventually("a listener", SOON, async || {
        TcpStream::connect(local(gate.port())).await.is_ok()
    })
    .await;
    echo(&mut connect(&gate).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_passes_later_and_what_was_stalled_is_closed() {
    let (gate, _) = gate_to_echo().await;
    let mut stream = connect(&gate).await;
    echo(&mut stream).await;
    gate.hold();
    stream.write_all(b"word").await.unwrap();
    let mut new = connect(&gate).await;
    new.write_all(b"more").await.unwrap();
    assert_eq!(read(&mut stream, SILENCE).await, None);
    gate.open();
    assert_eq!(read(&mut stream, SOON).await, Some(Ok(4)));
    assert_eq!(read(&mut new, SOON).await, Some(Ok(4)));
    gate.stall();
    stream.write_all(b"word").await.unwrap();
    assert_eq!(read(&mut stream, SILENCE).await, None);
    gate.open();
    assert!(matches!(
        read(&mut stream, SOON).await,
        Some(Ok(0) | Err(ErrorKind::ConnectionReset))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_heard_as_one_and_new_connections_pass() {
    let (gate, _) = gate_to_echo().await;
    let mut stream = connect(&gate).await;
    echo(&mut stream).await;
    gate.reset();
    assert_eq!(read(&mut stream, SOON).await, Some(Err(ErrorKind::ConnectionReset)));
    echo(&mut connect(&gate).await).await;
    assert_eq!(gate.accepted(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_side_hears_of_a_half_open_connection_again() {
    let (gate, ends) = gate_to_echo().await;
    let mut stream = connect(&gate).await;
    echo(&mut stream).await;
    gate.half_open();
    for _ in 0..3 {
        stream.write_all(b"word").await.unwrap();
        assert_eq!(read(&mut stream, SILENCE).await, None);
    }
    echo(&mut connect(&gate).await).await;
    eventually("the end of the second connection", SOON, async || {
        ends.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
    drop(stream);
    tokio::time::sleep(SILENCE).await;
    assert_eq!(
        ends.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "the server never hears of it"
    );
    drop(gate);
    eventually("the end with the gate", SOON, async || {
        ends.load(std::sync::atomic::Ordering::SeqCst) == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_so_many_bytes_pass_before_a_connection_is_closed() {
    for way in [Way::Up, Way::Down] {
        let (gate, _) = gate_to_echo().await;
        let mut stream = connect(&gate).await;
        echo(&mut stream).await;
        gate.cut_after(way, 6);
        echo(&mut stream).await;
        stream.write_all(b"word").await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("an end");
        match way {
            // What the server would have sent back may be lost with the connection.
            Way::Up => assert!(rest.len() <= 2, "{rest:?}"),
            Way::Down => assert_eq!(rest, b"wo"),
        }
        echo(&mut connect(&gate).await).await;
    }
}
