//! The heartbeat's ping, and how long its pong took.
//!
//! A ping carries the time at which it was made, so nothing is kept for each connection. A pong's stamp is the peer's word:
//! it counts only from a connection that was pinged, and only if it lies in the very tick of that ping. So what a forged one
//! can tell is off by less than a tick.

use super::{Reactor, tick_of};
use crate::buf::Payload;
use crate::handler::Handler;
use crate::proto::frame::{Opcode, encode_header};
use crate::sys::{ConnId, Io};

/// The lower half of the clock's microseconds: it comes round in 71 minutes, when no pong is awaited any more.
const STAMP_BYTES: usize = 4;

/// One ping for all connections pinged at a moment.
#[derive(Default)]
pub(super) struct Ping {
    last: Option<(u64, Payload)>,
}

impl Ping {
    /// The frame of a ping that is sent now.
    pub fn made_at(&mut self, now_us: u64) -> Payload {
        if let Some((made_us, frame)) = &self.last
            && *made_us == now_us
        {
            return frame.clone();
        }
        let (header, header_len) = encode_header(Opcode::Ping, STAMP_BYTES);
        let frame = Payload::new(&[&header[..header_len], &(now_us as u32).to_be_bytes()]);
        self.last = Some((now_us, frame.clone()));
        frame
    }
}

/// Microseconds since a ping of `pinged_tick`, if this is the body of its pong.
fn latency_us(body: &[u8], pinged_tick: u32, now_us: u64) -> Option<u64> {
    let stamp = u32::from_be_bytes(body.try_into().ok()?);
    let latency_us = u64::from((now_us as u32).wrapping_sub(stamp));
    let made_us = now_us.checked_sub(latency_us)?;
    (tick_of(made_us) == pinged_tick).then_some(latency_us)
}

impl<I: Io, H: Handler> Reactor<I, H> {
    /// A pong, perhaps the one awaited.
    pub(super) fn note_pong(&mut self, id: ConnId, body: &[u8]) {
        let Some((_, pinged_tick)) = self.answering.take_if(|(answering, _)| *answering == id) else {
            return;
        };
        if let Some(latency_us) = latency_us(body, pinged_tick, self.woke_us) {
            self.counters.heartbeat_us.record(latency_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::TICK_MS;

    const TICK_US: u64 = TICK_MS * 1000;

    #[test]
    fn one_frame_for_all_that_are_pinged_at_a_moment() {
        let mut ping = Ping::default();
        let (first, again) = (ping.made_at(7), ping.made_at(7));
        assert_eq!(&first[..], b"\x89\x04\0\0\0\x07");
        assert!(std::ptr::eq(&first[0], &again[0]));
        assert_eq!(&ping.made_at(1 << 32 | 8)[..], b"\x89\x04\0\0\0\x08");
    }

    #[test]
    fn a_stamp_counts_only_within_the_tick_of_its_ping() {
        let beyond = 5 * (1u64 << 32); // the stamp has come round
        for pinged_us in [0, 1, TICK_US - 1, 9 * TICK_US, beyond - 1, beyond, beyond + TICK_US / 2] {
            let (stamp, pinged_tick) = ((pinged_us as u32).to_be_bytes(), tick_of(pinged_us));
            for latency in [0, 1, 500, 9_999_999] {
                let now_us = pinged_us + latency;
                assert_eq!(latency_us(&stamp, pinged_tick, now_us), Some(latency));
                assert_eq!(latency_us(&stamp, pinged_tick + 1, now_us), None, "a ping after the stamp");
                assert_eq!(latency_us(&stamp, pinged_tick.wrapping_sub(1), now_us), None, "one before it");
            }
        }
        let (pinged_us, now_us) = (100 * TICK_US, 150 * TICK_US);
        let pinged_tick = tick_of(pinged_us);
        let future = (now_us as u32 + 1).to_be_bytes();
        for body in [&b""[..], b"abc", b"abcd", b"abcde", &future, &[0; 125]] {
            assert_eq!(latency_us(body, pinged_tick, now_us), None, "{body:?}");
        }
        let (least, most) = (now_us - pinged_us - (TICK_US - 1), now_us - pinged_us);
        for forged in 0..=u16::MAX {
            let stamp = (pinged_us as u32 - 30_000).wrapping_add(u32::from(forged) * 2).to_be_bytes();
            let told = latency_us(&stamp, pinged_tick, now_us);
            assert!(told.is_none_or(|told| (least..=most).contains(&told)), "{told:?}");
        }
    }
}
