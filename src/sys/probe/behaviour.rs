//! Tries what the data plane rests on, on this kernel, over one loopback connection: together well under a second.
//!
//! Every operation that borrows memory here carries MSG_DONTWAIT, so it has ended when its enter returns; what may
//! outlive an enter (the multishot receive) is given leaked memory.

use super::{Missing, setup};
use crate::sys::host::HostFacts;
use io_uring::squeue::Flags;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// What trying one thing showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was tried.
    pub what: &'static str,
    /// The kernel that brought it.
    pub since: &'static str,
    /// The server cannot run without it.
    pub required: bool,
    /// What was seen; or what was seen instead.
    pub seen: Result<String, String>,
}

struct Trial {
    what: &'static str,
    since: &'static str,
    required: bool,
    run: fn(&mut Lab) -> Result<String, String>,
}

const TRIALS: [Trial; 9] = [
    Trial { what: "registered ring", since: "5.18", required: true, run: Lab::registered_ring },
    Trial { what: "direct descriptor table", since: "5.19", required: true, run: Lab::direct_table },
    Trial { what: "accept into the table", since: "5.19", required: true, run: Lab::direct_accept },
    Trial { what: "timed wait", since: "5.11", required: true, run: Lab::timed_wait },
    Trial { what: "multishot poll", since: "5.13", required: true, run: Lab::multishot_poll },
    Trial { what: "receive without waiting", since: "5.6", required: true, run: Lab::receive_now },
    Trial { what: "silent send", since: "5.17", required: true, run: Lab::silent_send },
    Trial {
        what: "end of stream seen by poll",
        since: "5.17",
        required: false,
        run: Lab::end_of_stream_by_poll,
    },
    Trial {
        what: "end of stream seen by multishot receive",
        since: "7.0",
        required: false,
        run: Lab::end_of_stream_by_recv,
    },
];

/// Tries everything in order, up to the first required thing that fails: later ones rest on it.
///
/// # Errors
/// When not even a ring can be made.
pub fn try_all(facts: &HostFacts) -> Result<Vec<Finding>, Missing> {
    let mut lab = Lab::new(setup(facts)?);
    let mut findings = Vec::with_capacity(TRIALS.len());
    for Trial { what, since, required, run } in TRIALS {
        let seen = run(&mut lab);
        let stop = required && seen.is_err();
        findings.push(Finding { what, since, required, seen });
        if stop {
            break;
        }
    }
    Ok(findings)
}

/// The table of the lab: more than the one connection under test ever takes.
const TABLE: u32 = 8;
const PATIENCE: Duration = Duration::from_millis(50);
/// A race is tried more than once.
const END_OF_STREAM_TRIES: usize = 16;
const POLL_MASK: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;

/// What a completion answers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Tag {
    Ignored,
    Accept,
    Poll,
    Receive,
    Send,
    Marker,
}

/// One ring, the client's end of the connection in its table, and where that connection's bytes go.
struct Lab {
    ring: IoUring,
    client: Option<(TcpStream, u32)>,
    scratch: Box<[u8; 16]>,
}

impl Lab {
    fn new(ring: IoUring) -> Lab {
        Lab { ring, client: None, scratch: Box::new([0; 16]) }
    }

    fn registered_ring(&mut self) -> Result<String, String> {
        let mut submitter = self.ring.submitter();
        submitter.register_ring_fd().map_err(refused)?;
        submitter.unregister_ring_fd().map_err(refused)?;
        works()
    }

    fn direct_table(&mut self) -> Result<String, String> {
        self.ring.submitter().register_files_sparse(TABLE).map_err(refused)?;
        works()
    }

    fn direct_accept(&mut self) -> Result<String, String> {
        self.connect()?;
        works()
    }

    /// Connects a new client and accepts it into the table.
    fn connect(&mut self) -> Result<Fixed, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let client = TcpStream::connect_timeout(&address, PATIENCE).map_err(refused)?;
        client.set_read_timeout(Some(PATIENCE)).map_err(refused)?;
        let accept =
            opcode::Accept::new(Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut())
                .file_index(Some(DestinationSlot::auto_target()));
        self.push(Tag::Accept, accept.build());
        let slot = succeeded(self.completion(Tag::Accept)?.result())?;
        self.client = Some((client, slot));
        Ok(Fixed(slot))
    }

    fn timed_wait(&mut self) -> Result<String, String> {
        match self.wait(Duration::from_millis(1)) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => works(),
            Err(error) => Err(refused(error)),
            Ok(()) => Err("the wait ended before its time".to_owned()),
        }
    }

    fn multishot_poll(&mut self) -> Result<String, String> {
        let fd = self.fixed()?;
        self.arm_poll(fd);
        for event_number in 1..=2 {
            self.submit()?;
            self.ring.completion().for_each(drop);
            self.client()?.write_all(b"x").map_err(refused)?;
            let event = self.completion(Tag::Poll)?;
            if event.result() & i32::from(libc::POLLIN) == 0 || !cqueue::more(event.flags()) {
                return Err(format!("event {event_number} was the last, with result {}", event.result()));
            }
            self.receive()?;
        }
        works()
    }

    fn receive_now(&mut self) -> Result<String, String> {
        match self.receive()? {
            result if result == -libc::EAGAIN => works(),
            result => Err(format!("an empty socket gave {result}, not EAGAIN")),
        }
    }

    fn silent_send(&mut self) -> Result<String, String> {
        const BYTES: &[u8; 8] = b"megasock";
        if !self.ring.params().is_feature_skip_cqe_on_success() {
            return Err("the kernel posts every completion".to_owned());
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let send = opcode::Send::new(self.fixed()?, BYTES.as_ptr(), BYTES.len() as u32).flags(flags);
        self.push(Tag::Send, send.build().flags(Flags::SKIP_SUCCESS));
        self.push(Tag::Marker, opcode::Nop::new().build());
        self.submit()?;
        self.wait(PATIENCE).map_err(refused)?;
        if let Some(spoken) = self.ring.completion().find(|entry| entry.user_data() == Tag::Send as u64) {
            return Err(format!("a full send was not silent, with result {}", spoken.result()));
        }
        let mut received = [0; BYTES.len()];
        self.client()?.read_exact(&mut received).map_err(refused)?;
        if &received == BYTES { works() } else { Err("other bytes arrived".to_owned()) }
    }

    /// Send and shutdown back to back, both before this thread runs completions.
    fn end_of_stream_by_poll(&mut self) -> Result<String, String> {
        self.end_of_stream(|lab, fd| {
            lab.arm_poll(fd);
            lab.submit()?;
            lab.speak_and_leave()?;
            let events = (0..4).map_while(|_| lab.completion(Tag::Poll).ok());
            let hung_up = |result: i32| result > 0 && result & i32::from(libc::POLLRDHUP) != 0;
            Ok(events.map(|event| event.result()).any(hung_up))
        })
    }

    /// As above for an armed multishot receive, which some kernels leave waiting for ever (CVE-2026-23473). This server
    /// does not arm one: poll reports the level, not the edge it missed.
    fn end_of_stream_by_recv(&mut self) -> Result<String, String> {
        const GROUP: u16 = 1;
        const SIZE: usize = 64;
        let memory = Box::leak(Box::new([0u8; 2 * SIZE]));
        let provide = opcode::ProvideBuffers::new(memory.as_mut_ptr(), SIZE as i32, 2, GROUP, 0);
        self.push(Tag::Marker, provide.build());
        succeeded(self.completion(Tag::Marker)?.result())?;
        self.end_of_stream(|lab, fd| {
            lab.push(Tag::Receive, opcode::RecvMulti::new(fd, GROUP).build());
            lab.submit()?;
            lab.speak_and_leave()?;
            let mut ended = false;
            while let Ok(event) = lab.completion(Tag::Receive) {
                if let Some(buffer) = cqueue::buffer_select(event.flags()) {
                    let at = memory.as_mut_ptr().wrapping_add(usize::from(buffer) * SIZE);
                    let back = opcode::ProvideBuffers::new(at, SIZE as i32, 1, GROUP, buffer);
                    lab.push(Tag::Ignored, back.build());
                }
                ended |= event.result() == 0;
                if !cqueue::more(event.flags()) {
                    break;
                }
            }
            Ok(ended)
        })
    }

    /// Repeats a trial on fresh connections until one loses its end of stream.
    fn end_of_stream(
        &mut self,
        mut seen: impl FnMut(&mut Lab, Fixed) -> Result<bool, String>,
    ) -> Result<String, String> {
        for one in 1..=END_OF_STREAM_TRIES {
            self.discard()?;
            let fd = self.connect()?;
            if !seen(self, fd)? {
                return Err(format!("lost in try {one}, after send and shutdown back to back"));
            }
        }
        Ok(format!("in {END_OF_STREAM_TRIES} of {END_OF_STREAM_TRIES} tries"))
    }

    fn speak_and_leave(&mut self) -> Result<(), String> {
        self.client()?.write_all(b"last words").map_err(refused)?;
        self.client()?.shutdown(Shutdown::Write).map_err(refused)
    }

    /// Cancels what is armed and frees the slot.
    fn discard(&mut self) -> Result<(), String> {
        let Some((_, slot)) = self.client.take() else { return Ok(()) };
        self.push(Tag::Ignored, opcode::AsyncCancel2::new(CancelBuilder::any()).build());
        self.push(Tag::Marker, opcode::Close::new(Fixed(slot)).build());
        succeeded(self.completion(Tag::Marker)?.result()).map(drop)
    }

    fn arm_poll(&mut self, fd: Fixed) {
        self.push(Tag::Poll, opcode::PollAdd::new(fd, POLL_MASK).multi(true).build());
    }

    fn receive(&mut self) -> Result<i32, String> {
        let (at, len) = (self.scratch.as_mut_ptr(), self.scratch.len() as u32);
        self.push(Tag::Receive, opcode::Recv::new(self.fixed()?, at, len).flags(libc::MSG_DONTWAIT).build());
        self.completion(Tag::Receive).map(|entry| entry.result())
    }

    fn client(&mut self) -> Result<&mut TcpStream, String> {
        self.client.as_mut().map(|(stream, _)| stream).ok_or_else(|| "there is no connection".to_owned())
    }

    fn fixed(&self) -> Result<Fixed, String> {
        self.client.as_ref().map(|(_, slot)| Fixed(*slot)).ok_or_else(|| "there is no connection".to_owned())
    }

    fn push(&mut self, tag: Tag, entry: squeue::Entry) {
        let entry = entry.user_data(tag as u64);
        // SAFETY: the memory entries borrow here is static, leaked, or `scratch`, which outlives the ring and is lent to
        // operations that end inside the enter that submits them (MSG_DONTWAIT).
        unsafe { self.ring.submission().push(&entry) }.expect("every wait empties the queue");
    }

    fn submit(&mut self) -> Result<(), String> {
        self.ring.submit().map(drop).map_err(refused)
    }

    /// The next completion with this tag; others are dropped.
    fn completion(&mut self, tag: Tag) -> Result<cqueue::Entry, String> {
        loop {
            self.submit()?;
            if let Some(entry) = self.ring.completion().find(|entry| entry.user_data() == tag as u64) {
                return Ok(entry);
            }
            self.wait(PATIENCE).map_err(refused)?;
        }
    }

    fn wait(&mut self, patience: Duration) -> io::Result<()> {
        let timespec = Timespec::from(patience);
        let arguments = SubmitArgs::new().timespec(&timespec);
        self.ring.submitter().submit_with_args(1, &arguments).map(drop)
    }
}

fn works() -> Result<String, String> {
    Ok("works".to_owned())
}

fn succeeded(result: i32) -> Result<u32, String> {
    u32::try_from(result).map_err(|_| refused(io::Error::from_raw_os_error(-result)))
}

fn refused(error: io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ETIME) => format!("nothing happened within {} ms", PATIENCE.as_millis()),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn this_kernel_is_tried_in_under_a_second() {
        let started = Instant::now();
        let findings = try_all(&HostFacts::read()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(findings.len(), TRIALS.len(), "{findings:#?}");
        assert!(
            findings.iter().filter(|finding| finding.required).all(|finding| finding.seen.is_ok()),
            "{findings:#?}"
        );
    }

    #[test]
    fn a_failed_requirement_is_the_last_thing_tried() {
        let mut lab = Lab::new(IoUring::new(8).unwrap());
        assert!(lab.direct_table().is_ok());
        assert!(lab.direct_table().is_err(), "the kernel refuses a second table");
        assert!(lab.receive_now().is_err(), "there is no connection yet");
    }
}
