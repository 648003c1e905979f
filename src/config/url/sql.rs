//! The URLs of database servers: PostgreSQL, MySQL and MariaDB.

use std::fmt;

use super::number;
use super::servers::{Address, address, decode, read_login};
use crate::config::document::Node;
use crate::config::reader::{Fault, nearest};
use crate::config::secret::Secret;

/// `postgres://user[:pass@]host[:5432]/database[?options]`, or `mysql://…`. Displayed without user and password.
#[derive(Clone, Debug)]
pub struct SqlUrl {
    /// What kind of server.
    pub kind: SqlKind,
    /// Where it is.
    pub server: Address,
    /// The user.
    pub username: Secret,
    /// The password of the URL; it may be in a file instead, or not be needed.
    pub password: Option<Secret>,
    /// The name of the database.
    pub database: String,
    /// How much TLS there is; unset: as the authorities that are configured suggest.
    pub encryption: Option<Encryption>,
    /// How many connections there are at most.
    pub max_connections: usize,
    shown: String,
}

/// What kind of database server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlKind {
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    MySql,
}

/// `sslmode` of PostgreSQL, `ssl-mode` of MySQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// No TLS.
    Disable,
    /// TLS where the server has it; whose certificate it shows is not looked at.
    Prefer,
    /// TLS; whose certificate the server shows is not looked at.
    Require,
    /// TLS with a certificate from a trusted authority.
    VerifyCa,
    /// TLS with a certificate from a trusted authority that is for the host of the URL.
    VerifyFull,
}

impl fmt::Display for SqlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

const SCHEMES: [(&str, SqlKind); 4] = [
    ("postgres", SqlKind::Postgres),
    ("postgresql", SqlKind::Postgres),
    ("mysql", SqlKind::MySql),
    ("mariadb", SqlKind::MySql),
];

/// The names of all schemes.
pub(super) fn schemes() -> impl Iterator<Item = &'static str> {
    SCHEMES.iter().map(|(scheme, _)| *scheme)
}

/// How many connections there are at most, where the URL does not say so.
const CONNECTIONS: usize = 16;

/// How many it may ask for.
const MOST_CONNECTIONS: usize = 1000;

impl SqlKind {
    const fn example(self) -> &'static str {
        match self {
            Self::Postgres => "postgres://USER@HOST:PORT/DATABASE",
            Self::MySql => "mysql://USER@HOST:PORT/DATABASE",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::MySql => 3306,
        }
    }

    /// The option that says how much TLS there is, and its values, each as the programs of that database write them.
    const fn modes(self) -> (&'static str, [(&'static str, Encryption); 5]) {
        use Encryption::{Disable, Prefer, Require, VerifyCa, VerifyFull};
        match self {
            Self::Postgres => (
                "sslmode",
                [
                    ("disable", Disable),
                    ("prefer", Prefer),
                    ("require", Require),
                    ("verify-ca", VerifyCa),
                    ("verify-full", VerifyFull),
                ],
            ),
            Self::MySql => (
                "ssl-mode",
                [
                    ("disabled", Disable),
                    ("preferred", Prefer),
                    ("required", Require),
                    ("verify_ca", VerifyCa),
                    ("verify_identity", VerifyFull),
                ],
            ),
        }
    }
}

/// Reads what follows `scheme://`; `None` for a scheme that is not of these.
pub(super) fn sql_url(node: &Node, scheme: &str, rest: &str) -> Option<Result<SqlUrl, Fault>> {
    let (scheme, kind) = *SCHEMES.iter().find(|(name, _)| *name == scheme)?;
    Some(parse(scheme, kind, rest).map_err(|message| node.fault(message)))
}

fn parse(scheme: &str, kind: SqlKind, rest: &str) -> Result<SqlUrl, String> {
    if rest.contains('#') {
        return Err("has a # in it: in a password, write it as %23".into());
    }
    let (main, options) = rest.split_once('?').unwrap_or((rest, ""));
    if options.contains('@') {
        return Err("has a ? before an @: in a password, write it as %3F".into());
    }
    let (authority, database) = main.split_once('/').unwrap_or((main, ""));
    let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.contains(',') {
        return Err(
            "names several hosts: one is taken, such as that of a balancer which knows the primary server".into(),
        );
    }
    let server = address(host, kind.example(), kind.default_port())?;
    let (username, password) = read_login(login)?;
    let Some(username) = username else {
        return Err(format!("names no user: {}", kind.example()));
    };
    let database = decode(database).filter(|name| !name.is_empty() && !name.contains(['/', '\0']));
    let Some(database) = database else {
        return Err(format!(
            "after the host comes the name of the database: {}",
            kind.example()
        ));
    };
    let shown = rest.strip_prefix(login).unwrap_or(rest);
    let shown = format!("{scheme}://{}", shown.strip_prefix('@').unwrap_or(shown));
    let mut url = SqlUrl {
        kind,
        server,
        username,
        password,
        database,
        encryption: None,
        max_connections: CONNECTIONS,
        shown,
    };
    for option in options.split('&').filter(|option| !option.is_empty()) {
        url.set(option)?;
    }
    Ok(url)
}

impl SqlUrl {
    fn set(&mut self, option: &str) -> Result<(), String> {
        const LIMIT: &str = "max_connections";
        let (mode, values) = self.kind.modes();
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        if name == mode {
            let found = values.iter().find(|(text, _)| text.eq_ignore_ascii_case(value));
            self.encryption = Some(found.map(|(_, found)| *found).ok_or_else(|| {
                let texts: Vec<_> = values.iter().map(|(text, _)| *text).collect();
                format!("{mode} is one of {}", texts.join(", "))
            })?);
            return Ok(());
        }
        if name == LIMIT {
            let count = number(value).filter(|count| (1..=MOST_CONNECTIONS).contains(count));
            self.max_connections = count.ok_or_else(|| format!("{LIMIT} is a number from 1 to {MOST_CONNECTIONS}"))?;
            return Ok(());
        }
        let hint = nearest(name, [mode, LIMIT].into_iter());
        let hint = hint.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        Err(format!(
            "has an option that is not known here: there are {mode} and {LIMIT}{hint}"
        ))
    }
}
