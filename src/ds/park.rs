//! When a core may sleep, and who has to wake it.
//!
//! Whoever puts mail first puts it and then looks whether the core is parked; a core first says that it is parked and
//! then looks whether there is mail. Each has a sequentially consistent fence in between, so at least one of the two
//! sees the other: mail never lies unseen while the core sleeps, a parked core is rung once, a busy one never.
//!
//! A mask says which of the other cores has put mail, so that a core looks only into the rings that have some. A bit is
//! set by its sender after the mail is in the ring, and cleared by the core before it looks into the ring; a fence on
//! each side again. A sender that finds its bit set is done: the core has yet to take the bit, and the mail with it.
//!
//! Pure, so that tests/park_model.rs can compile this same file for loom and try every order of events.

use super::atomic::{AtomicBool, AtomicU64, Ordering, fence};

const WORDS: usize = 4;

/// Cores that a mask has bits for.
pub const PARK_CORES_MAX: usize = WORDS * 64;

/// Whether one core sleeps, and which of the others have put mail for it.
pub struct Park {
    parked: AtomicBool,
    mail: [AtomicU64; WORDS],
}

impl Default for Park {
    fn default() -> Park {
        Park { parked: AtomicBool::new(false), mail: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Park {
    /// Core `from` has put mail into its ring to this core. True: this core is parked and the caller must ring.
    pub fn announce(&self, from: usize) -> bool {
        fence(Ordering::SeqCst); // with the one in `take`: the bit is seen cleared, or the mail is seen
        let (word, bit) = (&self.mail[from / 64], 1 << (from % 64));
        if word.load(Ordering::Relaxed) & bit != 0 {
            return false;
        }
        word.fetch_or(bit, Ordering::Release);
        self.rouse()
    }

    /// Somebody has put mail where this core looks after it has parked. True: it is parked and the caller must ring.
    pub fn rouse(&self) -> bool {
        fence(Ordering::SeqCst); // with the one in `park`
        self.parked.load(Ordering::Relaxed)
            && self.parked.compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The core takes the cores that have put mail since the last time. It must empty their rings before it parks.
    pub fn take(&self, mut each: impl FnMut(usize)) {
        let mut taken = [0; WORDS];
        for (word, taken) in self.mail.iter().zip(&mut taken) {
            if word.load(Ordering::Relaxed) != 0 {
                *taken = word.swap(0, Ordering::Acquire);
            }
        }
        if taken == [0; WORDS] {
            return;
        }
        fence(Ordering::SeqCst);
        for (at, mut word) in taken.into_iter().enumerate() {
            while word != 0 {
                each(at * 64 + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }

    /// The core is about to sleep. False: another core has put mail, and it is awake again. Where mail can come
    /// without a bit, it must look there too before it sleeps.
    pub fn park(&self) -> bool {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let has_mail = self.mail.iter().any(|word| word.load(Ordering::Relaxed) != 0);
        if has_mail {
            self.unpark();
        }
        !has_mail
    }

    /// The core is awake: nobody needs to ring.
    pub fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }
}
