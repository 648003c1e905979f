//! One question to one server, and why there may be no answer.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerError, Value};
use tokio::time::Instant;

use super::link::Link;
use super::patience;
use crate::session::store::StoreError;

/// Whether a command changes anything: what the loss of its answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    Change,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no connection: nothing was sent.
    NotSent(StoreError),
    /// The server answered with an error.
    Refused(ServerError),
    /// The deadline passed.
    Late,
    /// The connection, which had this number, broke.
    Lost(u64),
    /// The answer could not be read.
    Garbled(RedisError),
}

impl Link {
    /// Asks once, on a connection later than number `after`. What looks like a broken one is reported to the link.
    pub(super) async fn ask(&self, cmd: &Cmd, deadline: Instant, after: Option<u64>) -> Result<Value, Failure> {
        let connection = self.connection(deadline, after).await.map_err(Failure::NotSent)?;
        self.send(cmd, connection, deadline).await
    }

    /// Asks once, on this connection of this link.
    pub(super) async fn send(
        &self,
        cmd: &Cmd,
        (number, mut connection): (u64, MultiplexedConnection),
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let answer = patience::within(deadline, connection.send_packed_command(cmd)).await;
        match self.judge(answer, number)? {
            Value::ServerError(error) => {
                if error.code() == "READONLY" {
                    self.suspect();
                }
                Err(Failure::Refused(error))
            }
            value => Ok(value),
        }
    }

    /// Asks several things that nothing comes between, on a connection later than number `after`. A refusal of one of them is among the answers.
    pub(super) async fn ask_together<const N: usize>(
        &self,
        commands: [&Cmd; N],
        deadline: Instant,
        after: Option<u64>,
    ) -> Result<[Value; N], Failure> {
        let (number, mut connection) = self.connection(deadline, after).await.map_err(Failure::NotSent)?;
        let mut pipeline = Pipeline::with_capacity(N);
        for cmd in commands {
            pipeline.add_command(cmd.clone());
        }
        let answers = patience::within(deadline, connection.send_packed_commands(&pipeline, 0, N)).await;
        let answers = self.judge(answers, number)?;
        <[Value; N]>::try_from(answers).map_err(|_| Failure::Lost(number))
    }

    fn judge<T>(&self, answer: Option<RedisResult<T>>, number: u64) -> Result<T, Failure> {
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => {
                self.suspect();
                Err(if error.is_io_error() {
                    Failure::Lost(number)
                } else {
                    Failure::Garbled(error)
                })
            }
            None => {
                self.suspect();
                Err(Failure::Late)
            }
        }
    }
}
