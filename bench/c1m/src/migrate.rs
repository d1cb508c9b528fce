//! `net.ipv4.tcp_migrate_req`: without it a listener that closes resets the handshakes in its queue, whoever else listens.
//! Set for a run where this user may, and put back after it.

use std::fs;

const SETTING: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// The setting holds as long as this lives.
pub(crate) struct Migrate {
    /// What it was, where that was something else.
    before: Option<String>,
}

impl Migrate {
    pub(crate) fn on() -> Result<Migrate, String> {
        let now = fs::read_to_string(SETTING).map_err(|error| format!("{SETTING}: {error}"))?;
        if now.trim() == "1" {
            return Ok(Migrate { before: None });
        }
        fs::write(SETTING, "1").map_err(|error| {
            format!("a server can be replaced only with `sysctl -w net.ipv4.tcp_migrate_req=1`: {error}")
        })?;
        Ok(Migrate { before: Some(now) })
    }
}

impl Drop for Migrate {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // It could be set, so it can be put back.
            let _ = fs::write(SETTING, before.trim());
        }
    }
}
