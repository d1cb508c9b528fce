//! The configuration read again, by SIGHUP or through the admin listener: the same file, with the flags and variables of the
//! start, which still win over it. A mistake anywhere changes nothing.
//!
//! It may take seconds, for a file that hangs or a core that does, so it has a thread of its own: nobody waits who has other
//! things to do, such as to obey the next signal. There are two at most: one that reads, and one that waits for its turn and
//! will read whatever is there by then, for all who have asked meanwhile.

use super::log::Log;
use crate::config::{Changes, Config, Sources};
use crate::control::{ReloadError, Reloading};
use crate::hub::Mail;
use crate::server::{Handle, TuneError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What is said of a server outside production that has no keys.
pub(super) const NO_KEYS: &str = "no keys are set (development): anyone may connect, under any name";

/// Reloads the configuration of one server.
#[derive(Clone)]
pub(super) struct Reload {
    /// What it was started with.
    sources: Arc<Sources>,
    handle: Handle<Mail>,
    log: Log,
    /// Held from the reading on, for as long as a file hangs: what was read before never comes after.
    turn: Arc<Mutex<()>>,
    /// Who is told what becomes of the reload that waits for its turn; none while there is no such reload.
    waiting: Arc<Mutex<Option<Vec<Asker>>>>,
}

type Asker = oneshot::Sender<Result<Changes, ReloadError>>;

impl Reload {
    pub fn new(sources: Sources, handle: Handle<Mail>, log: Log) -> Reload {
        Reload { sources: Arc::new(sources), handle, log, turn: Arc::default(), waiting: Arc::default() }
    }

    /// Begins to read it again and to have the server go by it; the log tells what became of it, and so does the answer.
    pub fn begin(&self) -> Reloading {
        let (asker, reloading) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(askers) = &mut *waiting {
            askers.retain(|asker| !asker.is_closed()); // who has gone: signals, and requests that were answered `timeout`
            askers.push(asker);
            return reloading;
        }
        let reload = self.clone();
        match thread::Builder::new().name("reload".to_owned()).spawn(move || reload.run()) {
            Ok(_) => *waiting = Some(vec![asker]),
            Err(error) => tracing::error!("configuration not changed: cannot start a thread for it: {error}"),
        }
        reloading
    }

    fn run(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it reads: who asks from now on may have written something since.
        let askers = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reloaded = self.reload();
        for asker in askers.into_iter().flatten() {
            let _ = asker.send(reloaded.clone()); // it may have gone
        }
    }

    fn reload(&self) -> Result<Changes, ReloadError> {
        let had_keys = self.handle.configured(|config| !config.keys.is_empty());
        let reloaded = self.try_reload();
        match &reloaded {
            Ok(Changes { applied, needs_restart }) => {
                let (applied, needs_restart) = (applied.join(", "), needs_restart.join(", "));
                tracing::info!(applied, needs_restart, "configuration read again");
            }
            Err(ReloadError::Late(late)) => tracing::warn!("configuration read again: {late}"),
            Err(ReloadError::Config(problem)) => {
                problem.lines().for_each(|line| tracing::error!("configuration not changed: {line}"))
            }
        }
        if had_keys && self.handle.configured(|config| config.keys.is_empty() && !config.production) {
            tracing::warn!("{NO_KEYS}");
        }
        reloaded
    }

    fn try_reload(&self) -> Result<Changes, ReloadError> {
        let config = Config::load(&self.sources).map_err(|errors| ReloadError::Config(errors.to_string()))?;
        let reloaded = match self.handle.tune(&config) {
            Ok(changes) => Ok(changes),
            Err(late @ TuneError::Late { .. }) => Err(ReloadError::Late(late.to_string())),
            Err(error) => return Err(ReloadError::Config(error.to_string())),
        };
        self.log.set_levels(&config.log);
        reloaded
    }
}
