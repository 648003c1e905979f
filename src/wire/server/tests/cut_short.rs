//! Responses that break off: whatever the framing, no client takes one for whole.

use std::io;

use super::*;

/// Asks for `path` by HTTP/1.0, to which the end of a stream is the end of the connection, and reads the first piece.
async fn begun(bench: &Bench, path: &str) -> TcpStream {
    let mut client = bench.connect().await;
    let head = format!("GET {path} HTTP/1.0\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(5).any(|five| five == b"piece") {
        read.push(within(client.read_u8()).await.unwrap());
    }
    client
}

/// How the rest of it comes: all of it, or why not.
async fn end(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    within(client.read_to_end(&mut rest)).await.map(|_| rest)
}

#[tokio::test]
async fn a_response_that_ends_with_the_connection_is_reset_when_it_breaks_off() {
    let bench = bench(options()).await;
    let mut client = begun(&bench, "/cut").await;
    bench.seen.release.notify_one();
    let error = end(&mut client).await.expect_err("a response cut short");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    until(|| bench.stats.open.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn one_that_is_whole_ends_in_order_even_for_a_client_that_reads_it_late() {
    let bench = bench(options()).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // So that most of it waits in the server's kernel.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(bench.addr).await.unwrap();
    client.write_all(b"GET /long HTTP/1.0\r\n\r\n").await.unwrap();
    // The server waits for the client for a while, and closes.
    until(|| bench.begun() == 1 && bench.stats.open.load(Ordering::Relaxed) == 0).await;
    let all = end(&mut client).await.unwrap();
    assert!(all.len() > LONG && all.ends_with(b"xxxx"), "{} bytes", all.len());
}

#[tokio::test]
async fn one_that_the_end_of_a_shutdown_drops_is_reset() {
    let bench = bench(options()).await;
    let mut client = begun(&bench, "/stream").await;
    bench.trigger.fire("first");
    within(bench.drain.closing()).await;
    bench.trigger.fire("second");
    let error = end(&mut client).await.expect_err("a response cut short");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn one_in_chunks_lacks_its_last_chunk_when_it_breaks_off() {
    let bench = bench(options()).await;
    let mut client = bench.connect().await;
    client.write_all(get("/cut").as_bytes()).await.unwrap();
    until(|| bench.begun() == 1).await;
    bench.seen.release.notify_one();
    let all = rest(&mut client).await;
    assert!(all.ends_with("5\r\npiece\r\n"), "{all}");
}
