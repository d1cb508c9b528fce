//! What one core counts. One writer, any number of readers, no locked instruction.

use crate::ds::Counter;
use crate::proto::close::CloseReason;

macro_rules! counters {
    ($($field:ident $doc:literal;)*) => {
        /// The counters of one core.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $doc] pub $field: Counter,)*
            /// Connections ended, by [`CloseReason`].
            pub closed: [Counter; CloseReason::ALL.len()],
        }

        /// Counters of all cores, added up.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $doc] pub $field: u64,)*
            /// Connections ended, by [`CloseReason`] in its order.
            pub closed: [u64; CloseReason::ALL.len()],
        }

        impl Totals {
            /// Adds the counters of one core.
            pub(crate) fn add(&mut self, core: &Counters) {
                $(self.$field += core.$field.get();)*
                for (total, counter) in self.closed.iter_mut().zip(&core.closed) {
                    *total += counter.get();
                }
            }
        }
    };
}

counters! {
    slots_held "Slots taken now: connections in any phase, each with one direct descriptor.";
    buffers_held "Receive buffers leased now.";
    connections_open "Upgraded connections now.";
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
}
