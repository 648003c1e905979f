use super::signals::Signals;
use super::*;

const DELAY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);

fn started_with(load: Load) -> (Trigger, Drain, JoinHandle<Ended>) {
    let shutdown = Shutdown::new(DELAY, TIMEOUT);
    let (trigger, drain) = (shutdown.trigger(), shutdown.drain());
    (trigger, drain, tokio::spawn(shutdown.run(move || load)))
}

fn started() -> (Trigger, Drain, JoinHandle<Ended>) {
    started_with(Load::default())
}

#[tokio::test(start_paused = true)]
async fn it_serves_on_for_the_delay_and_ends_when_the_work_is_done() {
    let (trigger, drain, run) = started();
    let connection = drain.hold();
    assert_eq!((drain.stage(), drain.closing_since()), (Stage::Running, None));
    let begun = Instant::now();
    trigger.fire("test");
    drain.draining().await;
    assert_eq!((drain.stage(), drain.closing_since()), (Stage::Draining, None));
    drain.closing().await;
    assert_eq!(begun.elapsed().as_secs(), DELAY.as_secs());
    assert_eq!(drain.closing_since(), Some(Instant::now()));
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(drain.stage(), Stage::Closing);
    assert!(!run.is_finished());
    // Work that begins only as the connection ends is waited for as well.
    drop(
        drain
            .work()
            .spawn(async { tokio::time::sleep(Duration::from_secs(4)).await }),
    );
    drop(connection);
    assert_eq!(run.await.unwrap(), Ended::Clean);
    assert_eq!(begun.elapsed().as_secs(), 16);
}

#[tokio::test(start_paused = true)]
async fn requests_that_outlive_the_timeout_are_dropped() {
    let (trigger, drain, run) = started_with(Load {
        connections: 1,
        requests: 1,
        tunnels: 0,
    });
    let minds = drain.clone();
    let task = drain.spawn(async move { minds.forced().await });
    let begun = Instant::now();
    trigger.fire("test");
    assert_eq!(run.await.unwrap(), Ended::Dropped);
    assert_eq!(begun.elapsed().as_secs(), (DELAY + TIMEOUT).as_secs());
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_the_delay_and_the_wait_at_once() {
    for first_wait in [Duration::from_secs(1), DELAY + Duration::from_secs(1)] {
        let (trigger, drain, run) = started();
        let minds = drain.clone();
        drop(drain.spawn(async move { minds.forced().await }));
        let begun = Instant::now();
        trigger.fire("first");
        tokio::time::sleep(first_wait).await;
        assert!(!run.is_finished());
        trigger.fire("second");
        // An idle connection is nothing that could be dropped.
        assert_eq!(run.await.unwrap(), Ended::Clean);
        assert_eq!(begun.elapsed().as_secs(), first_wait.as_secs());
        assert_eq!(drain.stage(), Stage::Forced);
    }
}

#[tokio::test(start_paused = true)]
async fn tunnels_end_at_the_timeout_and_are_dropped_only_before() {
    for (second, expected) in [(false, Ended::Clean), (true, Ended::Dropped)] {
        let (trigger, drain, run) = started_with(Load {
            connections: 1,
            requests: 0,
            tunnels: 1,
        });
        let stop = drain.forced_token();
        drop(drain.work().spawn(async move { stop.cancelled().await }));
        let begun = Instant::now();
        trigger.fire("first");
        drain.closing().await;
        if second {
            trigger.fire("second");
        }
        assert_eq!(run.await.unwrap(), expected);
        let timeout = if second { Duration::ZERO } else { TIMEOUT };
        assert_eq!(begun.elapsed(), DELAY + timeout);
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_does_not_mind_cannot_hold_the_process_and_counts_as_dropped() {
    let (trigger, drain, run) = started();
    let _never = drain.work().token();
    let begun = Instant::now();
    trigger.fire("first");
    trigger.fire("second");
    assert_eq!(run.await.unwrap(), Ended::Dropped);
    assert_eq!(begun.elapsed(), FORCED_GRACE);
}

#[tokio::test(start_paused = true)]
async fn work_that_is_done_within_the_grace_was_not_dropped() {
    let (trigger, drain, run) = started();
    drop(drain.work().spawn(tokio::time::sleep(FORCED_GRACE / 2)));
    trigger.fire("first");
    trigger.fire("second");
    assert_eq!(run.await.unwrap(), Ended::Clean);
}

#[tokio::test]
async fn sighup_changes_nothing_sigterm_begins_and_sigint_then_forces() {
    let (trigger, drain, run) = started();
    tokio::spawn(Signals::take_over().unwrap().fire(trigger.clone()));
    let kill = async |signal: &str| {
        let process = std::process::id().to_string();
        assert!(
            tokio::process::Command::new("kill")
                .args([signal, &process])
                .status()
                .await
                .unwrap()
                .success()
        );
    };
    kill("-HUP").await;
    assert_eq!(drain.stage(), Stage::Running);
    kill("-TERM").await;
    tokio::time::timeout(DELAY, drain.draining()).await.expect("begun");
    assert_eq!(drain.stage(), Stage::Draining);
    kill("-INT").await;
    tokio::time::timeout(DELAY, drain.forced()).await.expect("forced");
    assert_eq!(run.await.unwrap(), Ended::Clean);
    trigger.aborted().await;
}
