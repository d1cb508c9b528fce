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

/// How long all cores together may take: a turn, and a walk over their connections. Less than a request to the admin
/// listener waits, which is to be told what has become of it.
const CORES_WITHIN: Duration = Duration::from_secs(4);

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

/// Why a configuration is not in force, or not everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TuneError {
    /// It lacks what the running server must have. Nothing was changed.
    Config(ConfigErrors),
    /// Topics would refer to more patterns than there can be, those they had before included. Nothing was changed.
    Patterns,
    /// These cores have not answered: they go by the configuration as soon as they get to it. The others do.
    Late {
        /// What has changed.
        changes: Changes,
        /// By number.
        cores: Vec<usize>,
    },
}

impl fmt::Display for TuneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TuneError::Config(errors) => errors.fmt(f),
            TuneError::Patterns => f.write_str(
                "65,536 patterns of topics have come and gone since the start; restart the server, and let one prefix \
                 stand for several names",
            ),
            TuneError::Late { changes, cores } => {
                let cores: Vec<String> = cores.iter().map(|core| format!("core {core}")).collect();
                write!(
                    f,
                    "applied=\"{}\" needs_restart=\"{}\"; on {} not yet, for want of an answer within {} s, but as soon \
                     as it gets to it",
                    changes.applied.join(", "),
                    changes.needs_restart.join(", "),
                    cores.join(", "),
                    CORES_WITHIN.as_secs()
                )
            }
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
        self.tune_within(CORES_WITHIN, config)
    }

    fn tune_within(&self, cores_within: Duration, config: &Config) -> Result<Changes, TuneError> {
        let in_force = self.in_force();
        let _turn = in_force.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = in_force.read(Config::clone);
        let changes = next.adopt(config).map_err(TuneError::Config)?;
        if changes.applied.is_empty() {
            return Ok(changes); // the walk over all connections would change none
        }
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
            Some((core, answer))
        });
        let (told, deadline) = (told.collect::<Vec<_>>(), Instant::now() + cores_within);
        let is_late = |answer: oneshot::Receiver<()>| {
            let answered = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            answered == Err(oneshot::RecvTimeoutError::Timeout)
        };
        let late = told.into_iter().filter_map(|(core, answer)| is_late(answer).then_some(core));
        match late.collect::<Vec<_>>() {
            late if late.is_empty() => Ok(changes),
            cores => Err(TuneError::Late { changes, cores }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::capacity::{self, Wanted};
    use super::super::handle::Core;
    use super::super::listen::listen_all;
    use super::*;
    use crate::sys::host::HostFacts;
    use crate::sys::wake::Waker;
    use crossbeam_channel::unbounded;

    #[test]
    fn a_core_that_is_late_is_named_with_what_is_in_force_elsewhere() {
        let wanted = Wanted { reactors: Some(1), max_connections: Some(10), ..Wanted::default() };
        let plan = capacity::plan(&HostFacts::read(), &wanted).expect("this host carries ten");
        let (_listeners, place) = listen_all("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        let (mails, mut orders): (Vec<_>, Vec<_>) = (0..3).map(|_| unbounded()).unzip();
        let core = |mail| Core {
            mail,
            waker: Waker::new().unwrap(),
            counters: Arc::default(),
            seat: Arc::default(),
        };
        let in_force = InForce::new(Config::default(), plan, Arc::new(MemoryBudget::new(None)));
        let cores = mails.into_iter().map(core).collect();
        let handle: Handle<Mail> = Handle::new(place, cores, in_force, Arc::default(), Arc::default());
        drop(orders.remove(1)); // core 1 has stopped, the others hang

        let config = Config { echo: Some(false), reactors: Some(7), ..Config::default() };
        let late = handle.tune_within(Duration::ZERO, &config).unwrap_err();
        let changes = Changes { applied: vec!["echo".into()], needs_restart: vec!["reactors".into()] };
        assert_eq!(late, TuneError::Late { changes, cores: vec![0, 2] });
        assert_eq!(handle.configured(|config| config.echo), Some(false));
        // Again the same: nobody is asked.
        let nothing = Changes { applied: vec![], needs_restart: vec!["reactors".into()] };
        assert_eq!(handle.tune_within(Duration::ZERO, &config), Ok(nothing));
        let said = late.to_string();
        for part in ["applied=\"echo\"", "needs_restart=\"reactors\"", "core 0, core 2"] {
            assert!(said.contains(part), "{said}");
        }
    }
}
