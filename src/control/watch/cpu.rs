//! How busy the CPUs are that reactors are pinned to.
//!
//! What a reactor's own thread runs says little of the room there is: where several share a CPU each runs a small part of the time
//! when that CPU is full, and one whose CPU is taken by others runs less the worse it gets. So a CPU is as busy as the part of time
//! in which any of its reactors ran, or was ready to and had to wait. Run times are disjoint and add up. Waits overlap them and
//! each other, so of these the reactor that was ready longest counts: never more than there was.
//!
//! A reactor that could not be pinned counts to the CPU that it was meant for.

use super::Look;
use crate::hub::Mail;
use crate::server::Handle;
use std::collections::BTreeMap;
use std::time::Instant;

/// How busy a CPU was from one look to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::control) struct Cpu {
    /// As the kernel numbers it.
    pub number: usize,
    /// 0 to 1.
    pub busy: f64,
}

/// What a reactor's thread did of the time, as parts of it.
#[derive(Debug, Clone, Copy)]
struct Share {
    cpu: usize,
    ran: f64,
    waited: f64,
}

/// Looks at a server, and at what has gone by since it last did.
#[derive(Default)]
pub(super) struct Meter {
    looked: Option<Instant>,
    waited_us: Vec<u64>,
}

impl Meter {
    /// One look, with how busy the CPUs were since the last one.
    pub fn look(&mut self, handle: &Handle<Mail>) -> Look {
        let mut look = Look::take(handle);
        let elapsed_us = self.looked.map_or(0, |before| look.at.duration_since(before).as_micros());
        self.waited_us.resize(handle.cores(), 0);
        let seats = (0..handle.cores()).filter_map(|core| handle.seat(core));
        let shares = seats.zip(&look.cores).zip(&mut self.waited_us).map(|((seat, core), waited_us)| {
            // It never gets less: where it seems to, the kernel does not tell at the moment.
            let before_us = std::mem::replace(waited_us, seat.waited_us().max(*waited_us));
            let waited = match elapsed_us {
                0 => 0.0,
                elapsed_us => (*waited_us - before_us) as f64 / elapsed_us as f64,
            };
            Share { cpu: seat.cpu(), ran: core.busy(), waited }
        });
        look.cpus = cpus(shares);
        self.looked = Some(look.at);
        look
    }
}

fn cpus(shares: impl Iterator<Item = Share>) -> Vec<Cpu> {
    let mut parts: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for Share { cpu, ran, waited } in shares {
        let (all_ran, longest_ready) = parts.entry(cpu).or_default();
        *all_ran += ran;
        *longest_ready = longest_ready.max(ran + waited);
    }
    let busy = |(ran, ready): (f64, f64)| ran.max(ready).min(1.0);
    parts.into_iter().map(|(number, parts)| Cpu { number, busy: busy(parts) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_as_busy_as_its_reactors_are_together_or_as_the_one_that_is_ready_longest() {
        let on = |cpu: usize, ran: f64, waited: f64| Share { cpu, ran, waited };
        let many = |of: Share| vec![of; 27];
        for (shares, expected) in [
            (vec![], vec![]),
            (vec![on(3, 0.25, 0.0), on(7, 0.5, 0.0)], vec![(3, 0.25), (7, 0.5)]),
            (many(on(0, 0.03125, 0.0)), vec![(0, 0.84375)]),
            (many(on(0, 0.03125, 0.5)), vec![(0, 0.84375)]),
            (many(on(0, 0.0625, 0.9375)), vec![(0, 1.0)]),
            // Somebody else's work on the same CPU.
            (vec![on(1, 0.25, 0.625), on(1, 0.125, 0.25)], vec![(1, 0.875)]),
            (vec![on(1, 0.75, 0.75)], vec![(1, 1.0)]),
        ] {
            let said = format!("{shares:?}");
            let found: Vec<_> = cpus(shares.into_iter()).iter().map(|cpu| (cpu.number, cpu.busy)).collect();
            assert_eq!(found, expected, "{said}");
        }
    }
}
