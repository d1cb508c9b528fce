//! The ring against the kernel it runs on, over loopback: every promise of [`Io`] that the reactor relies on.

use super::*;
use crate::budget::FLOOR;
use crate::buf::{Pool, Segment, SendQueue};
use crate::sys::socket;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// No wait for a completion lasts longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Larger than any socket's buffers.
const MORE_THAN_FITS: usize = 24 << 20;

struct Ring {
    uring: Uring,
    pool: Pool,
    /// Completed and not yet looked at.
    done: Vec<Completion>,
    accepted: u32,
}

impl Ring {
    fn new(descriptors: u32) -> Ring {
        let listener = socket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let uring = Uring::new(FLOOR, descriptors, Some(listener), None).unwrap();
        Ring { uring, pool: Pool::new(1_000), done: Vec::new(), accepted: 0 }
    }

    fn turn(&mut self, timeout: Duration) {
        self.uring.turn(Some(timeout), &mut self.done).unwrap();
    }

    /// The next completion that `wanted` makes something of; others stay for later.
    fn wait<T>(&mut self, mut wanted: impl FnMut(&mut Completion) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let found = self.done.iter_mut().enumerate().find_map(|(at, one)| Some((at, wanted(one)?)));
            if let Some((at, found)) = found {
                self.done.remove(at);
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing came");
            self.turn(PATIENCE);
        }
    }

    /// A client and the server's end of it.
    fn connect(&mut self) -> (TcpStream, ConnId) {
        let client = TcpStream::connect(self.uring.local_address().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        self.uring.accept();
        let (slot, peer) = self.wait(|done| match done {
            Completion::Accepted { slot, peer } => Some((*slot, *peer)),
            _ => None,
        });
        assert_eq!(peer, client.local_addr().unwrap());
        self.accepted += 1;
        (client, ConnId { slot, generation: self.accepted })
    }

    fn wait_polled(&mut self, of: ConnId) -> (i32, bool) {
        self.wait(|done| match done {
            Completion::Polled { id, result, more } if *id == of => Some((*result, *more)),
            _ => None,
        })
    }

    /// Polls until this event is seen, for an earlier one may still be on its way.
    fn wait_event(&mut self, of: ConnId, event: libc::c_short) {
        loop {
            let (mask, more) = self.wait_polled(of);
            assert!(mask > 0 && more);
            if mask & i32::from(event) != 0 {
                return;
            }
        }
    }

    fn receive(&mut self, id: ConnId, into: Inbound) -> (Inbound, i32, bool) {
        self.uring.recv(id, into);
        self.turn(Duration::ZERO);
        let received = self.done.pop().expect("a receive ends in its turn");
        let Completion::Received { id: of, into, result, nonempty } = received else { panic!("a receive") };
        assert_eq!(of, id);
        (into, result, nonempty)
    }

    fn receive_buffer(&mut self, id: ConnId) -> (Vec<u8>, i32, bool) {
        let buffer = self.pool.lease().unwrap();
        let (into, result, nonempty) = self.receive(id, Inbound::Buffer(buffer, usize::MAX));
        let Inbound::Buffer(buffer, _) = into else { panic!("the memory lent") };
        (buffer[..result.max(0) as usize].to_vec(), result, nonempty)
    }

    /// Sends without waiting; what was not sent.
    fn send_now(&mut self, id: ConnId, bytes: Outbound) -> Option<(Outbound, i32)> {
        self.uring.send_now(id, bytes);
        self.turn(Duration::ZERO);
        match self.done.pop()? {
            Completion::Unsent { id: of, rest, result } if of == id => Some((rest, result)),
            _ => panic!("something else"),
        }
    }

    fn wait_sent(&mut self, of: ConnId) -> (usize, i32) {
        self.wait(|done| match done {
            Completion::Sent { id, rest, result } if *id == of => Some((rest.bytes(), *result)),
            _ => None,
        })
    }
}

fn outbound(bytes: &[u8]) -> Outbound {
    Outbound::Segment(Segment::owned(bytes.to_vec()))
}

/// A sequence in which a missing, doubled or swapped run shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// Waits until what the client did has reached the server's socket: the kernel's loopback is not instantaneous.
fn arrived(ring: &mut Ring, id: ConnId, event: libc::c_short) {
    ring.uring.poll(id);
    ring.wait_event(id, event);
    ring.uring.cancel_poll(id);
    while ring.wait_polled(id).1 {}
}

#[test]
fn user_data_keeps_operation_generation_and_slot() {
    for op in Op::ALL {
        let id = ConnId { slot: u32::MAX, generation: (1 << GENERATION_BITS) - 1 };
        let (back, same) = unpack(pack(op, id));
        assert!(back == op && same == id);
    }
}

#[test]
fn accepts_say_who_came_and_fail_when_the_table_is_full() {
    let mut ring = Ring::new(2);
    let (_first, a) = ring.connect();
    let (_second, b) = ring.connect();
    assert_ne!(a.slot, b.slot);
    let _third = TcpStream::connect(ring.uring.local_address().unwrap()).unwrap();
    ring.uring.accept();
    let errno = ring.wait(|done| match done {
        Completion::AcceptFailed { errno } => Some(*errno),
        _ => None,
    });
    assert_eq!(errno, libc::ENFILE);
}

#[test]
fn a_poll_stays_armed_from_event_to_event() {
    let mut ring = Ring::new(4);
    let (mut client, id) = ring.connect();
    ring.uring.poll(id);
    ring.turn(Duration::from_millis(20));
    assert!(ring.done.is_empty(), "nothing has happened yet");
    for _ in 0..3 {
        client.write_all(b"x").unwrap();
        ring.wait_event(id, libc::POLLIN);
        assert_eq!(ring.receive_buffer(id).0, b"x");
    }
    client.shutdown(Shutdown::Write).unwrap();
    ring.wait_event(id, libc::POLLRDHUP);
    ring.uring.cancel_poll(id);
    loop {
        let (result, more) = ring.wait_polled(id);
        if !more {
            assert_eq!(result, -libc::ECANCELED);
            break;
        }
    }
}

#[test]
fn a_poll_is_cancelled_even_while_an_event_of_it_is_under_way() {
    let mut ring = Ring::new(8);
    let (mut client, id) = ring.connect();
    ring.uring.poll(id);
    ring.turn(Duration::ZERO);
    // The event is noted at once and becomes a completion in the enter that also submits the cancel.
    client.write_all(b"x").unwrap();
    ring.uring.cancel_poll(id);
    let last = ring.wait(|done| match done {
        Completion::Polled { id: of, result, more: false } if *of == id => Some(*result),
        _ => None,
    });
    assert_eq!(last, -libc::ECANCELED);
}

#[test]
fn a_poll_armed_late_sees_what_was_there_before() {
    let mut ring = Ring::new(4);
    let (mut client, id) = ring.connect();
    client.write_all(b"early").unwrap();
    arrived(&mut ring, id, libc::POLLIN);
    ring.uring.poll(id);
    ring.wait_event(id, libc::POLLIN);
}

#[test]
fn a_receive_never_waits_and_says_whether_there_is_more() {
    let mut ring = Ring::new(4);
    let (mut client, id) = ring.connect();
    assert_eq!(ring.receive_buffer(id).1, -libc::EAGAIN);
    client.write_all(b"some").unwrap();
    arrived(&mut ring, id, libc::POLLIN);
    assert_eq!(ring.receive_buffer(id), (b"some".to_vec(), 4, false));
    // The end of the stream counts as more: without it the reactor would wait for an event that has come.
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    arrived(&mut ring, id, libc::POLLRDHUP);
    assert_eq!(ring.receive_buffer(id), (b"last".to_vec(), 4, true));
    assert_eq!(ring.receive_buffer(id).1, 0);
    assert_eq!(ring.pool.leased(), 0);
}

#[test]
fn a_direct_receive_appends_and_respects_both_bounds() {
    let mut ring = Ring::new(4);
    let (mut client, id) = ring.connect();
    client.write_all(&pattern(10_000)).unwrap();
    arrived(&mut ring, id, libc::POLLIN);
    let mut seen = 0;
    for (capacity, bytes_max, expected) in [(5_000, 100, 100), (300, 5_000, 300)] {
        let mut bytes = Vec::with_capacity(capacity + 2);
        bytes.extend(b"ab");
        assert_eq!(bytes.capacity(), capacity + 2);
        let (into, result, nonempty) = ring.receive(id, Inbound::Append(bytes, bytes_max));
        let Inbound::Append(bytes, _) = into else { panic!("the memory lent") };
        assert_eq!((result, nonempty, bytes.len()), (expected, true, 2 + expected as usize));
        assert_eq!(&bytes[..2], b"ab");
        assert_eq!(bytes[2..], pattern(10_000)[seen..seen + result as usize]);
        seen += result as usize;
    }
}

#[test]
fn silence_after_a_send_means_that_all_went_out() {
    let mut ring = Ring::new(4);
    let (mut client, id) = ring.connect();
    assert!(ring.send_now(id, outbound(b"single ")).is_none());
    let mut queue = Box::<SendQueue>::default();
    for at in 0..Uring::SEGMENTS_PER_SEND {
        queue.push(Segment::owned(vec![at as u8; at + 1]));
    }
    let expected: Vec<u8> = queue.iter().flat_map(|segment| segment.bytes().to_vec()).collect();
    assert!(ring.send_now(id, Outbound::Queue(queue)).is_none());
    let spent = ring.uring.spent_queue().expect("to be used again");
    assert!(spent.is_empty() && spent.backlog_bytes() == 0 && ring.uring.spent_queue().is_none());
    let mut seen = vec![0; 7 + expected.len()];
    client.read_exact(&mut seen).unwrap();
    assert_eq!(seen, [b"single ", &expected[..]].concat());
}

#[test]
fn a_full_socket_hands_the_rest_back_and_a_waiting_send_brings_it_over() {
    let whole = pattern(MORE_THAN_FITS);
    for gathered in [false, true] {
        let mut ring = Ring::new(4);
        let (mut client, id) = ring.connect();
        let bytes = if gathered {
            let mut queue = Box::<SendQueue>::default();
            whole.chunks(whole.len() / 5).for_each(|chunk| queue.push(Segment::owned(chunk.to_vec())));
            Outbound::Queue(queue)
        } else {
            outbound(&whole)
        };
        let (rest, result) = ring.send_now(id, bytes).expect("more than fits");
        assert_eq!(result, 0, "a short send");
        let sent = whole.len() - rest.bytes();
        assert!(sent > 0);
        // A full socket takes nothing, and nothing is lost; the kernel may have made room for some meanwhile.
        let (rest, result) = ring.send_now(id, rest).expect("still more than fits");
        assert!(result == -libc::EAGAIN || result == 0);
        ring.uring.send_all(id, rest);
        ring.turn(Duration::ZERO);
        assert!(ring.done.is_empty(), "it waits");
        let reader = std::thread::spawn(move || {
            let mut seen = vec![0; MORE_THAN_FITS];
            client.read_exact(&mut seen).unwrap();
            seen
        });
        assert_eq!(ring.wait_sent(id).0, 0, "all of it");
        assert!(reader.join().unwrap() == whole, "the same bytes in the same order");
    }
}

#[test]
fn a_cancelled_send_hands_back_exactly_what_was_not_sent() {
    let mut ring = Ring::new(4);
    let (mut client, id) = ring.connect();
    let whole = pattern(MORE_THAN_FITS);
    ring.uring.send_all(id, outbound(&whole));
    ring.turn(Duration::ZERO);
    ring.uring.cancel_send(id);
    let (unsent, result) = ring.wait_sent(id);
    assert!(result == -libc::ECANCELED || result as usize == whole.len() - unsent, "{result}");
    ring.uring.shutdown(id);
    ring.wait(|done| matches!(done, Completion::Shut { .. }).then_some(()));
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).unwrap();
    assert!(seen == whole[..whole.len() - unsent], "{} came, {unsent} came back", seen.len());
}

#[test]
fn a_reset_is_an_error_of_poll_receive_and_send() {
    let mut ring = Ring::new(4);
    let (client, id) = ring.connect();
    ring.uring.send_all(id, outbound(&vec![1; MORE_THAN_FITS]));
    ring.uring.poll(id);
    ring.turn(Duration::ZERO);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let is_gone = |errno: i32| [-libc::ECONNRESET, -libc::EPIPE].contains(&errno);
    let (unsent, result) = ring.wait_sent(id);
    assert!(unsent > 0 && (is_gone(result) || result > 0));
    ring.wait_event(id, libc::POLLHUP);
    let (rest, result) = ring.send_now(id, outbound(b"x")).expect("nobody is there");
    assert!(is_gone(result) && rest.bytes() == 1);
    let received = ring.receive_buffer(id).1;
    assert!(received == 0 || is_gone(received), "{received}: the error is told once");
}

#[test]
fn a_shutdown_is_the_end_for_the_peer_and_a_close_frees_the_slot() {
    let mut ring = Ring::new(1);
    let (mut client, id) = ring.connect();
    ring.uring.shutdown(id);
    ring.wait(|done| matches!(done, Completion::Shut { .. }).then_some(()));
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    client.write_all(b"still heard").unwrap();
    arrived(&mut ring, id, libc::POLLIN);
    assert_eq!(ring.receive_buffer(id).0, b"still heard");
    ring.uring.close(id);
    ring.wait(|done| matches!(done, Completion::Closed { id: of } if *of == id).then_some(()));
    // The table has one place, so the next client gets the same.
    let (mut next, next_id) = ring.connect();
    assert_eq!(next_id.slot, id.slot);
    assert!(ring.send_now(next_id, outbound(b"hello")).is_none());
    let mut hello = [0; 5];
    next.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
}

#[test]
fn more_operations_than_either_queue_holds_lose_nothing() {
    let mut ring = Ring::new(4);
    let (mut client, id) = ring.connect();
    // Submission: gathered sends whose headers and runs exceed their arenas many times over.
    let mut expected = Vec::new();
    for number in 0..5 * FLOOR.sq_entries {
        let mut queue = Box::<SendQueue>::default();
        for at in 0..Uring::SEGMENTS_PER_SEND as u32 {
            queue.push(Segment::owned(vec![(number + at) as u8]));
            expected.push((number + at) as u8);
        }
        ring.uring.send_now(id, Outbound::Queue(queue));
    }
    ring.turn(Duration::ZERO);
    assert!(ring.done.is_empty());
    let mut seen = vec![0; expected.len()];
    client.read_exact(&mut seen).unwrap();
    assert!(seen == expected);
    // Completion: more than the queue holds at once, so that the kernel keeps the others aside.
    let count = 2 * FLOOR.cq_entries as usize;
    client.write_all(&pattern(count)).unwrap();
    arrived(&mut ring, id, libc::POLLIN);
    for _ in 0..count {
        ring.uring.recv(id, Inbound::Append(Vec::with_capacity(1), 1));
    }
    ring.turn(Duration::ZERO);
    let received = ring.done.drain(..).flat_map(|done| match done {
        Completion::Received { into: Inbound::Append(bytes, _), .. } => bytes,
        _ => panic!("a receive"),
    });
    assert!(received.eq(pattern(count)));
}

#[test]
fn a_wait_lasts_as_long_as_told() {
    let mut ring = Ring::new(1);
    for (timeout_ms, range_ms) in [(0, 0..1_000), (50, 49..5_000)] {
        let begun = ring.uring.now_us();
        ring.turn(Duration::from_millis(timeout_ms));
        let waited_ms = (ring.uring.now_us() - begun) / 1_000;
        assert!(range_ms.contains(&waited_ms), "{waited_ms} ms instead of {timeout_ms}");
        assert!(ring.done.is_empty());
    }
}

#[test]
fn a_ring_of_the_bell_ends_the_wait_every_time() {
    let waker = Waker::new().unwrap();
    let mut uring = Uring::new(FLOOR, 1, None, Some(waker.clone())).unwrap();
    for _ in 0..3 {
        waker.park();
        let sender = std::thread::spawn({
            let waker = waker.clone();
            move || waker.wake()
        });
        let mut done = Vec::new();
        let begun = Instant::now();
        while !done.iter().any(|done| matches!(done, Completion::Woken)) {
            assert!(begun.elapsed() < PATIENCE, "it slept on");
            uring.turn(Some(PATIENCE), &mut done).unwrap();
        }
        sender.join().unwrap();
    }
}

#[test]
fn a_ring_rings_the_bell_of_another() {
    let waker = Waker::new().unwrap();
    let mut sleeper = Uring::new(FLOOR, 1, None, Some(waker.clone())).unwrap();
    let mut other = Uring::new(FLOOR, 1, None, None).unwrap();
    for _ in 0..3 {
        other.wake(&waker);
        other.turn(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        let mut done = Vec::new();
        sleeper.turn(Some(PATIENCE), &mut done).unwrap();
        assert!(matches!(done[..], [Completion::Woken]));
    }
    // A bell that is gone before its entry is submitted rings nobody else's.
    other.wake(&Waker::new().unwrap());
    let taken = Waker::new().unwrap();
    other.turn(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    assert!(!taken.was_rung());
}

#[test]
fn an_outgoing_connection_comes_from_where_it_was_told_or_says_why_not() {
    let listener = socket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let to = listener.local_addr().unwrap();
    let from: SocketAddr = "127.0.0.9:0".parse().unwrap();
    let uring = Uring::new(FLOOR, 4, None, None).unwrap();
    let mut ring = Ring { uring, pool: Pool::new(1_000), done: Vec::new(), accepted: 0 };
    let id = ConnId { slot: 3, generation: 5 };
    ring.uring.connect(id, to, Some(from));
    let connected = |done: &mut Completion| match done {
        Completion::Connected { id, result } => Some((*id, *result)),
        _ => None,
    };
    assert_eq!(ring.wait(connected), (id, 0));
    assert_eq!(listener.accept().unwrap().1.ip(), from.ip());
    // A port that was free a moment ago: nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let id = ConnId { slot: 2, generation: 5 };
    ring.uring.connect(id, closed, None);
    assert_eq!(ring.wait(connected), (id, -libc::ECONNREFUSED));
}

#[test]
fn a_listener_left_ends_every_accept_and_accepts_nobody_more() {
    let mut ring = Ring::new(16);
    let (mut client, id) = ring.connect();
    let address = ring.uring.local_address().unwrap();
    let accepts = FLOOR.accepts_in_flight.min(8);
    (0..accepts).for_each(|_| ring.uring.accept());
    ring.turn(Duration::ZERO);
    ring.uring.stop_accepting();
    for _ in 0..accepts {
        let errno = ring.wait(|done| match done {
            Completion::AcceptFailed { errno } => Some(*errno),
            _ => None,
        });
        assert_eq!(errno, libc::EINVAL);
    }
    // Although its descriptor is still open.
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    // Who was accepted stays.
    client.write_all(b"still here").unwrap();
    ring.uring.poll(id);
    ring.wait_event(id, libc::POLLIN);
    assert_eq!(ring.receive_buffer(id).0, b"still here");
}
