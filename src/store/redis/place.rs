//! Where a link leads: to one server, or to whichever the sentinels call the master.

use std::time::Duration;

use redis::Value;
use tokio::sync::watch;

use super::Address;
use super::dial::{Live, SILENT, Target};
use super::sentinel::Doubts;
use crate::tls;

/// Where a link leads.
#[derive(Clone)]
pub(super) struct Place {
    /// The server; where it is followed, host and port of it are those of the master.
    target: Target,
    followed: Option<Followed>,
}

#[derive(Clone)]
struct Followed {
    master: watch::Receiver<Option<Address>>,
    doubts: Doubts,
}

/// This server.
impl From<Target> for Place {
    fn from(target: Target) -> Self {
        Self { target, followed: None }
    }
}

impl Place {
    /// Whichever server `master` names, else as `target` says; `doubts` has it looked up again.
    pub(super) fn followed(target: Target, master: watch::Receiver<Option<Address>>, doubts: Doubts) -> Self {
        Self {
            target,
            followed: Some(Followed { master, doubts }),
        }
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.target.timeout
    }

    /// Where the server is now.
    pub(super) fn target(&self) -> Result<Target, String> {
        let Some(followed) = &self.followed else {
            return Ok(self.target.clone());
        };
        match &*followed.master.borrow() {
            Some(Address { host, port }) => Ok(Target {
                host: host.clone(),
                port: *port,
                ..self.target.clone()
            }),
            None => Err(followed.doubts.reason()),
        }
    }

    /// Returns when the server is another one than when this was last called.
    pub(super) async fn moved(&mut self) {
        if let Some(followed) = &mut self.followed
            && followed.master.changed().await.is_ok()
        {
            return;
        }
        // A fixed place never moves.
        std::future::pending::<()>().await;
    }

    /// Something looked wrong: where the server is, is to be asked again.
    pub(super) fn doubt(&self) {
        if let Some(followed) = &self.followed {
            followed.doubts.raise();
        }
    }

    /// Whether this is the server that was meant: of sentinels, a master.
    pub(super) async fn verify(&self, live: &Live) -> Result<(), String> {
        if self.followed.is_none() {
            return Ok(());
        }
        if is_master(live, self.target.timeout).await? {
            Ok(())
        } else {
            Err("the server that the sentinels call the master is none (yet)".into())
        }
    }
}

/// Whether the server says that it is a master. The error is fit to be shown.
pub(super) async fn is_master(live: &Live, within: Duration) -> Result<bool, String> {
    let ask = redis::cmd("ROLE");
    match tokio::time::timeout(within, live.connection.ask(&ask)).await {
        Ok(Ok(Value::Array(words))) => Ok(match words.first() {
            Some(Value::BulkString(role)) => role == b"master",
            Some(Value::SimpleString(role)) => role == "master",
            _ => false,
        }),
        Ok(Ok(Value::ServerError(error))) if error.code() == "NOPERM" => {
            Err("the user may not ask for its ROLE: see the ACL rules in the documentation".into())
        }
        Ok(Ok(Value::ServerError(error))) => Err(format!("the server does not tell its role: {}", error.code())),
        Ok(Ok(_)) => Err("the server does not tell its role".into()),
        Ok(Err(error)) => Err(tls::explain(&error).unwrap_or_else(|| "the connection was lost".into())),
        Err(_) => Err(SILENT.into()),
    }
}
