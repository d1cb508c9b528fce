//! How many requests ask cores at a time.
//!
//! Each may have a core look at a thousand entries, and a core takes many requests in one turn. So that a flood of them costs
//! a core no more than a few do, the others wait here, on the control thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Lets so many in at a time.
pub(super) struct Gate {
    free: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// Somebody is in, until it is dropped.
pub(super) struct Place<'a>(&'a Gate);

impl Gate {
    pub fn new(places: usize) -> Gate {
        Gate { free: Cell::new(places), waiting: RefCell::default() }
    }

    /// Waits for a place.
    pub async fn enter(&self) -> Place<'_> {
        poll_fn(|context| match self.free.get() {
            0 => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
            free => {
                self.free.set(free - 1);
                Poll::Ready(Place(self))
            }
        })
        .await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        // All: the first may have given up, and then nobody would pass it on.
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use monoio::time::{sleep, timeout};
    use std::rc::Rc;
    use std::time::Duration;

    /// Counted as long as it lasts, however it ends.
    struct Visit<'a>(&'a Cell<usize>);

    impl Visit<'_> {
        fn new(inside: &Cell<usize>) -> Visit<'_> {
            inside.set(inside.get() + 1);
            Visit(inside)
        }
    }

    impl Drop for Visit<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[test]
    fn all_get_in_and_never_more_than_there_are_places() {
        let mut runtime =
            monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build().expect("epoll");
        runtime.block_on(async {
            let (gate, inside, most) = (Rc::new(Gate::new(3)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let visit = || {
                let (gate, inside, most) = (Rc::clone(&gate), Rc::clone(&inside), Rc::clone(&most));
                async move {
                    let _place = gate.enter().await;
                    let _visit = Visit::new(&inside);
                    most.set(most.get().max(inside.get()));
                    sleep(Duration::from_millis(2)).await;
                }
            };
            let visitors: Vec<_> = (0..30).map(|_| monoio::spawn(visit())).collect();
            // Those who give up, before they are in or while they are, take no place with them.
            for _ in 0..10 {
                let _ = timeout(Duration::from_millis(1), visit()).await;
            }
            for visitor in visitors {
                visitor.await;
            }
            assert_eq!((most.get(), gate.free.get()), (3, 3));
        });
    }
}
