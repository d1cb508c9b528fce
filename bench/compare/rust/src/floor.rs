//! The bare floor: a TCP echo on megasock's own ring, with the operations of its echo path and nothing else.
//!
//! As the server does, a connection waits on multishot poll, receives without waiting into the buffer last used, and has
//! the reply sent from that same buffer. There is no HTTP, no frame, no timer and no limit, so what the server costs above
//! this is its own doing. It makes no promise to hostile peers and is started by `bench/compare/run` only.
//!
//! Invariant: at most one receive and one send of a connection are with the kernel; while a send waits for room nothing
//! more is received.

use megasock::budget::CoreBudget;
use megasock::buf::{Buffer, Pool, Segment};
use megasock::sys::uring::Uring;
use megasock::sys::{Completion, ConnId, Inbound, Io, Outbound, RingError, socket};
use std::collections::HashMap;
use std::io;

const CONNECTIONS_MAX: u32 = 15_000;

/// What one connection has with the kernel.
#[derive(Clone, Copy, Default)]
struct Slot {
    generation: u32,
    polled: bool,
    receiving: bool,
    sending: bool,
    /// Input was seen that no receive has asked for yet.
    readable: bool,
    closing: bool,
    /// Closing has asked for what waits to be cancelled.
    cancelled: bool,
}

struct Floor<I: Io> {
    io: I,
    pool: Pool,
    slots: Vec<Slot>,
    /// What came in while an earlier reply had to start waiting for room; by slot, one each.
    late: HashMap<u32, Segment>,
}

/// Echoes on `port` until the process is killed.
pub fn serve(port: u16) -> io::Result<()> {
    let budget = CoreBudget::for_reactors(1);
    let descriptors = budget.descriptors(CONNECTIONS_MAX);
    let listener = socket::listen(([127, 0, 0, 1], port).into())?;
    let mut io = Uring::new(budget, descriptors, Some(listener), None)?;
    (0..budget.accepts_in_flight).for_each(|_| io.accept());
    let pool = Pool::new(3 * descriptors);
    let mut floor =
        Floor { io, pool, slots: vec![Slot::default(); descriptors as usize], late: HashMap::new() };
    floor.run().map_err(io::Error::other)
}

impl<I: Io> Floor<I> {
    fn run(&mut self) -> Result<(), RingError> {
        let mut done = Vec::new();
        loop {
            self.io.turn(None, &mut done)?;
            for completion in done.drain(..) {
                self.handle(completion);
            }
        }
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { slot, .. } => {
                self.io.accept();
                self.arm(ConnId { slot, generation: self.slots[slot as usize].generation });
            }
            Completion::AcceptFailed { .. } => self.io.accept(),
            Completion::Polled { id, result, more } => self.handle_poll(id, result, more),
            Completion::Received { id, into: Inbound::Buffer(buffer, _), result, nonempty } => {
                self.handle_received(id, buffer, result, nonempty);
            }
            Completion::Unsent { id, rest, .. } => self.send_rest(id, rest),
            Completion::Sent { id, rest, result } => {
                let slot = self.slot(id);
                slot.sending = false;
                slot.closing |= result < 0;
                self.send_rest(id, rest);
                if !self.slot(id).sending
                    && let Some(late) = self.late.remove(&id.slot)
                {
                    self.send_rest(id, Outbound::Segment(late));
                }
                self.receive(id);
            }
            Completion::Closed { id } => {
                self.late.remove(&id.slot);
                self.slots[id.slot as usize] =
                    Slot { generation: (id.generation + 1) & 0xff_ffff, ..Slot::default() };
            }
            _ => {}
        }
    }

    fn slot(&mut self, id: ConnId) -> &mut Slot {
        &mut self.slots[id.slot as usize]
    }

    fn arm(&mut self, id: ConnId) {
        self.slot(id).polled = true;
        self.io.poll(id);
    }

    fn handle_poll(&mut self, id: ConnId, result: i32, more: bool) {
        let slot = self.slot(id);
        slot.polled = more;
        if slot.closing {
            return self.close(id);
        }
        if !more {
            self.arm(id);
        }
        if result > 0 {
            self.slot(id).readable = true;
            self.receive(id);
        }
    }

    /// Waits for room for what the socket did not take.
    fn send_rest(&mut self, id: ConnId, rest: Outbound) {
        if rest.bytes() > 0 && !self.slot(id).closing {
            self.slot(id).sending = true;
            self.io.send_all(id, rest);
        }
    }

    fn receive(&mut self, id: ConnId) {
        let slot = self.slots[id.slot as usize];
        if slot.closing {
            return self.close(id);
        }
        if !slot.readable || slot.receiving || slot.sending {
            return;
        }
        let buffer = self.pool.lease().expect("three a connection: received, sent and late");
        let slot = self.slot(id);
        (slot.readable, slot.receiving) = (false, true);
        self.io.recv(id, Inbound::Buffer(buffer, usize::MAX));
    }

    fn handle_received(&mut self, id: ConnId, buffer: Buffer, result: i32, nonempty: bool) {
        let slot = self.slot(id);
        slot.receiving = false;
        slot.readable |= nonempty;
        let received = usize::try_from(result).unwrap_or(0);
        let nothing_there = io::Error::from_raw_os_error(-result).kind() == io::ErrorKind::WouldBlock;
        slot.closing |= received == 0 && !nothing_there;
        let (sending, closing) = (slot.sending, slot.closing);
        if received > 0 && !closing {
            let reply = Segment::Buffer(buffer, 0..received);
            if sending {
                self.late.insert(id.slot, reply);
            } else {
                self.io.send_now(id, Outbound::Segment(reply));
            }
        }
        self.receive(id);
    }

    /// Begins or goes on closing: the descriptor is freed once the kernel holds nothing of the connection.
    fn close(&mut self, id: ConnId) {
        let first = !std::mem::replace(&mut self.slot(id).cancelled, true);
        let slot = self.slots[id.slot as usize];
        if !(slot.polled || slot.receiving || slot.sending) {
            self.io.close(id);
        } else if first {
            if slot.polled {
                self.io.cancel_poll(id);
            }
            if slot.sending {
                self.io.cancel_send(id);
            }
        }
    }
}
