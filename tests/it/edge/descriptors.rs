//! What happens when the process has no file descriptors left.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{OK, REQUEST, SOON, TcpStream, run};
use crate::support::bridge::Bridge;
use crate::support::eventually;
use crate::support::raw::{RawBackend, RawStream};

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a living process")
        .count()
}

async fn limit_files(pid: u32, most: usize) {
    let (pid, most) = (pid.to_string(), format!("--nofile={most}:"));
    let output = run("prlimit", "util-linux", &["--pid", &pid, &most]).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lack_of_descriptors_cuts_no_request_and_passes() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let backend = RawBackend::scripted(move |request, mut stream| {
        let held = Arc::clone(&held);
        async move {
            if request.head.first.contains("/slow") {
                held.notified().await;
            }
            stream.write(OK).await;
        }
    })
    .await;
    let bridge = Bridge::before(&backend.url()).start().await;
    let mut busy = RawStream::connect(bridge.traffic).await;
    busy.write(REQUEST.replace("/a ", "/slow ")).await;
    eventually("the request is under way", SOON, async || !backend.seen().is_empty()).await;

    limit_files(bridge.pid(), open_files(bridge.pid()) + 20).await;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        // Those that are not accepted wait in the kernel's queue.
        crowd.push(TcpStream::connect(bridge.traffic).await.expect("a connection"));
    }
    eventually("there are none left", SOON, async || {
        bridge.logs().contains("cannot accept connections")
    })
    .await;
    release.notify_one();
    assert_eq!(
        busy.head().await.expect("a response").status(),
        200,
        "what was under way is finished"
    );

    drop(crowd);
    let (head, _) = RawStream::connect(bridge.traffic).await.exchange(REQUEST).await;
    assert_eq!(head.status(), 200, "and all is well again");
}
