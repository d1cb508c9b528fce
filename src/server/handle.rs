//! A running server, seen from other threads.

use super::drain::{Begun, Drain, Stopping, Terms};
use super::listen::SharedAddress;
use super::pressure::{MemoryUse, Seen};
use super::seat::Seat;
use super::tune::InForce;
use crate::hub::Board;
use crate::reactor::{ConnectionFacts, Control, Counters, Totals};
use crate::sys::ConnId;
use crate::sys::wake::Waker;
use crossbeam_channel::Sender;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One core, seen from other threads.
pub(super) struct Core<M> {
    pub mail: Sender<Control<M>>,
    pub waker: Waker,
    pub counters: Arc<Counters>,
    pub seat: Arc<Seat>,
}

/// Sends mail to a server's cores, reads its counters, stops it. Cheap to clone, usable from any thread.
pub struct Handle<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    address: SharedAddress,
    cores: Vec<Core<M>>,
    in_force: InForce,
    board: Arc<Board>,
    memory: Arc<Seen>,
    stopping: Mutex<Option<Begun>>,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Handle<M> {
        Handle { shared: Arc::clone(&self.shared) }
    }
}

impl<M> Handle<M> {
    pub(super) fn new(
        address: SharedAddress,
        cores: Vec<Core<M>>,
        in_force: InForce,
        board: Arc<Board>,
        memory: Arc<Seen>,
    ) -> Handle<M> {
        let stopping = Mutex::default();
        Handle { shared: Arc::new(Shared { address, cores, in_force, board, memory, stopping }) }
    }

    /// What the hubs of all cores count.
    pub(super) fn board(&self) -> &Arc<Board> {
        &self.shared.board
    }

    /// The configuration that holds now.
    pub(super) fn in_force(&self) -> &InForce {
        &self.shared.in_force
    }

    /// Tells a core something that is not for its handler; `None` if that core has stopped or does not exist.
    pub(super) fn control(&self, core: usize, control: Control<M>) -> Option<()> {
        let target = self.shared.cores.get(core)?;
        target.mail.send(control).ok()?;
        target.waker.wake();
        Some(())
    }

    /// The address it listens on, with the port that was free where port 0 was asked for.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.address.bound()
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
            _ => unreachable!("mail was sent"),
        })?;
        target.waker.wake();
        Ok(())
    }

    /// Stops the server: every connection is told ([`crate::Handler::on_drain`]), then gets a Close 1012 at its turn; what
    /// is left after `timeout` is cut. Newcomers get a 503, or are left to another server on the same address where there
    /// is one and `net.ipv4.tcp_migrate_req` is 1. Returns at once with what it is going to do;
    /// [`crate::Running::wait`] waits for the end. Called again it may shorten the time, not extend it, and returns the times
    /// that are left.
    pub fn stop(&self, timeout: Duration) -> Drain {
        // Some way off at most, for the sum to be a time at all.
        let timeout = timeout.min(Duration::from_secs(u32::MAX.into()));
        let clients = self.counters().connections_open;
        let terms = self.configured(Terms::of);
        let drain = Drain::new(clients, &terms, timeout, self.shared.address.has_successor());
        // Held until all cores are told: each goes by the return times of its first order, and so does the answer.
        let mut stopping = self.shared.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let told = Begun::new(drain, now);
        let begun = stopping.map_or(told, |before| before.shortened(told));
        *stopping = Some(begun);
        for core in 0..self.cores() {
            // A core that has stopped already needs no telling.
            let _ = self.control(core, Control::Drain(drain.order()));
        }
        begun.left_at(now)
    }

    /// Whether it has been told to stop, and by when it will have.
    pub fn stopping(&self) -> Option<Stopping> {
        let begun = *self.shared.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        begun.map(|begun| begun.stopping())
    }

    /// Memory against its budget, as it was a moment ago: the thread that watches it looks at least every two seconds.
    pub fn memory(&self) -> MemoryUse {
        self.shared.memory.get()
    }

    /// Whether another process listens on its address too.
    pub(super) fn shares_address(&self) -> bool {
        self.shared.address.is_shared()
    }

    /// Asks a core what it knows of a connection: `None` if there is no such core, or it has stopped. The answer is `None` if
    /// the connection is not open.
    pub fn look(&self, core: usize, conn: ConnId) -> Option<oneshot::Receiver<Option<ConnectionFacts>>> {
        let (answer, receiver) = oneshot::channel();
        self.control(core, Control::Look { conn, answer })?;
        Some(receiver)
    }

    /// Where a core's thread runs; `None` if there is no such core.
    pub(crate) fn seat(&self, core: usize) -> Option<&Seat> {
        self.shared.cores.get(core).map(|core| &*core.seat)
    }

    /// Counters of one core; all zero where there is no such core.
    pub fn counters_of(&self, core: usize) -> Totals {
        let mut totals = Totals::default();
        if let Some(core) = self.shared.cores.get(core) {
            totals.add(&core.counters);
        }
        totals
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
