//! One connection, of either kind: statements with values, rows, and what an error means.

use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{MySql, Postgres};

/// A connection.
pub(super) enum Connection {
    Postgres(Box<PgConnection>),
    MySql(Box<MySqlConnection>),
}

/// A row.
pub(super) enum Row {
    Postgres(PgRow),
    MySql(MySqlRow),
}

/// A value of a statement.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Int(i64),
    MaybeInt(Option<i64>),
    Text(&'a str),
    Bytes(&'a [u8]),
    MaybeBytes(Option<&'a [u8]>),
    Token(Option<[u8; 16]>),
}

/// Binds `values`; written once for both kinds, whose types have nothing in common that says so.
macro_rules! bound {
    ($statement:expr, $values:expr, $query:ty) => {{
        let query: $query = sqlx::query($statement);
        $values.iter().fold(query, |query, value| match *value {
            Value::Int(number) => query.bind(number),
            Value::MaybeInt(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Bytes(bytes) => query.bind(bytes),
            Value::MaybeBytes(bytes) => query.bind(bytes),
            Value::Token(token) => query.bind(token.map(Vec::from)),
        })
    }};
}

fn postgres<'a>(statement: &'static str, values: &[Value<'a>]) -> Query<'a, Postgres, PgArguments> {
    bound!(statement, values, Query<'a, Postgres, PgArguments>)
}

fn mysql<'a>(statement: &'static str, values: &[Value<'a>]) -> Query<'a, MySql, MySqlArguments> {
    bound!(statement, values, Query<'a, MySql, MySqlArguments>)
}

impl Connection {
    /// Carries out a statement, and says how many rows it was about.
    pub(super) async fn execute(&mut self, statement: &'static str, values: &[Value<'_>]) -> sqlx::Result<u64> {
        match self {
            Self::Postgres(connection) => {
                let done = postgres(statement, values).execute(&mut **connection).await?;
                Ok(done.rows_affected())
            }
            Self::MySql(connection) => {
                let done = mysql(statement, values).execute(&mut **connection).await?;
                Ok(done.rows_affected())
            }
        }
    }

    /// The first row that a statement answers.
    pub(super) async fn fetch(&mut self, statement: &'static str, values: &[Value<'_>]) -> sqlx::Result<Option<Row>> {
        match self {
            Self::Postgres(connection) => {
                let row = postgres(statement, values).fetch_optional(&mut **connection).await?;
                Ok(row.map(Row::Postgres))
            }
            Self::MySql(connection) => {
                let row = mysql(statement, values).fetch_optional(&mut **connection).await?;
                Ok(row.map(Row::MySql))
            }
        }
    }

    /// All rows that a statement answers.
    pub(super) async fn fetch_all(&mut self, statement: &'static str, values: &[Value<'_>]) -> sqlx::Result<Vec<Row>> {
        match self {
            Self::Postgres(connection) => {
                let rows = postgres(statement, values).fetch_all(&mut **connection).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
            Self::MySql(connection) => {
                let rows = mysql(statement, values).fetch_all(&mut **connection).await?;
                Ok(rows.into_iter().map(Row::MySql).collect())
            }
        }
    }

    /// Carries out statements without values, as they are.
    pub(super) async fn run(&mut self, statements: &'static str) -> sqlx::Result<()> {
        match self {
            Self::Postgres(connection) => sqlx::raw_sql(statements).execute(&mut **connection).await.map(drop),
            Self::MySql(connection) => sqlx::raw_sql(statements).execute(&mut **connection).await.map(drop),
        }
    }
}

impl Row {
    /// The whole number in a column.
    pub(super) fn int(&self, column: usize) -> sqlx::Result<Option<i64>> {
        match self {
            Self::Postgres(row) => sqlx::Row::try_get(row, column),
            Self::MySql(row) => sqlx::Row::try_get(row, column),
        }
    }

    /// The bytes in a column.
    pub(super) fn bytes(&self, column: usize) -> sqlx::Result<Option<Vec<u8>>> {
        match self {
            Self::Postgres(row) => sqlx::Row::try_get(row, column),
            Self::MySql(row) => sqlx::Row::try_get(row, column),
        }
    }
}

/// What became of a write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It did not happen: others were at that row, and it may be tried again.
    Outdone,
    /// It did not happen.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// See [`Fate`].
pub(super) fn fate(error: &sqlx::Error) -> Fate {
    let Some(refusal) = error.as_database_error() else {
        // Before anything was sent: a value that cannot be encoded, say. All others are of the connection.
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => Fate::Refused,
            _ => Fate::Unknown,
        };
    };
    if refusal.is_unique_violation() {
        return Fate::Outdone;
    }
    // By SQLSTATE: PostgreSQL tells nothing else, and MySQL gives these conditions the same ones, save the last.
    let state = refusal.code().unwrap_or_default();
    match &*state {
        // Serialization failure, deadlock.
        "40001" | "40P01" => Fate::Outdone,
        // The connection, completion unknown, and operators who intervene: they may come between a commit and its answer.
        "40003" => Fate::Unknown,
        _ if state.starts_with("08") || state.starts_with("57") || state.starts_with("70") => Fate::Unknown,
        _ => match mysql_number(error) {
            // Waited too long for a lock; the statement was undone.
            Some(1205) => Fate::Outdone,
            // The server is going, or the statement or its connection was killed.
            Some(1053 | 1317 | 1927 | 3024) => Fate::Unknown,
            _ => Fate::Refused,
        },
    }
}

/// The number of an error of MySQL or MariaDB.
pub(super) fn mysql_number(error: &sqlx::Error) -> Option<u16> {
    let error = error.as_database_error()?;
    let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?;
    Some(error.number())
}

/// Whether it says that there is no such table.
pub(super) fn is_no_such_table(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "42S02"))
}

/// Whether the connection is of no use any more: it broke, or what came makes no sense.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error.as_database_error() {
        None => true,
        // Some of these are said by a server that closes the connection with it, or that takes no writes any more while
        // another one does.
        Some(refusal) => {
            let state = refusal.code().unwrap_or_default();
            state.starts_with("08")
                || state.starts_with("57P")
                || state == "25006"
                || matches!(mysql_number(error), Some(1053 | 1290 | 1792 | 1836 | 1927))
        }
    }
}

/// Why, in words that hold nothing of what is stored (every value is a parameter), nor a password.
pub(super) fn reason(error: &sqlx::Error) -> String {
    if let Some(error) = error.as_database_error() {
        return format!("the database refused: {}", error.message());
    }
    match error {
        sqlx::Error::Tls(error) => crate::tls::explain(&**error).unwrap_or_else(|| format!("TLS failed: {error}")),
        sqlx::Error::Io(error) => match crate::tls::explain(error) {
            Some(why) => why,
            None => format!("the connection failed: {error}"),
        },
        // MySQL's caching_sha2_password without TLS.
        sqlx::Error::Configuration(error) if error.to_string().contains("RSA") => {
            "the server wants the password under its RSA key, which is left out on purpose: use TLS (ssl-mode)".into()
        }
        // Its text may repeat what was configured.
        sqlx::Error::Configuration(_) => "the options of the connection cannot be used".into(),
        other => other.to_string(),
    }
}
