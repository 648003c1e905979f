//! Where the database is, and how to use it.

use std::fmt;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

use super::connection::Connection;

/// Which kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// PostgreSQL, 11 or later.
    Postgres,
    /// MySQL, 8 or later, or MariaDB, 10.5 or later.
    MySql,
}

impl Database {
    /// Its name for logs and metrics.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }
}

/// How much TLS there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// None.
    Disable,
    /// Where the server has it; whose certificate it shows is not looked at.
    Prefer,
    /// Always; whose certificate the server shows is not looked at.
    Require,
    /// Always, with a certificate from a trusted authority.
    VerifyCa,
    /// Always, with a certificate from a trusted authority that is for the host of the URL.
    VerifyFull,
}

/// Where the database is, and how to use it. Its `Debug` leaves user, password and keys out.
#[derive(Clone)]
pub struct SqlOptions {
    /// Which kind.
    pub database: Database,
    /// A name, or an address without the brackets of IPv6.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who we are there.
    pub username: String,
    /// The password; unset: the server has to trust us without one.
    pub password: Option<String>,
    /// The name of the database.
    pub name: String,
    /// How much TLS there is.
    pub encryption: Encryption,
    /// Authorities to trust besides those of Mozilla's list, as a PEM text.
    pub ca: Option<String>,
    /// What to show to a server that asks who we are: a certificate with its chain, and its key, as PEM texts.
    pub identity: Option<(String, String)>,
    /// How many connections there are at most.
    pub max_connections: usize,
    /// The deadline of every call.
    pub timeout: Duration,
    /// What tells the records of one bridge from those of another in the same tables.
    pub key_prefix: String,
}

impl fmt::Debug for SqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlOptions")
            .field("database", &self.database)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("encryption", &self.encryption)
            .finish_non_exhaustive()
    }
}

impl SqlOptions {
    /// Makes a connection. It takes as long as it takes.
    pub(super) async fn connect(&self) -> sqlx::Result<Connection> {
        match self.database {
            Database::Postgres => {
                let connection = self.postgres().connect().await?;
                Ok(Connection::Postgres(Box::new(connection)))
            }
            Database::MySql => {
                let connection = self.mysql().connect().await?;
                Ok(Connection::MySql(Box::new(connection)))
            }
        }
    }

    fn postgres(&self) -> PgConnectOptions {
        // Whatever is set here is not taken from the environment (PGPASSWORD and the like).
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .username(&self.username)
            .password(self.password.as_deref().unwrap_or_default())
            .database(&self.name)
            .application_name("session-bridge")
            .ssl_mode(match self.encryption {
                Encryption::Disable => PgSslMode::Disable,
                Encryption::Prefer => PgSslMode::Prefer,
                Encryption::Require => PgSslMode::Require,
                Encryption::VerifyCa => PgSslMode::VerifyCa,
                Encryption::VerifyFull => PgSslMode::VerifyFull,
            });
        if let Some(ca) = &self.ca {
            options = options.ssl_root_cert_from_pem(ca.clone().into_bytes());
        }
        if let Some((cert, key)) = &self.identity {
            options = options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key);
        }
        options.disable_statement_logging()
    }

    fn mysql(&self) -> MySqlConnectOptions {
        let mut options = MySqlConnectOptions::new()
            .host(&self.host)
            .port(self.port)
            .username(&self.username)
            .database(&self.name)
            .ssl_mode(match self.encryption {
                Encryption::Disable => MySqlSslMode::Disabled,
                Encryption::Prefer => MySqlSslMode::Preferred,
                Encryption::Require => MySqlSslMode::Required,
                Encryption::VerifyCa => MySqlSslMode::VerifyCa,
                Encryption::VerifyFull => MySqlSslMode::VerifyIdentity,
            });
        if let Some(password) = &self.password {
            options = options.password(password);
        }
        if let Some(ca) = &self.ca {
            options = options.ssl_ca_from_pem(ca.clone().into_bytes());
        }
        if let Some((cert, key)) = &self.identity {
            options = options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key);
        }
        options.disable_statement_logging()
    }
}

impl Connection {
    /// Takes leave of the server.
    pub(super) async fn close(self) -> sqlx::Result<()> {
        match self {
            Self::Postgres(connection) => connection.close().await,
            Self::MySql(connection) => connection.close().await,
        }
    }
}
