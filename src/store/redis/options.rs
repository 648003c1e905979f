//! Where Redis is, and how to use it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::RedisConnectionInfo;

use super::link::Target;
use super::tracking::Tracking;
use crate::store::near_cache::Listener;
use crate::tls;

/// Where Redis is, and how to use it. Its `Debug` leaves the login out.
#[derive(Clone)]
pub struct RedisOptions {
    /// Where the server is, or who knows.
    pub servers: Servers,
    /// Who we are there.
    pub login: Login,
    /// How to speak TLS to it, and to the sentinels; unset: in clear.
    pub tls: Option<tls::Client>,
    /// The number of the database.
    pub database: u16,
    /// The deadline of every call.
    pub timeout: Duration,
    /// What the names of all keys start with.
    pub key_prefix: String,
    /// How many replicas should have a change before it counts as done; 0: none is waited for.
    pub wait_replicas: u16,
    /// Who is told of changes to what was read; unset: Redis is not asked to tell.
    pub listener: Option<Arc<dyn Listener>>,
}

/// Where the server is, or who knows.
#[derive(Clone, Debug)]
pub enum Servers {
    /// One server, by its name or address.
    One(Address),
    /// Whichever server the sentinels call the master.
    Sentinel {
        /// Where sentinels are; others that they know of are found.
        sentinels: Vec<Address>,
        /// What they call the master.
        master: String,
        /// Who we are at the sentinels.
        login: Login,
    },
    /// The nodes of a cluster; these are asked for the others.
    Cluster(Vec<Address>),
}

/// A host and a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name, or an address without the brackets of IPv6.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A user and a password; its `Debug` shows neither.
#[derive(Clone, Default)]
pub struct Login {
    /// The user; unset: the default user.
    pub username: Option<String>,
    /// The password; unset: there is no login.
    pub password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(***)")
    }
}

impl Login {
    /// How a connection is greeted, in this database.
    pub(super) fn greeting(&self, database: u16) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default()
            .set_db(database.into())
            .set_skip_set_lib_name();
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.password {
            info = info.set_password(password);
        }
        info
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("servers", &self.servers)
            .field("database", &self.database)
            .field("timeout", &self.timeout)
            .field("key_prefix", &self.key_prefix)
            .field("wait_replicas", &self.wait_replicas)
            .finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// How a server there is reached; that it works is seen by its answering at all.
    pub(super) fn target(&self, server: Address) -> Target {
        Target {
            login: self.login.greeting(self.database),
            host: server.host,
            port: server.port,
            timeout: self.timeout,
            probe: redis::cmd("PING"),
            tls: self.tls.clone(),
        }
    }

    /// Who is told of changes, and how records are named.
    pub(super) fn tracking(&self) -> Option<Tracking> {
        let listener = self.listener.clone()?;
        Some(Tracking {
            listener,
            prefix: self.key_prefix.as_str().into(),
            told: Arc::new(Mutex::new(None)),
        })
    }
}
