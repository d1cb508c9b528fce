//! Subscribers that never read: ordinary blocking sockets with the smallest receive buffer, set before they connect. They
//! take part until they are subscribed; then what the server sends them stays where it is.

use crate::blocking;
use crate::channels::{self, Said};
use crate::target::{Speech, Target};
use crate::wire::{self, Heard, hear};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The kernel's least is a little more, whatever is asked for.
const RECEIVE_BUFFER_BYTES: usize = 1024;
const OPEN_MAX: Duration = Duration::from_secs(20);
/// Time for the server to send what it holds, once the sockets are read again.
const DRAIN_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

pub(crate) struct Stalled(Vec<TcpStream>);

impl Stalled {
    /// Connects and subscribes `count` of them, numbered from `first`.
    pub(crate) fn open(target: &Target, first: u64, count: u64) -> Result<Stalled, String> {
        (first..first + count)
            .map(|n| subscriber(target, n).map_err(|error| format!("stalled subscriber {n}: {error}")))
            .collect::<Result<_, _>>()
            .map(Stalled)
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Reads what there is, to see how many the server has ended.
    pub(crate) fn ended(mut self) -> u64 {
        let all = self.len();
        let started = Instant::now();
        while !self.0.is_empty() && started.elapsed() < DRAIN_MAX {
            self.0.retain_mut(lives);
            std::thread::sleep(POLL);
        }
        all - self.len()
    }
}

/// Reads all that is there; false once the connection has ended.
fn lives(stream: &mut TcpStream) -> bool {
    let mut piece = [0; 65_536];
    loop {
        match stream.set_nonblocking(true).and_then(|()| stream.read(&mut piece)) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn subscriber(target: &Target, n: u64) -> Result<TcpStream, String> {
    let connected = blocking::connect(target, n, Some(RECEIVE_BUFFER_BYTES), OPEN_MAX);
    let mut stream = connected.map_err(|error| error.to_string())?;
    let received = blocking::upgrade(&mut stream, target, n).map_err(|why| why.to_string())?;
    if target.speech == Speech::Channels {
        subscribe(&mut stream, target, n, received)?;
    }
    Ok(stream)
}

/// Asks for the channel and awaits the answer; `received` are frames that came before.
fn subscribe(stream: &mut TcpStream, target: &Target, n: u64, mut received: Vec<u8>) -> Result<(), String> {
    let mut command = Vec::new();
    wire::frame(&mut command, n as u32, 0, channels::subscribe(&target.topic.channel).as_bytes());
    stream.write_all(&command).map_err(|error| error.to_string())?;
    let mut partial = None;
    loop {
        let mut input = &received[..];
        while let Some(heard) = hear(&mut partial, &mut input).map_err(|_| "not a WebSocket frame")? {
            if let Heard::Data { bytes, at: 0, last: true } = heard
                && let Some(Said::Subscribed { .. }) = channels::hear(bytes)
            {
                return Ok(());
            }
        }
        received.clear();
        blocking::read_more(stream, &mut received).map_err(|error| error.to_string())?;
    }
}
