//! The real binary as a child process: started on a port of the kernel's choice, asked about over /proc, stopped by
//! signals, killed if a test panics.

use super::client::{Client, request};
use super::frames::{BINARY, TEXT, message};
use super::{PATIENCE, eventually};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running server.
pub(crate) struct Server {
    child: Child,
    /// Where its public listener is.
    pub(crate) address: SocketAddr,
    said: Said,
    readers: Vec<JoinHandle<()>>,
    /// Pages of its own code and libraries that were resident when it was last warm.
    warm_file_bytes: u64,
}

/// Every line the process printed, on either stream.
type Said = Arc<Mutex<Vec<String>>>;

/// What a server says at its end.
#[derive(Debug)]
pub(crate) struct Summary {
    /// Connections ended, by close reason.
    pub(crate) closed: BTreeMap<String, u64>,
    /// Slots, buffers and the like still held, by name.
    pub(crate) held: BTreeMap<String, u64>,
}

impl Summary {
    /// Connections that ended for this reason.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or(0)
    }
}

impl Server {
    /// Starts a server of one core with these flags besides, and waits until it listens.
    pub(crate) fn start(flags: &[&str]) -> Server {
        Server::start_with_reactors(1, flags)
    }

    /// Starts a server of `reactors` cores.
    pub(crate) fn start_with_reactors(reactors: usize, flags: &[&str]) -> Server {
        // scripts/test has the static binary tested, too.
        let binary = std::env::var_os("TESTED_SERVER").unwrap_or(env!("CARGO_BIN_EXE_megasock").into());
        let mut child = Command::new(binary)
            .args(["--listen", "127.0.0.1:0", "--reactors", &reactors.to_string()])
            .args(flags)
            .env("MEGASOCK_ADMIN_LISTEN", "127.0.0.1:0") // several servers at a time
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = Said::default();
        let readers = vec![
            read_lines(child.stdout.take().expect("piped"), Arc::clone(&said)),
            read_lines(child.stderr.take().expect("piped"), Arc::clone(&said)),
        ];
        let address = eventually("the server says where it listens", PATIENCE, || {
            let lines = said.lock().expect("a reader panicked");
            let ended = child.try_wait().expect("its own child");
            assert!(ended.is_none(), "the server ended at start ({ended:?}): {lines:#?}");
            lines.iter().find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                rest.split_whitespace().next()?.parse().ok()
            })
        });
        Server { child, address, said, readers, warm_file_bytes: 0 }
    }

    /// A connection past its opening handshake on /echo.
    pub(crate) fn open(&self) -> Client {
        Client::open(self.address)
    }

    /// A connection that speaks the channel protocol, past its welcome.
    pub(crate) fn open_channels(&self) -> Client {
        let mut client = Client::open_at(self.address, "/ws");
        let (opcode, welcome) = client.message();
        assert!(
            opcode == TEXT && welcome.starts_with(br#"{"type":"welcome","#),
            "{}",
            welcome.escape_ascii()
        );
        client
    }

    /// Still runs, and still serves both kinds of client.
    pub(crate) fn assert_serves(&mut self) {
        let ended = self.child.try_wait().expect("its own child");
        assert!(ended.is_none(), "the server ended ({ended:?}): {:#?}", self.lines());
        assert_eq!(request(self.address, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
        self.open().echo(TEXT, b"still here");
    }

    /// Resident memory, in bytes.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("the process lives");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field of status");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("kB");
        kib * 1024
    }

    /// Serves ordinary clients for a while, so that what a server in use holds on to is held, then says how much
    /// memory is resident: what an attack must not change for good.
    pub(crate) fn warm_rss_bytes(&mut self) -> u64 {
        let payload = [b'w'; 16 * 1024];
        let mut clients: Vec<Client> = (0..50).map(|_| self.open()).collect();
        for _ in 0..5 {
            clients.iter_mut().for_each(|client| client.send(&message(BINARY, &payload)));
            clients.iter_mut().for_each(|client| client.expect_echo(BINARY, &payload));
        }
        drop(clients);
        self.assert_serves();
        self.warm_file_bytes = self.status_bytes("RssFile:");
        self.rss_bytes()
    }

    /// Resident memory comes back to within 10 % of `before`. Code that a warm server had not run yet is no memory held.
    pub(crate) fn assert_rss_returns_to(&self, before: u64) {
        let deadline = Instant::now() + PATIENCE;
        let held = || {
            let newly_run = match self.warm_file_bytes {
                0 => 0,
                warm => self.status_bytes("RssFile:").saturating_sub(warm),
            };
            self.rss_bytes() - newly_run
        };
        while held() * 10 > before * 11 {
            let [now, before] = [held(), before].map(|bytes| bytes / 1024);
            assert!(
                Instant::now() < deadline,
                "{now} KiB resident, {before} KiB before: more than 10 % stayed"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ordinary descriptors the process holds.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).expect("the process lives").count()
    }

    /// CPU time used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(self.proc("stat")).expect("the process lives");
        // The name may hold spaces; what follows its closing parenthesis does not. utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The path of a file the kernel shows of it.
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    /// Sends the process a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let done =
            Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().expect("kill");
        assert!(done.success());
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let status = eventually("the server ends", within, || self.child.try_wait().expect("its own child"));
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader panicked");
        }
        status
    }

    /// SIGTERM, an exit with status 0, and what the server said about it.
    pub(crate) fn stop(mut self) -> Summary {
        self.signal("TERM");
        let status = self.wait(PATIENCE);
        assert!(status.success(), "{status}: {:#?}", self.lines());
        self.summary()
    }

    /// The closing lines `closed: reason=count …` and `held: name=count …`.
    pub(crate) fn summary(&self) -> Summary {
        Summary { closed: self.counts("closed: "), held: self.counts("held: ") }
    }

    fn counts(&self, prefix: &str) -> BTreeMap<String, u64> {
        let lines = self.lines();
        let line = lines
            .iter()
            .rev()
            .find_map(|line| line.split_once(prefix))
            .unwrap_or_else(|| panic!("{prefix}in {lines:#?}"));
        let pairs = line.1.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, count)| (name.to_owned(), count.parse().expect("a count"))).collect()
    }

    /// Everything the process printed so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.said.lock().expect("a reader panicked").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either may fail because the process has ended, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects the lines of one stream until it ends.
fn read_lines(stream: impl Read + Send + 'static, said: Said) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            said.lock().expect("a reader panicked").push(line);
        }
    })
}
