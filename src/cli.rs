//! The command line: what can be asked of the program, and in which words.

pub mod check;
pub mod demo;
pub mod health;
pub mod serve;
pub mod sessions;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigErrors, Flags, Ops, Secret, Sources, Store};

/// Exit code: the command did what it was asked, and the answer is yes.
pub const EXIT_OK: u8 = 0;
/// Exit code: it failed, or the answer is no.
pub const EXIT_FAILED: u8 = 1;
/// Exit code: bad configuration or usage; nothing was done.
pub const EXIT_USAGE: u8 = 2;

const CONFIGURATION: &str = "\
Configuration:
  The file is the one that --config or SESSION_BRIDGE_CONFIG names, else session-bridge.toml in the working directory
  where there is one, else none: every key has a default but upstream.url. Any key can be set by the environment:
  SESSION_BRIDGE_STORE__URL is store.url. Flags beat the environment, the environment beats the file. An unknown key or
  variable is an error.

Exit codes:
  0  done, or the answer is yes
  1  it failed, or the answer is no
  2  bad configuration or usage";

const EXAMPLES: &str = "\
Examples:
  session-bridge demo
      see what it does, with a shop that is built in
  session-bridge --upstream http://127.0.0.1:8000
      before a backend on this machine, sessions in ./session-bridge.db
  session-bridge --upstream http://shop:8000 --store redis://redis:6379/0
      as many replicas as are wanted, sessions shared through Redis
  session-bridge check --config /etc/session-bridge.toml
      is the configuration right, and do the store and the backend answer?
  session-bridge sessions show 9e201bab-1ccf-47d1-82e0-90d71ee5fd2c
      what is known of one installation";

/// Gives a client without cookies the cookie session of a stateful backend.
///
/// An HTTP reverse proxy: it reads the Install ID of each request, finds the backend session that belongs to it,
/// forwards the request with that session's cookies, and keeps what the backend sets. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "session-bridge", version, after_help = CONFIGURATION)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{CONFIGURATION}"))]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

impl Cli {
    /// What is to be done: to serve, where no command says otherwise.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

/// What can be asked of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Forward requests until told to stop by SIGTERM or SIGINT (the default)
    #[command(after_help = CONFIGURATION)]
    Serve(ServeArgs),
    /// Run a stateful demo shop and a bridge before it, in one process
    Demo,
    /// Validate the configuration, then ask the store and the upstream for an answer; exit 0 or 1
    #[command(after_help = CONFIGURATION)]
    Check(ConfigArgs),
    /// Look at the session of one installation, or end it
    ///
    /// Asks a running bridge, by the operators' listener (ops.listen) and with the token in ops.token_file where one
    /// is configured.
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Exit 0 when a running bridge is ready, else print why not and exit 1: for a container's HEALTHCHECK
    Health(HealthArgs),
}

/// Which configuration.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// The configuration file [default: session-bridge.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    fn sources(&self, flags: Flags) -> Sources {
        Sources::of_process(self.config.clone(), flags)
    }

    /// Loads the configuration from the file, the environment of the process and the defaults.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(&self.sources(Flags::default()))
    }

    /// Loads where the operators' listener is. The upstream need not be set.
    ///
    /// # Errors
    ///
    /// Everything else that is wrong with the configuration.
    pub fn load_ops(&self) -> Result<Ops, ConfigErrors> {
        Ops::load(&self.sources(Flags::default()))
    }
}

/// What to serve.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The backend, http://HOST:PORT (upstream.url)
    #[arg(long, value_name = "URL")]
    upstream: Option<Secret>,
    /// Where to listen, such as 0.0.0.0:8080 (server.listen)
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where sessions are kept: memory:, sqlite://PATH or redis://HOST:PORT/DB (store.url)
    ///
    /// redis-sentinel://HOST:PORT,HOST:PORT/MASTER and redis-cluster://HOST:PORT,HOST:PORT too, and rediss:// and so on
    /// over TLS; postgres://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, memcached://HOST:PORT,HOST:PORT.
    ///
    /// A password given here can be seen by every user of this machine: better write it in the file or in
    /// SESSION_BRIDGE_STORE__URL.
    #[arg(long, value_name = "URL")]
    store: Option<Secret>,
}

impl ServeArgs {
    /// Loads the configuration from these flags, the environment of the process, the file and the defaults.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        let flags = Flags {
            upstream: self.upstream.clone(),
            listen: self.listen.clone(),
            store: self.store.clone(),
        };
        Config::load(&self.config.sources(flags))
    }
}

/// What to do with the session of one installation.
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// Print its times, its version and the names of its cookies, never their values
    Show(SessionArgs),
    /// End it: the next request of that installation starts a new session
    End(SessionArgs),
    /// Copy all sessions from one store into another, or hand them over while the bridge runs
    ///
    /// Sessions keep their expiry; what is newer in the target is left alone, and the source stays as it is. All else that a
    /// store needs (store.key_prefix, keys, certificates) is taken from the configuration.
    #[command(after_help = CONFIGURATION)]
    Copy(CopyArgs),
}

/// Which installation.
#[derive(Args, Clone, Debug)]
pub struct SessionArgs {
    /// The Install ID, as the app sends it
    #[arg(value_name = "INSTALL_ID", value_parser = install_id)]
    pub install_id: Secret,
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Its form is for the bridge to judge. An empty one would ask it for something else.
fn install_id(text: &str) -> Result<Secret, &'static str> {
    if text.trim().is_empty() {
        return Err("an Install ID is never empty");
    }
    Ok(Secret::from(text.to_owned()))
}

/// From where to where.
#[derive(Args, Clone, Debug)]
pub struct CopyArgs {
    /// The store that sessions are in, as in store.url
    #[arg(long, value_name = "URL")]
    from: Secret,
    /// The store that they are to be in
    #[arg(long, value_name = "URL")]
    to: Secret,
    /// Hand them over: every replica runs with store.moving_to, and follows each session as it is moved
    #[arg(long)]
    pub hand_over: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl CopyArgs {
    /// Loads the configuration of the two stores.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<(Store, Store), ConfigErrors> {
        let load = |url: &Secret| {
            let flags = Flags {
                store: Some(url.clone()),
                ..Flags::default()
            };
            let store = Store::load(&self.config.sources(flags))?;
            Ok(Store {
                moving_to: None,
                ..store
            })
        };
        Ok((load(&self.from)?, load(&self.to)?))
    }
}

/// Which bridge to ask.
#[derive(Args, Clone, Debug, Default)]
pub struct HealthArgs {
    /// What to ask [default: /readyz of ops.listen]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(arguments: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(format!("session-bridge {arguments}").split_whitespace()).map(Cli::into_command)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves_with_the_same_flags() {
        for arguments in ["", "serve"] {
            let all = format!("{arguments} --config c.toml --upstream http://h --listen [::]:1 --store memory:");
            let Ok(Command::Serve(serve)) = parse(&all) else {
                panic!("{all}")
            };
            assert_eq!(serve.config.config.unwrap().to_str(), Some("c.toml"));
            assert_eq!(serve.upstream.unwrap().expose(), "http://h");
            assert_eq!(serve.listen.as_deref(), Some("[::]:1"));
            assert_eq!(serve.store.unwrap().expose(), "memory:");
            assert!(matches!(
                parse(arguments),
                Ok(Command::Serve(ServeArgs { upstream: None, .. }))
            ));
        }
    }

    #[test]
    fn each_command_takes_its_own_arguments() {
        assert!(matches!(parse("demo"), Ok(Command::Demo)));
        assert!(matches!(
            parse("check --config x"),
            Ok(Command::Check(ConfigArgs { config: Some(_) }))
        ));
        assert!(matches!(
            parse("health --url http://h/x"),
            Ok(Command::Health(HealthArgs { url: Some(_), .. }))
        ));
        let Ok(Command::Sessions(SessionsCommand::Show(show))) = parse("sessions show abc --config x") else {
            panic!()
        };
        assert_eq!((show.install_id.expose(), show.config.config.is_some()), ("abc", true));
        assert!(matches!(
            parse("sessions end abc"),
            Ok(Command::Sessions(SessionsCommand::End(_)))
        ));
    }

    #[test]
    fn wrong_usage_exits_with_2_and_help_with_0() {
        for wrong in [
            "sing",
            "--colour",
            "demo --config x",
            "--config x check",
            "sessions show",
            "sessions",
            "sessions copy --from memory:",
            "health x",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), i32::from(EXIT_USAGE), "{wrong}");
        }
        for right in ["--help", "-h", "help sessions", "--version"] {
            assert_eq!(parse(right).unwrap_err().exit_code(), i32::from(EXIT_OK), "{right}");
        }
        assert_eq!(parse("--help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    }

    #[test]
    fn help_names_the_file_the_exit_codes_and_examples() {
        let help = parse("--help").unwrap_err().to_string();
        for part in [
            "session-bridge.toml",
            "Exit codes:",
            "Examples:",
            "SESSION_BRIDGE_STORE__URL",
            "demo",
            "check",
        ] {
            assert!(help.contains(part), "{part} is not in:\n{help}");
        }
    }

    #[test]
    fn arguments_that_may_be_secret_are_not_printed() {
        let serve = format!(
            "{:?}",
            parse("--store redis://:hunter2@h --upstream http://u:hunter2@h").unwrap()
        );
        let show = format!("{:?}", parse("sessions show hunter2").unwrap());
        assert!(
            !serve.contains("hunter2") && !show.contains("hunter2"),
            "{serve} {show}"
        );
    }
}
