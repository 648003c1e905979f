//! `upstream.profile`: what is known of a framework, laid under what is configured.
//!
//! A profile is a piece of configuration, in `profiles/`, with the source of each value. Its keys count where nobody set
//! them: in the file, in the environment or by a flag.

use super::document::{Table, Value, from_toml};

/// Every profile and its text.
pub(super) const PROFILES: [(&str, &str); 7] = [
    ("bitrix", include_str!("profiles/bitrix.toml")),
    ("magento", include_str!("profiles/magento.toml")),
    ("django", include_str!("profiles/django.toml")),
    ("laravel", include_str!("profiles/laravel.toml")),
    ("php", include_str!("profiles/php.toml")),
    ("spring", include_str!("profiles/spring.toml")),
    ("express", include_str!("profiles/express.toml")),
];

/// Lays the profile that `tree` names, if it is one, under it.
pub(super) fn underlay_profile(tree: &mut Table) {
    let Some(Value::Table(upstream)) = tree.get("upstream").map(|entry| &entry.node.value) else {
        return;
    };
    let named = upstream.get("profile").and_then(|entry| entry.node.text().ok());
    let Some((name, text)) = PROFILES.iter().find(|(name, _)| named == Some(name)) else {
        return;
    };
    // A test sees to it that there are no errors.
    let (profile, _) = from_toml(&format!("profile {name}"), text);
    underlay(tree, profile);
}

fn underlay(tree: &mut Table, below: Table) {
    for (key, entry) in below {
        match tree.get_mut(&key) {
            None => {
                tree.insert(key, entry);
            }
            Some(there) => {
                if let (Value::Table(there), Value::Table(below)) = (&mut there.node.value, entry.node.value) {
                    underlay(there, below);
                }
            }
        }
    }
}
