//! What one core counts. One writer, any number of readers, no locked instruction.

use crate::ds::{Counter, Distribution, Histogram};
use crate::proto::close::CloseReason;
use crate::proto::response::Status;
use crate::sys::Io;

/// The status of an upgrade, and the others a handshake may be answered with: the order of [`Totals::handshakes`].
pub const HANDSHAKE_STATUSES: [u16; 1 + Status::ALL.len()] = {
    let mut codes = [101; 1 + Status::ALL.len()];
    let mut at = 0;
    while at < Status::ALL.len() {
        codes[1 + at] = Status::ALL[at].code();
        at += 1;
    }
    codes
};

macro_rules! counters {
    (
        numbers { $($number:ident $number_doc:literal;)* }
        histograms { $($histogram:ident $histogram_doc:literal;)* }
        tables { $($table:ident [$rows:expr] $table_doc:literal;)* }
    ) => {
        /// The counters of one core.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $number_doc] pub $number: Counter,)*
            $(#[doc = $histogram_doc] pub $histogram: Histogram,)*
            $(#[doc = $table_doc] pub $table: [Counter; $rows],)*
        }

        /// The counters of one core, or of all of them added up.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $number_doc] pub $number: u64,)*
            $(#[doc = $histogram_doc] pub $histogram: Distribution,)*
            $(#[doc = $table_doc] pub $table: [u64; $rows],)*
        }

        impl Totals {
            /// Adds the counters of one core.
            pub(crate) fn add(&mut self, core: &Counters) {
                $(self.$number = self.$number.wrapping_add(core.$number.get());)*
                $(self.$histogram += &core.$histogram.get();)*
                $(for (total, counter) in self.$table.iter_mut().zip(&core.$table) {
                    *total += counter.get();
                })*
            }
        }

        impl std::ops::AddAssign<&Totals> for Totals {
            fn add_assign(&mut self, other: &Totals) {
                $(self.$number = self.$number.wrapping_add(other.$number);)*
                $(self.$histogram += &other.$histogram;)*
                $(for (total, count) in self.$table.iter_mut().zip(&other.$table) {
                    *total += count;
                })*
            }
        }
    };
}

counters! {
    numbers {
        slots_held "Slots taken now: connections in any phase, each with one direct descriptor.";
        buffers_held "Receive buffers leased now.";
        connections_open "Upgraded connections now.";
        send_queue_bytes "Bytes that wait now because a socket was full.";
        busy_permille "Thousandths of the last second in which the core's thread ran; of several cores, their sum.";
        accepted "TCP connections accepted.";
        accept_failures "Accepts the kernel failed.";
        upgraded "Requests upgraded.";
        responses "Requests answered without an upgrade.";
        messages_received "Whole messages received.";
        bytes_received "Bytes received.";
        messages_sent "Messages queued to be sent.";
        bytes_sent "Bytes queued to be sent.";
        pings_sent "Pings sent by the heartbeat.";
        sends_short "Sends the socket could not take at once.";
        receives_empty "Wake-ups that found nothing to receive.";
        drain_told "Connections told that the server stops.";
        completions_stale "Completions of connections that had gone.";
        mesh_posted "Mail posted to other cores.";
        mesh_full "Mail to other cores refused because its ring was full.";
        mesh_received "Mail taken from other cores.";
        wakes "Parked cores rung.";
        turns "Turns of the loop: system calls, but for those of a full submission queue.";
        events_suppressed "Events not told to the log because there were too many of their kind in that second.";
        events_dropped "Events the log did not take because its queue was full.";
    }
    histograms {
        received_bytes "Payload bytes of a message received.";
        sent_bytes "Payload bytes of a message queued to be sent; of several queued in one piece, their mean.";
        handling_us "Microseconds from a whole message to the end of what its handler asked for. About one message in 16 is \
            timed.";
        heartbeat_us "Microseconds from a ping to its pong.";
        lifetime_s "Seconds from the upgrade of a connection to its end.";
        turn_us "Microseconds between two waits. Of an enter that waits nothing is in it, not even the sends that it carries \
            out; of one that does not wait, all.";
    }
    tables {
        closed [CloseReason::ALL.len()] "TCP connections ended, upgraded or not, by [`CloseReason`] in its order.";
        disconnected [CloseReason::ALL.len()] "Upgraded connections ended, by [`CloseReason`] in its order: with \
            `connections_open` they add up to `upgraded`.";
        handshakes [HANDSHAKE_STATUSES.len()] "Answers to upgrades, to what was meant to be one, and to broken requests, by \
            [`HANDSHAKE_STATUSES`]. One refused behind a 101, for browsers, is a 101.";
    }
}

impl Counters {
    /// Counts the answer to a handshake.
    pub(super) fn add_handshake(&self, code: u16) {
        if let Some(row) = HANDSHAKE_STATUSES.iter().position(|status| *status == code) {
            self.handshakes[row].add(1);
        }
    }
}

/// How busy a core's thread was, from one look to the next.
pub(super) struct Busy {
    wall_us: u64,
    cpu_us: u64,
}

impl Busy {
    /// To be called on the core's thread.
    pub fn since(io: &impl Io) -> Busy {
        Busy { wall_us: io.now_us(), cpu_us: io.cpu_us() }
    }

    /// Thousandths of the time since the last look in which the thread ran.
    pub fn permille(&mut self, io: &impl Io) -> u64 {
        let before = std::mem::replace(self, Busy::since(io));
        let wall_us = self.wall_us.saturating_sub(before.wall_us).max(1);
        let cpu_us = self.cpu_us.saturating_sub(before.cpu_us);
        (cpu_us * 1000 / wall_us).min(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums() {
        let (one, two) = (Counters::default(), Counters::default());
        let mut totals = Totals::default();
        for (core, times) in [(&one, 1), (&two, 2)] {
            core.accepted.add(times);
            core.handling_us.record_many(7, times);
            core.closed[3].add(times);
            core.disconnected[3].add(10 * times);
            (0..times).for_each(|_| core.add_handshake(101));
            (0..times).for_each(|_| core.add_handshake(Status::VersionNotSupported.code()));
            totals.add(core);
        }
        assert_eq!((totals.accepted, totals.closed[3], totals.disconnected[3]), (3, 3, 30));
        assert_eq!((totals.handling_us.count(), totals.handling_us.sum), (3, 21));
        let mut handshakes = [0; HANDSHAKE_STATUSES.len()];
        (handshakes[0], handshakes[HANDSHAKE_STATUSES.len() - 1]) = (3, 3);
        assert_eq!(totals.handshakes, handshakes);
        let mut twice = totals.clone();
        twice += &totals;
        assert_eq!((twice.accepted, twice.handling_us.count(), twice.handshakes[0]), (6, 6, 6));
    }
}
