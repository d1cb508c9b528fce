//! A server on its guard as in production: a configuration with a key made for this run, and the token that every
//! connection sends. Neither is ever an argument: the key is in a file of this user alone, the token in memory.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECRET_BYTES: usize = 32;
/// Longer than any run.
const TOKEN_LASTS: &str = "24h";
/// The echo knows no limits, and must be asked for in production.
const ECHO: &str = "echo = \"on\"\n";
/// The driver's connections come from a few addresses.
const LIMITS_WIDE: &str = "max_connections_per_address = 10000000\naccept_rate_per_address = \"1000000/s\"\n";

pub(crate) struct Production {
    pub(crate) config: PathBuf,
    pub(crate) token: String,
}

impl Production {
    /// Writes key and configuration into `out`, and has the server's program mint the token. Where the connections that are
    /// measured speak the channel protocol, the limits of their address are set out of their way.
    pub(crate) fn prepare(program: &Path, out: &Path, channels: bool) -> Result<Production, String> {
        let key = out.join("c1m.key");
        write_secret(&key).map_err(|error| format!("{}: {error}", key.display()))?;
        let config = out.join("production.toml");
        let own = if channels { LIMITS_WIDE } else { ECHO };
        let text = format!(
            "production = \"on\"\norigins = [\"https://c1m.invalid\"]\n{own}\n\
             [key.\"c1m\"]\nalgorithm = \"HS256\"\nfile = \"c1m.key\"\n"
        );
        std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let token = mint(program, &config)?;
        Ok(Production { config, token })
    }
}

/// Fresh bytes from the kernel as hexadecimal, in a file nobody else may read.
fn write_secret(path: &Path) -> std::io::Result<()> {
    let mut secret = [0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    if path.exists() {
        std::fs::remove_file(path)?; // its mode would stay
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn mint(program: &Path, config: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .args(["token", "--expires", TOKEN_LASTS, "--config"])
        .arg(config)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !token.is_empty() {
        return Ok(token);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} token gave none: {}", program.display(), said.trim()))
}

/// The token in a file, as `--token-file` names it.
pub(crate) fn read_token(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let token = text.trim();
    let printable = |byte: u8| byte.is_ascii_graphic();
    if token.is_empty() || !token.bytes().all(printable) {
        return Err(format!("{} holds no token: one line of printable characters", path.display()));
    }
    Ok(token.to_owned())
}
