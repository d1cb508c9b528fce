//! Mail between cores: a ring from every core to every other, each with one writer and one reader.
//!
//! A core posts while it carries out callbacks; once a turn it tells each core it posted to, and wakes those that are
//! parked, through its own ring. A turn takes a bounded number of mails, and no core's before another has had its turn.
//!
//! What one core posts to another arrives in order. A core serves its mail until all of its server's cores are drained.
//! What is posted to a core that has ended lies in the ring until that is full, and is refused from then on.

use super::Reactor;
use crate::handler::{Handler, Origin, Outbox};
use crate::sys::Io;
use crate::sys::wake::Waker;
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;

/// Mail taken in one turn.
const MAIL_PER_TURN: usize = 256;

/// Mail taken from one core before the next has its turn.
const MAIL_IN_A_ROW: usize = 64;

/// One core's ends of the mesh.
pub struct Mesh<M> {
    /// The rings to the other cores, by core; none to itself.
    outgoing: Vec<Option<Producer<M>>>,
    incoming: Incoming<M>,
}

/// What stays with the reactor once the outgoing ends are with its [`Outbox`].
pub(super) struct Incoming<M> {
    core: usize,
    /// The rings from the other cores, by core; none from itself.
    rings: Vec<Option<Consumer<M>>>,
    /// The bells of all cores.
    wakers: Vec<Waker>,
    /// Cores whose rings have mail, in the order of their turns.
    waiting: VecDeque<usize>,
}

/// The mesh of the cores with these bells, whose rings hold so many mails each: one end for each core.
pub fn mesh<M>(wakers: &[Waker], entries: usize) -> Vec<Mesh<M>> {
    let cores = wakers.len();
    let (mut outgoing, mut incoming) = (ends(cores), ends(cores));
    for (from, outgoing) in outgoing.iter_mut().enumerate() {
        for to in (0..cores).filter(|to| *to != from) {
            let (producer, consumer) = RingBuffer::new(entries);
            outgoing[to] = Some(producer);
            incoming[to][from] = Some(consumer);
        }
    }
    let both = outgoing.into_iter().zip(incoming).enumerate();
    let end = |(core, (outgoing, rings))| {
        let incoming = Incoming { core, rings, wakers: wakers.to_vec(), waiting: VecDeque::new() };
        Mesh { outgoing, incoming }
    };
    both.map(end).collect()
}

/// A table of rings from each core to each, still empty.
fn ends<T>(cores: usize) -> Vec<Vec<Option<T>>> {
    (0..cores).map(|_| (0..cores).map(|_| None).collect()).collect()
}

impl<M> Mesh<M> {
    pub(super) fn split(self) -> (Outbox<M>, Incoming<M>) {
        (Outbox::new(self.incoming.core, self.outgoing), self.incoming)
    }
}

impl<M> Incoming<M> {
    /// Notes which rings have got mail.
    fn look(&mut self) {
        self.wakers[self.core].take(|from| {
            if !self.waiting.contains(&from) {
                self.waiting.push_back(from);
            }
        });
    }

    /// Whether a turn left mail behind.
    pub(super) fn has_mail(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether there is mail, in the rings too.
    pub(super) fn is_empty(&mut self) -> bool {
        self.look();
        !self.has_mail()
    }
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// Hands the mail of other cores to the handler, a bounded part of it.
    pub(super) fn take_mesh_mail(&mut self) {
        self.incoming.look();
        let mut left = MAIL_PER_TURN;
        while left > 0 {
            let Some(from) = self.incoming.waiting.pop_front() else { return };
            let most = left.min(MAIL_IN_A_ROW);
            let taken = self.take_mail_of(from, most);
            left -= taken;
            if taken == most {
                self.incoming.waiting.push_back(from);
            }
        }
    }

    /// Takes at most `most` mails of one core; fewer, only when its ring was seen empty.
    fn take_mail_of(&mut self, from: usize, most: usize) -> usize {
        let mut taken = 0;
        while taken < most {
            let Some(Ok(mail)) = self.incoming.rings[from].as_mut().map(Consumer::pop) else { break };
            taken += 1;
            self.handler.on_mail(Origin::Core(from), mail, &mut self.outbox);
            self.apply_actions();
        }
        self.counters.mesh_received.add(taken as u64);
        taken
    }

    /// Tells the cores posted to in this turn, and wakes those that are parked.
    pub(super) fn announce_posts(&mut self) {
        let posts = self.outbox.take_post_counts();
        self.counters.mesh_posted.add(posts.posted);
        self.counters.mesh_full.add(posts.refused);
        for core in self.outbox.take_posted() {
            let waker = &self.incoming.wakers[core];
            if waker.announce(self.incoming.core) {
                self.io.wake(waker);
                self.counters.wakes.add(1);
            }
        }
    }
}
