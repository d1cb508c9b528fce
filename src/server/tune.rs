//! Another configuration for a running server: what of it can change without a restart is in force on every core when the
//! call returns.
//!
//! The configuration in force is kept here, for whoever asks what holds now, and with the pattern of topics the numbers by
//! which topics refer to them.

use super::capacity::Plan;
use super::channels;
use super::handle::Handle;
use super::reactor_options;
use crate::config::{Changes, Config, ConfigErrors};
use crate::hub::{Mail, Namespaces};
use crate::reactor::Control;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long all cores together may take: a turn, and a walk over their connections.
const CORES_WITHIN: Duration = Duration::from_secs(5);

/// What holds now, and who is told when it changes.
pub(super) struct InForce {
    plan: Plan,
    now: Mutex<Now>,
    /// Held by the one who changes it, so that all cores get one change after the other.
    turn: Mutex<()>,
    memory_budget: Arc<MemoryBudget>,
}

struct Now {
    config: Config,
    /// Those of the configuration, with numbers that outlast it.
    namespaces: Namespaces,
}

impl InForce {
    pub fn new(config: Config, plan: Plan, memory_budget: Arc<MemoryBudget>) -> InForce {
        let namespaces = config.namespaces.clone();
        InForce { plan, now: Mutex::new(Now { config, namespaces }), turn: Mutex::new(()), memory_budget }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `read` finds in the configuration.
    pub fn read<T>(&self, read: impl FnOnce(&Config) -> T) -> T {
        read(&self.now().config)
    }
}

/// The memory an operator allows: written here, read by the thread that watches.
#[derive(Debug)]
pub(super) struct MemoryBudget(AtomicU64);

impl MemoryBudget {
    /// `None` is whatever the host has.
    pub fn new(bytes: Option<u64>) -> MemoryBudget {
        MemoryBudget(AtomicU64::new(bytes.unwrap_or(0)))
    }

    pub fn set(&self, bytes: Option<u64>) {
        self.0.store(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }
}

/// Why a configuration is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TuneError {
    /// It lacks what the running server must have. Nothing was changed.
    Config(ConfigErrors),
    /// Topics would refer to more patterns than there can be, those they had before included. Nothing was changed.
    Patterns,
    /// A core has not answered; it goes by the configuration as soon as it gets to it.
    Late,
}

impl fmt::Display for TuneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TuneError::Config(errors) => errors.fmt(f),
            TuneError::Patterns => f.write_str(
                "65,536 patterns of topics have come and gone since the start; restart the server, and let one prefix \
                 stand for several names",
            ),
            TuneError::Late => write!(
                f,
                "a core has not answered within {} s: the configuration is in force there once it does",
                CORES_WITHIN.as_secs()
            ),
        }
    }
}

impl std::error::Error for TuneError {}

impl<M> Handle<M> {
    /// What `read` finds in the configuration in force: that of the start, with all that was changed since.
    pub fn configured<T>(&self, read: impl FnOnce(&Config) -> T) -> T {
        self.in_force().read(read)
    }
}

impl Handle<Mail> {
    /// Has the server go by another configuration, as far as it can without a restart, and says how far that is. Blocks
    /// until all cores do. Not for a core's thread, which would wait for itself.
    ///
    /// # Errors
    /// Why it does not, see [`TuneError`].
    pub fn tune(&self, config: &Config) -> Result<Changes, TuneError> {
        let in_force = self.in_force();
        let _turn = in_force.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = in_force.read(Config::clone);
        let changes = next.adopt(config).map_err(TuneError::Config)?;
        let namespaces =
            next.namespaces.in_place_of(&in_force.now().namespaces).ok_or(TuneError::Patterns)?;
        let mut options = channels::options(&Config { namespaces: namespaces.clone(), ..next.clone() });
        options.board = Arc::clone(self.board());
        let (options, core_options) = (Arc::new(options), reactor_options(&next, &in_force.plan));
        in_force.memory_budget.set(next.memory_budget_bytes);
        *in_force.now() = Now { config: next, namespaces };
        let told = (0..self.cores()).filter_map(|core| {
            // One that has stopped needs no telling.
            self.send(core, Mail::Tune(Arc::clone(&options))).ok()?;
            let (done, answer) = oneshot::channel();
            self.control(core, Control::Tune { options: Box::new(core_options.clone()), done })?;
            Some(answer)
        });
        let (told, deadline) = (told.collect::<Vec<_>>(), Instant::now() + CORES_WITHIN);
        for answer in told {
            match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Err(oneshot::RecvTimeoutError::Timeout) => return Err(TuneError::Late),
                Ok(()) | Err(oneshot::RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(changes)
    }
}
