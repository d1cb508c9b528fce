//! The hub's figures, asked of each core and added up.

use super::Hub;
use super::hooks::Hooks;
use super::limit::Refusals;

macro_rules! figures {
    ($($field:ident $doc:literal;)*) => {
        /// What a hub has and has done; of one core, or of all added up.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Figures {
            $(#[doc = $doc] pub $field: u64,)*
            /// What each limit has refused.
            pub refusals: Refusals,
        }

        impl std::ops::AddAssign for Figures {
            fn add_assign(&mut self, other: Figures) {
                $(self.$field += other.$field;)*
                self.refusals += other.refusals;
            }
        }
    };
}

figures! {
    sessions "Connections that speak the channel protocol.";
    users "Users with connections.";
    topics "Topics with an order, a history or subscribers.";
    history_bytes "Bytes of history.";
    deliveries "Messages and events given to subscribers.";
    dropped "Publications not given to subscribers that were slow.";
    gaps "Gaps announced to subscribers that were slow.";
    slow_disconnected "Connections closed because they were slow.";
    addresses "Addresses with connections, or with such a moment ago, where they are counted.";
    owed_bytes "Bytes held for subscribers that have not been given them.";
}

impl<K: Hooks> Hub<K> {
    pub(super) fn figures(&self) -> Figures {
        let counts = self.locals.counts;
        Figures {
            sessions: self.sessions.len() as u64,
            users: self.users.len() as u64,
            topics: self.homes.len() as u64,
            history_bytes: self.homes.history_bytes() as u64,
            deliveries: counts.deliveries,
            dropped: counts.dropped,
            gaps: counts.gaps,
            slow_disconnected: counts.disconnected,
            addresses: self.addresses.len() as u64,
            owed_bytes: self.locals.bytes() as u64,
            refusals: self.refusals,
        }
    }
}
