//! Sees to it that the tables are there, in the version that this program knows.
//!
//! Where they are there, nothing but reading them is asked for: whoever runs the database may have created them by hand,
//! and need not let the bridge create any.

use super::connection;
use super::pool::Lent;
use super::statements::{Statements, VERSION};

/// Creates what is missing. Any number of replicas may do so at once.
///
/// # Errors
/// Why the tables cannot be used, for operators.
pub(super) async fn prepare(lent: &mut Lent, statements: &Statements) -> Result<(), String> {
    let found = match version(lent, statements).await {
        Err(error) if connection::is_no_such_table(&error) => None,
        other => other.map_err(|error| connection::reason(&error))?,
    };
    let found = match found {
        Some(found) => Some(found),
        None => {
            let created = lent.run(statements.create).await;
            created.map_err(|error| format!("the tables cannot be created: {}", connection::reason(&error)))?;
            tracing::info!("the tables of sessions were created, or were just there");
            version(lent, statements)
                .await
                .map_err(|error| connection::reason(&error))?
        }
    };
    match found {
        Some(VERSION) => Ok(()),
        Some(other) => Err(format!(
            "the tables are of version {other} of the schema; this program knows {VERSION}"
        )),
        None => Err("the table session_bridge_schema has lost its row".into()),
    }
}

async fn version(lent: &mut Lent, statements: &Statements) -> sqlx::Result<Option<i64>> {
    match lent.fetch(statements.version, &[]).await? {
        Some(row) => row.int(0),
        None => Ok(None),
    }
}
