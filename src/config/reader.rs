//! Walks the tree: each key is asked for once, by name, with its type and its default. What nobody asked for is
//! unknown; what went wrong is gathered, and the walk goes on with the default.

use super::document::{ENV_PREFIX, Entry, Node, Table, Value, printable};
use super::error::{ConfigError, Origin};

/// Something wrong with one value; the reader adds the key.
#[derive(Debug)]
pub(super) struct Fault {
    origin: Origin,
    message: String,
}

impl Node {
    /// This value is wrong. The message must not hold it.
    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault {
            origin: self.origin.clone(),
            message: message.into(),
        }
    }
}

/// What was gathered on the way.
#[derive(Debug, Default)]
pub(super) struct Reader {
    errors: Vec<ConfigError>,
    /// Every key that was asked for, as a path such as `store.url`.
    pub(super) known: Vec<String>,
    unknown: Vec<(Origin, String)>,
}

impl Reader {
    pub(super) fn starting_with(errors: Vec<ConfigError>) -> Self {
        Self {
            errors,
            ..Self::default()
        }
    }

    pub(super) fn extend(&mut self, errors: Vec<ConfigError>) {
        self.errors.extend(errors);
    }

    /// Reads one table at the top of the document.
    pub(super) fn section<T>(
        &mut self,
        tree: &Table,
        name: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let table = self.inner(name, tree.get(name).map(|entry| &entry.node));
        self.table(name, table, read)
    }

    /// The table that `node`, the value of `path`, should be.
    fn inner<'t>(&mut self, path: &str, node: Option<&'t Node>) -> Option<&'t Table> {
        match node {
            None => None,
            Some(Node {
                value: Value::Table(table),
                ..
            }) => Some(table),
            Some(Node {
                origin: Origin::Env(variable),
                ..
            }) => {
                let message = format!("is a table: set its keys one by one, as {variable}__KEY");
                self.push(Origin::Env(variable.clone()), path, message);
                None
            }
            Some(node) => {
                self.push(node.origin.clone(), path, format!("is a table: write [{path}]"));
                None
            }
        }
    }

    /// Reads the tables of a list of tables, `[[name]]`; the nodes come with them, for what they say together.
    pub(super) fn tables<T>(
        &mut self,
        tree: &Table,
        name: &'static str,
        mut read: impl FnMut(&mut Section<'_>, &Node) -> T,
    ) -> Vec<T> {
        let message = |node: &Node| match node.origin {
            Origin::Env(_) => format!(
                "is a list of tables: set {ENV_PREFIX}{} to an array of them",
                variable_of(name)
            ),
            _ => format!("is a list of tables: write [[{name}]] before each"),
        };
        let items = match tree.get(name).map(|entry| (&entry.node, entry.node.items())) {
            None => Vec::new(),
            Some((_, Ok(items))) => items,
            Some((node, Err(fault))) => {
                let message = if matches!(node.value, Value::Untyped(_)) {
                    fault.message
                } else {
                    message(node)
                };
                self.push(fault.origin, name, message);
                Vec::new()
            }
        };
        if items.is_empty() {
            // The keys are known although nobody set them.
            let nothing = Node {
                value: Value::Table(Table::new()),
                origin: Origin::Nowhere,
            };
            let mut aside = Self::default();
            aside.table(name, None, |section| read(section, &nothing));
            self.known.append(&mut aside.known);
        }
        let mut all = Vec::new();
        for node in &items {
            match &node.value {
                Value::Table(table) => all.push(self.table(name, Some(table), |section| read(section, node))),
                _ => self.push(node.origin.clone(), name, message(node)),
            }
        }
        all
    }

    fn table<T>(&mut self, path: &str, table: Option<&Table>, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let mut section = Section {
            reader: self,
            path: path.to_owned(),
            table,
            asked: Vec::new(),
        };
        let result = read(&mut section);
        let Section { asked, .. } = section;
        for (key, entry) in table.into_iter().flatten() {
            if !asked.contains(&key.as_str()) {
                self.push_unknown(entry, format!("{path}.{key}"));
            }
        }
        result
    }

    /// Reports everything at the top of the tree that is not one of `names`.
    pub(super) fn only(&mut self, tree: &Table, names: &[&str]) {
        for (key, entry) in tree.iter().filter(|(key, _)| !names.contains(&key.as_str())) {
            self.push_unknown(entry, key.clone());
        }
    }

    fn push_unknown(&mut self, entry: &Entry, path: String) {
        match &entry.node.value {
            Value::Table(inner) if matches!(entry.key_origin, Origin::Env(_)) => {
                for (key, entry) in inner {
                    self.push_unknown(entry, format!("{path}.{key}"));
                }
            }
            _ => self.unknown.push((entry.key_origin.clone(), path)),
        }
    }

    /// Reports a contradiction between `keys`, at the first of them that was set, unless one of them is wrong anyway.
    pub(super) fn contradiction(&mut self, tree: &Table, keys: &[&str], message: &str) {
        if keys
            .iter()
            .any(|key| self.errors.iter().any(|error| error.key() == *key))
        {
            return;
        }
        let place = keys.iter().find_map(|key| Some((origin_of(tree, key)?, *key)));
        if let Some((origin, key)) = place {
            self.push(origin, key, message);
        }
    }

    pub(super) fn push(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.errors.push(ConfigError::new(origin, key, message));
    }

    /// All that is wrong.
    pub(super) fn into_errors(self, sections: &[&str]) -> Vec<ConfigError> {
        let Self {
            mut errors,
            known,
            unknown,
        } = self;
        errors.extend(unknown.into_iter().map(|(origin, path)| match &origin {
            // Else the variable is right, and the key is in its value.
            Origin::Env(variable) if variable.split("__").count() >= path.split('.').count() => {
                let message = format!("names no key of the configuration{}", variable_hint(variable, &known));
                ConfigError::new(origin, "", message)
            }
            _ => {
                let message = format!("unknown key{}", key_hint(&path, &known, sections));
                ConfigError::new(origin, printable(&path), message)
            }
        }));
        errors
    }
}

/// One table, while it is read.
pub(super) struct Section<'a> {
    reader: &'a mut Reader,
    path: String,
    table: Option<&'a Table>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn ask(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.asked.push(key);
        self.table?.get(key)
    }

    fn report(&mut self, key: &str, fault: Fault) {
        let path = format!("{}.{key}", self.path);
        self.reader.push(fault.origin, &path, fault.message);
    }

    /// The value of `key`, or `default` where it is not set or wrong.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Node) -> Result<T, Fault>,
        default: T,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// The value of `key`, where it is set and right.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Node) -> Result<T, Fault>,
    ) -> Option<T> {
        let path = format!("{}.{key}", self.path);
        if !self.reader.known.contains(&path) {
            self.reader.known.push(path);
        }
        let entry = self.ask(key)?;
        parse(&entry.node).map_err(|fault| self.report(key, fault)).ok()
    }

    /// The elements of the list `key`. Each wrong one is reported by itself.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Node) -> Result<T, Fault>,
        default: Vec<T>,
    ) -> Vec<T> {
        let Some(items) = self.optional(key, Node::items) else {
            return default;
        };
        let mut list = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match parse(item) {
                Ok(value) => list.push(value),
                Err(fault) if items.len() == 1 => self.report(key, fault),
                Err(Fault { origin, message }) => {
                    let message = format!("entry {} of the list: {message}", at + 1);
                    self.report(key, Fault { origin, message });
                }
            }
        }
        list
    }

    /// Reads the table `key` within this one.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let path = format!("{}.{key}", self.path);
        let node = self.ask(key).map(|entry| &entry.node);
        let table = self.reader.inner(&path, node);
        self.reader.table(&path, table, read)
    }

    /// A key that must be set, in a table that was read from `node`.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        node: &Node,
        parse: impl FnOnce(&Node) -> Result<T, Fault>,
    ) -> Option<T> {
        if self.table.is_none_or(|table| !table.contains_key(key)) {
            self.report(key, node.fault("is missing"));
        }
        self.optional(key, parse)
    }

    /// Whether `key` is set, rightly or not.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Reports `key`, which must be set and is not.
    pub(super) fn missing(&mut self, key: &str, message: &str) {
        self.report(
            key,
            Fault {
                origin: Origin::Nowhere,
                message: message.to_owned(),
            },
        );
    }
}

/// Where the value of a key such as `store.url` was set.
fn origin_of(tree: &Table, path: &str) -> Option<Origin> {
    let Some((section, key)) = path.split_once('.') else {
        return Some(tree.get(path)?.node.origin.clone());
    };
    match &tree.get(section)?.node.value {
        Value::Table(table) => origin_of(table, key),
        _ => None,
    }
}

/// The environment variable, less the prefix, for a key such as `store.url`.
fn variable_of(path: &str) -> String {
    // A list of tables is set as a whole.
    let path = if path.starts_with("route.") { "route" } else { path };
    path.replace('.', "__").to_uppercase()
}

/// What to say of an unknown variable: the nearest one, else one for a key of that name in any table.
fn variable_hint(variable: &str, known: &[String]) -> String {
    let rest = variable.strip_prefix(ENV_PREFIX).unwrap_or(variable);
    let variables: Vec<_> = known.iter().map(|path| variable_of(path)).collect();
    let near = nearest(rest, variables.iter().map(String::as_str)).map(str::to_owned);
    match near.or_else(|| nearest_anywhere(rest, known).map(variable_of)) {
        Some(near) => format!("; did you mean `{ENV_PREFIX}{near}`?"),
        None => format!("; `{ENV_PREFIX}STORE__URL`, for example, sets store.url"),
    }
}

/// What to say of an unknown key: the nearest one in its table, else one in any table, else all of its table.
fn key_hint(path: &str, known: &[String], sections: &[&str]) -> String {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let siblings: Vec<_> = match section {
        "" => sections.to_vec(),
        _ => known
            .iter()
            .filter_map(|known| known.strip_prefix(section)?.strip_prefix('.'))
            .collect(),
    };
    match nearest(key, siblings.iter().copied()).or_else(|| nearest_anywhere(key, known)) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if section.is_empty() => format!("; the tables are {}", siblings.join(", ")),
        None => format!("; the keys of {section} are {}", siblings.join(", ")),
    }
}

/// The known path of two parts whose last is nearest to `key`; short names of inner tables are near to anything.
fn nearest_anywhere<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let split = |path: &'a String| path.split_once('.').filter(|(_, last)| !last.contains('.'));
    let near = nearest(key, known.iter().filter_map(split).map(|(_, last)| last))?;
    let found = |path: &&'a String| split(path).is_some_and(|(_, last)| last == near);
    known.iter().find(found).map(String::as_str)
}

/// The candidate that `name` is most likely meant to be, if any is near at all. Case does not count.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase());
    candidates
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
