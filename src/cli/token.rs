//! `megasock token`: mints a token for trying out, or makes the secret of a key.
//!
//! The token stands on stdout alone, so that `$(megasock token …)` is one; what a person wants to know is on stderr. A
//! secret is never an argument, which every process of the host could read, and never printed.

use super::{complain, failed};
use crate::config::{Config, duration_ms};
use crate::hub::token::{Algorithm, MintError, SECRET_BYTES_MIN, TokenError};
use crate::proto::command::is_name;
use crate::sys::clock;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The command and what it takes.
pub(super) fn command() -> Command {
    let valued = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name.replace('_', "-")).value_name(value).help(help)
    };
    let several = |name, help| valued(name, "PATTERN", help).action(ArgAction::Append);
    let file = |name, help| valued(name, "FILE", help).value_parser(value_parser!(PathBuf));
    let asked = ["user", "expires", "subscribe", "publish", "sign_with"];
    Command::new("token")
        .about("Mint a token for trying out, or make a key's secret with --new-key")
        .arg(valued("user", "NAME", "Whose token it is; anonymous when left out"))
        .arg(
            valued("expires", "TIME", "How long it is good, with its unit")
                .default_value("1h")
                .value_parser(|text: &str| duration_ms(text)),
        )
        .arg(several(
            "subscribe",
            "What it lets subscribe to: a name, or a beginning and *; room:NAME for a room",
        ))
        .arg(several(
            "publish",
            "What it lets publish to; without this and --subscribe all the server allows",
        ))
        .arg(valued(
            "key",
            "NAME",
            "Key to sign with, by its name in the config file; the only one when left out",
        ))
        .arg(file("sign_with", "Private half of the key in PEM; HS256 needs none"))
        .arg(
            file("new_key", "Make a secret for HS256 in this new file, and nothing else")
                .conflicts_with_all(asked),
        )
}

const NO_KEY: &str = "there is no key; make one with megasock token --new-key FILE, put the lines it prints into the config \
                      file, and name that with --config";

/// What stops the command, with what to do about it.
type Stop = String;

/// Mints a token with a key of the configuration.
pub(super) fn run(config: &Config, matches: &ArgMatches) -> ExitCode {
    match mint(config, matches) {
        Ok((token, hint)) => {
            complain(hint);
            printed(&token)
        }
        Err(stop) => failed(stop),
    }
}

/// Makes a secret, if that is what is asked for. It needs no configuration, which may be what lacks the key.
pub(super) fn makes_key(matches: &ArgMatches) -> Option<ExitCode> {
    let path: &PathBuf = matches.get_one("new_key")?;
    let name = matches.get_one::<String>("key").cloned();
    Some(match new_secret(path) {
        Ok(()) => {
            complain(format_args!(
                "made a secret in {}; add to the config file of each server:",
                path.display()
            ));
            printed(&key_lines(path, name))
        }
        Err(error) => failed(format!(
            "cannot make {}: {error}; name a file that does not exist, where you may write",
            path.display()
        )),
    })
}

/// Whoever closes the pipe early has not got it.
fn printed(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A token and the line that explains it.
fn mint(config: &Config, matches: &ArgMatches) -> Result<(String, String), Stop> {
    let text = |name| matches.get_one::<String>(name).map(String::as_str);
    // Of several keys the one chosen has been read.
    let (name, algorithm) = config.keys.names().next().ok_or(NO_KEY)?;
    let private = match matches.get_one::<PathBuf>("sign_with") {
        None => None,
        Some(path) => Some(fs::read(path).map_err(|error| {
            format!(
                "--sign-with: {} cannot be read: {error}; name the private half of key {name:?}",
                path.display()
            )
        })?),
    };
    let user = text("user");
    if user.is_some_and(|user| !is_name(user)) {
        return Err(
            "--user: is no name; write 1 to 255 bytes, no control characters, not separators alone".into()
        );
    }
    let now_unix_s = clock::unix_ms() / 1000;
    let expires_ms: &u64 = matches.get_one("expires").expect("has a default");
    let life_s = expires_ms.div_ceil(1000);
    let claims = claims(config, matches, user, now_unix_s, life_s);
    let token = config.keys.mint(name, private.as_deref(), &claims, now_unix_s);
    let token = token.map_err(|error| explained(error, name, algorithm))?;
    let bearer = user.map_or("an anonymous client".to_owned(), |user| format!("user {user:?}"));
    let hint = format!(
        "a token for {bearer}, good for {life_s} s, signed with key {name:?}; send it as `Authorization: Bearer TOKEN`, as the \
         subprotocol `token.TOKEN` beside `megasock`, or as `?token=TOKEN`"
    );
    Ok((token, hint))
}

fn claims(
    config: &Config,
    matches: &ArgMatches,
    user: Option<&str>,
    now_unix_s: u64,
    life_s: u64,
) -> serde_json::Value {
    let mut claims = json!({"iat": now_unix_s, "exp": now_unix_s + life_s});
    let texts =
        [("sub", user), ("iss", config.token_issuer.as_deref()), ("aud", config.token_audience.as_deref())];
    for (claim, text) in texts {
        if let Some(text) = text {
            claims[claim] = json!(text);
        }
    }
    let patterns = |name| matches.get_many::<String>(name).map(|all| all.collect::<Vec<_>>());
    let (subscribe, publish) = (patterns("subscribe"), patterns("publish"));
    if subscribe.is_some() || publish.is_some() {
        let [subscribe, publish] = [subscribe, publish].map(Option::unwrap_or_default);
        claims["channels"] = json!({"subscribe": subscribe, "publish": publish});
    }
    claims
}

fn explained(error: MintError, name: &str, algorithm: Algorithm) -> Stop {
    let algorithm = algorithm.name();
    let fix = match error {
        MintError::NoKey => "choose one of the config file with --key",
        MintError::NeedsPrivate => "name the file it is in with --sign-with",
        MintError::NeedsNone => "leave --sign-with out",
        MintError::NotOfAlgorithm => {
            "name another with --sign-with; openssl pkcs8 -topk8 -nocrypt converts an older form"
        }
        MintError::Refused(TokenError::BadSignature) => {
            "name that with --sign-with, or another key with --key"
        }
        MintError::Refused(TokenError::BadClaims) => {
            "write patterns as whole names, or as beginnings that end in *"
        }
        MintError::Refused(_) => "ask for less",
    };
    format!("cannot sign with key {name:?} ({algorithm}): {error}; {fix}")
}

/// As many random bytes as a secret must have, as text: that text is the secret, in every language that reads the file.
fn new_secret(path: &Path) -> io::Result<()> {
    let mut random = [0; SECRET_BYTES_MIN];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", URL_SAFE_NO_PAD.encode(random))
}

/// The lines of a config file that name a key, by its file where no name is given.
fn key_lines(path: &Path, name: Option<String>) -> String {
    let stem = || path.file_stem().map_or_else(|| "new".into(), |stem| stem.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(stem);
    let file = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    format!("[key.{name:?}]\nalgorithm = \"HS256\"\nfile = {:?}", file.to_string_lossy())
}
