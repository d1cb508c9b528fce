//! A running server, seen from other threads.

use crate::reactor::{Control, Counters, Totals, ticks};
use crate::sys::wake::Waker;
use crossbeam_channel::Sender;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One core, seen from other threads.
pub(super) struct Core<M> {
    pub mail: Sender<Control<M>>,
    pub waker: Waker,
    pub counters: Arc<Counters>,
}

/// Sends mail to a server's cores, reads its counters, stops it. Cheap to clone, usable from any thread.
pub struct Handle<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    address: SocketAddr,
    cores: Vec<Core<M>>,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Handle<M> {
        Handle { shared: Arc::clone(&self.shared) }
    }
}

impl<M> Handle<M> {
    pub(super) fn new(address: SocketAddr, cores: Vec<Core<M>>) -> Handle<M> {
        Handle { shared: Arc::new(Shared { address, cores }) }
    }

    /// The address it listens on, with the port that was free where port 0 was asked for.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Number of cores; they are numbered from 0.
    pub fn cores(&self) -> usize {
        self.shared.cores.len()
    }

    /// Sends mail to [`crate::Handler::on_mail`] of one core. Returns it if that core has stopped or does not exist.
    pub fn send(&self, core: usize, mail: M) -> Result<(), M> {
        let Some(target) = self.shared.cores.get(core) else { return Err(mail) };
        target.mail.send(Control::Mail(mail)).map_err(|error| match error.0 {
            Control::Mail(mail) => mail,
            Control::Drain { .. } => unreachable!("mail was sent"),
        })?;
        target.waker.wake();
        Ok(())
    }

    /// Stops the server: newcomers get 503, every connection a Close 1001; what is left after `timeout` is cut. Returns
    /// at once; [`crate::Running::wait`] waits for the end.
    pub fn stop(&self, timeout: Duration) {
        let timeout_ticks = ticks(timeout.as_millis().try_into().unwrap_or(u64::MAX));
        for core in &self.shared.cores {
            // A core that has stopped already needs no telling.
            let _ = core.mail.send(Control::Drain { timeout_ticks });
            core.waker.wake();
        }
    }

    /// Counters of all cores, added up.
    pub fn counters(&self) -> Totals {
        let mut totals = Totals::default();
        for core in &self.shared.cores {
            totals.add(&core.counters);
        }
        totals
    }
}
