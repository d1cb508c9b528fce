//! The options of the server: one table, from which everything else about them comes.
//!
//! The struct [`Config`], the keys of the TOML file, the `MEGASOCK_*` variables, the `--kebab-case` flags, `--help` and
//! `docs/config.md` are all made from [`OPTIONS`]. A flag wins over a variable, a variable over the file, the file over
//! the default. Every mistake in all of them is found before any is reported, each with where it came from and what to
//! write instead.
//!
//! Settings of topics and of keys have tables of their own, [`NAMESPACE_OPTIONS`] and [`KEY_OPTIONS`], whose rows stand in
//! the TOML file alone, below the pattern of the topics or the name of the key they are for.
//!
//! Nothing here looks at the host or starts anything; lower layers never see a `Config`, each takes its own small
//! struct.

mod admin;
mod document;
mod error;
mod key;
mod live;
mod load;
mod namespace;
mod production;
mod rows;
mod value;

pub use document::markdown;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use key::{KEY_OPTIONS, KeyFile};
pub use live::Changes;
pub(crate) use load::nearest;
pub use load::{KeyFiles, Sources, duration_ms, file_only, option_named, suggestion};
pub use namespace::NAMESPACE_OPTIONS;
pub use rows::Row;
pub use value::LogFormat;

use crate::control::Key;
use crate::hub::Namespaces;
use crate::hub::token::Keys;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// What a change of it needs, see [`Config::adopt`].
    pub needs: Needs,
    set: fn(&mut Config, &str) -> Result<(), String>,
    is_same: fn(&Config, &Config) -> bool,
    copy: fn(&mut Config, &Config),
}

/// How an option of a running server is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// By a reload.
    Reload,
    /// From one value to another by a reload; where there was none, or is to be none, by a restart.
    ReloadOnceSet,
    /// By a restart.
    Restart,
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
/// `"doc" key => field: type = "default" as KIND, live;`, or `restart` where it cannot change while a server runs, or
/// `live_once_set` where only its value can.
macro_rules! options {
    ($($doc:literal $name:ident => $field:ident: $type:ty = $default:literal as $kind:ident, $change:ident;)+) => {
        /// The options, checked and in plain units.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $(#[doc = $doc] pub $field: $type,)+
            /// Settings of topics by the pattern of their names.
            pub namespaces: Namespaces,
            /// What tokens are verified with. [`Config::load`] tells them `token_issuer` and `token_audience`; who makes
            /// a `Config` in another way calls [`Keys::require`].
            pub keys: Keys,
            /// What is in `admin_key_file`.
            pub admin_key: Option<Key>,
        }

        /// Every option, in the order of the documentation.
        pub const OPTIONS: &[OptionSpec] = &[$(OptionSpec {
            name: stringify!($name),
            default: $default,
            value_name: value::$kind.name,
            written: value::$kind.written,
            doc: $doc,
            needs: options!(@ $change),
            set: |config, text| {
                config.$field = (value::$kind.parse)(text)?;
                Ok(())
            },
            is_same: |one, other| one.$field == other.$field,
            copy: |config, other| config.$field = other.$field.clone(),
        },)+];

        impl Default for Config {
            fn default() -> Config {
                Config {
                    $($field: (value::$kind.parse)($default).expect("defaults are checked by a test"),)+
                    namespaces: Namespaces::default(),
                    keys: Keys::default(),
                    admin_key: None,
                }
            }
        }
    };
    (@ live) => { Needs::Reload };
    (@ live_once_set) => { Needs::ReloadOnceSet };
    (@ restart) => { Needs::Restart };
}

options! {
    "Address and port to listen on, IPv4 or IPv6."
    listen => listen: SocketAddr = "0.0.0.0:8080" as ADDRESS, restart;

    "Address and port of the admin listener: metrics, dashboard, API. Off the loopback it needs `admin_key_file`."
    admin_listen => admin_listen: Option<SocketAddr> = "127.0.0.1:9090" as ADDRESS_OR_OFF, restart;

    "File with the key that the admin listener asks for, as `Authorization: Bearer KEY`: at least 32 bytes on one line."
    admin_key_file => admin_key_file: Option<PathBuf> = "none" as FILE_OR_NONE, live_once_set;

    "Serve metrics under other names in common use too: ws_connections_current, ws_active_connections, ws_messages_total."
    metric_aliases => metric_aliases: bool = "off" as SWITCH, live;

    "Reactors to run: one per core when auto, or as many as `max_connections` needs where a ring holds fewer."
    reactors => reactors: Option<usize> = "auto" as REACTORS, restart;

    "Cores to pin reactors to: auto takes those of the affinity mask."
    cores => cores: Option<Vec<usize>> = "auto" as CORES, restart;

    "Connections to carry; newcomers beyond get a 503. When auto, what the host permits."
    max_connections => max_connections: Option<u64> = "auto" as COUNT_OR_AUTO, restart;

    "Largest message accepted, counted after joining fragments; a larger one closes with 1009."
    max_message_bytes => max_message_bytes: usize = "64KiB" as SIZE, live;

    "Most fragments one message may come in; more close with 1008."
    max_fragments => max_fragments: u32 = "4096" as COUNT, live;

    "Time between pings to a connection that sends nothing."
    ping_interval => ping_interval_ms: Option<u64> = "25s" as DURATION_OR_OFF, live;

    "Time a ping may stay unanswered before the connection is cut."
    pong_timeout => pong_timeout_ms: u64 = "10s" as DURATION, live;

    "Time without a message after which a connection is closed with 1001."
    idle_timeout => idle_timeout_ms: Option<u64> = "off" as DURATION_OR_OFF, live;

    "Time from accept within which the upgrade request must be complete."
    handshake_timeout => handshake_timeout_ms: u64 = "10s" as DURATION, live;

    "Time from a message's first byte within which its last must arrive."
    message_deadline => message_deadline_ms: u64 = "30s" as DURATION, live;

    "Time a closing connection has, whatever it still sends."
    close_timeout => close_timeout_ms: u64 = "5s" as DURATION, live;

    "Time all connections have to close after SIGTERM or SIGINT; a second signal ends at once."
    drain_timeout => drain_timeout_ms: u64 = "30s" as DURATION, live;

    "Bytes that may wait for a connection that does not read."
    send_queue_bytes_max => send_queue_bytes_max: usize = "1MiB" as SIZE, live;

    "Bytes that all connections which do not read may make the server hold. When auto, a quarter of the memory."
    slow_consumer_budget => slow_consumer_budget_bytes: Option<u64> = "auto" as MEMORY_OR_AUTO, live;

    "Channels and rooms one connection may be in."
    max_topics_per_connection => max_topics_per_connection: u32 = "128" as COUNT, live;

    "Bytes of history each core keeps, over all its topics."
    history_bytes_per_core => history_bytes_per_core: usize = "64MiB" as MEMORY, live;

    "Name of this server, as clients and metrics see it. When auto, the host's."
    server_id => server_id: Option<String> = "auto" as NAME_OR_AUTO, restart;

    "Serve strangers: a name given as `?user=` is refused, for anyone could claim any; keys, origins and limits must be set, and \
     the limits on addresses and rates hold."
    production => production: bool = "off" as SWITCH, restart;

    "Let clients without a token in where there are keys; without keys there is nobody else."
    anonymous => anonymous: bool = "off" as SWITCH, live;

    "The issuer (`iss`) a token must name."
    token_issuer => token_issuer: Option<String> = "any" as TEXT_OR_ANY, live;

    "The audience (`aud`) a token must name."
    token_audience => token_audience: Option<String> = "any" as TEXT_OR_ANY, live;

    "Pages that may connect, by their origin; a client that sends none is no browser and is let through."
    origins => origins: Option<Vec<String>> = "any" as ORIGINS, live;

    "Proxies in front of this server: their word on who the client is is believed, from X-Forwarded-For or a PROXY header."
    trusted_proxies => trusted_proxies: Vec<IpNet> = "none" as NETWORKS, live;

    "Trusted proxies begin each connection with a PROXY header, version 1 or 2."
    proxy_protocol => proxy_protocol: bool = "off" as SWITCH, live;

    "Accept what would be refused with 401, 429 or 503, say why in a frame and close with 4001 or 1013: a browser can read that. \
     Not on /echo."
    refuse_in_band => refuse_in_band: bool = "off" as SWITCH, live;

    "Connections of one address, or of one IPv6 network of 64 bits; in production, not on /echo."
    max_connections_per_address => max_connections_per_address: Option<u32> = "200" as COUNT_OR_OFF, live;

    "Connections of one user; in production."
    max_connections_per_user => max_connections_per_user: Option<u32> = "16" as COUNT_OR_OFF, live;

    "New connections of one address; in production, not on /echo. Two seconds' worth may come at once."
    accept_rate_per_address => accept_rate_per_address: Option<u32> = "20/s" as RATE_OR_OFF, live;

    "New connections of all together; in production, not on /echo."
    accept_rate => accept_rate: Option<u32> = "10000/s" as RATE_OR_OFF, live;

    "Messages and pings from one connection; in production, not on /echo. Two seconds' worth may come at once."
    message_rate => message_rate: Option<u32> = "50/s" as RATE_OR_OFF, live;

    "Bytes from one connection; in production, not on /echo. Two seconds' worth may come at once."
    byte_rate => byte_rate: Option<u32> = "1MiB/s" as BYTE_RATE_OR_OFF, live;

    "Memory the server and its sockets may take: near it newcomers get a 503, beyond it idle connections are closed, then slow \
     ones. When auto, what the host or the control group has."
    memory_budget => memory_budget_bytes: Option<u64> = "auto" as MEMORY_OR_AUTO, live;

    "Connections a second that a drain asks to come back: each client is told its own delay."
    reconnect_rate => reconnect_rate: u32 = "2000/s" as RATE, live;

    "Time a restart takes: where no other process takes over the address, a drain asks clients to come back so long after the end. \
     When off, each soon after its own Close: for servers that have others beside them."
    restart_time => restart_time_ms: Option<u64> = "2s" as DURATION_OR_OFF, live;

    "Give up privileges before serving: capabilities, new ones by exec, and system calls a server does not make."
    harden => harden: bool = "on" as SWITCH, restart;

    "Start beside a running server on the same address, to replace it: needs net.ipv4.tcp_migrate_req=1."
    replace => replace: bool = "off" as SWITCH, restart;

    "Serve the WebSocket echo at /echo. When auto, outside production."
    echo => echo: Option<bool> = "auto" as SWITCH_OR_AUTO, live;

    "What to log: a level, or levels by target."
    log => log: String = "info" as LOG_FILTER, live;

    "Lines a second of each kind (ws.connect, ws.disconnect, ws.error, ws.slow_consumer) that tell of connections; what is left \
     out is counted."
    log_events => log_events_per_second: Option<u32> = "100/s" as EVENTS, live;

    "How to write the log."
    log_format => log_format: LogFormat = "text" as LOG_FORMAT, restart;
}
