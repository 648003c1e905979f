//! The configuration: a TOML file, the environment and the flags, made into one typed [`Config`].
//!
//! Flags beat the environment, the environment beats the file, the file beats the defaults; a value that was beaten
//! is not looked at. `store.url` in the file is `SESSION_BRIDGE_STORE__URL` in the environment: upper case, two
//! underscores for each dot. There, a list is a TOML or JSON array, or elements with commas between them.
//!
//! Under all of them, over the defaults alone, lies the profile that `upstream.profile` names.
//!
//! Nothing is guessed and nothing is ignored: an unknown key or variable, a value of the wrong type, a contradiction
//! is an error, and [`ConfigErrors`] names all of them at once, each with its place. No error shows a value, for any
//! value may be a secret in the wrong place.
//!
//! Where things are: `document` lays the sources over one another, `profile` lays what is known of a framework under them, `reader` walks the result and gathers what is
//! wrong, `schema` lists the keys and their defaults, `value`, `url` and `sealing` give single values their types, `check` finds
//! contradictions, `sections` has the types that come out.

mod check;
mod document;
mod error;
mod profile;
mod reader;
mod schema;
mod sealing;
mod secret;
mod sections;
mod url;
mod value;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

pub use error::{ConfigError, ConfigErrors, Origin};
pub use sealing::{KeyFile, Sealing};
pub use secret::{Secret, SecretKey};
pub use sections::{
    Access, Adopt, Bind, ClientTls, Create, Csrf, Derive, IdFormat, InstallId, JsonPointer, Limits, Log, LogFormat,
    LogLevel, Lost, NearCache, OnMismatch, OnMissing, OnStoreError, OnUnreadable, Ops, PemFile, Prefetch, Rate, Route,
    RouteSession, Server, ServerTls, Session, Store, Upstream,
};
pub use url::{Address, Encryption, MemcachedUrl, RedisTopology, RedisUrl, SqlKind, SqlUrl, StoreUrl, UpstreamUrl};

use document::{FILE_VARIABLE, Table, from_toml, overlay_environment, overlay_flags};
use reader::Reader;

/// The file that is read where no other is named, if it is there.
pub const DEFAULT_FILE: &str = "session-bridge.toml";

/// Everything that can be configured, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listener for clients.
    pub server: Server,
    /// Who may use the bridge at all.
    pub access: Access,
    /// The listener for operators.
    pub ops: Ops,
    /// The backend.
    pub upstream: Upstream,
    /// Which installation a request comes from.
    pub install_id: InstallId,
    /// How sessions start, live and end.
    pub session: Session,
    /// How many sessions may be started.
    pub limits: Limits,
    /// Where sessions are kept.
    pub store: Store,
    /// Copies of them.
    pub near_cache: NearCache,
    /// What is written to standard output.
    pub log: Log,
    /// What is different for some requests; the first that matches counts.
    pub routes: Vec<Route>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file.
    pub file: File,
    /// Names and values of environment variables; those without our prefix are not looked at.
    pub environment: Vec<(OsString, OsString)>,
    /// The flags.
    pub flags: Flags,
}

/// The file of a configuration.
#[derive(Clone, Debug, Default)]
pub enum File {
    /// None at all.
    #[default]
    None,
    /// Read where it is there.
    IfThere(PathBuf),
    /// An error where it is not there.
    Required(PathBuf),
}

/// What was given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--upstream`, for `upstream.url`.
    pub upstream: Option<Secret>,
    /// `--listen`, for `server.listen`.
    pub listen: Option<String>,
    /// `--store`, for `store.url`.
    pub store: Option<Secret>,
}

impl Sources {
    /// The environment of this process, and `file`, or else the one that `SESSION_BRIDGE_CONFIG` names, or else
    /// [`DEFAULT_FILE`] in the working directory.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Flags) -> Self {
        Self::of(file, std::env::vars_os().collect(), flags)
    }

    fn of(file: Option<PathBuf>, environment: Vec<(OsString, OsString)>, flags: Flags) -> Self {
        let named = || {
            let variable = environment.iter().find(|(name, _)| name == FILE_VARIABLE);
            variable.map(|(_, value)| PathBuf::from(value))
        };
        let file = file
            .or_else(named)
            .map_or_else(|| File::IfThere(PathBuf::from(DEFAULT_FILE)), File::Required);
        Self {
            file,
            environment,
            flags,
        }
    }

    fn read_file(&self) -> (Table, Vec<ConfigError>) {
        let (path, required) = match &self.file {
            File::None => return Default::default(),
            File::IfThere(path) => (path, false),
            File::Required(path) => (path, true),
        };
        match read_utf8(path) {
            Ok(text) => from_toml(&path.display().to_string(), &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Default::default(),
            Err(_) if path.as_os_str().is_empty() => {
                let message = format!("the name of the file is empty: look at --config and {FILE_VARIABLE}");
                (Table::new(), vec![ConfigError::new(Origin::Nowhere, "", message)])
            }
            Err(error) => {
                let origin = Origin::File {
                    name: path.display().to_string(),
                    line: 0,
                    column: None,
                };
                (
                    Table::new(),
                    vec![ConfigError::new(origin, "", format!("cannot read the file: {error}"))],
                )
            }
        }
    }

    /// Reads everything; without `upstream.url` there is no upstream in the result.
    fn read(&self, needs_upstream: bool) -> Result<schema::Parts, ConfigErrors> {
        let (mut tree, errors) = self.read_file();
        // A file that could not be read may well have it.
        let needs_upstream = needs_upstream && errors.is_empty();
        let mut reader = Reader::starting_with(errors);
        reader.extend(overlay_environment(&mut tree, &self.environment));
        overlay_flags(&mut tree, &self.flags);
        profile::underlay_profile(&mut tree);
        let parts = schema::read(&mut reader, &tree, needs_upstream);
        check::contradictions(&mut reader, &tree, &parts);
        let errors = reader.into_errors(&schema::TABLES);
        if errors.is_empty() {
            Ok(parts)
        } else {
            Err(ConfigErrors::new(errors))
        }
    }
}

fn read_utf8(path: &Path) -> io::Result<String> {
    // In place of std's message, which does not say what UTF-8 has to do with it.
    String::from_utf8(std::fs::read(path)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

impl Config {
    /// Reads the configuration of a bridge, and the files that it names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it; also where `upstream.url` is set nowhere.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let parts = sources.read(true)?;
        let Some(upstream) = parts.upstream else {
            let error = ConfigError::new(Origin::Nowhere, "upstream.url", "is missing");
            return Err(ConfigErrors::new(vec![error]));
        };
        Ok(Self {
            server: parts.server,
            access: parts.access,
            ops: parts.ops,
            upstream,
            install_id: parts.install_id,
            session: parts.session,
            limits: parts.limits,
            store: parts.store,
            near_cache: parts.near_cache,
            log: parts.log,
            routes: parts.routes.into_iter().flatten().collect(),
        })
    }
}

impl Store {
    /// Reads where sessions are kept, for commands that need nothing else.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the configuration; `upstream.url` may be set nowhere.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        sources.read(false).map(|parts| parts.store)
    }
}

impl Ops {
    /// Reads where the operators' listener of a bridge is, for commands that talk to one. The upstream may be set
    /// nowhere: a running bridge may have been told by a flag.
    ///
    /// # Errors
    ///
    /// Everything else that is wrong with the configuration.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        sources.read(false).map(|parts| parts.ops)
    }
}

#[cfg(test)]
mod tests;
