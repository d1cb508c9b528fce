//! A ring before its thread has it: made, with its table, and restricted to what it will be used for.
//!
//! The kernel decides when a ring is *made* whether its queues count against RLIMIT_MEMLOCK (not with CAP_IPC_LOCK) and
//! whether it may be at all (`kernel.io_uring_disabled`). So a process that gives up its privileges before it starts threads
//! makes its rings first, on any thread, and each is started on the one that will own it.
//!
//! A seccomp filter does not see what is submitted to a ring. The restrictions do: registered while the ring is disabled,
//! in force from its start, and nothing takes them back. What is not in the lists below fails with -EACCES: no file is
//! opened, read by path or executed through this ring, whoever has come to write into its queue.

use super::Peers;
use crate::budget::CoreBudget;
use io_uring::register::{Probe, Restriction};
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode};
use std::io;

/// What every ring submits: the operations of [`crate::sys::Io`] on a connection, and its bells.
const OPERATIONS: [u8; 8] = [
    opcode::PollAdd::CODE,
    opcode::Recv::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Shutdown::CODE,
    opcode::Close::CODE,
    opcode::Write::CODE, // the bell of another core
];

/// What a ring submits besides, by where its peers come from.
fn operations_for(peers: Peers) -> &'static [u8] {
    match peers {
        Peers::Accepted => &[opcode::Accept::CODE],
        Peers::Connected => &[opcode::Socket::CODE, opcode::Bind::CODE, opcode::Connect::CODE],
    }
}

/// Which flags an entry may carry.
fn flags_for(peers: Peers) -> Flags {
    let always = Flags::FIXED_FILE | Flags::SKIP_SUCCESS;
    match peers {
        Peers::Accepted => always,
        Peers::Connected => always | Flags::IO_LINK, // socket, bind, connect
    }
}

/// A ring that is made and does nothing yet; [`super::Uring::start`] makes it the calling thread's.
pub struct PreparedRing {
    pub(super) ring: IoUring,
    pub(super) budget: CoreBudget,
}

impl PreparedRing {
    /// A ring with a table of `descriptors` direct descriptors, which will do what `peers` needs and nothing else.
    ///
    /// # Errors
    /// As io_uring_setup(2) and io_uring_register(2); [`crate::sys::probe`] turns the errno into a cause and a fix.
    pub fn new(budget: CoreBudget, descriptors: u32, peers: Peers) -> io::Result<PreparedRing> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(budget.cq_entries)
            .setup_r_disabled()
            .build(budget.sq_entries)?;
        ring.submitter().register_files_sparse(descriptors)?;
        restrict(&ring, peers)?;
        Ok(PreparedRing { ring, budget })
    }

    /// As [`PreparedRing::new`], on the core of the thread that will own it: its queues and its table then lie in the memory
    /// next to that core. Where this process may not run there, they lie anywhere.
    ///
    /// # Errors
    /// As [`PreparedRing::new`].
    pub fn on_core(
        core: usize,
        budget: CoreBudget,
        descriptors: u32,
        peers: Peers,
    ) -> io::Result<PreparedRing> {
        let Some(before) = affinity() else { return PreparedRing::new(budget, descriptors, peers) };
        core_affinity::set_for_current(core_affinity::CoreId { id: core });
        let prepared = PreparedRing::new(budget, descriptors, peers);
        set_affinity(&before);
        prepared
    }

    /// The queues it was made with.
    pub fn budget(&self) -> CoreBudget {
        self.budget
    }
}

/// Nothing but the operations of `peers`. No call of io_uring_register(2) is on the list: what is needed of them is done
/// before the ring is enabled.
fn restrict(ring: &IoUring, peers: Peers) -> io::Result<()> {
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    // Naming an operation that this kernel does not have (bind, before 6.11) would be an error.
    let operations = OPERATIONS.iter().chain(operations_for(peers)).filter(|code| known.is_supported(**code));
    let mut restrictions: Vec<Restriction> = operations.map(|code| Restriction::sqe_op(*code)).collect();
    restrictions.push(Restriction::sqe_flags_allowed(flags_for(peers).bits()));
    ring.submitter().register_restrictions(&mut restrictions)
}

/// The cores the calling thread may run on; `None` where there are more than the C library's set holds.
fn affinity() -> Option<libc::cpu_set_t> {
    // SAFETY: the set is plain data for which zeroes are valid, and the kernel writes at most its size.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut cores) == 0).then_some(cores)
    }
}

fn set_affinity(cores: &libc::cpu_set_t) {
    // SAFETY: the kernel only reads the set. What it was before is allowed still.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cores) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::FLOOR;
    use io_uring::squeue::Entry;
    use io_uring::types::{DestinationSlot, Fd, Fixed};

    /// What the kernel answers to one entry on a ring for these peers.
    fn answer(peers: Peers, entry: Entry) -> i32 {
        let mut prepared = PreparedRing::new(FLOOR, 4, peers).unwrap();
        prepared.ring.submitter().register_enable_rings().unwrap();
        // SAFETY: the entries of these tests point at static memory or at none.
        unsafe { prepared.ring.submission().push(&entry) }.unwrap();
        prepared.ring.submit_and_wait(1).unwrap();
        prepared.ring.completion().next().expect("one was waited for").result()
    }

    fn socket() -> Entry {
        let slot = DestinationSlot::try_from_slot_target(0);
        opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).file_index(Some(slot.unwrap())).build()
    }

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        let path = c"/etc/passwd".as_ptr();
        let open = || opcode::OpenAt::new(Fd(libc::AT_FDCWD), path).build();
        let nop = || opcode::Nop::new().build();
        let read = || opcode::Read::new(Fd(0), std::ptr::null_mut(), 0).build();
        for peers in [Peers::Accepted, Peers::Connected] {
            for entry in [open(), nop(), read()] {
                assert_eq!(answer(peers, entry), -libc::EACCES);
            }
        }
        assert_eq!(answer(Peers::Accepted, socket()), -libc::EACCES, "a server's ring opens no connections");
        assert_eq!(answer(Peers::Connected, socket()), 0);
    }

    #[test]
    fn a_flag_that_is_not_on_the_list_is_refused() {
        let close = |flags| opcode::Close::new(Fixed(0)).build().flags(flags);
        // The table is empty: an operation that may be tried finds nothing there.
        assert_eq!(answer(Peers::Accepted, close(Flags::empty())), -libc::EBADF);
        assert_eq!(answer(Peers::Accepted, close(Flags::ASYNC)), -libc::EACCES);
        assert_eq!(answer(Peers::Accepted, close(Flags::IO_LINK)), -libc::EACCES);
    }

    #[test]
    fn a_started_ring_registers_nothing_any_more() {
        let prepared = PreparedRing::new(FLOOR, 4, Peers::Accepted).unwrap();
        let submitter = prepared.ring.submitter();
        submitter.register_enable_rings().unwrap();
        let refused = submitter.register_personality().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn to_be_made_on_a_core_leaves_the_thread_where_it_was() {
        let cores = || {
            let set = affinity().unwrap();
            // SAFETY: the index is below the number of bits in the set.
            (0..1024).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect::<Vec<_>>()
        };
        let before = cores();
        PreparedRing::on_core(before[0], FLOOR, 4, Peers::Accepted).unwrap();
        assert_eq!(cores(), before);
    }

    #[test]
    fn one_thread_makes_it_and_another_owns_it() {
        let prepared = PreparedRing::new(FLOOR, 4, Peers::Accepted).unwrap();
        let owner = std::thread::spawn(move || {
            let uring = super::super::Uring::start(prepared, None, None);
            uring.map(drop).map_err(|error| error.to_string())
        });
        owner.join().unwrap().unwrap();
    }
}
