//! Park and wake in every order of events that the memory model allows: loom runs `src/ds/park.rs`, the same file that
//! the server compiles, with atomics of its own.
//!
//! One core and two others that send it mail. The rings are counters; the bell is loom's `Notify`, which keeps a ring
//! as an eventfd does. A core that sleeps on with mail unseen is a deadlock, and loom reports it. Broken on purpose: the
//! same file with fences that do nothing, which must fail, or the model would prove nothing.

#![expect(clippy::duplicate_mod, reason = "once as it is and once broken")]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// `src/ds/park.rs` on loom's atomics.
#[path = "."]
mod fenced {
    mod atomic {
        pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    }

    #[path = "../src/ds/park.rs"]
    #[expect(dead_code, reason = "the limit is for the server")]
    pub mod park;
}

/// The same with fences that do nothing.
#[path = "."]
mod unfenced {
    mod atomic {
        pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

        pub fn fence(_: Ordering) {}
    }

    #[path = "../src/ds/park.rs"]
    #[expect(dead_code, reason = "the limit is for the server")]
    pub mod park;
}

/// Most times that a thread is interrupted where it need not be; the known errors need two.
const PREEMPTIONS: usize = 3;

macro_rules! models {
    ($module:ident, $park:path) => {
        mod $module {
            use super::*;
            use loom::sync::Notify;
            use $park as Park;

            /// One core, as others see it.
            struct Core {
                park: Park,
                bell: Notify,
                /// Mail put into the ring of each sender.
                rings: [AtomicUsize; 2],
                /// Mail of a thread that is no core: it has no bit.
                channel: AtomicUsize,
                /// How often the bell was rung; not part of what is modelled.
                rung: std::sync::atomic::AtomicUsize,
            }

            impl Core {
                fn new() -> Core {
                    Core {
                        park: Park::default(),
                        bell: Notify::new(),
                        rings: [AtomicUsize::new(0), AtomicUsize::new(0)],
                        channel: AtomicUsize::new(0),
                        rung: std::sync::atomic::AtomicUsize::new(0),
                    }
                }

                fn ring(&self, must: bool) {
                    if must {
                        self.rung.fetch_add(1, Ordering::Relaxed);
                        self.bell.notify();
                    }
                }

                /// A turn of another core that posts one mail.
                fn post(&self, from: usize) {
                    self.rings[from].store(self.rings[from].load(Ordering::Relaxed) + 1, Ordering::Release);
                    self.ring(self.park.announce(from));
                }

                fn send(&self) {
                    self.channel.store(1, Ordering::Release);
                    self.ring(self.park.rouse());
                }

                /// Takes mail and sleeps in between, until all has come; how often it was about to sleep.
                fn run(&self, expected: usize) -> usize {
                    let (mut read, mut channel, mut parked) = ([0; 2], 0, 0);
                    loop {
                        self.park.take(|from| read[from] = self.rings[from].load(Ordering::Acquire));
                        channel = channel.max(self.channel.load(Ordering::Acquire));
                        if read[0] + read[1] + channel == expected {
                            break;
                        }
                        parked += 1;
                        if !self.park.park() {
                            continue;
                        }
                        if self.channel.load(Ordering::Acquire) > channel {
                            self.park.unpark();
                            continue;
                        }
                        self.bell.wait();
                        self.park.unpark();
                    }
                    parked
                }
            }

            fn model(senders: &'static [fn(&Core)], expected: usize) {
                let mut builder = loom::model::Builder::new();
                builder.preemption_bound = Some(PREEMPTIONS);
                builder.check(move || {
                    let core = Arc::new(Core::new());
                    for send in senders {
                        let core = Arc::clone(&core);
                        loom::thread::spawn(move || send(&core));
                    }
                    let (parked, rung) = (core.run(expected), core.rung.load(Ordering::Relaxed));
                    // With more posts loom has two of them win the same mark: it keeps the order of changes partial
                    // where the memory model has it total.
                    assert!(rung <= parked || expected > 2, "rung {rung} times, parked {parked} times");
                });
            }

            /// Two cores, of which one posts in two turns.
            pub fn two_cores() {
                model(&[|core| core.post(0), |core| (0..2).for_each(|_| core.post(1))], 3);
            }

            /// A core and a thread that is none.
            pub fn a_core_and_a_thread() {
                model(&[|core| core.post(0), |core| core.send()], 2);
            }
        }
    };
}

models!(right, crate::fenced::park::Park);
models!(wrong, crate::unfenced::park::Park);

#[test]
fn mail_of_two_cores_never_lies_unseen_while_the_core_sleeps() {
    right::two_cores();
}

#[test]
fn nor_does_mail_of_a_thread() {
    right::a_core_and_a_thread();
}

#[test]
fn without_the_fences_a_wake_up_is_lost() {
    for model in [wrong::two_cores, wrong::a_core_and_a_thread] {
        assert!(std::panic::catch_unwind(model).is_err(), "the model does not see what the fences are for");
    }
}
