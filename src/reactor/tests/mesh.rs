//! Mail between cores: in order, bounded, fair, with one ring of the bell for a core that sleeps and none for one that
//! does not; and cores on real rings that would sleep for a second if a single wake-up were lost.

use super::*;
use crate::sys::uring::Uring;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What was handled, where, in order.
type Log = Arc<Mutex<Vec<u32>>>;

/// Mail that notes its number.
fn noting(log: &Log, number: u32) -> Order {
    let log = Arc::clone(log);
    Order(Box::new(move |_| log.lock().unwrap().push(number)))
}

fn taken(log: &Log) -> Vec<u32> {
    std::mem::take(&mut log.lock().unwrap())
}

/// Has a core post these to another; how many were refused.
fn post(rig: &mut Rig, to: usize, log: &Log, numbers: std::ops::Range<u32>) -> usize {
    let (refused, count) = (Arc::new(Mutex::new(0)), Arc::clone(log));
    let sum = Arc::clone(&refused);
    rig.tell(move |out| {
        for number in numbers {
            *sum.lock().unwrap() += usize::from(out.post(to, noting(&count, number)).is_err());
        }
    });
    *refused.lock().unwrap()
}

#[test]
fn a_parked_core_is_rung_once_for_all_mail_of_a_turn_and_gets_it_in_order() {
    let [mut a, mut b] = pair(1_024);
    assert!(b.waker.park());
    let log = Log::default();
    assert_eq!(post(&mut a, 1, &log, 0..100), 0);
    assert_eq!(a.kernel().bells_rung, 1);
    post(&mut a, 1, &log, 100..200);
    assert_eq!((a.kernel().bells_rung, a.counters().wakes.get()), (1, 1), "it has not slept since");
    b.settle();
    assert!(taken(&log).into_iter().eq(0..200));
    assert_eq!(b.counters().mesh_received.get(), 200);
    assert!(b.reactor.handler.mail_from.iter().all(|from| *from == Origin::Core(0)));
    assert!(b.waker.park());
    post(&mut a, 1, &log, 0..1);
    assert_eq!(a.kernel().bells_rung, 2, "it sleeps again");
}

#[test]
fn a_core_with_mail_does_not_sleep_and_is_not_rung() {
    let [mut a, mut b] = pair(1_024);
    let log = Log::default();
    post(&mut a, 1, &log, 0..1_000);
    b.turn();
    assert_eq!((b.kernel().timeout, taken(&log).len()), (Some(Duration::ZERO), 256), "bounded steps");
    post(&mut a, 1, &log, 1_000..1_001);
    b.turn();
    assert_eq!((b.kernel().timeout, a.kernel().bells_rung), (Some(Duration::ZERO), 0));
    b.settle();
    assert_eq!(taken(&log).last(), Some(&1_000));
    assert_eq!(b.counters().mesh_received.get(), 1_001);
}

#[test]
fn no_core_is_kept_waiting_by_the_mail_of_another() {
    let mut rigs = Rig::many(options(), 3, 1_024);
    let (log, [a, b, c]) = (Log::default(), rigs.get_disjoint_mut([0, 1, 2]).unwrap());
    post(b, 0, &log, 0..1_000);
    post(c, 0, &log, 5_000..5_003);
    a.turn();
    let first = taken(&log);
    assert_eq!(first.len(), 256);
    assert_eq!(first[64..67], [5_000, 5_001, 5_002]);
    // A flood that began long ago does not come before it either.
    post(c, 0, &log, 5_003..5_004);
    a.turn();
    assert!(taken(&log)[..65].contains(&5_003));
}

#[test]
fn a_full_ring_gives_the_mail_back_and_loses_nothing() {
    let [mut a, mut b] = pair(8);
    let log = Log::default();
    assert_eq!(post(&mut a, 1, &log, 0..10), 2);
    assert_eq!((a.counters().mesh_posted.get(), a.counters().mesh_full.get()), (8, 2));
    b.settle();
    assert_eq!(post(&mut a, 1, &log, 8..10), 0);
    b.settle();
    assert!(taken(&log).into_iter().eq(0..10));
    assert_eq!(post(&mut a, 0, &log, 0..1) + post(&mut a, 2, &log, 0..1), 2, "to itself, to nobody");
}

#[test]
fn what_is_posted_to_a_core_that_has_ended_is_refused_once_its_ring_is_full() {
    let [mut a, b] = pair(8);
    drop(b);
    let log = Log::default();
    let posted: usize = (0..20).map(|number| post(&mut a, 1, &log, number..number + 1)).sum();
    assert_eq!(posted, 12);
    assert_eq!(a.kernel().bells_rung, 0);
    let held = Arc::strong_count(&log);
    drop(a);
    assert!(held > 1 && Arc::strong_count(&log) == 1, "mail nobody read is freed");
}

#[test]
fn a_drained_core_serves_mail_until_all_are_drained_and_then_the_rest_of_it() {
    let [mut a, mut b] = pair(1_024);
    let peer = b.open();
    for rig in [&mut a, &mut b] {
        rig.drain(1_000);
        rig.settle();
    }
    assert!(!a.reactor.is_drained() && !b.reactor.is_drained());
    let log = Log::default();
    post(&mut b, 0, &log, 0..1);
    a.settle();
    assert_eq!(taken(&log), [0]);
    // Its own deadline passes; the other is late and has still something to say.
    a.pass_ms(2_000);
    assert!(!a.reactor.is_drained());
    post(&mut b, 0, &log, 1..600);
    b.end(peer);
    assert!(b.reactor.is_drained());
    assert!(!a.reactor.is_drained(), "mail is waiting");
    for _ in 0..3 {
        a.turn();
    }
    assert!(a.reactor.is_drained());
    assert!(taken(&log).into_iter().eq(1..600));
}

fn pair(entries: usize) -> [Rig; 2] {
    let mut rigs = Rig::many(options(), 2, entries).into_iter();
    std::array::from_fn(|_| rigs.next().expect("two"))
}

/// Passes each mail on, one less, until none is left; then says so.
struct Relay {
    ended: Sender<()>,
}

impl Handler for Relay {
    type Mail = u32;

    fn on_request(&mut self, _: &Request<'_>, _: &mut Outbox<u32>) -> Decision {
        Decision::ACCEPT
    }

    fn on_message(&mut self, _: ConnId, _: Message<'_>, _: &mut Outbox<u32>) {}

    fn on_mail(&mut self, _: Origin, left: u32, out: &mut Outbox<u32>) {
        match left.checked_sub(1) {
            Some(left) => out.post((out.core() + 1) % out.cores(), left).expect("one mail at a time"),
            None => self.ended.send(()).unwrap(),
        }
    }
}

/// Whether the thread that calls this has had the kernel work for it in another thread.
fn has_worker_threads() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let own = std::fs::read_link("/proc/thread-self").unwrap();
    let worker = format!("iou-wrk-{}\n", own.file_name().unwrap().to_str().unwrap());
    tasks
        .flatten()
        .any(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == worker))
}

#[test]
fn no_wake_up_is_lost_between_real_rings_and_none_takes_a_worker_thread() {
    const CORES: usize = 3;
    const HOPS: u32 = 3_000;
    let wakers: Vec<Waker> = (0..CORES).map(|_| Waker::new().unwrap()).collect();
    let siblings = Arc::new(AtomicUsize::new(CORES));
    let (ended, wait_ended) = crossbeam_channel::unbounded();
    let (mut mails, mut threads) = (Vec::new(), Vec::new());
    for (mesh, waker) in crate::reactor::mesh(&wakers, 8).into_iter().zip(&wakers) {
        let (mail, receiver) = crossbeam_channel::unbounded();
        let mailbox = Mailbox { mail: receiver, waker: waker.clone() };
        let shared = Shared { siblings: Arc::clone(&siblings), ..Shared::default() };
        let (relay, waker) = (Relay { ended: ended.clone() }, waker.clone());
        mails.push(mail);
        threads.push(std::thread::spawn(move || {
            let options = options();
            let uring = Uring::new(options.budget, 16, None, Some(waker)).unwrap();
            let counters = Arc::clone(&shared.counters);
            Reactor::new(uring, relay, options, mailbox, mesh, shared).run().unwrap();
            (counters.wakes.get(), has_worker_threads())
        }));
    }
    let begun = Instant::now();
    mails[0].send(Control::Mail(HOPS)).unwrap();
    wakers[0].wake();
    // One lost wake-up would cost up to a second, the next tick of the core that slept on.
    wait_ended.recv_timeout(Duration::from_secs(20)).expect("every mail arrives");
    let took = begun.elapsed();
    for (mail, waker) in mails.iter().zip(&wakers) {
        mail.send(Control::Drain(DrainOrder { timeout_ticks: 1, ..DrainOrder::default() })).unwrap();
        waker.wake();
    }
    let ends: Vec<(u64, bool)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(siblings.load(Ordering::Acquire), 0);
    let wakes: u64 = ends.iter().map(|(wakes, _)| wakes).sum();
    assert!(wakes > 100 && wakes <= u64::from(HOPS), "{wakes} wakes in {took:?}");
    assert!(ends.iter().all(|(_, has_workers)| !has_workers), "a bell rung by a worker thread");
}
