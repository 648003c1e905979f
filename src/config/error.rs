//! What is wrong with a configuration, and where.

use std::fmt;

/// Where a value was set, or where something went wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In the file, on this line (from 1), at this column (from 1) where it matters.
    File {
        /// The name of the file, as it was given.
        name: String,
        /// The line; 0 for the file as a whole.
        line: usize,
        /// The column, counted in characters, for errors of syntax.
        column: Option<usize>,
    },
    /// In this environment variable.
    Env(String),
    /// By this command-line flag.
    Flag(&'static str),
    /// Nowhere: it is missing.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: 0, .. } => f.write_str(name),
            Self::File {
                name,
                line,
                column: None,
            } => write!(f, "{name}:{line}"),
            Self::File {
                name,
                line,
                column: Some(column),
            } => write!(f, "{name}:{line}:{column}"),
            Self::Env(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong. Its text never holds a value that was given, since any value may be a secret in the
/// wrong place; names of keys and variables it does hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    origin: Origin,
    key: String,
    message: String,
}

impl ConfigError {
    pub(super) fn new(origin: Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            origin,
            key: key.into(),
            message: message.into(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The key it is about, such as `store.url`; empty where it is about none.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if self.key.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.key, self.message)
        }
    }
}

/// Everything that is wrong, in the order of the file, then of the environment, then of the flags. Never empty.
/// Prints one line for each error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort();
        errors.dedup();
        Self(errors)
    }

    /// The errors one by one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
