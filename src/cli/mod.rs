//! The command line: what can be typed, and what it calls.
//!
//! The flags come from [`OPTIONS`]; this module adds only the commands, `--config` and `--connections`. What is typed
//! wrong is reported together with what is wrong in the environment and the file. Exit codes: 0 done, 1 the host or the
//! run failed, 2 the options are wrong.

mod doctor;
mod log;
mod reload;
mod serve;
mod stop;
mod table;
mod token;
mod top;

use crate::config::{
    Config, ConfigError, ConfigErrors, KeyFiles, Needs, OPTIONS, Origin, Sources, file_only, suggestion,
};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Every option is also a key of the TOML file (ping_interval = \"25s\") and a variable (MEGASOCK_PING_INTERVAL=25s).
A flag wins over a variable, a variable over the file, the file over the default. docs/config.md has them all.
SIGHUP reads the file again: what is marked live changes while the server runs.";

/// Runs the command in the process's arguments.
pub fn main() -> ExitCode {
    let (matches, mistyped) = match parse(std::env::args_os().collect()) {
        Ok(parsed) => parsed,
        Err(stop) => {
            // Help and version are "errors" of clap that belong on stdout; a closed pipe there is no failure of ours.
            let _ = stop.print();
            return ExitCode::from(stop.exit_code() as u8);
        }
    };
    if let Some(("token", token)) = matches.subcommand()
        && mistyped.is_empty()
        && let Some(done) = token::makes_key(token)
    {
        return done;
    }
    let sources = sources(&matches);
    let config = match load(&sources, key_files(&matches), mistyped) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors);
            return ExitCode::from(2);
        }
    };
    match matches.subcommand() {
        Some(("doctor", doctor)) => doctor::run(&config, doctor.get_one("connections").copied()),
        Some(("token", token)) => token::run(&config, token),
        Some(("top", top)) => top::run(&config, top),
        _ => serve::run(config, sources),
    }
}

/// Says something on standard output, to whoever still reads it. `println!` would panic where nobody does: `megasock | head -1`
/// must not end a server.
fn say(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Says what is wrong on standard error, to whoever still reads that.
fn complain(problem: impl Display) {
    let _ = writeln!(io::stderr(), "megasock: {problem}");
}

/// Ends a command that cannot do what it is for.
fn failed(problem: impl Display) -> ExitCode {
    complain(problem);
    ExitCode::FAILURE
}

/// All commands and flags.
fn command() -> Command {
    let flags = OPTIONS.iter().map(|option| {
        let change = match option.needs {
            Needs::Reload => ", live",
            Needs::ReloadOnceSet => ", live once set",
            Needs::Restart => "",
        };
        let short = format!("{} [default: {}{change}]", option.doc, option.default);
        let long = format!("{}\nWrite {}. [default: {}{change}]", option.doc, option.written, option.default);
        Arg::new(option.name)
            .long(option.flag())
            .value_name(option.value_name)
            .help(short)
            .long_help(long)
            .help_heading("Options of the server")
            .global(true)
    });
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file to read options from [env: MEGASOCK_CONFIG]")
        .global(true);
    let connections = Arg::new("connections")
        .long("connections")
        .value_name("COUNT")
        .value_parser(clap::value_parser!(u64).range(1..))
        .help("Connections to check the host for; max_connections, or else what it carries as it is, when left out");
    Command::new("megasock")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebSocket server that holds a million connections on one Linux box")
        .after_help(AFTER_HELP)
        .subcommand(
            Command::new("serve").about("Serve WebSocket connections: what megasock does without a command"),
        )
        .subcommand(
            Command::new("doctor")
                .about("Check this host: what was found, what is needed, the command that mends it")
                .arg(connections),
        )
        .subcommand(token::command())
        .subcommand(top::command())
        .disable_help_subcommand(true)
        .args_override_self(true)
        .arg(file)
        .args(flags)
}

/// Parses, and goes on past arguments nobody knows, so that all of them are reported at once.
fn parse(mut arguments: Vec<OsString>) -> Result<(ArgMatches, Vec<ConfigError>), clap::Error> {
    let mut mistyped = Vec::new();
    loop {
        let error = match command().try_get_matches_from(&arguments) {
            Ok(matches) => return Ok((matches, mistyped)),
            Err(error) => error,
        };
        let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(ContextValue::String(unknown))) => unknown.clone(),
            _ => return Err(error),
        };
        let is_unknown = |argument: &OsString| {
            argument.to_str().is_some_and(|text| text == unknown || text.starts_with(&format!("{unknown}=")))
        };
        let Some(at) = arguments.iter().skip(1).position(is_unknown).map(|at| at + 1) else {
            return Err(error);
        };
        let has_value = unknown.starts_with('-')
            && !arguments[at].to_string_lossy().contains('=')
            && arguments.get(at + 1).is_some_and(|next| !next.to_string_lossy().starts_with('-'));
        arguments.drain(at..=at + usize::from(has_value));
        mistyped.push(unknown_argument(unknown));
    }
}

fn unknown_argument(option: String) -> ConfigError {
    let name = option.trim_start_matches('-');
    let near = || suggestion(name).map(|near| format!("did you mean --{}?", near.replace('_', "-")));
    let fix = file_only(name).or_else(near).unwrap_or_else(|| "megasock --help lists all options".to_owned());
    ConfigError { option, origin: Origin::Flag, problem: "is no option".to_owned(), fix }
}

fn sources(matches: &ArgMatches) -> Sources {
    // Global flags reach the matches of the command they were typed with or before.
    let matches = matches.subcommand().map_or(matches, |(_, command)| command);
    let flags = OPTIONS.iter().filter_map(|option| {
        let value: &String = matches.get_one(option.name)?;
        Some((option.name.to_owned(), value.clone()))
    });
    let variables = std::env::vars_os().map(|(name, value)| {
        let text = |part: OsString| part.to_string_lossy().into_owned();
        (text(name), text(value))
    });
    let file = matches.get_one::<PathBuf>("config").cloned();
    Sources {
        flags: flags.collect(),
        variables: variables.collect(),
        file: file.or_else(|| std::env::var_os("MEGASOCK_CONFIG").map(PathBuf::from)),
    }
}

/// Beside a server that systemd gives its keys, nobody else can read them.
fn key_files(matches: &ArgMatches) -> KeyFiles {
    match matches.subcommand() {
        Some(("doctor", _)) => KeyFiles::None,
        Some(("top", _)) => KeyFiles::Admin,
        Some(("token", token)) => KeyFiles::Signing(token.get_one("key").cloned()),
        _ => KeyFiles::All,
    }
}

fn load(sources: &Sources, key_files: KeyFiles, mistyped: Vec<ConfigError>) -> Result<Config, ConfigErrors> {
    let loaded = Config::load_with(sources, key_files);
    if mistyped.is_empty() {
        return loaded;
    }
    let other = loaded.err().map_or(Vec::new(), |errors| errors.0);
    Err(ConfigErrors(mistyped.into_iter().chain(other).collect()))
}
