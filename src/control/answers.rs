//! How the control thread waits for what cores answer.
//!
//! A core that answers wakes who waits. A waker of monoio may not be used on another thread, and with its feature `sync` it
//! would take locks there, on a core's time. So a core gets a waker of our own, which writes one byte to a socket at most; a task
//! of the control thread reads it, and has everybody look again who waits.

use monoio::io::AsyncReadRent;
use monoio::net::UnixStream;
use monoio::time::Instant;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// The longest that a request waits.
const DEADLINE: Duration = Duration::from_secs(5);

/// Rung from any thread.
struct Bell {
    /// It was rung and not heard yet: once is enough.
    is_rung: AtomicBool,
    socket: std::os::unix::net::UnixStream,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // There is room: the byte before it was read before `is_rung` was false.
            let _ = (&self.socket).write(&[1]);
        }
    }
}

/// Until when a request that came now waits.
pub(super) fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

/// What has not come in time.
pub(super) struct Late;

/// Waits for answers of other threads.
pub(super) struct Answers {
    ring: Waker,
    waiting: Rc<RefCell<Vec<Waker>>>,
}

impl Answers {
    /// Begins to listen for the bell, on the runtime of this thread.
    pub fn listen() -> io::Result<Answers> {
        let (socket, heard) = std::os::unix::net::UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        let bell = Arc::new(Bell { is_rung: AtomicBool::new(false), socket });
        let waiting = Rc::<RefCell<Vec<Waker>>>::default();
        monoio::spawn(hear(UnixStream::from_std(heard)?, Arc::clone(&bell), Rc::clone(&waiting)));
        Ok(Answers { ring: Waker::from(bell), waiting })
    }

    /// What another thread makes of this, until then.
    pub async fn by<F: Future>(&self, deadline: Instant, future: F) -> Result<F::Output, Late> {
        let mut future = pin!(future);
        let answered = poll_fn(|context| {
            let polled = future.as_mut().poll(&mut Context::from_waker(&self.ring));
            if polled.is_pending() {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
            }
            polled
        });
        monoio::time::timeout_at(deadline, answered).await.map_err(|_| Late)
    }
}

async fn hear(mut socket: UnixStream, bell: Arc<Bell>, waiting: Rc<RefCell<Vec<Waker>>>) {
    let mut buffer = vec![0; 8];
    loop {
        let (result, returned) = socket.read(buffer).await;
        buffer = returned;
        if let Err(error) = result {
            tracing::error!(%error, "answers of cores are not heard any more");
            return;
        }
        // What was ready before the bell is seen after this.
        bell.is_rung.swap(false, Ordering::AcqRel);
        let all = std::mem::take(&mut *waiting.borrow_mut());
        all.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn run<F: Future>(test: impl FnOnce(Answers) -> F) -> F::Output {
        let mut runtime =
            monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build().expect("epoll");
        runtime.block_on(async { test(Answers::listen().expect("a socket")).await })
    }

    #[test]
    fn everybody_who_waits_hears_the_answer_of_another_thread() {
        run(|answers| async move {
            let answers = Rc::new(answers);
            for round in 0..200 {
                let (senders, receivers): (Vec<_>, Vec<_>) =
                    (0..=round % 8).map(|_| oneshot::channel()).unzip();
                let deadline = deadline();
                let waiting: Vec<_> = receivers
                    .into_iter()
                    .map(|receiver| {
                        let answers = Rc::clone(&answers);
                        monoio::spawn(async move { answers.by(deadline, receiver).await })
                    })
                    .collect();
                let cores = thread::spawn(move || {
                    for (number, sender) in senders.into_iter().enumerate() {
                        sender.send(round * 8 + number).expect("somebody waits");
                    }
                });
                for (number, waiting) in waiting.into_iter().enumerate() {
                    assert_eq!(waiting.await.ok().expect("in time"), Ok(round * 8 + number));
                }
                cores.join().expect("a thread");
                // Then all look again, whether they have heard the bell or not.
                assert!(Instant::now() < deadline, "the bell was not heard");
            }
        });
    }

    #[test]
    fn who_waits_for_nothing_is_told_when_it_is_late() {
        run(|answers| async move {
            let (_core, receiver) = oneshot::channel::<()>();
            let deadline = Instant::now() + Duration::from_millis(20);
            assert!(answers.by(deadline, receiver).await.is_err());
            assert!(Instant::now() >= deadline);
        });
    }

    #[test]
    fn what_is_there_already_is_not_waited_for() {
        run(|answers| async move {
            assert_eq!(answers.by(Instant::now(), std::future::ready(7)).await.ok(), Some(7));
        });
    }
}
