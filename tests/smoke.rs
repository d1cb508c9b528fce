//! Fifteen thousand connections with churn: nobody is lost, and at the end nothing is held.
//!
//! What is held comes from the server's own closing line, counted by the code that hands out slots and buffers; what
//! the kernel holds for it is read from /proc.

mod common;

use common::client::{Client, End};
use common::frames::{self, TEXT};
use common::server::Server;
use common::{PATIENCE, eventually, raise_descriptor_limit};

const CONNECTIONS: usize = 15_000;
const ROUNDS: usize = 3;
const THREADS: usize = 4;

/// How a client leaves.
#[derive(Clone, Copy)]
enum Leave {
    CloseFrame,
    Eof,
    Reset,
}

const LEAVES: [Leave; 3] = [Leave::CloseFrame, Leave::Eof, Leave::Reset];

#[test]
fn fifteen_thousand_connections_with_churn_leave_nothing_behind() {
    assert!(
        raise_descriptor_limit() > CONNECTIONS as u64 + 500,
        "the hard NOFILE limit is too low for this test"
    );
    // Distribution over the listeners is by hash, so each may get somewhat more than half.
    let server = Server::start_with_reactors(2, &["--max-connections", "18000", "--ping-interval", "120s"]);
    let descriptors = server.descriptors();

    let mut crews: Vec<Crew> = (0..THREADS).map(|n| Crew::new(n as u64)).collect();
    in_parallel(&mut crews, |crew| crew.open_to(CONNECTIONS / THREADS, &server));
    in_parallel(&mut crews, |crew| crew.echo_all("all inside"));
    for round in 0..ROUNDS {
        in_parallel(&mut crews, |crew| {
            crew.leave_third();
            crew.open_to(CONNECTIONS / THREADS, &server);
            crew.echo_all(&format!("after churn {round}"));
        });
    }
    let rss = server.rss_bytes();
    println!("{CONNECTIONS} connections: {} KiB resident", rss / 1024);
    in_parallel(&mut crews, Crew::leave_all);
    eventually("no socket is left", PATIENCE, || (established(server.address.port()) == 0).then_some(()));
    assert_eq!(server.descriptors(), descriptors);

    let summary = server.stop();
    assert!(!summary.held.is_empty(), "{summary:?}");
    assert!(summary.held.values().all(|held| *held == 0), "{summary:?}");
    let opened: usize = crews.iter().map(|crew| crew.opened).sum();
    assert_eq!(summary.closed.values().sum::<u64>(), opened as u64, "{summary:?}");
    let closed_by_frame: usize = crews.iter().map(|crew| crew.closed_by_frame).sum();
    assert_eq!(summary.closed("client_closed"), closed_by_frame as u64, "{summary:?}");
}

/// One thread's clients.
struct Crew {
    clients: Vec<Client>,
    /// State of a small generator: the same churn in every run.
    random: u64,
    opened: usize,
    closed_by_frame: usize,
}

impl Crew {
    fn new(seed: u64) -> Crew {
        Crew {
            clients: Vec::new(),
            random: 0x9E37_79B9_7F4A_7C15 ^ (seed + 1),
            opened: 0,
            closed_by_frame: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % bound as u64) as usize
    }

    fn open_to(&mut self, count: usize, server: &Server) {
        while self.clients.len() < count {
            self.clients.push(server.open());
            self.opened += 1;
        }
    }

    /// Everybody sends, then everybody receives: all connections are busy at once.
    fn echo_all(&mut self, words: &str) {
        for (n, client) in self.clients.iter_mut().enumerate() {
            client.send(&frames::text(&format!("{words} {n}")));
        }
        for (n, client) in self.clients.iter_mut().enumerate() {
            client.expect_echo(TEXT, format!("{words} {n}").as_bytes());
        }
    }

    /// A third, chosen at random, leaves in each of the ways.
    fn leave_third(&mut self) {
        for n in 0..self.clients.len() / 3 {
            let at = self.below(self.clients.len());
            let client = self.clients.swap_remove(at);
            self.leave(client, LEAVES[n % LEAVES.len()]);
        }
    }

    fn leave_all(&mut self) {
        while let Some(client) = self.clients.pop() {
            let how = LEAVES[self.below(LEAVES.len())];
            self.leave(client, how);
        }
    }

    fn leave(&mut self, mut client: Client, how: Leave) {
        match how {
            Leave::CloseFrame => {
                client.send(&frames::close(1000, b""));
                assert_eq!(client.close_frame().close_code(), Some(1000));
                client.ends_with(End::Eof);
                self.closed_by_frame += 1;
            }
            Leave::Eof => drop(client),
            Leave::Reset => client.reset(),
        }
    }
}

fn in_parallel(crews: &mut [Crew], work: impl Fn(&mut Crew) + Sync) {
    std::thread::scope(|scope| {
        for crew in crews {
            scope.spawn(|| work(crew));
        }
    });
}

/// Sockets of this machine with `port` at either end that are not in TIME_WAIT or listening.
fn established(port: u16) -> usize {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's socket table");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<_>>());
    rows.filter(|row| row[..2].iter().any(|end| end.ends_with(&suffix)))
        .filter(|row| row[2] != TIME_WAIT && row[2] != LISTEN)
        .count()
}
