//! Attackers: threads that do to a server what a hostile client would, each as fast as it can unless being slow is the point.
//!
//! They run on the driver's cores under SCHED_IDLE, so that the honest clients, which share these cores, go first whenever
//! they have something to do: what those lose, they lose at the server. Nice 19 is not enough: a thread that wakes then waits
//! for the slice of the one that runs, some milliseconds. What an attacker sends and receives is counted; nothing it is told
//! is believed or kept.

mod deeds;

use crate::blocking::{self, connect};
use crate::cli::AttackKind;
use crate::target::Target;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, unix};

const STACK_BYTES: usize = 256 << 10;
/// For a connect and its upgrade.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to write to a socket that is full, or to connect where it was refused.
const RETRY: Duration = Duration::from_millis(1);
/// Bytes of a write: a longer one would keep the core in the kernel, whatever the priorities.
const WRITE_BYTES: usize = 16 << 10;
/// Numbers far from those of other connections.
const FIRST: u64 = 1 << 33;

/// What all attackers did.
#[derive(Default)]
pub(crate) struct Ledger {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    deeds: AtomicU64,
    ended_by_server: AtomicU64,
}

impl Ledger {
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.sent_bytes.load(Relaxed) + self.received_bytes.load(Relaxed)
    }

    pub(crate) fn deeds(&self) -> u64 {
        self.deeds.load(Relaxed)
    }

    pub(crate) fn ended_by_server(&self) -> u64 {
        self.ended_by_server.load(Relaxed)
    }
}

/// At work until they are ended.
pub(crate) struct Attackers {
    stop: Arc<AtomicBool>,
    ledger: Arc<Ledger>,
    threads: Vec<JoinHandle<()>>,
}

impl Attackers {
    /// Starts `count` of a kind on `cores`. They come to where `target` is: on /ws, or where what they ask for is an echo, on
    /// its own path.
    pub(crate) fn start(
        kind: AttackKind,
        count: u32,
        target: &Target,
        cores: &[usize],
    ) -> Result<Attackers, String> {
        let path = (kind != AttackKind::NeverRead).then_some("/ws");
        let target = path.map_or_else(|| target.clone(), |path| target.on_path(path));
        let (stop, ledger) = (Arc::new(AtomicBool::new(false)), Arc::new(Ledger::default()));
        let spawn = |at: u32| {
            let core = cores.get(at as usize % cores.len().max(1)).copied();
            let mut attacker = Attacker {
                target: target.clone(),
                at,
                next: FIRST + u64::from(at),
                step: u64::from(count),
                stop: Arc::clone(&stop),
                ledger: Arc::clone(&ledger),
            };
            let body = move || {
                if let Some(id) = core {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                yield_to_all();
                attacker.work(kind);
            };
            let builder = thread::Builder::new().name(format!("attacker-{at}")).stack_size(STACK_BYTES);
            builder.spawn(body).map_err(|error| format!("thread: {error}"))
        };
        let threads = (0..count).map(spawn).collect::<Result<_, _>>()?;
        Ok(Attackers { stop, ledger, threads })
    }

    /// Ends them all, and their connections.
    pub(crate) fn end(self) -> Arc<Ledger> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
        self.ledger
    }
}

/// SCHED_IDLE for the calling thread.
pub(crate) fn yield_to_all() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let given = unix::set_thread_priority_and_policy(unix::thread_native_id(), ThreadPriority::Min, idle);
    if let Err(why) = given {
        eprintln!("c1m: attackers take part of the honest clients' time: SCHED_IDLE: {why:?}");
    }
}

/// One of them.
struct Attacker {
    target: Target,
    at: u32,
    /// Number of its next connection, and how far from it the one after is.
    next: u64,
    step: u64,
    stop: Arc<AtomicBool>,
    ledger: Arc<Ledger>,
}

/// The server has ended the connection.
struct Ended;

impl Attacker {
    fn work(&mut self, kind: AttackKind) {
        match kind {
            AttackKind::SlowHead => self.drip_heads(),
            AttackKind::PingFlood => self.flood_pings(),
            AttackKind::Fragments => self.send_fragments(),
            AttackKind::NeverRead => self.never_read(),
            AttackKind::SubscribeChurn => self.churn_subscriptions(),
            AttackKind::ConnectionChurn => self.churn_connections(),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn did(&self, count: u64) {
        self.ledger.deeds.fetch_add(count, Relaxed);
    }

    /// A connection without its upgrade; waits a little where there is none.
    fn connect(&mut self, receive_buffer_bytes: Option<usize>) -> Option<(TcpStream, u64)> {
        let n = self.next;
        self.next += self.step;
        let connected = connect(&self.target, n, receive_buffer_bytes, PATIENCE);
        if connected.is_err() {
            thread::sleep(RETRY);
        }
        Some((connected.ok()?, n))
    }

    /// A connection that does not block, upgraded; waits a little where it is refused.
    fn open(&mut self, receive_buffer_bytes: Option<usize>) -> Option<TcpStream> {
        let (mut stream, n) = self.connect(receive_buffer_bytes)?;
        self.ledger.sent_bytes.fetch_add(self.target.request(n).len() as u64, Relaxed);
        let upgraded = blocking::upgrade(&mut stream, &self.target, n);
        if upgraded.is_err() || stream.set_nonblocking(true).is_err() {
            self.ledger.ended_by_server.fetch_add(1, Relaxed);
            thread::sleep(RETRY);
            return None;
        }
        Some(stream)
    }

    /// Writes what the socket takes now; how many bytes that were.
    fn write(&self, stream: &mut TcpStream, bytes: &[u8]) -> Result<usize, Ended> {
        match stream.write(&bytes[..bytes.len().min(WRITE_BYTES)]) {
            Ok(written) => {
                self.ledger.sent_bytes.fetch_add(written as u64, Relaxed);
                Ok(written)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(self.ended()),
        }
    }

    /// Writes all, waiting for room; with `reads` it takes what comes meanwhile. Ends early when all attackers do.
    fn write_all(&self, stream: &mut TcpStream, mut bytes: &[u8], reads: bool) -> Result<(), Ended> {
        while !bytes.is_empty() && !self.stopped() {
            let written = self.write(stream, bytes)?;
            bytes = &bytes[written..];
            let read = if reads { self.read(stream)? } else { 0 };
            if written == 0 && read == 0 {
                thread::sleep(RETRY);
            }
        }
        Ok(())
    }

    /// Takes what is there.
    fn read(&self, stream: &mut TcpStream) -> Result<usize, Ended> {
        let mut piece = [0; WRITE_BYTES];
        match stream.read(&mut piece) {
            Ok(0) => Err(self.ended()),
            Ok(count) => {
                self.ledger.received_bytes.fetch_add(count as u64, Relaxed);
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(self.ended()),
        }
    }

    /// Looks at what waits without taking it.
    fn is_there(&self, stream: &mut TcpStream) -> Result<usize, Ended> {
        match stream.peek(&mut [0]) {
            Ok(0) => Err(self.ended()),
            Ok(_) => Ok(0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(self.ended()),
        }
    }

    fn ended(&self) -> Ended {
        self.ledger.ended_by_server.fetch_add(1, Relaxed);
        Ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attackers_run_when_nobody_else_wants_to() {
        const SCHED_IDLE: &str = "5";
        let policy = thread::spawn(|| {
            yield_to_all();
            let sched = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Field 41; the name before it may hold spaces, but here it does not.
            sched.split(' ').nth(40).unwrap().to_owned()
        });
        assert_eq!(policy.join().unwrap(), SCHED_IDLE);
    }
}
