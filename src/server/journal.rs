//! The journal: what the cores tell of their connections, as events of the log, on a thread of its own.
//!
//! Each event has a target of its own name, so that a filter picks by it (`log = "info,ws.connect=off"`). Names that clients chose are
//! fields, which every format of the log escapes: none can begin a line. What the cores left out is told by its number, once a
//! second.
//!
//! The thread looks from time to time rather than wait: who sends to one that waits has to wake it, which is a system call of a
//! core. It ends with the last reactor, when all is told.

use crate::hub::connection_id;
use crate::proto::close::CloseReason;
use crate::reactor::{Counters, Event, Journal, Who};
use crossbeam_channel::{Receiver, TryRecvError};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Events that wait to be told; about a megabyte.
const EVENTS_MAX: usize = 8_192;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Between two lines on what was left out.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// The cores' end, and the one that is read.
pub(super) fn journal() -> (Journal, Receiver<Event>) {
    let (sender, events) = crossbeam_channel::bounded(EVENTS_MAX);
    (Journal { sender }, events)
}

/// Reads the journal of one server.
pub(super) struct Reader {
    pub events: Receiver<Event>,
    /// Of all cores.
    pub counters: Vec<Arc<Counters>>,
}

impl Reader {
    /// Starts the thread.
    pub fn start(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("journal".to_owned()).spawn(move || self.run())
    }

    fn run(self) {
        let (mut told, mut counted) = (LeftOut::default(), Instant::now());
        loop {
            let is_over = loop {
                match self.events.try_recv() {
                    Ok(event) => tell(&event),
                    Err(TryRecvError::Empty) => break false,
                    Err(TryRecvError::Disconnected) => break true,
                }
            };
            if is_over || counted.elapsed() >= COUNT_EVERY {
                let left_out = LeftOut::of(&self.counters);
                left_out.tell_since(told);
                (told, counted) = (left_out, Instant::now());
            }
            if is_over {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Events that were not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LeftOut {
    suppressed: u64,
    dropped: u64,
}

impl LeftOut {
    fn of(counters: &[Arc<Counters>]) -> LeftOut {
        LeftOut {
            suppressed: counters.iter().map(|core| core.events_suppressed.get()).sum(),
            dropped: counters.iter().map(|core| core.events_dropped.get()).sum(),
        }
    }

    fn tell_since(self, before: LeftOut) {
        let (suppressed, dropped) = (self.suppressed - before.suppressed, self.dropped - before.dropped);
        if suppressed + dropped > 0 {
            tracing::info!(target: "ws.left_out", suppressed, dropped, "events of connections (log_events sets how many are told)");
        }
    }
}

fn tell(event: &Event) {
    match event {
        Event::Connect { who } => {
            let (id, ip, user) = told(who);
            tracing::info!(target: "ws.connect", id, %ip, user);
        }
        Event::Disconnect { who, code, reason, duration_ms } => {
            let ((id, ip, user), reason) = (told(who), CloseReason::name(*reason));
            tracing::info!(target: "ws.disconnect", id, %ip, user, code, reason, duration_ms);
        }
        Event::Error { who, violation } => {
            let ((id, ip, user), code) = (told(who), violation.reason().code());
            tracing::warn!(target: "ws.error", id, %ip, user, code, %violation);
        }
        Event::SlowConsumer { who, action, owed_bytes } => {
            let (id, ip, user) = told(who);
            tracing::warn!(target: "ws.slow_consumer", id, %ip, user, action, owed_bytes);
        }
    }
}

/// The id that its client was told, its address, and whose it is.
fn told(who: &Who) -> (String, std::net::IpAddr, Option<&str>) {
    (connection_id(who.core, who.conn), who.peer.ip(), who.user.as_deref())
}
