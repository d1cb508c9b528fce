//! Who may be connected: a bounded number of seats, and who has to give one up.
//!
//! A full house evicts instead of refusing: of a thousand that send nothing, or never come to the point, each new one takes the
//! seat of an older one, and a scraper that comes among them with a request is served. Refused is a newcomer only while all
//! others are being answered.
//!
//! A seat is also where a panic ends: it takes its own connection with it and nobody else's.

use super::Limits;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What a connection is at. Those further up give up their seats first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// Has had its last answer.
    Leaving,
    /// Sends its first request, or perhaps nothing, or may not ask anything.
    Coming,
    /// Between requests, or within a later one.
    Staying,
    /// Takes its answer.
    Reading,
    /// Waits for its answer, which may be the result of something done: never evicted.
    Served,
}

/// All seats.
pub(super) struct Seats {
    limits: Limits,
    taken: RefCell<Vec<Rc<Seat>>>,
    /// Counts what anybody begins, so that it is known who began first.
    begun: Cell<u64>,
}

/// One connection's.
pub(super) struct Seat {
    doing: Cell<Doing>,
    since: Cell<u64>,
    /// Of its request's body.
    held_bytes: Cell<usize>,
    /// Of the answer it is taking.
    owed_bytes: Cell<usize>,
    is_evicted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    seats: std::rc::Weak<Seats>,
}

impl Seats {
    pub fn new(limits: Limits) -> Seats {
        Seats { limits, taken: RefCell::default(), begun: Cell::new(0) }
    }

    /// A seat, someone else's if need be; none while all are being served.
    pub fn take(self: &Rc<Self>) -> Option<Rc<Seat>> {
        let mut taken = self.taken.borrow_mut();
        if taken.len() >= self.limits.connections {
            let evicted = taken.iter().enumerate().filter(|(_, seat)| seat.doing.get() != Doing::Served);
            let (at, _) = evicted.min_by_key(|(_, seat)| (seat.doing.get(), seat.since.get()))?;
            taken.swap_remove(at).evict();
        }
        let seat = Rc::new(Seat {
            doing: Cell::new(Doing::Coming),
            since: Cell::new(self.next()),
            held_bytes: Cell::new(0),
            owed_bytes: Cell::new(0),
            is_evicted: Cell::new(false),
            waker: RefCell::default(),
            seats: Rc::downgrade(self),
        });
        taken.push(Rc::clone(&seat));
        Some(seat)
    }

    fn leave(&self, seat: &Rc<Seat>) {
        self.taken.borrow_mut().retain(|taken| !Rc::ptr_eq(taken, seat));
    }

    fn next(&self) -> u64 {
        self.begun.replace(self.begun.get() + 1)
    }

    fn held_bytes(&self) -> usize {
        self.taken.borrow().iter().map(|seat| seat.held_bytes.get()).sum()
    }

    /// Evicts who has been taking an answer for longest, until the rest is little enough; `last` stays.
    fn evict_readers(&self, last: &Seat) {
        let mut taken = self.taken.borrow_mut();
        while taken.iter().map(|seat| seat.owed_bytes.get()).sum::<usize>() > self.limits.answers_bytes {
            let others = taken
                .iter()
                .enumerate()
                .filter(|(_, seat)| seat.owed_bytes.get() > 0 && !std::ptr::eq(&***seat, last));
            let Some((at, _)) = others.min_by_key(|(_, seat)| seat.since.get()) else { return };
            taken.swap_remove(at).evict();
        }
    }
}

impl Seat {
    pub fn begin(&self, doing: Doing) {
        self.doing.set(doing);
        if let Some(seats) = self.seats.upgrade() {
            self.since.set(seats.next());
        }
    }

    /// Whether it may hold so much of a body, beside what the others hold.
    pub fn hold(&self, bytes: usize) -> bool {
        self.held_bytes.set(bytes);
        self.seats.upgrade().is_some_and(|seats| seats.held_bytes() <= seats.limits.bodies_bytes)
    }

    /// Counts an answer that is going to be written: those of others who do not take theirs may have to give way.
    pub fn owe(&self, bytes: usize) {
        self.owed_bytes.set(bytes);
        if let Some(seats) = self.seats.upgrade() {
            seats.evict_readers(self);
        }
    }

    fn evict(&self) {
        self.is_evicted.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A conversation that ends when it panics or is evicted, and gives up its seat.
pub(super) struct Guarded<F> {
    conversation: Option<Pin<Box<F>>>,
    seat: Rc<Seat>,
    seats: Rc<Seats>,
}

impl<F: Future<Output = ()>> Guarded<F> {
    pub fn new(conversation: F, seat: Rc<Seat>, seats: Rc<Seats>) -> Guarded<F> {
        Guarded { conversation: Some(Box::pin(conversation)), seat, seats }
    }

    fn end(&mut self) {
        let conversation = self.conversation.take();
        caught(|| drop(conversation));
        self.seats.leave(&self.seat);
    }
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(conversation) = this.conversation.as_mut().filter(|_| !this.seat.is_evicted.get()) else {
            this.end();
            return Poll::Ready(());
        };
        *this.seat.waker.borrow_mut() = Some(cx.waker().clone());
        let polled = caught(|| conversation.as_mut().poll(cx)).unwrap_or(Poll::Ready(()));
        if polled.is_ready() {
            this.end();
        }
        polled
    }
}

/// The result, unless there was a panic. What unwinding leaves half done is dropped with the conversation; what services share
/// lies in cells that a panic does not leave borrowed.
fn caught<T>(act: impl FnOnce() -> T) -> Option<T> {
    let logged = |_panic: Box<dyn Any + Send>| {
        // The panic hook has printed what and where.
        tracing::error!("a request to the admin listener panicked; its connection has ended");
    };
    catch_unwind(AssertUnwindSafe(act)).map_err(logged).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_given_up_in_the_order_of_what_is_done_and_of_age() {
        let seats = Rc::new(Seats::new(Limits { connections: 6, ..Limits::DEFAULT }));
        let doings =
            [Doing::Reading, Doing::Served, Doing::Staying, Doing::Coming, Doing::Coming, Doing::Leaving];
        let taken = doings.map(|doing| {
            let seat = seats.take().expect("a free seat");
            seat.begin(doing);
            seat
        });
        // Being asked anew makes a connection the younger of two.
        taken[3].begin(Doing::Coming);
        for evicted in [5, 4, 3, 2, 0] {
            assert!(!taken[evicted].is_evicted.get(), "{evicted} went too early");
            seats.take().expect("a seat of somebody else's").begin(Doing::Served);
            assert!(taken[evicted].is_evicted.get(), "{evicted} stayed");
        }
        assert!(seats.take().is_none() && !taken[1].is_evicted.get());
        seats.leave(&taken[1]);
        assert!(seats.take().is_some());
    }
}
