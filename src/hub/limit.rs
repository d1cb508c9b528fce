//! The limits of the hub: the one table of their names, options and answers.
//!
//! Limits of bytes and time (messages, fragments, handshakes, queues) are the reactor's, where each ends its connection
//! with a [`crate::CloseReason`] of its own. docs/limits.md has all of them, and a test holds it to this table.

use crate::ds::{Bucket, Rate};
use crate::proto::close::CloseReason;
use crate::proto::command::ErrorCode;

macro_rules! limits {
    ($($variant:ident $name:literal [$($option:literal),*] $error:ident $reason:ident, $doc:literal;)*) => {
        /// What a client may not have more of. The table for metrics and documentation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Limit {
            $(#[doc = $doc] $variant,)*
        }

        impl Limit {
            /// Every limit, in the order of their numbers.
            pub const ALL: [Limit; [$($name),*].len()] = [$(Limit::$variant),*];

            /// Its label in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Limit::$variant => $name,)* }
            }

            /// The options that set it.
            pub const fn options(self) -> &'static [&'static str] {
                match self { $(Limit::$variant => &[$($option),*],)* }
            }

            /// The code of the error that tells a client it is beyond.
            pub const fn error(self) -> ErrorCode {
                match self { $(Limit::$variant => ErrorCode::$error,)* }
            }

            /// Why a connection ends that is told so inside a WebSocket at its begin, or insists.
            pub const fn reason(self) -> CloseReason {
                match self { $(Limit::$variant => CloseReason::$reason,)* }
            }
        }
    };
}

limits! {
    Readiness "not_ready" ["max_connections", "memory_budget"] TryAgain Overload, "Newcomers while the server is full, short of memory or about to stop.";
    Accepts "accept_rate" ["accept_rate"] TryAgain Overload, "New connections a second, all together.";
    AddressAccepts "address_rate" ["accept_rate_per_address"] TryAgain Overload, "New connections a second of one address.";
    AddressConnections "address_connections" ["max_connections_per_address"] TryAgain Overload, "Connections of one address.";
    Origins "origins" ["origins"] Forbidden HandshakeRefused, "Pages of origins that are not listed.";
    Tokens "unauthorized" ["anonymous"] Unauthorized Unauthorized, "Newcomers without a token that is accepted, and refreshes.";
    UserConnections "user_connections" ["max_connections_per_user"] ConnectionLimit TooManyOfUser, "Connections of one user.";
    Messages "message_rate_exceeded" ["message_rate"] MessageRateExceeded MessageRate, "Messages and pings a second of one connection.";
    Bytes "byte_rate_exceeded" ["byte_rate"] ByteRateExceeded ByteRate, "Bytes a second of one connection.";
    Topics "topic_limit" ["max_topics_per_connection"] TopicLimit TooManyErrors, "Subscriptions of one connection.";
}

impl Limit {
    /// The limit that a command's error is about; none where it is about something else.
    pub(super) fn of_command(code: ErrorCode) -> Option<Limit> {
        let limits = [Limit::Tokens, Limit::Messages, Limit::Bytes, Limit::Topics];
        limits.into_iter().find(|limit| limit.error() == code)
    }
}

/// Newcomers that one core lets in at once, however small its share: few come so evenly as shares are.
const ACCEPTS_AT_ONCE_MIN: u64 = 4;

/// Settings of limits on connections and rates. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// New connections a second, of all cores together.
    pub accepts_per_s: Option<u32>,
    /// New connections of one address.
    pub accepts_per_address: Option<Rate>,
    /// Connections of one address.
    pub connections_per_address: Option<u32>,
    /// Connections of one user.
    pub connections_per_user: Option<u32>,
    /// Messages and pings of one connection.
    pub messages: Option<Rate>,
    /// Bytes of one connection.
    pub bytes: Option<Rate>,
}

impl Limits {
    /// No limit at all, as in development.
    pub const NONE: Limits = Limits {
        accepts_per_s: None,
        accepts_per_address: None,
        connections_per_address: None,
        connections_per_user: None,
        messages: None,
        bytes: None,
    };

    /// Whether addresses are counted.
    pub fn of_addresses(&self) -> bool {
        self.accepts_per_address.is_some() || self.connections_per_address.is_some()
    }

    /// Whether a connection's own rates are watched.
    pub fn of_rates(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }

    /// One core's share of the newcomers: a tenth of a second's worth at once, for the kernel spreads them evenly and the
    /// rest can wait.
    pub fn accepts_of_core(&self, cores: usize) -> Option<Rate> {
        let of_core = u64::from(self.accepts_per_s?).div_ceil(cores.max(1) as u64);
        Some(Rate::new(of_core, (of_core / 10).max(ACCEPTS_AT_ONCE_MIN)))
    }
}

/// Takes from a bucket, where there is a rate.
pub fn take(bucket: &mut Bucket, units: u64, rate: Option<&Rate>, now_ms: u64) -> bool {
    rate.is_none_or(|rate| bucket.take(units, rate, now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_sound() {
        let names: HashSet<&str> = Limit::ALL.iter().map(|limit| limit.name()).collect();
        assert_eq!(names.len(), Limit::ALL.len());
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number);
            assert!(!limit.options().is_empty(), "{limit:?}");
            assert!(Limit::of_command(limit.error()).is_none_or(|other| other.error() == limit.error()));
        }
    }
}
