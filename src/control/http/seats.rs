//! Who may be connected: a bounded number of seats, and who has to give one up.
//!
//! A full house evicts instead of refusing: of a thousand that send nothing, or never come to the point, each new one takes the
//! seat of an older one. Refused is a newcomer only while all others are being answered.
//!
//! Whoever has shown that it may ask keeps its seat while there are strangers. Of those the one goes that came first, whatever it
//! has asked since or is taking its time to read: nothing that needs no key makes a seat safer. So a newcomer keeps its own until
//! as many others have come as there are seats of strangers. At 800 a second that is a sixth of a second, in which a scraper's
//! head arrives, having been sent with the connect.
//!
//! A seat is also where a panic ends: it takes its own connection with it and nobody else's.

use super::{Limits, Standing};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Sends a request, or will, or perhaps nothing.
    Asking,
    /// Waits for its answer, which may be the result of something done: never evicted.
    Served,
    /// Takes its answer.
    Reading,
    /// Has had its last answer.
    Leaving,
}

/// In which order seats are given up: the least goes first. Each has its place among its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Leaving(u64),
    /// By when it came.
    Stranger(u64),
    Asking(u64),
    Reading(u64),
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
    came: u64,
    doing: Cell<Doing>,
    since: Cell<u64>,
    /// As its last request has shown.
    standing: Cell<Standing>,
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
            let ranks = taken.iter().enumerate().filter_map(|(at, seat)| Some((seat.rank()?, at)));
            let (_, first) = ranks.min()?;
            taken.swap_remove(first).evict();
        }
        let came = self.next();
        let seat = Rc::new(Seat {
            came,
            doing: Cell::new(Doing::Asking),
            since: Cell::new(came),
            standing: Cell::new(Standing::Stranger),
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

    /// Evicts who has been taking an answer for longest, strangers first, until the rest is little enough; `last` stays.
    fn evict_readers(&self, last: &Seat) {
        let mut taken = self.taken.borrow_mut();
        while taken.iter().map(|seat| seat.owed_bytes.get()).sum::<usize>() > self.limits.answers_bytes {
            let others = taken
                .iter()
                .enumerate()
                .filter(|(_, seat)| seat.owed_bytes.get() > 0 && !std::ptr::eq(&***seat, last));
            let Some((at, _)) = others.min_by_key(|(_, seat)| seat.rank()) else { return };
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

    /// It has shown this much with what it asks now.
    pub fn stand(&self, standing: Standing) {
        self.standing.set(standing);
    }

    /// When it is given up; never while it is served.
    fn rank(&self) -> Option<Rank> {
        let since = self.since.get();
        match (self.doing.get(), self.standing.get()) {
            (Doing::Served, _) => None,
            (Doing::Leaving, _) => Some(Rank::Leaving(since)),
            (_, Standing::Stranger) => Some(Rank::Stranger(self.came)),
            (Doing::Asking, Standing::Known) => Some(Rank::Asking(since)),
            (Doing::Reading, Standing::Known) => Some(Rank::Reading(since)),
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

    fn taken<const N: usize>(seats: &Rc<Seats>, as_these: [(Standing, Doing); N]) -> [Rc<Seat>; N] {
        as_these.map(|(standing, doing)| {
            let seat = seats.take().expect("a free seat");
            seat.stand(standing);
            seat.begin(doing);
            seat
        })
    }

    /// Newcomers take all seats but those of who is served, in the order of these numbers.
    fn assert_evicted(seats: &Rc<Seats>, taken: &[Rc<Seat>], order: &[usize]) {
        for evicted in order {
            assert!(!taken[*evicted].is_evicted.get(), "{evicted} went too early");
            seats.take().expect("a seat of somebody else's").begin(Doing::Served);
            assert!(taken[*evicted].is_evicted.get(), "{evicted} stayed");
        }
    }

    #[test]
    fn seats_are_given_up_in_the_order_of_what_is_done_and_of_age() {
        use Doing::{Asking, Leaving, Reading, Served};
        use Standing::{Known, Stranger};
        let seats = Rc::new(Seats::new(Limits { connections: 6, ..Limits::DEFAULT }));
        let taken = taken(
            &seats,
            [
                (Known, Reading),
                (Known, Served),
                (Known, Asking),
                (Known, Asking),
                (Stranger, Asking),
                (Known, Leaving),
            ],
        );
        // Asking anew makes a connection the younger of two.
        taken[2].begin(Asking);
        assert_evicted(&seats, &taken, &[5, 4, 3, 2, 0]);
        assert!(seats.take().is_none() && !taken[1].is_evicted.get());
        seats.leave(&taken[1]);
        assert!(seats.take().is_some());
    }

    #[test]
    fn nothing_a_stranger_does_makes_its_seat_safer() {
        use Doing::{Asking, Reading};
        use Standing::{Known, Stranger};
        let seats = Rc::new(Seats::new(Limits { connections: 5, ..Limits::DEFAULT }));
        let taken = taken(
            &seats,
            [(Known, Asking), (Stranger, Reading), (Stranger, Asking), (Known, Asking), (Stranger, Reading)],
        );
        taken[1].begin(Asking);
        taken[2].begin(Asking);
        // One whose key is not the server's any more.
        taken[3].stand(Stranger);
        assert_evicted(&seats, &taken, &[1, 2, 3, 4, 0]);
    }
}
