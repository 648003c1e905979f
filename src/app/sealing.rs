//! From `store.encryption_key_files` and `store.accept_clear` to the layer that seals records.

use std::sync::Arc;

use super::StartError;
use crate::config::Sealing;
use crate::session::store::SessionStore;
use crate::store::sealed::{Seal, SealedStore, SealingKey};

/// Lays the sealing over `store`, where `entries` ask for any. `accept_clear`: records in clear are read, too.
pub(super) fn over(
    store: Arc<dyn SessionStore>,
    entries: &[Sealing],
    accept_clear: bool,
) -> Result<Arc<dyn SessionStore>, StartError> {
    let mut seals = Vec::with_capacity(entries.len());
    let mut names = Vec::with_capacity(entries.len());
    for entry in entries {
        let (seal, name) = match entry {
            Sealing::Clear => (Seal::Clear, "clear".to_owned()),
            Sealing::Key(file) => {
                if file.readable_by_all {
                    tracing::warn!(file = %file.path.display(), "every user of this machine may read this sealing key");
                }
                let key = SealingKey::new(file.key.expose())
                    .map_err(|error| StartError(format!("store.encryption_key_files: {error}")))?;
                let name = key.id().to_string();
                (Seal::Key(key), name)
            }
        };
        seals.push(seal);
        names.push(name);
    }
    if accept_clear && !entries.iter().any(|entry| matches!(entry, Sealing::Clear)) {
        seals.push(Seal::Clear);
        names.push("clear".to_owned());
    }
    let any_key = seals.iter().any(|seal| matches!(seal, Seal::Key(_)));
    let mut seals = seals.into_iter();
    let Some(first) = seals.next().filter(|_| any_key) else {
        return Ok(store);
    };
    tracing::info!(
        keys = names.join(", "),
        "records are written by the first of these keys and read by all"
    );
    Ok(Arc::new(SealedStore::over(store, first, seals.collect())))
}
