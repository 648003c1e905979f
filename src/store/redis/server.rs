//! The connections to one server: one question, and why there may be no answer.

use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, ServerError, Value};
use tokio::time::Instant;

use super::link::{Link, Up};
use super::pipe::Connection;
use crate::session::copies::Pass;
use crate::session::store::{Key, StoreError};
use crate::store::patience;

/// What a command does: by which connection it goes, and what the loss of its answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It changes nothing.
    Read,
    /// It changes something, and is never sent twice.
    Change,
    /// It is a change that does no harm, to see whether changes are taken; it may be sent twice.
    Trial,
}

impl Effect {
    /// Whether it may be asked again when the answer was lost.
    pub(super) fn may_repeat(self) -> bool {
        matches!(self, Self::Read | Self::Trial)
    }
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

/// A server, or whichever one is the master.
pub(super) struct Server {
    /// For reads.
    reads: Link,
    /// For changes. Redis may hold back a connection that sent one (`CLIENT PAUSE … WRITE`, a failover): what is only
    /// read must not stand in line behind it.
    changes: Link,
}

impl Server {
    /// The server at the end of both links.
    pub(super) fn new(reads: Link, changes: Link) -> Self {
        Self { reads, changes }
    }

    /// The link by which such commands go.
    pub(super) fn link(&self, effect: Effect) -> &Link {
        match effect {
            Effect::Read => &self.reads,
            Effect::Change | Effect::Trial => &self.changes,
        }
    }

    /// Whether there are connections.
    pub(super) fn is_up(&self) -> bool {
        self.reads.is_up() && self.changes.is_up()
    }

    /// How often a connection was made after the first ones.
    pub(super) fn reconnects(&self) -> u64 {
        self.reads.reconnects() + self.changes.reconnects()
    }

    /// Asks, and asks once more on the next connection what may be asked again: the first one may have been closed for
    /// idleness just now.
    pub(super) async fn ask(&self, cmd: &Cmd, effect: Effect, deadline: Instant) -> Result<Value, Failure> {
        self.ask_packed(&cmd.get_packed_command(), effect, deadline).await
    }

    /// The same of a command as it is written.
    pub(super) async fn ask_packed(&self, command: &[u8], effect: Effect, deadline: Instant) -> Result<Value, Failure> {
        match self.ask_once(command, effect, deadline, None).await {
            Err(Failure::Lost(number)) if effect.may_repeat() => {
                // Seldom: those who need no second connection carry no room for it.
                Box::pin(self.ask_once(command, effect, deadline, Some(number))).await
            }
            other => other,
        }
    }

    /// Asks once, on a connection later than number `after`.
    async fn ask_once(
        &self,
        command: &[u8],
        effect: Effect,
        deadline: Instant,
        after: Option<u64>,
    ) -> Result<Value, Failure> {
        let connection = self.link(effect).connection(deadline, after).await;
        let connection = connection.map_err(Failure::NotSent)?;
        self.send_packed(command, effect, deadline, connection).await
    }

    /// Asks once, on this connection of the link for such commands.
    pub(super) async fn send(
        &self,
        cmd: &Cmd,
        effect: Effect,
        deadline: Instant,
        connection: (u64, Connection),
    ) -> Result<Value, Failure> {
        self.send_packed(&cmd.get_packed_command(), effect, deadline, connection)
            .await
    }

    async fn send_packed(
        &self,
        command: &[u8],
        effect: Effect,
        deadline: Instant,
        (number, connection): (u64, Connection),
    ) -> Result<Value, Failure> {
        let answer = connection.ask_by(command, deadline).await;
        self.told(judge(self.link(effect), answer, number)?)
    }

    /// Asks for the record of `key`, with what it takes to keep a copy of the answer, if that is told: by `left`, the
    /// time to live is.
    pub(super) async fn read_to_keep(
        &self,
        key: &Key,
        commands: (&Cmd, &Cmd),
        deadline: Instant,
    ) -> Result<(Value, Option<Pass>), Failure> {
        match self.read_once(key, commands, deadline, None).await {
            Err(Failure::Lost(number)) => self.read_once(key, commands, deadline, Some(number)).await,
            other => other,
        }
    }

    async fn read_once(
        &self,
        key: &Key,
        (get, left): (&Cmd, &Cmd),
        deadline: Instant,
        after: Option<u64>,
    ) -> Result<(Value, Option<Pass>), Failure> {
        let up = self.reads.up(deadline, after).await.map_err(Failure::NotSent)?;
        self.read_over(key, (get, left), deadline, up).await
    }

    /// The same over this connection of the link for reads.
    pub(super) async fn read_over(
        &self,
        key: &Key,
        (get, left): (&Cmd, &Cmd),
        deadline: Instant,
        up: Up,
    ) -> Result<(Value, Option<Pass>), Failure> {
        let connection = (up.number, up.connection);
        let Some(feed) = up.feed else {
            let answer = self.send(get, Effect::Read, deadline, connection).await?;
            return Ok((answer, None));
        };
        // Of the very connection that is asked, and before it is.
        let pass = feed.pass(key);
        let [left, answer] = self
            .send_together([left, get], Effect::Read, deadline, connection)
            .await?;
        // What it says to both is no matter of what is told.
        let answer = self.told(answer)?;
        let pass = match left {
            Value::Int(millis) => Some(Pass {
                lives: u64::try_from(millis).ok().map(Duration::from_millis),
                ..pass
            }),
            Value::ServerError(error) => {
                feed.tell_refusal(error.code());
                None
            }
            _ => None,
        };
        Ok((answer, pass))
    }

    /// Asks several things that nothing comes between, on a connection later than number `after`. A refusal of one of
    /// them is among the answers.
    pub(super) async fn ask_together<const N: usize>(
        &self,
        commands: [&Cmd; N],
        effect: Effect,
        deadline: Instant,
        after: Option<u64>,
    ) -> Result<[Value; N], Failure> {
        let connection = self.link(effect).connection(deadline, after).await;
        self.send_together(commands, effect, deadline, connection.map_err(Failure::NotSent)?)
            .await
    }

    async fn send_together<const N: usize>(
        &self,
        commands: [&Cmd; N],
        effect: Effect,
        deadline: Instant,
        (number, connection): (u64, Connection),
    ) -> Result<[Value; N], Failure> {
        let answers = patience::within(deadline, connection.ask_all(&commands)).await;
        let answers = judge(self.link(effect), answers, number)?;
        <[Value; N]>::try_from(answers).map_err(|_| Failure::Lost(number))
    }

    /// The answer, unless it is a refusal.
    pub(super) fn told(&self, answer: Value) -> Result<Value, Failure> {
        let Value::ServerError(error) = answer else {
            return Ok(answer);
        };
        if error.code() == "READONLY" {
            // It was demoted: what it answers to reads is not the latest any more either.
            self.changes.renew();
            self.reads.renew();
        }
        Err(Failure::Refused(error))
    }

    /// Lets go of the connections, for good.
    pub(super) fn close(&self) {
        self.reads.close();
        self.changes.close();
    }
}

/// What looks like a broken connection is reported to the link.
fn judge<T>(link: &Link, answer: Option<RedisResult<T>>, number: u64) -> Result<T, Failure> {
    match answer {
        Some(Ok(answer)) => {
            link.heard();
            Ok(answer)
        }
        Some(Err(error)) => {
            link.suspect();
            Err(if error.is_io_error() {
                Failure::Lost(number)
            } else {
                Failure::Garbled(error)
            })
        }
        None => {
            link.suspect();
            Err(Failure::Late)
        }
    }
}
