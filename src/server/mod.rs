//! Composition: a server is put together from a configuration, a plan for this host, and one handler a core.

pub mod capacity;
mod front;
mod handle;

pub use front::Front;
pub use handle::Handle;

use crate::config::Config;
use crate::handler::Handler;
use crate::proto::message::Limits;
use crate::reactor::{Control, Counters, Mailbox, Options, Reactor, ticks};
use crate::sys::host::{self, HostFacts};
use crate::sys::probe::{self, Explanation, Needed};
use crate::sys::socket;
use crate::sys::uring::Uring;
use crate::sys::wake::Waker;
use capacity::{Plan, Wanted};
use crossbeam_channel::Sender;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Stack of a reactor thread. Pages not touched cost nothing, but sixty threads share the address space.
const STACK_BYTES: usize = 1 << 20;

/// Settings of a server, see [`Server::builder`].
#[derive(Debug, Clone, Default)]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// Takes all settings from a configuration.
    pub fn config(mut self, config: Config) -> Builder {
        self.config = config;
        self
    }

    /// The address to listen on; port 0 takes a free one. Default 0.0.0.0:8080.
    pub fn listen(mut self, address: SocketAddr) -> Builder {
        self.config.listen = address;
        self
    }

    /// Reactors to run. Default: one a core.
    pub fn reactors(mut self, reactors: usize) -> Builder {
        self.config.reactors = Some(reactors);
        self
    }

    /// Connections to carry; newcomers beyond get a 503. Default: what the host permits.
    pub fn max_connections(mut self, connections: u64) -> Builder {
        self.config.max_connections = Some(connections);
        self
    }

    /// Largest message accepted, in bytes. Default 64 KiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Builder {
        self.config.max_message_bytes = bytes;
        self
    }

    /// The application: `make(core)` is called once on each reactor's thread.
    pub fn handler<H, F>(self, make: F) -> Server<F>
    where
        H: Handler,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        Server { config: self.config, make }
    }
}

/// A server that is not running yet.
///
/// ```
/// use megasock::{Decision, Handler, Message, Outbox, Request, Server};
///
/// struct Echo;
/// impl Handler for Echo {
///     type Mail = ();
///     fn on_request(&mut self, _: &Request<'_>, _: &mut Outbox) -> Decision {
///         Decision::ACCEPT
///     }
///     fn on_message(&mut self, _: megasock::ConnId, message: Message<'_>, out: &mut Outbox) {
///         out.reply(message);
///     }
/// }
///
/// let server = Server::builder().listen("127.0.0.1:0".parse()?).max_connections(100).handler(|_core| Echo);
/// let running = server.start()?;
/// println!("listening on {}", running.handle().local_address());
/// running.handle().stop(std::time::Duration::from_secs(1));
/// running.wait();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server<F> {
    config: Config,
    make: F,
}

impl Server<()> {
    /// Default settings, to be changed before [`Builder::handler`].
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// Why a server did not start. The message holds the fix.
#[derive(Debug)]
pub enum StartError {
    /// The host cannot carry what was asked for.
    Capacity(capacity::Refusal),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// A ring could not be set up.
    Ring(Explanation),
    /// A thread or an eventfd could not be made.
    Resources(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Capacity(refusal) => refusal.fmt(f),
            StartError::Listen(address, error) => {
                let fix = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "stop what listens there, or choose another address with --listen"
                    }
                    io::ErrorKind::PermissionDenied => {
                        "ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher one with --listen"
                    }
                    _ => "choose an address of this host with --listen",
                };
                write!(f, "cannot listen on {address}: {error}\n  fix: {fix}")
            }
            StartError::Ring(explanation) => explanation.fmt(f),
            StartError::Resources(error) => {
                write!(
                    f,
                    "cannot make a reactor: {error}\n  fix: raise LimitNOFILE and TasksMax, or run fewer reactors"
                )
            }
        }
    }
}

impl std::error::Error for StartError {}

impl<H: Handler, F: Fn(usize) -> H + Send + Sync + 'static> Server<F> {
    /// Starts the reactors and returns once all of them accept connections.
    ///
    /// # Errors
    /// What keeps this host from running it, with the fix.
    pub fn start(self) -> Result<Running<H::Mail>, StartError>
    where
        H::Mail: 'static,
    {
        // A lower soft limit than allowed would only make the tables smaller.
        let _ = host::raise_nofile();
        let facts = HostFacts::read();
        let wanted = Wanted {
            reactors: self.config.reactors,
            cores: self.config.cores.clone(),
            max_connections: self.config.max_connections,
        };
        let plan = capacity::plan(&facts, &wanted).map_err(StartError::Capacity)?;
        let listeners = listen_all(self.config.listen, plan.reactors)?;
        let address =
            listeners[0].local_addr().map_err(|error| StartError::Listen(self.config.listen, error))?;
        let options = reactor_options(&self.config, &plan);
        let make = Arc::new(self.make);
        let mut starting = Vec::with_capacity(plan.reactors);
        for (index, listener) in listeners.into_iter().enumerate() {
            let core = Core { index, cpu: plan.cores[index], listener, options: options.clone() };
            starting.push(core.start(Arc::clone(&make)).map_err(StartError::Resources)?);
        }
        let mut cores = Vec::with_capacity(plan.reactors);
        let mut threads = Vec::with_capacity(plan.reactors);
        for Starting { ready, core, thread } in starting {
            let ready =
                ready.recv().unwrap_or_else(|_| Err(io::Error::other("a reactor ended as it started")));
            let needed = Needed::least(plan.reactors);
            ready.map_err(|error| StartError::Ring(probe::explain_setup_error(&error, &facts, needed)))?;
            cores.push(core);
            threads.push(thread);
        }
        Ok(Running { handle: Handle::new(address, cores), plan, threads })
    }
}

/// One listener a reactor, all on the same address.
fn listen_all(address: SocketAddr, reactors: usize) -> Result<Vec<TcpListener>, StartError> {
    let failed = |error| StartError::Listen(address, error);
    // Listeners of the same user may share an address by SO_REUSEPORT: a second server would silently take half of
    // the connections of the first. Binding once without it finds out.
    TcpListener::bind(address).map_err(failed)?;
    let first = socket::listen(address).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let others = (1..reactors).map(|_| socket::listen(bound).map_err(failed));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn reactor_options(config: &Config, plan: &Plan) -> Options {
    Options {
        connections_max: plan.connections_per_reactor,
        budget: plan.budget,
        limits: Limits { message_bytes_max: config.max_message_bytes, fragments_max: config.max_fragments },
        send_queue_bytes_max: config.send_queue_bytes_max,
        ping_interval_ticks: config.ping_interval_ms.map(ticks),
        pong_timeout_ticks: ticks(config.pong_timeout_ms),
        idle_timeout_ticks: config.idle_timeout_ms.map(ticks),
        handshake_timeout_ticks: ticks(config.handshake_timeout_ms),
        message_deadline_ticks: ticks(config.message_deadline_ms),
        close_timeout_ticks: ticks(config.close_timeout_ms),
    }
}

/// What one reactor thread starts from.
struct Core {
    index: usize,
    cpu: usize,
    listener: TcpListener,
    options: Options,
}

/// A reactor thread that has not said yet whether its ring works.
struct Starting<M> {
    ready: crossbeam_channel::Receiver<io::Result<()>>,
    core: handle::Core<M>,
    thread: JoinHandle<()>,
}

impl Core {
    fn start<H, F>(self, make: Arc<F>) -> io::Result<Starting<H::Mail>>
    where
        H: Handler,
        H::Mail: 'static,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        let waker = Waker::new()?;
        let (mail_sender, mail): (Sender<Control<H::Mail>>, _) = crossbeam_channel::unbounded();
        let (say_ready, ready) = crossbeam_channel::bounded(1);
        let counters = Arc::new(Counters::default());
        let core = handle::Core { mail: mail_sender, waker: waker.clone(), counters: Arc::clone(&counters) };
        let mailbox = Mailbox { mail, waker };
        let thread = thread::Builder::new()
            .name(format!("reactor-{}", self.index))
            .stack_size(STACK_BYTES)
            .spawn(move || self.run(&*make, mailbox, counters, &say_ready))?;
        Ok(Starting { ready, core, thread })
    }

    /// The reactor's thread. A panic or a lost ring leaves connections in an unknown state, so the process ends.
    fn run<H: Handler>(
        self,
        make: &impl Fn(usize) -> H,
        mailbox: Mailbox<H::Mail>,
        counters: Arc<Counters>,
        say_ready: &Sender<io::Result<()>>,
    ) {
        core_affinity::set_for_current(core_affinity::CoreId { id: self.cpu });
        let descriptors = self.options.budget.descriptors(self.options.connections_max);
        let ring =
            Uring::new(self.options.budget, descriptors, Some(self.listener), Some(mailbox.waker.clone()));
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => return drop(say_ready.send(Err(error))),
        };
        let _ = say_ready.send(Ok(()));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            Reactor::new(ring, make(self.index), self.options, mailbox, counters).run()
        }));
        let cause: Box<dyn fmt::Display> = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Box::new(error),
            Err(_) => Box::new("a panic, reported above"),
        };
        tracing::error!(reactor = self.index, "the reactor cannot go on: {cause}; the process ends");
        eprintln!("megasock: reactor {} cannot go on: {cause}; the process ends", self.index);
        std::process::abort();
    }
}

/// A running server. Dropping it leaves the reactors running.
pub struct Running<M> {
    handle: Handle<M>,
    plan: Plan,
    threads: Vec<JoinHandle<()>>,
}

impl<M> Running<M> {
    /// To talk to it from any thread.
    pub fn handle(&self) -> &Handle<M> {
        &self.handle
    }

    /// What it will carry, and what keeps it from carrying more.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Waits until it has stopped, see [`Handle::stop`].
    pub fn wait(self) {
        for thread in self.threads {
            // A reactor that fails aborts the process, so there is no error to pass on.
            let _ = thread.join();
        }
    }
}
