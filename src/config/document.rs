//! Where values come from: the file, the environment and the flags, laid over one another as one tree.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Flags;
use super::error::{ConfigError, Origin};

/// What every environment variable of ours starts with.
pub(super) const ENV_PREFIX: &str = "SESSION_BRIDGE_";
/// Names the file where `--config` does not: for a container, whose commands should all find it. It is no key.
pub(super) const FILE_VARIABLE: &str = "SESSION_BRIDGE_CONFIG";

/// A value and where it was set.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Keys and their values; the second part of the entry says where the key itself stands.
pub(super) type Table = BTreeMap<String, Entry>;

/// A value and where its key is written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(Option<u64>),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A date or a fraction, which no key takes.
    Other(&'static str),
    /// From the environment or a flag: a text whose type the key decides.
    Untyped(String),
}

/// Reads the text of a file. An error of syntax leaves the tree empty: guessing at the rest would only report more.
pub(super) fn from_toml(name: &str, text: &str) -> (Table, Vec<ConfigError>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let place = |offset| file_origin(name, line_and_column(text, offset).0, None);
        return (table(document.get_ref(), &place), Vec::new());
    }
    let mut first_of_line = BTreeMap::new();
    for error in errors {
        let (line, column) = line_and_column(text, error.span().map_or(text.len(), |span| span.start));
        let message = format!("not valid TOML: {}", error.message());
        let error = ConfigError::new(file_origin(name, line, Some(column)), "", message);
        // What follows on the same line is mostly an echo of the first.
        first_of_line.entry(line).or_insert(error);
    }
    (Table::new(), first_of_line.into_values().collect())
}

fn file_origin(name: &str, line: usize, column: Option<usize>) -> Origin {
    let name = name.to_owned();
    Origin::File { name, line, column }
}

/// Both from 1; the column is counted in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let column = before.chars().rev().take_while(|&c| c != '\n').count();
    (1 + before.matches('\n').count(), 1 + column)
}

fn table(source: &DeTable<'_>, place: &dyn Fn(usize) -> Origin) -> Table {
    let mut table = Table::new();
    for (key, value) in source {
        let entry = Entry {
            key_origin: place(key.span().start),
            node: node(value, place),
        };
        table.insert(key.get_ref().clone().into_owned(), entry);
    }
    table
}

fn node(source: &Spanned<DeValue<'_>>, place: &dyn Fn(usize) -> Origin) -> Node {
    let value = match source.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(number) => Value::Integer(u64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| node(item, place)).collect()),
        DeValue::Table(inner) => Value::Table(table(inner, place)),
    };
    Node {
        value,
        origin: place(source.span().start),
    }
}

/// The elements of a list written in one line of text: a TOML or JSON array, or values with commas between them.
pub(super) fn list_from_text(text: &str, origin: &Origin) -> Result<Vec<Node>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty; write [] for an empty list".to_owned());
    }
    if text.starts_with('[') {
        if let Ok(parsed) = DeValue::parse(text)
            && let Value::Array(items) = node(&parsed, &|_| origin.clone()).value
        {
            return Ok(items);
        }
        return match serde_json::from_str(text) {
            Ok(serde_json::Value::Array(items)) => Ok(items.into_iter().map(|item| json_node(item, origin)).collect()),
            _ => Err("starts with [ but is neither a TOML nor a JSON array".to_owned()),
        };
    }
    let item = |item: &str| match item.trim() {
        "" => Err("has an empty element between its commas".to_owned()),
        item => Ok(Node {
            value: Value::Text(item.to_owned()),
            origin: origin.clone(),
        }),
    };
    text.split(',').map(item).collect()
}

fn json_node(source: serde_json::Value, origin: &Origin) -> Node {
    let value = match source {
        serde_json::Value::Null => Value::Other("null"),
        serde_json::Value::Bool(boolean) => Value::Boolean(boolean),
        serde_json::Value::Number(number) => Value::Integer(number.as_u64()),
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| json_node(item, origin)).collect())
        }
        serde_json::Value::Object(members) => {
            let entry = |(key, value)| {
                (
                    key,
                    Entry {
                        key_origin: origin.clone(),
                        node: json_node(value, origin),
                    },
                )
            };
            Value::Table(members.into_iter().map(entry).collect())
        }
    };
    Node {
        value,
        origin: origin.clone(),
    }
}

/// Lays the variables with our prefix over `tree`.
pub(super) fn overlay_environment(tree: &mut Table, variables: &[(OsString, OsString)]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut ours: Vec<_> = variables
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value)))
        .collect();
    ours.sort_unstable();
    for (name, value) in ours {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        let origin = Origin::Env(printable(name));
        match value.to_str() {
            _ if name == FILE_VARIABLE => {}
            Some(value) if is_service_link(rest, value) => {}
            Some(value) => overlay(tree, &path_of_variable(rest), Value::Untyped(value.to_owned()), &origin),
            None => errors.push(ConfigError::new(origin, "", "is not valid UTF-8")),
        }
    }
    errors
}

/// `STORE__URL` is `store`, `url`. What is not all upper case names no key and stays in one piece.
fn path_of_variable(rest: &str) -> Vec<String> {
    if rest.chars().any(char::is_lowercase) {
        return vec![rest.to_owned()];
    }
    rest.split("__").map(str::to_lowercase).collect()
}

/// Whether this is one of the variables that Kubernetes sets in every pod beside a Service named `session-bridge` or
/// `session-bridge-…`: they are not meant for us, and nobody asked for them.
fn is_service_link(rest: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let name = format!("_{rest}");
    !rest.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT")
            || (name.contains("_PORT") && is_url)
            || names_part_of_port(&name))
}

/// Whether this is `…_PORT_8080_TCP_ADDR` or the like.
fn names_part_of_port(name: &str) -> bool {
    let mut parts = name.rsplit('_');
    matches!(parts.next(), Some("PROTO" | "PORT" | "ADDR"))
        && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
        && parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
        && parts.next() == Some("PORT")
}

/// Lays the flags over `tree`.
pub(super) fn overlay_flags(tree: &mut Table, flags: &Flags) {
    let flags = [
        (
            "--upstream",
            "upstream",
            "url",
            flags.upstream.as_ref().map(|url| url.expose().to_owned()),
        ),
        ("--listen", "server", "listen", flags.listen.clone()),
        (
            "--store",
            "store",
            "url",
            flags.store.as_ref().map(|url| url.expose().to_owned()),
        ),
    ];
    for (flag, section, key, value) in flags {
        if let Some(value) = value {
            overlay(
                tree,
                &[section.to_owned(), key.to_owned()],
                Value::Untyped(value),
                &Origin::Flag(flag),
            );
        }
    }
}

/// Puts `value` at `path`, in place of what was there.
fn overlay(tree: &mut Table, path: &[String], value: Value, origin: &Origin) {
    let fresh = |value| Entry {
        key_origin: origin.clone(),
        node: Node {
            value,
            origin: origin.clone(),
        },
    };
    match path {
        [] => {}
        [key] => {
            tree.insert(key.clone(), fresh(value));
        }
        [key, rest @ ..] => {
            let entry = tree
                .entry(key.clone())
                .or_insert_with(|| fresh(Value::Table(Table::new())));
            if !matches!(entry.node.value, Value::Table(_)) {
                *entry = fresh(Value::Table(Table::new()));
            }
            if let Value::Table(inner) = &mut entry.node.value {
                overlay(inner, rest, value, origin);
            }
        }
    }
}

/// `name` fit for a line of an error: control characters are shown as escapes.
pub(super) fn printable(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}
