//! What each kind of attacker does, until it is stopped.

use super::{Attacker, Ended, RETRY, WRITE_BYTES};
use crate::wire;
use megasock::proto::client::{encode_masked, encode_masked_fragment};
use megasock::proto::frame::Opcode;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Connections of one that drips heads.
const DRIPPING: usize = 100;
/// Connections of one that never reads: few, for it is what they hold that is the attack, not the flood until they do.
const SINKS: usize = 10;
/// Between two bytes of a dripping head.
const DRIP: Duration = Duration::from_secs(1);
/// The kernel's least is a little more.
const WINDOW_BYTES: usize = 1024;
const ECHO_BYTES: usize = 8 << 10;
/// What one connection asks for in all: twice what the server lets wait for it, as it comes.
const ECHOES: u32 = 256;
const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0x99];
/// Fragments of a message that is finished before the server's limit, 4,096 as it comes.
const FRAGMENTS_FINISHED: usize = 4_000;
/// Subscriptions in one write, each ended in it too.
const SUBSCRIPTIONS: u64 = 32;

impl Attacker {
    /// Slow heads: each connection's request comes a byte a second. The server ends them at its handshake timeout.
    pub(super) fn drip_heads(&mut self) {
        let mut drips: Vec<Option<(TcpStream, Vec<u8>, usize)>> = (0..DRIPPING).map(|_| None).collect();
        let pause = DRIP / DRIPPING as u32;
        while !self.stopped() {
            for drip in &mut drips {
                if drip.is_none()
                    && let Some((stream, n)) = self.connect(None)
                    && stream.set_nonblocking(true).is_ok()
                {
                    *drip = Some((stream, self.target.request(n), 0));
                }
                if let Some((stream, head, at)) = drip {
                    let dripped = match self.read(stream) {
                        Ok(_) => self.write(stream, &head[*at..*at + 1]),
                        Err(ended) => Err(ended),
                    };
                    *at += 1;
                    match dripped {
                        Ok(_) if *at + 1 < head.len() => self.did(1),
                        _ => *drip = None,
                    }
                }
                thread::sleep(pause);
                if self.stopped() {
                    return;
                }
            }
        }
    }

    /// Pings without end; every other attacker takes no pong.
    pub(super) fn flood_pings(&mut self) {
        let mut batch = Vec::new();
        let mut pings = 0;
        while batch.len() < WRITE_BYTES - 64 {
            encode_masked(&mut batch, Opcode::Ping, MASK, b"are you?");
            pings += 1;
        }
        let reads = self.at.is_multiple_of(2);
        self.over_and_over(|attacker, stream| {
            attacker.write_all(stream, &batch, reads)?;
            attacker.did(pings);
            Ok(())
        });
    }

    /// Messages in one-byte fragments: every other attacker never finishes one, the others finish each just in time.
    pub(super) fn send_fragments(&mut self) {
        let endless = self.at.is_multiple_of(2);
        let mut message = Vec::new();
        for at in 0..FRAGMENTS_FINISHED {
            let opcode = if at == 0 { Opcode::Text } else { Opcode::Continuation };
            let last = at + 1 == FRAGMENTS_FINISHED;
            encode_masked_fragment(&mut message, last && !endless, opcode, MASK, b"x");
        }
        let mut more = Vec::new();
        for _ in 0..FRAGMENTS_FINISHED {
            encode_masked_fragment(&mut more, false, Opcode::Continuation, MASK, b"x");
        }
        self.over_and_over(|attacker, stream| {
            attacker.write_all(stream, &message, true)?;
            attacker.did(FRAGMENTS_FINISHED as u64);
            while endless && !attacker.stopped() {
                attacker.write_all(stream, &more, true)?;
                attacker.did(FRAGMENTS_FINISHED as u64);
            }
            Ok(())
        });
    }

    /// Echoes that are asked for and never taken.
    pub(super) fn never_read(&mut self) {
        let mut message = Vec::new();
        encode_masked(&mut message, Opcode::Binary, MASK, &[b'x'; ECHO_BYTES]);
        // How many are still to be asked for, and how far the one under way is: a frame that began must go on.
        let mut sinks: Vec<Option<(TcpStream, u32, usize)>> = (0..SINKS).map(|_| None).collect();
        while !self.stopped() {
            let mut moved = false;
            for sink in &mut sinks {
                if sink.is_none() {
                    *sink = self.open(Some(WINDOW_BYTES)).map(|stream| (stream, ECHOES, 0));
                }
                let Some((stream, left, at)) = sink else { continue };
                // With nothing more to ask it looks whether the server has had enough.
                let asked =
                    if *left > 0 { self.write(stream, &message[*at..]) } else { self.is_there(stream) };
                match asked {
                    Ok(written) => {
                        moved |= written > 0;
                        *at += written;
                        if *at == message.len() {
                            (*left, *at) = (*left - 1, 0);
                            self.did(1);
                        }
                    }
                    Err(Ended) => *sink = None,
                }
                if self.stopped() {
                    return;
                }
            }
            if !moved {
                thread::sleep(10 * RETRY);
            }
        }
    }

    /// Subscribes and leaves again, one new name after another, and takes the answers.
    pub(super) fn churn_subscriptions(&mut self) {
        let mut name = 0u64;
        let me = self.at;
        self.over_and_over(|attacker, stream| {
            let mut batch = Vec::new();
            for _ in 0..SUBSCRIPTIONS {
                name += 1;
                for verb in ["subscribe", "unsubscribe"] {
                    let command = format!(r#"{{"type":"{verb}","id":{name},"channel":"churn-{me}-{name}"}}"#);
                    wire::frame(&mut batch, me, name as u32, command.as_bytes());
                }
            }
            attacker.write_all(stream, &batch, true)?;
            attacker.did(2 * SUBSCRIPTIONS);
            Ok(())
        });
    }

    /// Connects, upgrades, and resets.
    pub(super) fn churn_connections(&mut self) {
        while !self.stopped() {
            if let Some(stream) = self.open(None) {
                // Where the kernel refuses, the connection ends with a FIN instead.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                self.did(1);
            }
        }
    }

    /// Does `deed` on a connection until the server ends it, then on the next.
    fn over_and_over(&mut self, mut deed: impl FnMut(&Attacker, &mut TcpStream) -> Result<(), Ended>) {
        while !self.stopped() {
            let Some(mut stream) = self.open(None) else { continue };
            while !self.stopped() && deed(self, &mut stream).is_ok() {}
        }
    }
}
