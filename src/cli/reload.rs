//! The configuration read again, by SIGHUP or through the admin listener: the same file, with the flags and variables of the
//! start, which still win over it. A mistake anywhere changes nothing.

use super::log::Log;
use crate::config::{Changes, Config, Sources};
use crate::hub::Mail;
use crate::server::Handle;
use std::sync::Arc;

/// Reloads the configuration of one server.
#[derive(Clone)]
pub(super) struct Reload {
    /// What it was started with.
    pub sources: Arc<Sources>,
    pub handle: Handle<Mail>,
    pub log: Log,
}

impl Reload {
    /// Reads it again and has the server go by it; the log tells what became of it, and so does the answer.
    pub fn reload(&self) -> Result<Changes, String> {
        let reloaded = self.try_reload();
        match &reloaded {
            Ok(Changes { applied, needs_restart }) => {
                let (applied, needs_restart) = (applied.join(", "), needs_restart.join(", "));
                tracing::info!(applied, needs_restart, "configuration read again");
            }
            Err(problem) => {
                problem.lines().for_each(|line| tracing::error!("configuration not changed: {line}"))
            }
        }
        reloaded
    }

    fn try_reload(&self) -> Result<Changes, String> {
        let config = Config::load(&self.sources).map_err(|errors| errors.to_string())?;
        let changes = self.handle.tune(&config).map_err(|error| error.to_string())?;
        self.log.set_levels(&config.log);
        Ok(changes)
    }
}
