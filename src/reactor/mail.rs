//! Mail from other threads: an unbounded queue with a bell. A core takes a bounded number each turn.

use super::{ConnectionFacts, DrainOrder, Options, Reactor};
use crate::handler::{Handler, Origin};
use crate::sys::wake::Waker;
use crate::sys::{ConnId, Io};
use crossbeam_channel::Receiver;

/// Mail taken in one turn.
const MAIL_PER_TURN: usize = 256;

/// What other threads may tell a core.
pub enum Control<M> {
    /// For the handler.
    Mail(M),
    /// Stop.
    Drain(DrainOrder),
    /// Say what is known of a connection.
    Look {
        /// Which one.
        conn: ConnId,
        /// Gets `None` where it is not open.
        answer: oneshot::Sender<Option<ConnectionFacts>>,
    },
    /// Go by these options, but for those that the core was made with.
    Tune {
        /// All of them.
        options: Box<Options>,
        /// Told when they are in force for every connection.
        done: oneshot::Sender<()>,
    },
}

/// The receiving end of a core.
pub struct Mailbox<M> {
    /// What was sent.
    pub mail: Receiver<Control<M>>,
    /// The bell.
    pub waker: Waker,
}

impl<M> Mailbox<M> {
    /// Marks the core parked; false if there is mail after all, of threads or of other cores, and it must not wait.
    pub(super) fn park(&self) -> bool {
        if !self.waker.park() {
            return false;
        }
        if self.mail.is_empty() {
            return true;
        }
        self.waker.unpark();
        false
    }

    pub(super) fn unpark(&self) {
        self.waker.unpark();
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    pub(super) fn take_mail(&mut self) {
        for _ in 0..MAIL_PER_TURN {
            match self.mailbox.mail.try_recv() {
                Ok(Control::Mail(mail)) => {
                    self.handler.on_mail(Origin::Thread, mail, &mut self.outbox);
                    self.apply_actions();
                }
                Ok(Control::Drain(order)) => self.begin_drain(order),
                Ok(Control::Look { conn, answer }) => {
                    let _ = answer.send(self.look(conn)); // who asked may have gone
                }
                Ok(Control::Tune { options, done }) => self.begin_tuning(*options, done),
                Err(_) => return,
            }
        }
    }
}
