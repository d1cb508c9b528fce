//! Composition: a server is put together from a configuration, a plan for this host, and one handler a core.

pub mod capacity;
mod channels;
mod drain;
mod front;
mod handle;
mod journal;
mod listen;
mod look;
mod pressure;
mod seat;
mod tune;

pub use channels::{HistoryPage, Invalid, Pending, Unanswered, UserPage};
pub(crate) use channels::{auto_slow_budget_bytes, server_id};
pub use drain::{Drain, Stopping};
pub use front::Front;
pub use handle::Handle;
pub(crate) use listen::listen_one;
pub use look::{TopicPage, UserConnections};
pub use pressure::MemoryUse;
pub use tune::TuneError;

use crate::budget;
use crate::config::Config;
use crate::handler::Handler;
use crate::hub::Board;
use crate::proto::message::Limits;
use crate::reactor::{Mailbox, Mesh, Options, Proxies, Reactor, Shared, mesh, ticks};
use crate::sys::harden::{self, HardenError};
use crate::sys::host::{self, HostFacts};
use crate::sys::probe::{self, Explanation, Needed};
use crate::sys::uring::{Peers, PreparedRing, Uring};
use crate::sys::wake::Waker;
use capacity::{Plan, Wanted};
use crossbeam_channel::{Receiver, Sender};
use pressure::{MemoryWatch, Seen};
use seat::Seat;
use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tune::{InForce, MemoryBudget};

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
        Server { config: self.config, make, board: Arc::default() }
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
    /// What the hub counts; empty without one.
    board: Arc<Board>,
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
    /// Another server is on the address, but would not hand over what waits at its listeners.
    Replace(SocketAddr),
    /// A ring could not be set up.
    Ring(Explanation),
    /// A thread or an eventfd could not be made.
    Resources(io::Error),
    /// Privileges could not be given up.
    Harden(HardenError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Capacity(refusal) => refusal.fmt(f),
            StartError::Listen(address, error) => {
                let fix = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "stop what listens there, replace a megasock of the same user with --replace on, or choose another \
                         address with --listen"
                    }
                    io::ErrorKind::PermissionDenied => {
                        "ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher one with --listen"
                    }
                    _ => "choose an address of this host with --listen",
                };
                write!(f, "cannot listen on {address}: {error}\n  fix: {fix}")
            }
            StartError::Replace(address) => write!(
                f,
                "cannot replace the server on {address}: net.ipv4.tcp_migrate_req is 0, so who waits at its listeners would \
                 be reset\n  fix: sysctl -w net.ipv4.tcp_migrate_req=1 (scripts/tune does it for good)"
            ),
            StartError::Ring(explanation) => explanation.fmt(f),
            StartError::Resources(error) => {
                write!(
                    f,
                    "cannot make a reactor: {error}\n  fix: raise LimitNOFILE and TasksMax, or run fewer reactors"
                )
            }
            StartError::Harden(error) => error.fmt(f),
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
        self.launch(false)
    }

    /// As [`Server::start`], and gives up the privileges of this process, for good: [`harden::apply`], called when
    /// everything that needs them is made and before the first thread.
    ///
    /// # Errors
    /// As [`Server::start`]; where privileges cannot be given up, or another thread has been started.
    pub fn start_hardened(self) -> Result<Running<H::Mail>, StartError>
    where
        H::Mail: 'static,
    {
        self.launch(true)
    }

    fn launch(self, hardened: bool) -> Result<Running<H::Mail>, StartError>
    where
        H::Mail: 'static,
    {
        // Lower soft limits than allowed would only make tables and queues smaller.
        let _ = (host::raise_nofile(), host::raise_memlock());
        let facts = HostFacts::read();
        let plan = plan(&self.config, &facts, hardened)?;
        let (listeners, address) =
            listen::listen_all(self.config.listen, plan.reactors, self.config.replace)?;
        let rings = prepare_rings(&plan).map_err(|error| cannot_make_ring(&error, &facts, &plan))?;
        if hardened {
            harden::apply().map_err(StartError::Harden)?;
        }
        let memory = Arc::new(Seen::default());
        let (journal, events) = journal::journal();
        let shared = Shared {
            counters: Arc::default(),
            siblings: Arc::new(AtomicUsize::new(plan.reactors)),
            pressure: Arc::clone(&memory.gauge),
            journal: Some(journal),
        };
        let options = reactor_options(&self.config, &plan);
        let sockets = listeners.into_iter().zip(rings);
        let Started { cores, mut threads, failure: unstarted, ready, ended } =
            start_cores(self.make, &plan, &options, sockets, shared)?;

        let memory_budget = Arc::new(MemoryBudget::new(self.config.memory_budget_bytes));
        let counters: Vec<_> = cores.iter().map(|core| Arc::clone(&core.counters)).collect();
        let reader = journal::Reader { events, counters: counters.clone() };
        let watch =
            MemoryWatch { budget: Arc::clone(&memory_budget), counters, seen: Arc::clone(&memory), ended };
        let (watchers, unwatched) = start_watchers(watch, reader);
        threads.extend(watchers);

        let ringless = ready.iter().filter_map(Result::err).last();
        let ringless = ringless.map(|error| cannot_make_ring(&error, &facts, &plan));
        let in_force = InForce::new(self.config, plan.clone(), memory_budget);
        let handle = Handle::new(address, cores, in_force, self.board, memory);
        let running = Running { handle, plan, threads };
        match ringless.or(unwatched).or(unstarted) {
            None => Ok(running),
            Some(failure) => {
                running.handle.stop(Duration::ZERO);
                running.wait();
                Err(failure)
            }
        }
    }
}

/// What the server will carry on this host.
fn plan(config: &Config, facts: &HostFacts, hardened: bool) -> Result<Plan, StartError> {
    let facts = if hardened { facts.clone().hardened() } else { facts.clone() };
    // Planned from what the other one leaves over, it would be too small for good.
    let facts = if config.replace { facts.replacing() } else { facts };
    capacity::plan(&facts, &Wanted::of(config)).map_err(StartError::Capacity)
}

/// One ring a reactor, with smaller queues where the kernel has no memory for the planned ones, down to the budget's floor.
fn prepare_rings(plan: &Plan) -> io::Result<Vec<PreparedRing>> {
    let mut budget = plan.budget;
    let prepare = |&core: &usize| {
        loop {
            let descriptors = budget.descriptors(plan.connections_per_reactor);
            match (PreparedRing::on_core(core, budget, descriptors, Peers::Accepted), budget.halved()) {
                (Err(error), Some(half)) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    tracing::warn!(?half, "no memory for a ring: going on with smaller queues");
                    budget = half;
                }
                (ring, _) => return ring,
            }
        }
    };
    plan.cores.iter().map(prepare).collect()
}

fn cannot_make_ring(error: &io::Error, facts: &HostFacts, plan: &Plan) -> StartError {
    StartError::Ring(probe::explain_setup_error(error, facts, Needed::least(plan.reactors)))
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
        proxies: Proxies {
            trusted: config.trusted_proxies.as_slice().into(),
            send_header: config.proxy_protocol,
        },
        // Each core its share; what is not off is never rounded to it.
        events_per_second: config.log_events_per_second.map(|rate| rate.div_ceil(plan.reactors as u32)),
    }
}

/// Reactors that were started.
struct Started<M> {
    cores: Vec<handle::Core<M>>,
    threads: Vec<JoinHandle<()>>,
    /// Why there are fewer than planned.
    failure: Option<StartError>,
    /// Says which of them cannot have their rings; cut off once all others have theirs.
    ready: Receiver<io::Result<()>>,
    /// Nothing is ever sent; it is cut off when the last of them has ended.
    ended: Receiver<()>,
}

/// Starts one reactor for each listener and ring. They share what is in `shared`, but for the counters.
fn start_cores<H, F>(
    make: F,
    plan: &Plan,
    options: &Options,
    sockets: impl Iterator<Item = (TcpListener, PreparedRing)>,
    shared: Shared,
) -> Result<Started<H::Mail>, StartError>
where
    H: Handler,
    H::Mail: 'static,
    F: Fn(usize) -> H + Send + Sync + 'static,
{
    let make = Arc::new(make);
    let (alive, ended) = crossbeam_channel::bounded(0);
    let (say_ready, ready) = crossbeam_channel::unbounded();
    let wakers: Result<Vec<Waker>, _> = (0..plan.reactors).map(|_| Waker::new()).collect();
    let wakers = wakers.map_err(StartError::Resources)?;
    let ends = mesh(&wakers, budget::mesh_ring_entries(plan.reactors));
    let mut started = Started { cores: Vec::new(), threads: Vec::new(), failure: None, ready, ended };
    for (index, ((listener, ring), mesh)) in sockets.zip(ends).enumerate() {
        let reactor = ReactorThread {
            index,
            seat: Arc::new(Seat::on(plan.cores[index])),
            listener,
            options: Options { budget: ring.budget(), ..options.clone() },
            ring,
            shared: Shared { counters: Arc::default(), ..shared.clone() },
            alive: alive.clone(),
        };
        match reactor.start(wakers[index].clone(), mesh, Arc::clone(&make), say_ready.clone()) {
            Ok((core, thread)) => {
                started.cores.push(core);
                started.threads.push(thread);
            }
            Err(error) => {
                shared.siblings.fetch_sub(1, Ordering::AcqRel); // the others need not wait for it to be drained
                started.failure = Some(StartError::Resources(error));
            }
        }
    }
    Ok(started)
}

/// Starts the threads that end with the reactors, and says why one was not started.
fn start_watchers(watch: MemoryWatch, reader: journal::Reader) -> (Vec<JoinHandle<()>>, Option<StartError>) {
    let (mut threads, mut failure) = (Vec::new(), None);
    for started in [watch.start(), reader.start()] {
        match started {
            Ok(thread) => threads.push(thread),
            Err(error) => failure = Some(StartError::Resources(error)),
        }
    }
    (threads, failure)
}

/// What one reactor thread starts from.
struct ReactorThread {
    index: usize,
    seat: Arc<Seat>,
    listener: TcpListener,
    ring: PreparedRing,
    options: Options,
    shared: Shared,
    /// Dropped when the reactor has ended.
    alive: Sender<()>,
}

impl ReactorThread {
    /// Starts the thread, which says through `say_ready` if it cannot have its ring.
    fn start<H, F>(
        self,
        waker: Waker,
        mesh: Mesh<H::Mail>,
        make: Arc<F>,
        say_ready: Sender<io::Result<()>>,
    ) -> io::Result<(handle::Core<H::Mail>, JoinHandle<()>)>
    where
        H: Handler,
        H::Mail: 'static,
        F: Fn(usize) -> H + Send + Sync + 'static,
    {
        let (mail_sender, mail) = crossbeam_channel::unbounded();
        let counters = Arc::clone(&self.shared.counters);
        let seat = Arc::clone(&self.seat);
        let core = handle::Core { mail: mail_sender, waker: waker.clone(), counters, seat };
        let mailbox = Mailbox { mail, waker };
        let thread = thread::Builder::new()
            .name(format!("reactor-{}", self.index))
            .stack_size(STACK_BYTES)
            .spawn(move || self.run(&*make, mailbox, mesh, say_ready))?;
        Ok((core, thread))
    }

    /// The reactor's thread. A panic or a lost ring leaves connections in an unknown state, so the process ends.
    fn run<H: Handler>(
        self,
        make: &impl Fn(usize) -> H,
        mailbox: Mailbox<H::Mail>,
        mesh: Mesh<H::Mail>,
        say_ready: Sender<io::Result<()>>,
    ) {
        self.seat.take();
        let ring = match Uring::start(self.ring, Some(self.listener), Some(mailbox.waker.clone())) {
            Ok(ring) => ring,
            Err(error) => {
                self.shared.siblings.fetch_sub(1, Ordering::AcqRel);
                return drop(say_ready.send(Err(error)));
            }
        };
        drop(say_ready); // nothing to say is good news
        let index = self.index;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            Reactor::new(ring, make(index), self.options, mailbox, mesh, self.shared).run()
        }));
        let cause = match ended {
            Ok(Ok(())) => return drop(self.alive),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a panic, reported above".to_owned(),
        };
        // Not eprintln!, which panics where nobody reads: the process would go on without this core.
        let _ = writeln!(io::stderr(), "megasock: reactor {index} cannot go on: {cause}; the process ends");
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
    /// A handle to the server, usable from any thread.
    pub fn handle(&self) -> &Handle<M> {
        &self.handle
    }

    /// What it will carry, and what keeps it from carrying more.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether another process listens on the same address: the server that this one is to replace, or one that replaces it.
    pub fn shares_address(&self) -> bool {
        self.handle.shares_address()
    }

    /// Waits until it has stopped, see [`Handle::stop`].
    pub fn wait(self) {
        for thread in self.threads {
            // A reactor that fails aborts the process, so there is no error to pass on.
            let _ = thread.join();
        }
    }
}
