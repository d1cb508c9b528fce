//! The server this program starts: a child process that ends with it.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Time a server may take to answer `GET /health`.
const START_MAX: Duration = Duration::from_secs(20);
/// Time it may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(20);
/// What it prints once it does.
const LISTENING: &str = " listening on ";
const POLL: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) port: u16,
    /// Of its admin listener.
    pub(crate) admin_port: u16,
    pub(crate) reactors: usize,
    pub(crate) connections: u64,
    pub(crate) cores: String,
    pub(crate) args: Vec<String>,
    /// Longest message of the run.
    pub(crate) message_bytes: usize,
    pub(crate) log: PathBuf,
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    /// As it was started, on the port it has.
    pub(crate) launch: Launch,
}

impl Launch {
    fn spawn(&self, further: &[&str]) -> Result<Child, String> {
        let log = File::create(&self.log).map_err(|error| format!("{}: {error}", self.log.display()))?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--listen", &format!("0.0.0.0:{}", self.port), "--cores", &self.cores]);
        command.args(["--admin-listen", &self.admin().to_string()]);
        command.args(["--reactors", &self.reactors.to_string()]);
        command.args(["--max-connections", &self.connections.to_string()]);
        if self.message_bytes > 65_536 {
            command.args(["--max-message-bytes", &self.message_bytes.to_string()]);
        }
        command
            .args(&self.args)
            .args(further)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            // Ctrl-C is for the driver: a server that stopped at it would look like a million lost connections.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))
    }

    /// Where its admin listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.admin_port))
    }

    /// A value among the arguments, written as `--name=value` or as two.
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
        let after = self.args.iter().zip(self.args.iter().skip(1).map(Some).chain([None]));
        let values = after.filter_map(|(arg, next)| match arg.strip_prefix(name)? {
            "" => next.map(String::as_str),
            rest => rest.strip_prefix('='),
        });
        values.last()
    }
}

impl Server {
    /// Starts it on the first free port from the one given, and waits until it answers.
    pub(crate) fn start(mut launch: Launch) -> Result<Server, String> {
        launch.port = free_port(launch.port)?;
        launch.admin_port = free_port(launch.admin_port)?;
        let mut server = Server { child: launch.spawn(&[])?, launch };
        server.await_sign(|server| healthy(server.launch.port), "answer GET /health")?;
        Ok(server)
    }

    /// Starts another on the same port, to replace this one. Its word counts, not an answer: that could be this one's.
    pub(crate) fn start_beside(&self) -> Result<Server, String> {
        let launch = Launch { log: self.launch.log.with_file_name("server-2.log"), ..self.launch.clone() };
        let mut server = Server { child: launch.spawn(&["--replace", "on"])?, launch };
        server.await_sign(|server| server.said().contains(LISTENING), "say that it listens")?;
        Ok(server)
    }

    fn await_sign(&mut self, sign: impl Fn(&Server) -> bool, what: &str) -> Result<(), String> {
        let started = Instant::now();
        let why = loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                break format!("ended at once ({status})");
            }
            if sign(self) {
                return Ok(());
            }
            if started.elapsed() > START_MAX {
                break format!("did not {what} within {} s", START_MAX.as_secs());
            }
            std::thread::sleep(POLL);
        };
        Err(format!("the server {why}; it said:\n{}", self.said().trim()))
    }

    /// All it printed so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.launch.log).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still there.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.alive()) {
            // It may end between the look and the signal; then there is nothing to do.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Server {
    /// SIGTERM, and SIGKILL for one that does not end.
    fn drop(&mut self) {
        self.terminate();
        let asked = Instant::now();
        while self.alive() && asked.elapsed() < STOP_MAX {
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server built beside this program.
pub(crate) fn beside_this_program() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("megasock");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is missing: run `cargo build --release`, or name one with --server", program.display()))
}

/// The first free port from `first` on: below the ephemeral range, or the driver's own connects could take it.
fn free_port(first: u16) -> Result<u16, String> {
    (first..first.saturating_add(100))
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .ok_or_else(|| format!("no free port from {first} on; choose another with --port"))
}

fn healthy(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(args: &[&str]) -> Launch {
        Launch {
            program: "/bin/false".into(),
            port: 9700,
            admin_port: 9800,
            reactors: 1,
            connections: 1,
            cores: "0".into(),
            message_bytes: 64,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            log: std::env::temp_dir().join(format!("c1m-server-{}.log", std::process::id())),
        }
    }

    #[test]
    fn a_server_that_cannot_start_is_quoted() {
        let launch = launch(&[]);
        let log = launch.log.clone();
        assert!(Server::start(launch).err().unwrap().contains("ended at once"));
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn an_argument_is_found_either_way_and_the_last_one_counts() {
        let launch =
            launch(&["--accept-rate=5/s", "--origins", "a", "--accept-rates", "x", "--accept-rate", "7/s"]);
        assert_eq!(launch.argument("--accept-rate"), Some("7/s"));
        assert_eq!(launch.argument("--origins"), Some("a"));
        assert_eq!((launch.argument("--origin"), launch.argument("--replace")), (None, None));
    }
}
