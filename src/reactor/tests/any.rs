//! Anything, in any order: what comes out of an echo is what went in, and nothing is held at the end.

use super::*;
use crate::proto::client::encode_masked_fragment;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::atomic::Ordering::Relaxed;

/// Part of what a client sends.
#[derive(Debug, Clone)]
enum Piece {
    /// A message of so many bytes in so many frames, a ping between them where there are several.
    Message {
        len: usize,
        frames: usize,
    },
    Ping {
        len: usize,
    },
}

/// What the kernel, a peer, or time does.
#[derive(Debug, Clone)]
enum Step {
    Arrive { bytes: usize },
    Room { bytes: usize },
    RecvMax { bytes: usize },
    Full { ends_short: bool },
    Spurious,
    EndPoll,
    Turns { count: usize },
    Pass { ms: u64 },
    Held { held: bool },
}

fn piece() -> impl Strategy<Value = Piece> {
    let len = prop_oneof![4 => 0usize..200, 2 => 0usize..5_000, 1 => 10_000usize..30_000];
    prop_oneof![
        5 => (len, 1usize..4).prop_map(|(len, frames)| Piece::Message { len, frames }),
        1 => (0usize..=125).prop_map(|len| Piece::Ping { len }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![1usize..20, 1usize..3_000, 1usize..40_000].prop_map(|bytes| Step::Arrive { bytes }),
        3 => prop_oneof![1usize..20, 1usize..30_000].prop_map(|bytes| Step::Room { bytes }),
        1 => prop_oneof![1usize..50, 50usize..20_000].prop_map(|bytes| Step::RecvMax { bytes }),
        1 => any::<bool>().prop_map(|ends_short| Step::Full { ends_short }),
        1 => Just(Step::Spurious),
        1 => Just(Step::EndPoll),
        4 => (1usize..6).prop_map(|count| Step::Turns { count }),
        1 => (1u64..300).prop_map(|ms| Step::Pass { ms }),
        1 => any::<bool>().prop_map(|held| Step::Held { held }),
    ]
}

/// One client: its bytes still to come, and what must come back.
#[derive(Default)]
struct Client {
    bytes: Vec<u8>,
    sent: usize,
    expected: Vec<(Opcode, Vec<u8>)>,
}

impl Client {
    fn new(pieces: &[Piece]) -> Client {
        let mut client = Client::default();
        for (at, piece) in pieces.iter().enumerate() {
            match *piece {
                Piece::Message { len, frames } => client.push_message(at, len, frames),
                Piece::Ping { len } => client.push_ping(&vec![at as u8; len]),
            }
        }
        client.bytes.extend(close_frame(1000));
        client.expected.push(closing(1000));
        client
    }

    fn push_message(&mut self, at: usize, len: usize, frames: usize) {
        let payload: Vec<u8> = (0..len).map(|byte| (at * 7 + byte * 13) as u8).collect();
        let chunk = len.div_ceil(frames).max(1);
        for number in 0..frames {
            let opcode = if number == 0 { Opcode::Binary } else { Opcode::Continuation };
            let part = &payload[(number * chunk).min(len)..((number + 1) * chunk).min(len)];
            encode_masked_fragment(&mut self.bytes, number + 1 == frames, opcode, KEY, part);
            if number + 1 < frames {
                self.push_ping(&[at as u8, number as u8]);
            }
        }
        self.expected.push((Opcode::Binary, payload));
    }

    fn push_ping(&mut self, payload: &[u8]) {
        self.bytes.extend(frame(Opcode::Ping, payload));
        self.expected.push((Opcode::Pong, payload.to_vec()));
    }
}

fn take_step(rig: &mut Rig, peer: Peer, client: &mut Client, step: Step) {
    match step {
        Step::Arrive { bytes } => {
            let end = client.bytes.len().min(client.sent + bytes);
            rig.kernel().arrive(peer, &client.bytes[client.sent..end]);
            client.sent = end;
        }
        Step::Room { bytes } => rig.kernel().give_room(peer, bytes),
        Step::RecvMax { bytes } => rig.peer(peer).recv_max = bytes,
        Step::Full { ends_short } => {
            rig.peer(peer).room = 0;
            rig.peer(peer).ends_short = ends_short;
        }
        Step::Spurious => rig.kernel().raise(peer),
        Step::EndPoll => rig.kernel().end_poll(peer, libc::POLLIN.into()),
        Step::Turns { count } => (0..count).for_each(|_| rig.turn()),
        Step::Pass { ms } => rig.pass_ms(ms),
        Step::Held { held } => hold(rig, peer, held),
    }
}

/// The handler holds a connection, or lets it go on.
fn hold(rig: &mut Rig, peer: Peer, held: bool) {
    let Some(id) = rig.peer(peer).id else { return };
    let order = move |out: &mut Outbox<Order>| if held { out.hold(id) } else { out.resume(id) };
    rig.mail.send(Control::Mail(Order(Box::new(order)))).unwrap();
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        scripts in vec(vec(piece(), 0..12), 1..4),
        steps in vec((any::<usize>(), step()), 0..150),
        shuffle: u64,
    ) {
        let budget = CoreBudget { buffers_max: 3, ..CoreBudget::for_reactors(1) };
        let mut rig = Rig::with(Options { budget, ..options() });
        let mut clients: Vec<(Peer, Client)> =
            scripts.iter().map(|pieces| (rig.open(), Client::new(pieces))).collect();
        rig.kernel().shuffle = Some(shuffle);
        for (at, step) in steps {
            let at = at % clients.len();
            let (peer, client) = &mut clients[at];
            take_step(&mut rig, *peer, client, step);
        }
        for (peer, client) in &mut clients {
            rig.kernel().give_room(*peer, usize::MAX);
            rig.peer(*peer).recv_max = usize::MAX;
            hold(&mut rig, *peer, false);
            let rest = client.bytes.len() - client.sent;
            take_step(&mut rig, *peer, client, Step::Arrive { bytes: rest });
        }
        rig.settle();
        for (peer, client) in &clients {
            let frames = rig.take_frames(*peer);
            prop_assert!(frames == client.expected, "{:?} of client {peer}", rig.reason(*peer));
            // An event without cause just before the Close has it linger for more.
            rig.end(*peer);
            prop_assert!(rig.peer(*peer).gone);
            prop_assert_eq!(rig.reason(*peer), Some(CloseReason::ClientClosed));
        }
        rig.finish();
    }
}

/// What may befall a peer, with no regard for what it was doing.
#[derive(Debug, Clone)]
enum Event {
    Connect,
    Upgrade {
        path: &'static str,
    },
    Bytes {
        bytes: Vec<u8>,
    },
    Message {
        len: usize,
    },
    Close,
    End,
    Reset,
    Step(Step),
    FailPoll,
    Hold {
        hold: bool,
    },
    LetGo {
        at: usize,
    },
    Send {
        len: usize,
    },
    CloseByHandler,
    EndByHandler {
        reason: CloseReason,
    },
    Decide {
        accept: bool,
    },
    /// A message goes out only after a post to the other core and one back.
    Post {
        len: usize,
    },
    TurnOther,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Connect),
        5 => prop_oneof![4 => Just("/echo"), 1 => Just("/later"), 1 => Just("/refuse")]
            .prop_map(|path| Event::Upgrade { path }),
        2 => vec(any::<u8>(), 1..30).prop_map(|bytes| Event::Bytes { bytes }),
        6 => prop_oneof![0usize..300, 0usize..60_000].prop_map(|len| Event::Message { len }),
        1 => Just(Event::Close),
        1 => Just(Event::End),
        1 => Just(Event::Reset),
        9 => step().prop_map(Event::Step),
        1 => (1u64..20_000).prop_map(|ms| Event::Step(Step::Pass { ms })),
        1 => Just(Event::FailPoll),
        1 => any::<bool>().prop_map(|hold| Event::Hold { hold }),
        2 => any::<usize>().prop_map(|at| Event::LetGo { at }),
        3 => prop_oneof![0usize..300, 0usize..90_000].prop_map(|len| Event::Send { len }),
        1 => Just(Event::CloseByHandler),
        1 => prop_oneof![Just(CloseReason::SlowConsumer), Just(CloseReason::TooManyErrors)]
            .prop_map(|reason| Event::EndByHandler { reason }),
        3 => prop_oneof![0usize..300, 0usize..90_000].prop_map(|len| Event::Post { len }),
        2 => Just(Event::TurnOther),
        2 => any::<bool>().prop_map(|accept| Event::Decide { accept }),
    ]
}

fn befall([rig, other]: [&mut Rig; 2], peer: Peer, event: Event, posted: &Posted) {
    let id = rig.peer(peer).id.unwrap_or(ConnId { slot: 0, generation: 0 });
    match event {
        Event::Connect => drop(rig.kernel().connect()),
        Event::Upgrade { path } => rig.kernel().arrive(peer, &upgrade(path)),
        Event::Bytes { bytes } => rig.kernel().arrive(peer, &bytes),
        Event::Message { len } => rig.kernel().arrive(peer, &frame(Opcode::Binary, &vec![7; len])),
        Event::Close => rig.kernel().arrive(peer, &close_frame(1000)),
        Event::End => rig.kernel().end(peer),
        Event::Reset => rig.kernel().reset(peer),
        Event::Step(step) => take_step(rig, peer, &mut Client::default(), step),
        Event::FailPoll => rig.kernel().end_poll(peer, -libc::ENOMEM),
        Event::Hold { hold: true } => rig.peer(peer).hold = true,
        Event::Hold { hold: false } => rig.kernel().let_all_go(peer),
        Event::LetGo { at } => {
            let held = rig.peer(peer).held.len();
            if held > 0 {
                rig.kernel().let_go(peer, at % held);
            }
        }
        Event::Send { len } => rig.tell(move |out| out.send(id, Kind::Binary, &vec![1; len])),
        Event::EndByHandler { reason } => rig.tell(move |out| out.end(id, reason)),
        Event::Post { len } => posted.post(rig, id, len),
        Event::TurnOther => other.turn(),
        Event::CloseByHandler => rig.tell(move |out| out.close(id, 4_000, "")),
        Event::Decide { accept } => rig.tell(move |out| {
            let refusal = Decision::Respond(Response::refuse(Status::Forbidden, "no"));
            out.decide(id, if accept { Decision::ACCEPT } else { refusal });
        }),
    }
}

/// Posts to the other core that its ring took, and those that came back from there.
#[derive(Default, Clone)]
struct Posted {
    accepted: Arc<AtomicUsize>,
    back: Arc<AtomicUsize>,
}

impl Posted {
    fn post(&self, rig: &mut Rig, id: ConnId, len: usize) {
        let (accepted, back) = (Arc::clone(&self.accepted), Arc::clone(&self.back));
        rig.tell(move |out| {
            let answer = Order(Box::new(move |out| {
                back.fetch_add(1, Relaxed);
                out.send(id, Kind::Binary, &vec![2; len]);
            }));
            let question = Order(Box::new(move |out| drop(out.post(0, answer))));
            if out.post(1, question).is_ok() {
                accepted.fetch_add(1, Relaxed);
            }
        });
    }
}

proptest! {
    /// The books of kernel, reactor and handler agree after every turn, and nothing is held at the end. The kernel and
    /// the handler of the test check each call; see their modules.
    #[test]
    fn whatever_happens_nothing_is_lost_or_held(
        events in vec((any::<usize>(), event()), 0..200),
        shuffle: u64,
    ) {
        let budget = CoreBudget { buffers_max: 3, accepts_in_flight: 2, reserve_slots: 2, ..CoreBudget::for_reactors(1) };
        let mut rigs = Rig::many(Options { connections_max: 4, budget, ..options() }, 2, 4).into_iter();
        let (mut rig, mut other) = (rigs.next().unwrap(), rigs.next().unwrap());
        let posted = Posted::default();
        rig.kernel().shuffle = Some(shuffle);
        let first = rig.kernel().connect();
        prop_assert_eq!(first, 0);
        for (at, event) in events {
            let peer = at % rig.kernel().sockets.len();
            befall([&mut rig, &mut other], peer, event, &posted);
        }
        other.settle();
        rig.settle();
        prop_assert_eq!(posted.back.load(Relaxed), posted.accepted.load(Relaxed), "mail that was not refused comes back");
        for peer in 0..rig.kernel().sockets.len() {
            hold(&mut rig, peer, false);
        }
        rig.finish();
        other.finish();
    }
}
