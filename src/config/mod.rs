//! The options of the server: one table, from which everything else about them comes.
//!
//! The struct [`Config`], the keys of the TOML file, the `MEGASOCK_*` variables, the `--kebab-case` flags, `--help` and
//! `docs/config.md` are all made from [`OPTIONS`]. A flag wins over a variable, a variable over the file, the file over
//! the default. Every mistake in all of them is found before any is reported, each with where it came from and what to
//! write instead.
//!
//! Settings of topics have a second table, [`NAMESPACE_OPTIONS`], whose rows stand in the TOML file alone, below the
//! pattern of the topics they are for.
//!
//! Nothing here looks at the host or starts anything; lower layers never see a `Config`, each takes its own small
//! struct.

mod document;
mod error;
mod load;
mod namespace;
mod value;

pub use document::markdown;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use load::{Sources, file_only, option_named, suggestion};
pub use namespace::{NAMESPACE_OPTIONS, NamespaceOption};
pub use value::LogFormat;

use crate::hub::Namespaces;
use std::net::SocketAddr;

/// One row of the table.
#[derive(Debug)]
pub struct OptionSpec {
    /// The key in the TOML file; flag and variable names follow from it.
    pub name: &'static str,
    /// The default as a user would write it.
    pub default: &'static str,
    /// What kind of value it takes, as `--help` shows it.
    pub value_name: &'static str,
    /// How a value is written, after the word "write".
    pub written: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

impl OptionSpec {
    /// `--ping-interval`, without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// `MEGASOCK_PING_INTERVAL`.
    pub fn variable(&self) -> String {
        format!("MEGASOCK_{}", self.name.to_uppercase())
    }
}

/// Writes the struct, its defaults and the table from the same rows:
/// `"doc" key => field: type = "default" as KIND;`
macro_rules! options {
    ($($doc:literal $name:ident => $field:ident: $type:ty = $default:literal as $kind:ident;)+) => {
        /// The options, checked and in plain units.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $(#[doc = $doc] pub $field: $type,)+
            /// Settings of topics by the pattern of their names.
            pub namespaces: Namespaces,
        }

        /// Every option, in the order of the documentation.
        pub const OPTIONS: &[OptionSpec] = &[$(OptionSpec {
            name: stringify!($name),
            default: $default,
            value_name: value::$kind.name,
            written: value::$kind.written,
            doc: $doc,
            set: |config, text| {
                config.$field = (value::$kind.parse)(text)?;
                Ok(())
            },
        },)+];

        impl Default for Config {
            fn default() -> Config {
                Config {
                    $($field: (value::$kind.parse)($default).expect("defaults are checked by a test"),)+
                    namespaces: Namespaces::default(),
                }
            }
        }
    };
}

options! {
    "Address and port to listen on, IPv4 or IPv6."
    listen => listen: SocketAddr = "0.0.0.0:8080" as ADDRESS;

    "Reactors to run: one per core when auto, or as many as `max_connections` needs where a ring holds fewer."
    reactors => reactors: Option<usize> = "auto" as REACTORS;

    "Cores to pin reactors to: auto takes those of the affinity mask."
    cores => cores: Option<Vec<usize>> = "auto" as CORES;

    "Connections to carry; newcomers beyond get a 503. When auto, what the host permits."
    max_connections => max_connections: Option<u64> = "auto" as COUNT_OR_AUTO;

    "Largest message accepted, counted after joining fragments; a larger one closes with 1009."
    max_message_bytes => max_message_bytes: usize = "64KiB" as SIZE;

    "Most fragments one message may come in; more close with 1008."
    max_fragments => max_fragments: u32 = "4096" as COUNT;

    "Time between pings to a connection that sends nothing."
    ping_interval => ping_interval_ms: Option<u64> = "25s" as DURATION_OR_OFF;

    "Time a ping may stay unanswered before the connection is cut."
    pong_timeout => pong_timeout_ms: u64 = "10s" as DURATION;

    "Time without a message after which a connection is closed with 1001."
    idle_timeout => idle_timeout_ms: Option<u64> = "off" as DURATION_OR_OFF;

    "Time from accept within which the upgrade request must be complete."
    handshake_timeout => handshake_timeout_ms: u64 = "10s" as DURATION;

    "Time from a message's first byte within which its last must arrive."
    message_deadline => message_deadline_ms: u64 = "30s" as DURATION;

    "Time a closing connection has, whatever it still sends."
    close_timeout => close_timeout_ms: u64 = "5s" as DURATION;

    "Time all connections have to close after SIGTERM or SIGINT; a second signal ends at once."
    drain_timeout => drain_timeout_ms: u64 = "30s" as DURATION;

    "Bytes that may wait for a connection that does not read."
    send_queue_bytes_max => send_queue_bytes_max: usize = "1MiB" as SIZE;

    "Bytes that all connections which do not read may make the server hold. When auto, a quarter of the memory."
    slow_consumer_budget => slow_consumer_budget_bytes: Option<u64> = "auto" as MEMORY_OR_AUTO;

    "Channels and rooms one connection may be in."
    max_topics_per_connection => max_topics_per_connection: u32 = "128" as COUNT;

    "Bytes of history each core keeps, over all its topics."
    history_bytes_per_core => history_bytes_per_core: usize = "64MiB" as MEMORY;

    "Name of this server, as clients and metrics see it. When auto, the host's."
    server_id => server_id: Option<String> = "auto" as NAME_OR_AUTO;

    "Serve strangers: a name given as `?user=` is refused, for anyone could claim any."
    production => production: bool = "off" as SWITCH;

    "Serve the WebSocket echo at /echo."
    echo => echo: bool = "on" as SWITCH;

    "What to log: a level, or levels by target."
    log => log: String = "info" as LOG_FILTER;

    "How to write the log."
    log_format => log_format: LogFormat = "text" as LOG_FORMAT;
}
