//! Many requests at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::scaled;

#[tokio::test(flavor = "multi_thread")]
async fn h2load_has_no_request_fail_with_http_2_on_both_sides() {
    let (shop, authority) = (Shop::start().await, Authority::new("ours"));
    let secure = secured(shop.address(), &authority).await;
    let identity = authority.issue(&["shop.example"]);
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let clear = before(&shop.url()).start().await;
    let tls = before(&format!("https://{secure}"))
        .set("upstream.tls.ca", text(&authority.file()))
        .set("server.tls.cert", text(&identity.cert))
        .set("server.tls.key", text(&identity.key))
        .start()
        .await;
    let requests = scaled(3000, 100_000).to_string();
    for url in [
        format!("http://{}/basket", clear.traffic),
        format!("https://{}/basket", tls.traffic),
    ] {
        let mut h2load = Command::new("h2load");
        h2load.args(["-n", &requests, "-c", "8", "-m", "32", "-H"]);
        h2load.args(["x-install-id: 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c", &url]);
        let output = h2load.output().await;
        let output = output.expect("to install it: apt-get install nghttp2-client");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let clean = format!(
            "requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
        );
        assert!(said.contains(&clean), "{url}: {said}");
        assert!(said.contains(&format!("status codes: {requests} 2xx")), "{url}: {said}");
    }
}

/// Says goodbye on each connection, in order, a moment after it was opened. Counts the requests.
async fn restless() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(local(0)).await.expect("a listener");
    let (address, served) = (listener.local_addr().expect("an address"), Arc::default());
    let count: Arc<AtomicUsize> = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            let service = service_fn(move |request: Request<Incoming>| {
                let count = Arc::clone(&count);
                async move {
                    let _ = request.into_body().collect().await;
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")).boxed()))
                }
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let mut serving = Box::pin(serving.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                let moment = Duration::from_millis(fastrand::u64(5..30));
                if tokio::time::timeout(moment, serving.as_mut()).await.is_err() {
                    serving.as_mut().graceful_shutdown();
                    let _ = serving.await;
                }
            });
        }
    });
    (address, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_leaves_its_connections_under_load_fails_no_request_and_sees_none_twice() {
    let (backend, served) = restless().await;
    let bridge = before(&format!("http://{backend}")).start().await;
    let requests = scaled(3000, 100_000);
    let bodies = (0..requests).map(|_| async {
        let answer = bridge.send(Call::post("/order").of(&InstallId::random())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    futures_util::stream::iter(bodies)
        .buffer_unordered(32)
        .collect::<Vec<_>>()
        .await;
    assert_eq!(served.load(Ordering::Relaxed), requests);
}
