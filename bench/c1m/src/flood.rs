//! A flood of garbage on an HTTP port: connections that all send, as fast as it is taken, what is no request, and come back when
//! they are ended.
//!
//! The threads run under SCHED_IDLE on the driver's cores, as attackers do.

use crate::attackers::yield_to_all;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const THREADS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(1);
const WRITE_BYTES: usize = 4 << 10;
/// When no connection of a thread took anything.
const REST: Duration = Duration::from_millis(1);

/// What a flood did.
#[derive(Default)]
pub(crate) struct Spilled {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) ended_by_server: AtomicU64,
}

/// Under way until it is ended.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    spilled: Arc<Spilled>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// So many connections to `to`, from threads on these cores.
    pub(crate) fn start(to: SocketAddr, connections: u32, cores: &[usize]) -> Flood {
        let (stop, spilled) = (Arc::new(AtomicBool::new(false)), Arc::new(Spilled::default()));
        let spawn = |at: usize| {
            let (stop, spilled) = (Arc::clone(&stop), Arc::clone(&spilled));
            let core = cores.get(at % cores.len().max(1)).copied();
            let count = (connections as usize + at) / THREADS;
            thread::spawn(move || {
                if let Some(id) = core {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                yield_to_all();
                spill(to, count, &stop, &spilled);
            })
        };
        let threads = (0..THREADS).map(spawn).collect();
        Flood { stop, spilled, threads }
    }

    /// Ends it, and its connections.
    pub(crate) fn end(self) -> Arc<Spilled> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            // One that panicked has said so itself.
            let _ = thread.join();
        }
        self.spilled
    }
}

/// What is no HTTP, what looks like a head without end, and a body that was never announced.
fn garbage(connection: usize) -> Vec<u8> {
    let noise = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 1;
    match connection % 3 {
        0 => (0..WRITE_BYTES).map(noise).collect(),
        1 => [b"GET / HTTP/1.1\r\n".as_slice(), &b"X-Y: z\r\n".repeat(WRITE_BYTES / 8)].concat(),
        _ => [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), &[b'x'; WRITE_BYTES]].concat(),
    }
}

fn spill(to: SocketAddr, count: usize, stop: &AtomicBool, spilled: &Spilled) {
    let mut streams: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !stop.load(Relaxed) {
        let mut moved = false;
        for (at, stream) in streams.iter_mut().enumerate() {
            if stop.load(Relaxed) {
                return;
            }
            if stream.is_none() {
                *stream = open(to);
            }
            let Some(connection) = stream else { continue };
            match send_and_take(connection, &garbage(at)) {
                Ok(sent) => {
                    moved |= sent > 0;
                    spilled.sent_bytes.fetch_add(sent as u64, Relaxed);
                }
                Err(_) => {
                    moved = true;
                    spilled.ended_by_server.fetch_add(1, Relaxed);
                    *stream = None;
                }
            }
        }
        if !moved {
            thread::sleep(REST);
        }
    }
}

fn open(to: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

/// Sends what the socket takes and throws away what it has; an end is an error.
fn send_and_take(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    let would_block = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock => Ok(0),
        _ => Err(error),
    };
    let sent = stream.write(bytes).or_else(would_block)?;
    match stream.read(&mut [0; 2048]) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        taken => taken.or_else(would_block).map(|_| sent),
    }
}
