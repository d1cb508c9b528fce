//! The server this program starts: a child process that ends with it.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time a server may take to answer `GET /health`.
const START_MAX: Duration = Duration::from_secs(20);
/// Time it may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What to start.
pub(crate) struct Launch<'a> {
    pub(crate) program: Option<&'a Path>,
    pub(crate) port: u16,
    pub(crate) reactors: usize,
    pub(crate) connections: u64,
    pub(crate) cores: &'a str,
    pub(crate) args: &'a [String],
    /// Longest message of the run.
    pub(crate) message_bytes: usize,
    pub(crate) log: &'a Path,
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Starts it and waits until it answers.
    pub(crate) fn start(launch: &Launch) -> Result<Server, String> {
        let program = launch.program.map_or_else(beside_this_program, |path| Ok(path.to_owned()))?;
        let port = free_port(launch.port)?;
        let log = File::create(launch.log).map_err(|error| format!("{}: {error}", launch.log.display()))?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", &format!("0.0.0.0:{port}"), "--cores", launch.cores]);
        command.args(["--reactors", &launch.reactors.to_string()]);
        command.args(["--max-connections", &launch.connections.to_string()]);
        if launch.message_bytes > 65_536 {
            command.args(["--max-message-bytes", &launch.message_bytes.to_string()]);
        }
        command.args(launch.args);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            // Ctrl-C is for the driver: a server that stopped at it would look like a million lost connections.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut server = Server { child, port };
        server.await_health().map_err(|why| {
            let said = std::fs::read_to_string(launch.log).unwrap_or_default();
            format!("the server {why}; it said:\n{}", said.trim())
        })?;
        Ok(server)
    }

    fn await_health(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while started.elapsed() < START_MAX {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("ended at once ({status})"));
            }
            if healthy(self.port) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(format!("did not answer GET /health within {} s", START_MAX.as_secs()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still there.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    /// SIGTERM, and SIGKILL for one that does not end.
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.alive()) {
            // It may end between the look and the signal; then there is nothing to do.
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = Instant::now();
        while self.alive() && asked.elapsed() < STOP_MAX {
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn beside_this_program() -> Result<PathBuf, String> {
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

    #[test]
    fn a_server_that_cannot_start_is_quoted() {
        let log = std::env::temp_dir().join(format!("c1m-server-{}.log", std::process::id()));
        let launch = Launch {
            program: Some(Path::new("/bin/false")),
            port: 9700,
            reactors: 1,
            connections: 1,
            cores: "0",
            message_bytes: 64,
            args: &[],
            log: &log,
        };
        assert!(Server::start(&launch).err().unwrap().contains("ended at once"));
        std::fs::remove_file(log).unwrap();
    }
}
