//! The real [`Io`]: one io_uring, owned by one thread.
//!
//! Invariants:
//! - Memory the kernel may touch sits in `receiving`, `sending`, `waiting`, `accepting` or `connecting` from before its
//!   entry is pushed until its last completion is seen.
//! - A receive and a [`Io::send_now`] carry MSG_DONTWAIT: they end inside the enter that submits them. So after an enter
//!   has consumed the queue and all completions are copied out, a `send_now` without a completion was sent in full
//!   (IOSQE_CQE_SKIP_SUCCESS, and MSG_WAITALL makes a short count a failure, which is always posted).
//! - Under DEFER_TASKRUN only an enter with GETEVENTS runs completions; every enter here has it.
//! - It submits what the lists in `uring/prepare.rs` name and nothing else: the kernel refuses the rest.
//!
//! Refuses to do: SEND_ZC, SQPOLL, io-wq on the message path.

mod prepare;

pub use prepare::PreparedRing;

use super::clock;
use super::enter::{RegisteredRing, Want};
use super::wake::{self, Waker};
use super::{Completion, ConnId, Inbound, Io, Outbound, RingError};
use crate::budget::CoreBudget;
use crate::buf::SendQueue;
use crate::ds::GENERATION_BITS;
use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::{SockAddr, SockAddrStorage};
use std::cell::UnsafeCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Where the peers of a ring come from, which is what it may do besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// A listener accepts them: a server.
    Accepted,
    /// It connects to them: `bench/c1m`.
    Connected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    /// A completion nobody waits for: a cancel that found nothing, the socket half of a connect.
    Ignored,
    Accept,
    Poll,
    Recv,
    SendNow,
    SendAll,
    Shutdown,
    Close,
    Wake,
    Connect,
}

impl Op {
    const ALL: [Op; 10] = [
        Op::Ignored,
        Op::Accept,
        Op::Poll,
        Op::Recv,
        Op::SendNow,
        Op::SendAll,
        Op::Shutdown,
        Op::Close,
        Op::Wake,
        Op::Connect,
    ];
}

/// Operation 8 bits, generation [`GENERATION_BITS`], slot 32.
fn pack(op: Op, id: ConnId) -> u64 {
    debug_assert!(id.generation < 1 << GENERATION_BITS);
    (op as u64) << 56 | u64::from(id.generation) << 32 | u64::from(id.slot)
}

fn unpack(user_data: u64) -> (Op, ConnId) {
    let generation = (user_data >> 32) as u32 & ((1 << GENERATION_BITS) - 1);
    (Op::ALL[(user_data >> 56) as usize], ConnId { slot: user_data as u32, generation })
}

/// Where the kernel writes the address of an accepted peer.
struct AcceptAddress {
    storage: SockAddrStorage,
    len: libc::socklen_t,
}

/// One io_uring with direct descriptors, and the memory lent to it.
pub struct Uring {
    ring: IoUring,
    entrance: RegisteredRing,
    want: Want,
    listener: Option<TcpListener>,
    waker: Option<Waker>,
    started: Instant,
    /// Lent to accepts.
    accept_addresses: Box<[UnsafeCell<AcceptAddress>]>,
    /// Indices of those that no accept has.
    accepts_idle: Vec<u32>,
    /// The memory lent to each receive, by its `user_data`, in the order of submission.
    receiving: VecDeque<(u64, Inbound)>,
    /// The output lent to each `send_now` of this turn, by its `user_data`; `None`: it has failed and was handed back.
    sending: Vec<Option<(u64, Outbound)>>,
    /// Where in `sending` the next failure is looked for.
    sending_checked: usize,
    /// Queues of sends that sent all, no more than one submission has.
    #[expect(clippy::vec_box, reason = "they are handed out boxed, as connections hold them")]
    spent: Vec<Box<SendQueue>>,
    /// The output lent to each `send_all`, by its `user_data`.
    waiting: HashMap<u64, Outbound>,
    /// The addresses lent to each connect, to and from, by its `user_data`.
    connecting: HashMap<u64, Box<[SockAddr; 2]>>,
    /// Bells to be rung, which keep their descriptors until the entries are submitted.
    waking: Vec<Waker>,
    /// What [`Uring::gather`] points sends of several runs to, until the entries are submitted.
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::msghdr>,
}

impl Uring {
    /// A ring for the calling thread with a table of `descriptors` direct descriptors. With a listener its peers are
    /// accepted, without one they are connected to; with a waker other threads can interrupt its wait.
    ///
    /// # Errors
    /// As io_uring_setup(2) and io_uring_register(2); [`crate::sys::probe`] turns the errno into a cause and a fix.
    pub fn new(
        budget: CoreBudget,
        descriptors: u32,
        listener: Option<TcpListener>,
        waker: Option<Waker>,
    ) -> io::Result<Uring> {
        let peers = if listener.is_some() { Peers::Accepted } else { Peers::Connected };
        Uring::start(PreparedRing::new(budget, descriptors, peers)?, listener, waker)
    }

    /// Makes a prepared ring the calling thread's, which alone may use it from then on.
    ///
    /// # Errors
    /// As io_uring_register(2).
    pub fn start(
        prepared: PreparedRing,
        listener: Option<TcpListener>,
        waker: Option<Waker>,
    ) -> io::Result<Uring> {
        let PreparedRing { ring, budget } = prepared;
        // Before it is enabled, for then its restrictions allow no registration.
        let entrance = RegisteredRing::new(ring.as_raw_fd())?;
        ring.submitter().register_enable_rings()?;
        let accepts = if listener.is_some() { u32::from(budget.accepts_in_flight) } else { 0 };
        let mut uring = Uring {
            ring,
            entrance,
            want: Want::ONE,
            listener,
            waker,
            started: Instant::now(),
            accept_addresses: (0..accepts).map(|_| UnsafeCell::new(AcceptAddress::new())).collect(),
            accepts_idle: (0..accepts).collect(),
            receiving: VecDeque::new(),
            sending: Vec::new(),
            sending_checked: 0,
            spent: Vec::with_capacity(budget.sq_entries as usize),
            waiting: HashMap::new(),
            connecting: HashMap::new(),
            waking: Vec::new(),
            iovecs: Vec::with_capacity(budget.sq_entries as usize * 4),
            headers: Vec::with_capacity(budget.sq_entries as usize),
        };
        uring.poll_waker();
        Ok(uring)
    }

    /// Opens a socket at direct descriptor `id.slot` and connects it to `to`, from the address `from` where one is given
    /// (its binding needs Linux 6.11). Ends as [`Completion::Connected`].
    pub fn connect(&mut self, id: ConnId, to: SocketAddr, from: Option<SocketAddr>) {
        let user_data = pack(Op::Connect, id);
        let addresses = Box::new([SockAddr::from(to), SockAddr::from(from.unwrap_or(to))]);
        let [to_address, from_address] = [&addresses[0], &addresses[1]].map(|a| (a.as_ptr().cast(), a.len()));
        self.connecting.insert(user_data, addresses);
        let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let slot = DestinationSlot::try_from_slot_target(id.slot).expect("a slot is below 2^20");
        let chained = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let fd = Fixed(id.slot);
        let ignored = pack(Op::Ignored, id);
        let mut chain = Vec::with_capacity(3);
        let socket = opcode::Socket::new(domain, libc::SOCK_STREAM, libc::IPPROTO_TCP).file_index(Some(slot));
        chain.push(socket.build().flags(chained).user_data(ignored));
        if from.is_some() {
            let bind = opcode::Bind::new(fd, from_address.0, from_address.1);
            chain.push(bind.build().flags(chained).user_data(ignored));
        }
        let connect = opcode::Connect::new(fd, to_address.0, to_address.1);
        chain.push(connect.build().user_data(user_data));
        self.push_chain(&chain);
    }

    /// Waits for so many completions before it returns, or for this long and then for one: each costs less when they come
    /// together. Does nothing before Linux 6.12.
    pub fn wait_for_many(&mut self, completions: u32, patience: Duration) {
        if self.ring.params().is_feature_min_timeout() {
            self.want = Want { completions, patience_us: patience.as_micros() as u32 };
        }
    }

    /// Waits for a single completion, as it does from the start.
    pub fn wait_for_one(&mut self) {
        self.want = Want::ONE;
    }

    /// The listener's address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    fn poll_waker(&mut self) {
        if let Some(waker) = &self.waker {
            // Multishot and never read: each ring of the bell adds to the counter, and each addition is an event.
            let entry = opcode::PollAdd::new(Fd(waker.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
            self.push(entry.user_data(pack(Op::Wake, ConnId { slot: 0, generation: 0 })));
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.push_chain(&[entry]);
    }

    /// Entries of one chain go into one submission, or the link would be cut.
    fn push_chain(&mut self, entries: &[squeue::Entry]) {
        loop {
            // SAFETY: every pointer in an entry is to memory held by `self` (module invariants) or copied by the kernel
            // at submission (IORING_FEAT_SUBMIT_STABLE: iovecs, message headers).
            if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
                return;
            }
            // A full queue is submitted; a failure (EBUSY, EAGAIN) shows again, with its handling, in `turn`.
            let _ = self.enter(Want::NOTHING, None);
        }
    }

    fn enter(&mut self, want: Want, timeout: Option<Duration>) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        self.entrance.enter(queued, want, timeout)
    }

    fn send_entry(&mut self, id: ConnId, bytes: &Outbound, op: Op) -> squeue::Entry {
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        if op == Op::SendNow {
            flags |= libc::MSG_DONTWAIT;
        }
        let fd = Fixed(id.slot);
        let entry = match bytes {
            Outbound::Segment(segment) => {
                let bytes = segment.bytes();
                opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).flags(flags).build()
            }
            Outbound::Queue(queue) => {
                let header =
                    self.gather(queue.iter().take(Self::SEGMENTS_PER_SEND).map(|segment| segment.bytes()));
                opcode::SendMsg::new(fd, header).flags(flags as u32).build()
            }
        };
        entry.user_data(pack(op, id))
    }

    /// A message header for these runs in the arenas, which are reused after each submission and never grow while an
    /// unsubmitted entry points into them.
    fn gather<'a>(&mut self, runs: impl Iterator<Item = &'a [u8]>) -> *const libc::msghdr {
        let full = self.headers.len() == self.headers.capacity()
            || self.iovecs.capacity() - self.iovecs.len() < Self::SEGMENTS_PER_SEND;
        if full {
            while !self.ring.submission().is_empty() {
                let _ = self.enter(Want::NOTHING, None);
            }
            self.headers.clear();
            self.iovecs.clear();
        }
        let first = self.iovecs.len();
        self.iovecs.extend(
            runs.map(|run| libc::iovec { iov_base: run.as_ptr().cast_mut().cast(), iov_len: run.len() }),
        );
        // SAFETY: msghdr is plain data for which all zeroes is a valid value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        // A size to the kernel and in glibc, an int and padding in musl.
        header.msg_iovlen = (self.iovecs.len() - first) as _;
        header.msg_iov = self.iovecs[first..].as_mut_ptr();
        self.headers.push(header);
        self.headers.last().expect("just pushed")
    }

    /// Copies every completion out of the ring.
    fn reap(&mut self, done: &mut Vec<Completion>) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            if let Some(completion) = self.complete(&entry) {
                done.push(completion);
            }
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let result = entry.result();
        let (op, id) = unpack(entry.user_data());
        Some(match op {
            Op::Recv => {
                let into = self.take_receiving(entry.user_data(), result);
                Completion::Received { id, into, result, nonempty: cqueue::sock_nonempty(entry.flags()) }
            }
            Op::Poll => Completion::Polled { id, result, more: cqueue::more(entry.flags()) },
            Op::SendNow => {
                let mut rest = self.take_sending(entry.user_data());
                advance(&mut rest, result);
                Completion::Unsent { id, rest, result: result.min(0) }
            }
            Op::SendAll => {
                let mut rest = self.waiting.remove(&entry.user_data()).expect("one send_all a connection");
                advance(&mut rest, result);
                Completion::Sent { id, rest, result }
            }
            Op::Accept => return Some(self.take_accepted(id.slot, result)),
            Op::Shutdown => Completion::Shut { id },
            Op::Close => Completion::Closed { id },
            Op::Wake => {
                if !cqueue::more(entry.flags()) {
                    self.poll_waker();
                }
                Completion::Woken
            }
            Op::Connect => {
                self.connecting.remove(&entry.user_data());
                Completion::Connected { id, result }
            }
            Op::Ignored => return None,
        })
    }

    fn take_receiving(&mut self, user_data: u64, result: i32) -> Inbound {
        // Receives end in the order they were submitted, so the first is nearly always the one.
        let at =
            self.receiving.iter().position(|(waiting, _)| *waiting == user_data).expect("lent at submission");
        let (_, mut into) = self.receiving.remove(at).expect("position is in range");
        if let (Inbound::Append(bytes, max), Ok(received)) = (&mut into, usize::try_from(result)) {
            debug_assert!(received <= *max);
            // SAFETY: the kernel initialised `received` bytes behind the length; `recv` gave it no more than the
            // capacity holds.
            unsafe { bytes.set_len(bytes.len() + received) };
        }
        into
    }

    fn take_sending(&mut self, user_data: u64) -> Outbound {
        // Completions come in submission order: the search goes on where the last one ended, so a turn in which every
        // send fails is still linear.
        let count = self.sending.len();
        for step in 0..count {
            let at = (self.sending_checked + step) % count;
            if self.sending[at].as_ref().is_some_and(|(waiting, _)| *waiting == user_data) {
                self.sending_checked = at + 1;
                return self.sending[at].take().expect("just seen").1;
            }
        }
        unreachable!("a send_now completes once, in the turn that submits it")
    }

    fn take_accepted(&mut self, index: u32, result: i32) -> Completion {
        self.accepts_idle.push(index);
        if result < 0 {
            return Completion::AcceptFailed { errno: -result };
        }
        let fresh = AcceptAddress::new();
        let AcceptAddress { storage, len } =
            std::mem::replace(self.accept_addresses[index as usize].get_mut(), fresh);
        // SAFETY: the kernel wrote an address of `len` bytes; what it did not write is zero.
        let peer = unsafe { SockAddr::new(storage, len) };
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        Completion::Accepted { slot: result as u32, peer: peer.as_socket().unwrap_or(unknown) }
    }

    fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }
}

fn advance(rest: &mut Outbound, result: i32) {
    let sent = usize::try_from(result).unwrap_or(0);
    match rest {
        Outbound::Segment(segment) => segment.advance(sent),
        Outbound::Queue(queue) => queue.advance(sent),
    }
}

impl AcceptAddress {
    fn new() -> AcceptAddress {
        let storage = SockAddrStorage::zeroed();
        AcceptAddress { len: storage.size_of(), storage }
    }
}

impl Io for Uring {
    const SEGMENTS_PER_SEND: usize = 64;

    fn accept(&mut self) {
        let (Some(listener), Some(index)) = (&self.listener, self.accepts_idle.pop()) else { return };
        let fd = Fd(listener.as_raw_fd());
        let address = self.accept_addresses[index as usize].get_mut();
        let storage = (&raw mut address.storage).cast();
        let entry = opcode::Accept::new(fd, storage, &raw mut address.len)
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry.user_data(pack(Op::Accept, ConnId { slot: index, generation: 0 })));
    }

    fn stop_accepting(&mut self) {
        let Some(listener) = &self.listener else { return };
        // Not a close: that would wait for the accepts in flight, which hold the file. Of a listener both make what waits
        // there move on, and a shutdown also ends the accepts (EINVAL).
        let entry = opcode::Shutdown::new(Fd(listener.as_raw_fd()), libc::SHUT_RDWR).build();
        let ignored = pack(Op::Ignored, ConnId { slot: 0, generation: 0 });
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(ignored));
    }

    fn poll(&mut self, id: ConnId) {
        let mask = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = opcode::PollAdd::new(Fixed(id.slot), mask).multi(true).build();
        self.push(entry.user_data(pack(Op::Poll, id)));
    }

    fn recv(&mut self, id: ConnId, mut into: Inbound) {
        let (at, len) = match &mut into {
            Inbound::Buffer(buffer, max) => (buffer.as_mut_ptr(), buffer.len().min(*max)),
            Inbound::Append(bytes, max) => {
                let spare = bytes.spare_capacity_mut();
                (spare.as_mut_ptr().cast(), spare.len().min(*max))
            }
        };
        let user_data = pack(Op::Recv, id);
        self.receiving.push_back((user_data, into));
        let entry = opcode::Recv::new(Fixed(id.slot), at, len as u32).flags(libc::MSG_DONTWAIT).build();
        self.push(entry.user_data(user_data));
    }

    fn send_now(&mut self, id: ConnId, bytes: Outbound) {
        // Of a longer queue only part would be submitted, and silence would not mean all.
        debug_assert!(!matches!(&bytes, Outbound::Queue(queue) if queue.len() > Self::SEGMENTS_PER_SEND));
        let entry = self.send_entry(id, &bytes, Op::SendNow).flags(squeue::Flags::SKIP_SUCCESS);
        self.sending.push(Some((pack(Op::SendNow, id), bytes)));
        self.push(entry);
    }

    fn spent_queue(&mut self) -> Option<Box<SendQueue>> {
        self.spent.pop()
    }

    fn send_all(&mut self, id: ConnId, bytes: Outbound) {
        let entry = self.send_entry(id, &bytes, Op::SendAll);
        self.waiting.insert(pack(Op::SendAll, id), bytes);
        self.push(entry);
    }

    fn cancel_poll(&mut self, id: ConnId) {
        // Not POLL_REMOVE: while the poll has an event under way that fails with EALREADY and leaves it armed.
        let entry = opcode::AsyncCancel::new(pack(Op::Poll, id)).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry.user_data(pack(Op::Ignored, id)));
    }

    fn cancel_send(&mut self, id: ConnId) {
        let entry =
            opcode::AsyncCancel::new(pack(Op::SendAll, id)).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry.user_data(pack(Op::Ignored, id)));
    }

    fn shutdown(&mut self, id: ConnId) {
        let entry = opcode::Shutdown::new(Fixed(id.slot), libc::SHUT_WR).build();
        self.push(entry.user_data(pack(Op::Shutdown, id)));
    }

    fn close(&mut self, id: ConnId) {
        let entry = opcode::Close::new(Fixed(id.slot)).build();
        self.push(entry.user_data(pack(Op::Close, id)));
    }

    fn wake(&mut self, waker: &Waker) {
        let fd = Fd(waker.as_raw_fd());
        self.waking.push(waker.clone());
        let entry = opcode::Write::new(fd, wake::ONCE.as_ptr(), wake::ONCE.len() as u32).build();
        let ignored = pack(Op::Ignored, ConnId { slot: 0, generation: 0 });
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(ignored));
    }

    fn turn(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) -> Result<(), RingError> {
        let mut want = if timeout == Some(Duration::ZERO) { Want::NOTHING } else { self.want };
        loop {
            let entered = self.enter(want, timeout.filter(|t| !t.is_zero()));
            match entered.map_err(|error| (error.raw_os_error(), error)) {
                // Done; timeout; signal; overflow, flushed by reaping; kernel short of memory for a moment.
                Ok(()) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {
                    want = Want::NOTHING
                }
                Err((Some(libc::EBADR), _)) => return Err(RingError::CompletionLost),
                Err((_, error)) => return Err(RingError::Enter(error)),
            }
            self.reap(done);
            if self.ring.submission().is_empty() && !self.overflowed() {
                break;
            }
        }
        // Everything was submitted and every completion copied: what is still in `sending` was sent.
        for (_, sent) in self.sending.drain(..).flatten() {
            if let Outbound::Queue(mut queue) = sent
                && self.spent.len() < self.spent.capacity()
            {
                queue.clear();
                self.spent.push(queue);
            }
        }
        self.sending_checked = 0;
        self.waking.clear();
        self.headers.clear();
        self.iovecs.clear();
        Ok(())
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn cpu_us(&self) -> u64 {
        clock::thread_cpu_us()
    }
}

#[cfg(test)]
mod tests;
