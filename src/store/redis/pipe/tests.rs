use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use redis::PushKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

fn pipe(room: usize) -> (Connection, DuplexStream, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(room);
    let (connection, driver) = Connection::new(ours, None);
    (connection, theirs, tokio::spawn(driver))
}

/// What arrives next, in one read.
async fn arrives(stream: &mut DuplexStream) -> String {
    let mut read = vec![0; 64 * 1024];
    let length = timeout(Duration::from_secs(10), stream.read(&mut read))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8(read[..length].to_vec()).unwrap()
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

#[tokio::test]
async fn what_is_asked_in_one_turn_goes_out_in_one_write_and_each_gets_its_own_answer() {
    let (connection, mut redis, _driver) = pipe(64 * 1024);
    let asked = join_all((0..100).map(|number| {
        let connection = connection.clone();
        tokio::spawn(async move { connection.ask_packed(format!("<{number}>").as_bytes()).await.unwrap() })
    }));
    let answer = async {
        let expected: String = (0..100).map(|number| format!("<{number}>")).collect();
        assert_eq!(arrives(&mut redis).await, expected);
        let answers: String = (0..100).map(|number| format!("$2\r\n{number:02}\r\n")).collect();
        // In pieces, some of which end within a value.
        for piece in answers.as_bytes().chunks(7) {
            redis.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (answers, ()) = tokio::join!(asked, answer);
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), bulk(&format!("{number:02}")));
    }
    assert_eq!(connection.handle.0.line().places.len(), 0);
}

#[tokio::test]
async fn a_command_goes_out_with_those_of_tasks_that_are_ready_to_ask() {
    let (connection, mut redis, _driver) = pipe(1024);
    let arrived = tokio::spawn(async move { arrives(&mut redis).await });
    // The driver has gone to sleep, and is woken before the other task is.
    tokio::task::yield_now().await;
    let mut first = Box::pin(connection.ask_packed(b"<1>"));
    assert!(first.as_mut().now_or_never().is_none());
    let second = connection.clone();
    let _second = tokio::spawn(async move { second.ask_packed(b"<2>").await });
    assert_eq!(arrived.await.unwrap(), "<1><2>");
}

#[tokio::test]
async fn the_answers_to_several_commands_are_one_answer_and_a_refusal_is_among_them() {
    let (connection, mut redis, _driver) = pipe(1024);
    let (one, other) = (redis::cmd("PING"), redis::cmd("ROLE"));
    let commands = [&one, &other];
    let behind = connection.clone();
    let (both, single, ()) = tokio::join!(connection.ask_all(&commands), behind.ask_packed(b"<3>"), async {
        assert_eq!(arrives(&mut redis).await, "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nROLE\r\n<3>");
        redis.write_all(b":1\r\n-NOPERM no\r\n:3\r\n").await.unwrap();
    });
    let both = both.unwrap();
    assert_eq!(both[0], Value::Int(1));
    assert!(
        matches!(&both[1], Value::ServerError(error) if error.code() == "NOPERM"),
        "{both:?}"
    );
    assert_eq!(single.unwrap(), Value::Int(3));
}

#[tokio::test]
async fn the_answer_of_one_who_has_left_goes_to_nobody_else() {
    let (connection, mut redis, _driver) = pipe(1024);
    for (asked, left) in [("<1>", true), ("<2>", false), ("<3>", true)] {
        let mut asking = Box::pin(connection.ask_packed(asked.as_bytes()));
        assert!(asking.as_mut().now_or_never().is_none());
        assert_eq!(arrives(&mut redis).await, asked);
        if left {
            drop(asking);
            continue;
        }
        redis.write_all(b":1\r\n:2\r\n").await.unwrap();
        assert_eq!(asking.await.unwrap(), Value::Int(2));
    }
    // One that is left before and one that is left after its answer has come.
    let mut late = Box::pin(connection.ask_packed(b"<4>"));
    assert!(late.as_mut().now_or_never().is_none());
    assert_eq!(arrives(&mut redis).await, "<4>");
    redis.write_all(b":3\r\n:4\r\n").await.unwrap();
    let last = connection.clone();
    let last = tokio::spawn(async move { last.ask_packed(b"<5>").await });
    assert_eq!(arrives(&mut redis).await, "<5>");
    redis.write_all(b":5\r\n").await.unwrap();
    assert_eq!(last.await.unwrap().unwrap(), Value::Int(5));
    drop(late);
    let line = connection.handle.0.line();
    assert_eq!((line.places.len(), line.answered, line.first), (0, 0, 5));
}

#[tokio::test]
async fn what_redis_says_unasked_is_told_and_answers_nobody() {
    let (ours, mut redis) = tokio::io::duplex(1024);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let listener: Listener = Box::new(move |push| hears.lock().unwrap().push(push.kind));
    let (connection, driver) = Connection::new(ours, Some(listener));
    let _driver = tokio::spawn(driver);
    let (subscribed, ()) = tokio::join!(connection.subscribe("news"), async {
        arrives(&mut redis).await;
        redis
            .write_all(b">2\r\n+invalidate\r\n_\r\n>3\r\n+subscribe\r\n+news\r\n:1\r\n")
            .await
            .unwrap();
    });
    subscribed.unwrap();
    assert_eq!(*heard.lock().unwrap(), [PushKind::Invalidate, PushKind::Subscribe]);
    let (refused, ()) = tokio::join!(connection.subscribe("news"), async {
        arrives(&mut redis).await;
        redis.write_all(b"-NOPERM no\r\n").await.unwrap();
    });
    assert_eq!(refused.unwrap_err().code(), Some("NOPERM"));
}

#[tokio::test]
async fn when_the_connection_ends_all_who_wait_and_all_who_come_are_told() {
    for garbled in [false, true] {
        let (connection, mut redis, driver) = pipe(1024);
        let waiting = join_all((0..3).map(|_| connection.ask_packed(b"<>")));
        let (answers, ()) = tokio::join!(waiting, async {
            arrives(&mut redis).await;
            redis.write_all(b":1\r\n").await.unwrap();
            if garbled {
                redis.write_all(b"HTTP/1.1 400\r\n").await.unwrap();
            } else {
                drop(redis);
            }
        });
        assert!(answers[0].is_ok());
        for error in [&answers[1], &answers[2], &connection.ask_packed(b"<>").await] {
            assert_eq!(error.as_ref().unwrap_err().is_io_error(), !garbled);
        }
        driver.await.unwrap();
    }
    let (connection, _redis, driver) = pipe(1024);
    let aborted = async {
        tokio::task::yield_now().await;
        driver.abort();
    };
    let (answer, ()) = tokio::join!(connection.ask_packed(b"<>"), aborted);
    assert!(answer.unwrap_err().is_io_error());
}

#[tokio::test]
async fn the_connection_ends_with_its_last_handle_once_what_was_asked_is_written_and_answered() {
    let (connection, mut redis, driver) = pipe(8);
    let other = connection.clone();
    let mut asking = Box::pin(connection.ask_packed(b"more than there is room for"));
    assert!(asking.as_mut().now_or_never().is_none());
    drop(asking);
    drop(other);
    drop(connection);
    let mut written = [0; 27];
    redis.read_exact(&mut written).await.unwrap();
    assert_eq!(&written, b"more than there is room for");
    assert!(!driver.is_finished());
    redis.write_all(b"+OK\r\n").await.unwrap();
    timeout(Duration::from_secs(10), driver).await.unwrap().unwrap();
    assert_eq!(redis.read(&mut written).await.unwrap(), 0);
}

#[tokio::test]
async fn who_finds_the_line_full_asks_once_there_is_room() {
    let (connection, mut redis, _driver) = pipe(64 * 1024);
    let mut line: Vec<_> = (0..LINE).map(|_| Box::pin(connection.ask_packed(b"."))).collect();
    for asking in &mut line {
        assert!(asking.as_mut().now_or_never().is_none());
    }
    let outside = connection.clone();
    let outside = tokio::spawn(async move { outside.ask_packed(b"last").await });
    let mut written = vec![0; LINE];
    redis.read_exact(&mut written).await.unwrap();
    assert!(written.iter().all(|byte| *byte == b'.'));
    drop(line);
    redis.write_all(&b":1\r\n".repeat(LINE)).await.unwrap();
    assert_eq!(arrives(&mut redis).await, "last");
    redis.write_all(b":2\r\n").await.unwrap();
    assert_eq!(outside.await.unwrap().unwrap(), Value::Int(2));
}

#[tokio::test]
async fn who_finds_the_line_full_of_answers_asks_once_they_are_fetched() {
    for fetched in [true, false] {
        let (connection, mut redis, _driver) = pipe(64 * 1024);
        let mut line: Vec<_> = (0..LINE).map(|_| Box::pin(connection.ask_packed(b"."))).collect();
        for asking in &mut line {
            assert!(asking.as_mut().now_or_never().is_none());
        }
        let outside = connection.clone();
        let outside = tokio::spawn(async move { outside.ask_packed(b"last").await });
        redis.read_exact(&mut vec![0; LINE]).await.unwrap();
        redis.write_all(&b":1\r\n".repeat(LINE)).await.unwrap();
        // All have their answers before anybody fetches one, and none is to come.
        while connection.handle.0.line().answered < LINE {
            tokio::task::yield_now().await;
        }
        if fetched {
            for answer in join_all(line).await {
                assert_eq!(answer.unwrap(), Value::Int(1));
            }
        } else {
            drop(line);
        }
        assert_eq!(arrives(&mut redis).await, "last");
        redis.write_all(b":2\r\n").await.unwrap();
        assert_eq!(outside.await.unwrap().unwrap(), Value::Int(2));
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    for queued in [false, true] {
        let (connection, mut redis, driver) = pipe(1024);
        let (answer, ()) = tokio::join!(connection.ask_packed(b"<1>"), async {
            arrives(&mut redis).await;
            redis.write_all(b":1\r\n").await.unwrap();
        });
        assert_eq!(answer.unwrap(), Value::Int(1));
        tokio::task::yield_now().await;
        redis.write_all(b"-ERR too long idle\r\n").await.unwrap();
        if !queued {
            timeout(Duration::from_secs(10), driver).await.unwrap().unwrap();
        }
        // Where it is queued, it has not been written when that is read.
        let next = connection.ask_packed(b"<2>").await;
        assert!(next.unwrap_err().is_io_error());
    }
}

const SOON: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn who_is_not_answered_by_the_deadline_is_told_so_and_the_late_answer_goes_to_nobody() {
    let (connection, mut redis, _driver) = pipe(1024);
    let began = Instant::now();
    let asked = [4, 1, 2].map(|times| {
        let connection = connection.clone();
        tokio::spawn(async move {
            (
                connection.ask_by(b".", began + SOON * times).await,
                began.elapsed() / 50,
            )
        })
    });
    let answers = join_all(asked);
    let (answers, ()) = tokio::join!(answers, async {
        tokio::time::sleep(SOON * 3).await;
        assert_eq!(arrives(&mut redis).await, "...");
        redis.write_all(b":4\r\n").await.unwrap();
    });
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(matches!(answers[0].0, Some(Ok(Value::Int(4)))), "{answers:?}");
    for (place, after) in [(1, 1), (2, 2)] {
        let (answer, took) = &answers[place];
        assert!(answer.is_none(), "{answers:?}");
        assert_eq!(took.as_millis(), after, "{answers:?}");
    }
    redis.write_all(b":1\r\n:2\r\n").await.unwrap();
    let (next, ()) = tokio::join!(connection.ask_by(b".", Instant::now() + SOON), async {
        assert_eq!(arrives(&mut redis).await, ".");
        redis.write_all(b":3\r\n").await.unwrap();
    });
    assert!(matches!(next, Some(Ok(Value::Int(3)))), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_also_while_the_stream_takes_no_more() {
    let (connection, _redis, _driver) = pipe(8);
    let stuck = connection.clone();
    let stuck = tokio::spawn(async move { stuck.ask(&redis::cmd("PING")).await });
    tokio::time::sleep(SOON).await;
    let began = Instant::now();
    let asking = timeout(SOON * 10, connection.ask_by(b".", began + SOON)).await;
    assert!(asking.unwrap().is_none());
    assert!(began.elapsed() < SOON * 2, "{:?}", began.elapsed());
    stuck.abort();
}

#[tokio::test]
async fn a_command_that_this_process_was_too_busy_to_send_in_time_is_waited_for() {
    let (connection, mut redis, _driver) = pipe(1024);
    let asking = connection.ask_by(b".", Instant::now() + SOON);
    let busy = async {
        // The thread of this runtime is kept from everything else beyond the deadline.
        std::thread::sleep(SOON * 3);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        arrives(&mut redis).await;
        redis.write_all(b":1\r\n").await.unwrap();
    };
    let (answer, ()) = tokio::join!(asking, busy);
    assert!(matches!(answer, Some(Ok(Value::Int(1)))), "{answer:?}");
}
