//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Opens WebSocket connections up to what this host can carry, measures, and writes report.json and report.html.
///
/// Without a row: start the release server on this host, ramp to the most it can carry (at most 1,000,000), let every
/// connection echo, hold, measure echo latency at a rate, count again.
#[derive(Parser)]
#[command(name = "c1m", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) row: Option<Row>,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// One measurement alone.
#[derive(Subcommand, Clone, PartialEq)]
pub(crate) enum Row {
    /// Memory per idle connection, as the slope between a quarter of the connections and all of them
    Idle,
    /// Upgrades per second and server CPU for each
    Ramp,
    /// Closed-loop echo for CPU per message, then open-loop echo for latency
    Echo,
    /// Closed-loop echo with several messages in flight on each connection
    Pipeline,
    /// Hold with pings, then open-loop echo on random connections
    Alive,
    /// Cut every connection and reconnect it
    Storm(Storm),
    /// Replace the server by another on the same port while its clients are connected and newcomers keep coming
    Drain(Drain),
    /// Attackers beside honest echo clients: what these notice, and the server's memory
    Attack(Attack),
    /// Scrapes and publications through the admin listener while clients echo: how long its answers take
    Watch,
    /// Garbage on the admin listener beside echo clients, against the same on another process's
    Flood(Flood),
    /// One publishes to all, to a tenth of the connections and to all of them: CPU per delivery, time to the last
    Fanout,
    /// Publications while one subscriber in a hundred never reads: what the others and the server's memory notice
    Slow,
    /// A third of the subscribers cut at random and back, over and over, while one publishes
    Churn,
    /// Compare servers that take turns in short windows
    Turns(Turns),
}

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Connections to open [default: what the host carries, at most 1,000,000; 200,000 for idle, ramp and storm; 100,000
    /// for storm --schedule, drain and watch; 10,000 for fanout and slow; 3,000 for churn; 1,000 for attack and flood; 300 for echo,
    /// pipeline and turns]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) connections: Option<u64>,
    /// Measure a running server instead of starting one (ws://HOST:PORT/PATH, the path as in --path). For fanout, slow
    /// and churn a path that is not /ws is a server that sends what one client says to all
    #[arg(long, global = true)]
    pub(crate) url: Option<String>,
    /// Source addresses, used in turn
    #[arg(long, global = true, value_delimiter = ',', value_name = "A,B,…")]
    pub(crate) sources: Vec<IpAddr>,
    /// Most connections to open a second [default: as fast as it goes]
    #[arg(long, global = true, value_name = "R")]
    pub(crate) rate: Option<f64>,
    /// Handshakes in flight, all rings together
    #[arg(long, global = true, default_value_t = 512, value_name = "N")]
    pub(crate) in_flight: u32,
    /// How long to hold the connections with nothing but pings
    #[arg(long, global = true, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) hold: Duration,
    /// Open-loop echoes a second over all connections [default: 20,000; half of what the closed loop reached for the
    /// echo row; 2,000 for attack, watch and flood]
    #[arg(long, global = true, value_name = "R")]
    pub(crate) echo_rate: Option<f64>,
    /// How long each load runs
    #[arg(long, global = true, default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) load: Duration,
    /// Bytes of a message [default: 64; 1,024 for slow]
    #[arg(long, global = true, value_name = "BYTES")]
    pub(crate) payload: Option<usize>,
    /// Messages in flight on each connection of a closed loop [default: 1; 16 for pipeline]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) depth: Option<u32>,
    /// Publications on their way at once in a closed loop: the next begins when every subscriber has received one
    #[arg(long, global = true, default_value_t = 1, value_name = "N")]
    pub(crate) outstanding: u32,
    /// Publications a second of slow and churn [default: 10 and 20]
    #[arg(long, global = true, value_name = "R")]
    pub(crate) publish_rate: Option<f64>,
    /// Directory for report.json, report.html and server.log
    #[arg(long, global = true, default_value = "target/c1m", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The server to start [default: megasock beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) server: Option<PathBuf>,
    /// A further argument for the server it starts; may be given again
    #[arg(long = "server-arg", global = true, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) server_args: Vec<String>,
    /// The server it starts is on its guard: production mode with a key made for this run, whose token every connection
    /// sends, and other limits than those of one address as they come (--server-arg changes them)
    #[arg(long, global = true, conflicts_with = "url")]
    pub(crate) production: bool,
    /// A file with the token every connection sends, as Authorization: Bearer
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "production")]
    pub(crate) token_file: Option<PathBuf>,
    /// Path at the server it starts, {n} standing for the connection's number. /ws speaks the channel protocol, each
    /// connection subscribed to one channel; any other path is an echo
    /// [default: /ws?user=u{n} without a row and for alive, fanout, slow and churn; /ws for storm --schedule, drain and watch;
    /// /echo for the others]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Port of the server it starts
    #[arg(long, global = true, default_value_t = 9700)]
    pub(crate) port: u16,
    /// Reactors of the server it starts [default: as many as the limits ask for]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) reactors: Option<usize>,
    /// Cores of server and driver on this host
    #[arg(long, global = true, value_enum, default_value_t = Pin::Auto)]
    pub(crate) pin: Pin,
}

impl Options {
    /// Bytes of a message.
    pub(crate) fn payload(&self) -> usize {
        self.payload.unwrap_or(PAYLOAD_BYTES)
    }
}

/// Bytes of a message where neither a row nor the command line says otherwise.
const PAYLOAD_BYTES: usize = 64;

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pin {
    /// Split for echo, pipeline, fanout, slow, churn, storm --schedule, drain, attack, watch and flood, share otherwise
    Auto,
    /// The first half of the cores for the server, the second half for the driver
    Split,
    /// Both use every core
    Share,
}

#[derive(Args, Clone, PartialEq)]
pub(crate) struct Storm {
    /// Each client comes back by itself as the JS client does, instead of all as fast as it goes: after the cut within 1 s,
    /// after the n-th failure in a row within min(30 s, 1 s x 2^n), after a hint of the server exactly when it says. A client
    /// refused without Retry-After or a hint fails the run
    #[arg(long)]
    pub(crate) schedule: bool,
}

#[derive(Args, Clone, PartialEq)]
pub(crate) struct Drain {
    /// Handshakes a second that keep coming all along; one refused fails the run
    #[arg(long, default_value_t = 200.0, value_name = "R")]
    pub(crate) newcomers: f64,
}

#[derive(Args, Clone, PartialEq)]
pub(crate) struct Attack {
    /// Kinds of attack, one after another
    #[arg(long = "kind", value_enum, value_delimiter = ',', default_values_t = AttackKind::ALL)]
    pub(crate) kinds: Vec<AttackKind>,
    /// Attackers of each kind at once
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) attackers: u32,
    /// Turns of the honest alone and beside each kind, each as long as --load says
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
}

#[derive(Args, Clone, PartialEq)]
pub(crate) struct Flood {
    /// Connections that send garbage
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub(crate) garbage: u32,
    /// Turns of each of the two listeners, each as long as --load says
    #[arg(long, default_value_t = 7, value_name = "N")]
    pub(crate) rounds: u32,
}

/// What attackers do.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AttackKind {
    /// 100 connections each, every one sending its request's head a byte a second
    SlowHead,
    /// Pings as fast as they are taken; every other attacker reads no pong
    PingFlood,
    /// Messages in fragments of one byte
    Fragments,
    /// 10 connections each that ask for 2 MiB of echo and never read, with the smallest window
    NeverRead,
    /// Subscribe and unsubscribe on /ws, one new name after another
    SubscribeChurn,
    /// Connect, upgrade, reset
    ConnectionChurn,
}

impl AttackKind {
    pub(crate) const ALL: [AttackKind; 6] = [
        AttackKind::SlowHead,
        AttackKind::PingFlood,
        AttackKind::Fragments,
        AttackKind::NeverRead,
        AttackKind::SubscribeChurn,
        AttackKind::ConnectionChurn,
    ];
}

#[derive(Args, Clone, PartialEq)]
pub(crate) struct Turns {
    /// A running server: NAME=PID@ws://HOST:PORT/PATH, or tcp:// for a server that echoes bytes; the first is what the
    /// others are compared with. For fanout a server sends what one client says to all; at a path of /ws it is spoken to
    /// in megasock's channel protocol
    #[arg(long = "target", required = true, value_name = "NAME=PID@URL")]
    pub(crate) targets: Vec<String>,
    /// What is compared
    #[arg(long = "row", value_enum, default_value_t = TurnsRow::Echo)]
    pub(crate) compare: TurnsRow,
    /// Length of a turn
    #[arg(long, default_value = "250ms", value_parser = humantime::parse_duration)]
    pub(crate) window: Duration,
    /// Turns of each server
    #[arg(long, default_value_t = 24, value_name = "N")]
    pub(crate) rounds: u32,
    /// First turns that are not counted
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) warmup: u32,
    /// Core of the driver [default: the last]
    #[arg(long, value_name = "CORE")]
    pub(crate) driver_core: Option<usize>,
    /// Where to write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TurnsRow {
    /// Closed-loop echo: server CPU per message
    Echo,
    /// One publishes to all on one topic: server CPU per delivery
    Fanout,
    /// Upgrades in slices: server CPU for each
    Ramp,
    /// Resident memory per idle connection
    Idle,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["c1m", "alive", "--connections", "10", "--hold", "5s"]);
        assert!(cli.row == Some(Row::Alive));
        assert_eq!((cli.options.connections, cli.options.hold), (Some(10), Duration::from_secs(5)));
    }
}
