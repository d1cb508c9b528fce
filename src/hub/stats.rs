//! What one core's hub counts, and the board where all of it is read.
//!
//! Each core's hub writes its own [`Counters`]; a [`Board`] knows those of all cores and adds them up for whoever looks, from
//! any thread, without asking a core. What happens is counted where it happens; what there is *now* is set once a turn, so it
//! may be a turn old.

use super::Hub;
use super::hooks::Hooks;
use super::limit::Limit;
use super::namespace::SlowConsumer;
use crate::ds::{Counter, Distribution, Histogram};
use crate::proto::command::{ErrorCode, Verb};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

macro_rules! figures {
    (numbers { $($field:ident $doc:literal;)* } tables { $($table:ident $row:ty, $about:literal;)* }) => {
        /// What the hub of one core counts.
        #[derive(Debug)]
        pub struct Counters {
            $(#[doc = $doc] pub $field: Counter,)*
            $(#[doc = $about] pub $table: [Counter; <$row>::ALL.len()],)*
            /// See [`Figures::delivery_us`].
            pub delivery_us: Histogram,
        }

        impl Default for Counters {
            fn default() -> Counters {
                Counters {
                    $($field: Counter::default(),)*
                    $($table: std::array::from_fn(|_| Counter::default()),)*
                    delivery_us: Histogram::default(),
                }
            }
        }

        /// What the hubs of all cores have and have done. Arrays are in the order of their rows' `ALL`.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Figures {
            $(#[doc = $doc] pub $field: u64,)*
            $(#[doc = $about] pub $table: [u64; <$row>::ALL.len()],)*
            /// Messages and events given to subscribers.
            pub deliveries: u64,
            /// Time of each delivery in microseconds: from the moment the topic's home core has made the message to the moment
            /// the subscriber's core hands it to the connection. What waited for a slow subscriber counts when it is given.
            pub delivery_us: Distribution,
        }

        impl Default for Figures {
            fn default() -> Figures {
                Figures {
                    $($field: 0,)*
                    $($table: [0; <$row>::ALL.len()],)*
                    deliveries: 0,
                    delivery_us: Distribution::default(),
                }
            }
        }

        impl Figures {
            fn add(&mut self, core: &Counters) {
                $(self.$field += core.$field.get();)*
                $(self.$table.iter_mut().zip(&core.$table).for_each(|(sum, counter)| *sum += counter.get());)*
                let delivery_us = core.delivery_us.get();
                self.deliveries += delivery_us.count();
                self.delivery_us += &delivery_us;
            }
        }
    };
}

figures! {
    numbers {
        sessions "Connections that speak the channel protocol.";
        reconnections "Sessions that came back: with the place in a topic where they stood.";
        users "Users with connections.";
        topics "Topics with an order, a history or subscribers.";
        subscriptions "Subscriptions of connections to topics.";
        history_bytes "Bytes of history.";
        invalid "Messages that were no command.";
        echoes "Messages beside the hub, that were sent back.";
        dropped "Publications not given to subscribers that were slow.";
        gaps "Gaps announced to subscribers that were slow.";
        slow_disconnected "Connections closed because they were slow.";
        addresses "Addresses with connections, or with such a moment ago, where they are counted.";
        owed_bytes "Bytes held for subscribers that have not been given them.";
    }
    tables {
        received Verb, "Commands received.";
        errors ErrorCode, "Errors told to clients.";
        slow SlowConsumer, "Subscribers that began to lose messages, or were closed, by what their topic does with slow ones.";
        refusals Limit, "What each limit has refused.";
    }
}

impl Counters {
    /// A limit was against something.
    pub fn refuse(&self, limit: Limit) {
        self.refusals[limit as usize].add(1);
    }
}

/// The counters of all cores.
#[derive(Debug, Default)]
pub struct Board(Mutex<Vec<Arc<Counters>>>);

impl Board {
    /// The counters of one more core.
    pub(super) fn add_core(&self) -> Arc<Counters> {
        let counters = Arc::<Counters>::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counters));
        counters
    }

    /// All added up: recent values, not of one moment.
    pub fn figures(&self) -> Figures {
        let mut sum = Figures::default();
        let cores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cores.iter().for_each(|core| sum.add(core));
        sum
    }
}

impl<K: Hooks> Hub<K> {
    /// Once a turn: what there is now.
    pub(super) fn set_gauges(&self) {
        let gauges = [
            (&self.counters.sessions, self.sessions.len()),
            (&self.counters.users, self.users.len()),
            (&self.counters.topics, self.homes.len()),
            (&self.counters.subscriptions, self.locals.subscriptions()),
            (&self.counters.history_bytes, self.homes.history_bytes()),
            (&self.counters.addresses, self.addresses.len()),
            (&self.counters.owed_bytes, self.locals.bytes()),
        ];
        gauges.into_iter().for_each(|(gauge, now)| gauge.set(now as u64));
    }
}

/// The clock of deliveries, one for all cores: microseconds, wrapping after 71 minutes, so only differences mean something.
pub fn now_us() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_micros() as u32
}
