//! Flow control from one core to the others.
//!
//! A ring of `C` entries to another core carries four things, and each keeps to its part, so none crowds out another:
//! - *calls*: at most `C/4` are unanswered at a time, the last `C/8` of them reserved for those that must not fail;
//! - *answers* to the other core's calls: never more than it has unanswered, so they always fit;
//! - *deliveries* and *orders*: they leave half of the ring free.
//!
//! Calls that must not fail and orders wait here while there is no room, in order; their number is bounded by what the
//! core has: a connection or handshake has one such call at a time and is held meanwhile, a closed one one for each
//! subscription, its user and its address.
//! Mail to the own core goes through a queue of its own, so that everything arrives in the order it was sent.

use super::mail::{Answer, Asker, Call, Mail};
use crate::handler::Outbox;
use std::collections::VecDeque;

/// The ways to all cores.
#[derive(Default)]
pub struct Links {
    core: usize,
    links: Vec<Link>,
    /// Mail to this core itself.
    own: VecDeque<Mail>,
    /// Links with something waiting.
    waiting: usize,
}

#[derive(Default)]
struct Link {
    /// Entries of the ring.
    capacity: usize,
    unanswered: usize,
    waiting: VecDeque<Mail>,
}

impl Links {
    /// From this core. Its rings must be empty: their capacity is what room they have now.
    pub fn new(out: &Outbox<Mail>) -> Links {
        let link = |core| Link { capacity: out.room(core), ..Link::default() };
        Links {
            core: out.core(),
            links: (0..out.cores()).map(link).collect(),
            own: VecDeque::new(),
            waiting: 0,
        }
    }

    /// This core.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Cores of the server.
    pub fn cores(&self) -> usize {
        self.links.len()
    }

    /// The next mail to this core itself.
    pub fn take_own(&mut self) -> Option<Mail> {
        self.own.pop_front()
    }

    /// Sends a call that must not fail; it waits for room.
    pub fn call(&mut self, core: usize, call: Box<Call>, out: &mut Outbox<Mail>) {
        self.send_or_wait(core, Mail::Ask(call), out);
    }

    /// Sends a call unless there is no room.
    pub fn try_call(
        &mut self,
        core: usize,
        call: Box<Call>,
        out: &mut Outbox<Mail>,
    ) -> Result<(), Box<Call>> {
        if core == self.core {
            self.own.push_back(Mail::Ask(call));
            return Ok(());
        }
        let link = &mut self.links[core];
        if link.unanswered >= link.capacity / 8 {
            return Err(call);
        }
        match out.post(core, Mail::Ask(call)) {
            Ok(()) => {
                link.unanswered += 1;
                Ok(())
            }
            Err(Mail::Ask(call)) => Err(call),
            Err(_) => unreachable!("it was a call"),
        }
    }

    /// Sends a call back where it came from.
    pub fn answer(&mut self, core: usize, call: Box<Call>, out: &mut Outbox<Mail>) {
        if core == self.core {
            return self.own.push_back(Mail::Answer(call));
        }
        let sent = out.post(core, Mail::Answer(call));
        // A core that has stopped takes no more mail, and has nobody left to answer to.
        debug_assert!(sent.is_ok(), "answers have room of their own");
    }

    /// Answers a call to whoever asked: a core, this one included, or a thread.
    pub fn give(&mut self, from: usize, mut call: Box<Call>, answer: Answer, out: &mut Outbox<Mail>) {
        match std::mem::replace(&mut call.asker, Asker::Core) {
            // One who no longer waits for the answer needs none.
            Asker::Thread(reply) => drop(reply.send(answer)),
            asker => {
                call.asker = asker;
                call.answer = Some(answer);
                self.answer(from, call, out);
            }
        }
    }

    /// Sends a delivery unless there is no room.
    pub fn try_deliver(&mut self, core: usize, mail: Mail, out: &mut Outbox<Mail>) -> Result<(), Mail> {
        if core == self.core {
            self.own.push_back(mail);
            return Ok(());
        }
        let link = &self.links[core];
        if link.waiting.is_empty() && has_delivery_room(link, core, out) {
            out.post(core, mail)
        } else {
            Err(mail)
        }
    }

    /// Sends what must arrive and has no answer; it waits for room.
    pub fn order(&mut self, core: usize, mail: Mail, out: &mut Outbox<Mail>) {
        self.send_or_wait(core, mail, out);
    }

    fn send_or_wait(&mut self, core: usize, mail: Mail, out: &mut Outbox<Mail>) {
        if core == self.core {
            return self.own.push_back(mail);
        }
        let link = &mut self.links[core];
        let was_empty = link.waiting.is_empty();
        link.waiting.push_back(mail);
        if was_empty {
            self.waiting += 1;
            self.flush(core, out);
        }
    }

    /// A call came back from this core.
    pub fn on_answer(&mut self, core: usize, out: &mut Outbox<Mail>) {
        if core != self.core {
            self.links[core].unanswered -= 1;
            self.flush(core, out);
        }
    }

    /// Sends what waits, as far as there is room now. True when nothing waits any more.
    pub fn flush_all(&mut self, out: &mut Outbox<Mail>) -> bool {
        for core in 0..self.links.len() {
            if self.waiting == 0 {
                break;
            }
            self.flush(core, out);
        }
        self.waiting == 0
    }

    fn flush(&mut self, core: usize, out: &mut Outbox<Mail>) {
        let link = &mut self.links[core];
        while let Some(mail) = link.waiting.front() {
            let is_call = matches!(mail, Mail::Ask(_));
            let fits = match is_call {
                true => link.unanswered < link.capacity / 4,
                false => has_delivery_room(link, core, out),
            };
            let Some(mail) = fits.then(|| link.waiting.pop_front()).flatten() else { return };
            link.unanswered += usize::from(is_call);
            let sent = out.post(core, mail);
            debug_assert!(sent.is_ok(), "calls have room of their own");
            if link.waiting.is_empty() {
                self.waiting -= 1;
            }
        }
    }
}

fn has_delivery_room(link: &Link, core: usize, out: &Outbox<Mail>) -> bool {
    out.room(core) > link.capacity / 2
}
