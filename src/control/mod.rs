//! The control plane: one thread with the admin listener, apart from all cores.
//!
//! Everything slow is here: the scrape of the metrics, the API, the dashboard. The thread is an ordinary one, of lower priority
//! than the cores, and speaks to them as any other thread does, through a [`Handle`]: what it does to them is bounded, and
//! when it hangs no core notices.
//!
//! It runs monoio on epoll, not on a ring: a hardened process can make no further ring.

mod access;
mod answers;
#[doc(hidden)] // for fuzz/, like http
pub mod api;
mod audit;
mod gate;
#[doc(hidden)]
pub mod http;
mod metrics;
mod openapi;
mod page;
mod routes;
mod watch;

pub use access::Key;

use crate::config::Changes;
use crate::hub::Mail;
use crate::server::{Drain, Handle, listen_one};
use crate::sys::priority;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A tenth of a core's share where both want one: a scrape still comes while all cores are busy, and they hardly notice.
const NICENESS: i32 = 10;

/// What the admin listener shows and steers.
pub struct Operator {
    /// The server.
    pub handle: Handle<Mail>,
    /// What it was started with.
    pub settings: Settings,
    /// Stops the server, within this time or else that of its configuration.
    pub drain: Box<dyn Fn(Option<Duration>) -> Drain + Send + Sync>,
    /// Begins to read the configuration again, and does not wait for it.
    pub reload: Box<dyn Fn() -> Reloading + Send + Sync>,
    /// What did not get into the log.
    pub log: Arc<LogCounts>,
}

/// Counts what did not get into the log.
#[derive(Debug, Default)]
pub struct LogCounts {
    dropped: AtomicU64,
}

impl LogCounts {
    /// A line is not written: its reader is too slow.
    pub fn drop_line(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that were not written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Operator {
    /// What to ask for before anything is told or done. There is one always or never: which one may change.
    fn key(&self) -> Option<Key> {
        self.handle.configured(|config| config.admin_key.clone())
    }

    /// Bytes that slow consumers may make the server hold now.
    fn slow_budget_bytes(&self) -> u64 {
        let configured = self.handle.configured(|config| config.slow_consumer_budget_bytes);
        configured.unwrap_or(self.settings.slow_budget_bytes)
    }

    /// The largest message that clients may send, and the API.
    fn max_message_bytes(&self) -> usize {
        self.handle.configured(|config| config.max_message_bytes)
    }

    /// Metrics are served under their other names too.
    fn metric_aliases(&self) -> bool {
        self.handle.configured(|config| config.metric_aliases)
    }
}

/// Settings of a server that the control plane shows or goes by, and that do not change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of the server.
    pub server_id: String,
    /// Connections it may carry.
    pub max_connections: u64,
    /// Bytes that slow consumers may make it hold, where the configuration does not say.
    pub slow_budget_bytes: u64,
}

/// Why a changed configuration is not in force, or not everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadError {
    /// It is not valid. Nothing has changed.
    Config(String),
    /// It is in force, but for cores that have not got to it yet.
    Late(String),
}

/// What will become of it. Closed without a word if it was not even read.
pub type Reloading = oneshot::Receiver<Result<Changes, ReloadError>>;

/// The admin listener's socket. Taken before the process is hardened: its port may need a privilege.
///
/// # Errors
/// As bind(2). With `replaces` it may be beside another server's.
pub fn listen(address: SocketAddr, replaces: bool) -> io::Result<TcpListener> {
    listen_one(address, replaces)
}

/// Starts the control thread.
///
/// # Errors
/// The thread, or its epoll, cannot be made.
pub fn start(listener: TcpListener, operator: Operator) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let (say_ready, ready) = oneshot::channel();
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        // Before anything else: whatever floods this port, the cores come first.
        if let Err(error) = priority::lower(NICENESS) {
            tracing::warn!(%error, "the control thread runs with the priority of a core");
        }
        let runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build();
        match runtime {
            Err(error) => drop(say_ready.send(Err(error))),
            Ok(mut runtime) => {
                let _ = say_ready.send(Ok(()));
                runtime.block_on(run(listener, operator));
            }
        }
    })?;
    ready.recv().unwrap_or_else(|_| Err(io::Error::other("the control thread ended")))
}

async fn run(listener: TcpListener, operator: Operator) {
    let operator = Rc::new(operator);
    let watch = Rc::new(watch::Watch::new(Rc::clone(&operator)));
    let watching = Rc::clone(&watch);
    monoio::spawn(async move { watching.run().await });
    let served = match answers::Answers::listen() {
        Ok(answers) => {
            let routes = Rc::new(routes::Routes::new(operator, watch, answers));
            http::serve(listener, routes, http::Limits::DEFAULT).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener has ended");
    }
}
