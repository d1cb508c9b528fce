//! The work of the one ring that publishes; the ring's first connection does it.

use super::Ring;
use super::work::{Kind, Publish, Work};
use crate::channels;
use crate::target::Speech;
use crate::topic::{self, WINDOW};
use crate::wire;

/// Publications a paced work makes before it looks at completions again.
const PER_TURN: u32 = 64;
const PUBLISHER: u32 = 0;

impl Ring {
    pub(super) fn publication(&mut self, order: Publish, until_us: u64) -> Kind {
        let topic = &self.spec.target.topic;
        topic.begin(order.payload_bytes, order.subscribers);
        topic.set_publisher(self.spec.ring, &self.wires.waker);
        self.payloads = topic.script();
        let (oldest, next_us) = (topic.published(), self.now_us as f64);
        Kind::Publish { order, until_us, left: order.count, oldest, next_us }
    }

    /// Publishes what is due.
    pub(super) fn publish_next(&mut self, work: &mut Work) {
        self.note_received(work);
        let Kind::Publish { order, until_us, left, next_us, .. } = &mut work.kind else { return };
        if self.now_us >= *until_us || *left == 0 || !self.peers[PUBLISHER as usize].phase.is_live() {
            work.draining = true;
            return;
        }
        let interval_us = order.per_second.map(|rate| 1e6 / rate);
        let mut bytes = Vec::new();
        for _ in 0..PER_TURN {
            let room = work.in_flight < order.outstanding.min(WINDOW - 1);
            let due_us = if interval_us.is_some() { *next_us as u64 } else { self.now_us };
            if *left == 0 || !room || due_us > self.now_us {
                break;
            }
            *next_us += interval_us.unwrap_or(0.0);
            *left -= 1;
            work.in_flight += 1;
            let number = self.spec.target.topic.publish(due_us);
            self.write_publication(number, &mut bytes);
        }
        if !bytes.is_empty() {
            self.say(PUBLISHER, bytes);
        }
    }

    fn write_publication(&mut self, number: u32, bytes: &mut Vec<u8>) {
        let topic = &self.spec.target.topic;
        let mut data = Vec::new();
        topic::payload(&self.payloads, number, &mut data);
        if self.spec.target.speech == Speech::Channels {
            data = channels::publish(&topic.channel, &data);
        }
        wire::frame(bytes, self.number(PUBLISHER) as u32, number, &data);
    }

    /// Counts publications that the last subscriber has received meanwhile.
    pub(super) fn note_received(&mut self, work: &mut Work) {
        let Kind::Publish { oldest, .. } = &mut work.kind else { return };
        let topic = &self.spec.target.topic;
        while work.in_flight > 0
            && let Some(us) = topic.time_to_last_us(*oldest)
        {
            work.outcome.latency_us.saturating_record(us);
            work.outcome.published += 1;
            work.outcome.missing += u64::from(topic.missing(*oldest));
            work.in_flight -= 1;
            *oldest += 1;
        }
    }
}
