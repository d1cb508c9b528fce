//! What is made of looks, without a server.

use super::cpu::Cpu;
use super::*;
use crate::hub::Figures;
use crate::reactor::{Counters, Totals};
use crate::server::MemoryUse;

/// A server of these cores, so many milliseconds after the first look.
fn look(begun: Instant, after_ms: u64, cores: &[&Counters]) -> Look {
    let totals = cores.iter().map(|core| {
        let mut totals = Totals::default();
        totals.add(core);
        totals
    });
    let at = begun + Duration::from_millis(after_ms);
    Look { at, ..Look::of(totals, Figures::default(), MemoryUse::default(), 1_000_000) }
}

#[test]
fn rates_are_by_the_time_that_has_passed() {
    let (begun, core) = (Instant::now(), Counters::default());
    let mut past = Past::new(look(begun, 0, &[&core]));
    assert_eq!(past.rates(), Rates::default(), "nothing is known yet");
    core.messages_received.add(500);
    core.bytes_sent.add(9_000);
    core.upgraded.add(7);
    core.disconnected[3].add(2);
    core.disconnected[5].add(2);
    past.add(look(begun, 2_000, &[&core]));
    let expected =
        Rates { messages_in: 250.0, bytes_out: 4_500.0, connects: 3.5, disconnects: 2.0, ..Rates::default() };
    assert_eq!(past.rates(), expected);
    past.add(look(begun, 2_000, &[&core]));
    assert_eq!(past.rates(), Rates::default(), "no time has passed");
}

#[test]
fn the_past_is_bounded_and_its_percentiles_are_of_the_last_seconds() {
    let (begun, core) = (Instant::now(), Counters::default());
    core.handling_us.record_many(1 << 20, 1_000);
    let mut past = Past::new(look(begun, 0, &[&core]));
    for second in 1..=400 {
        core.handling_us.record(if second <= 380 { 1_024 } else { 16 });
        past.add(look(begun, second * 1_000, &[&core]));
    }
    assert_eq!((past.looks.len(), past.points.len()), (LOOKS_MAX, POINTS_MAX));
    assert_eq!(past.now().at.duration_since(past.oldest().at), Duration::from_secs(10));
    let recent = past.now().totals.handling_us.since(&past.oldest().totals.handling_us);
    assert_eq!((recent.count(), recent.quantile(0.99)), (10, 16), "what was slow has long been over");
    let is_slow: Vec<bool> = past.points.iter().map(|point| point.latency_p99_us > 768).collect();
    assert_eq!((is_slow[0], is_slow[279], is_slow[280], is_slow[299]), (true, true, false, false));
}

#[test]
fn load_is_the_largest_part_and_never_more_than_one() {
    let (one, two) = (Counters::default(), Counters::default());
    two.connections_open.set(100);
    let mut look = look(Instant::now(), 0, &[&one, &two]);
    look.cpus = [0.3, 0.42].into_iter().enumerate().map(|(number, busy)| Cpu { number, busy }).collect();
    look.memory = MemoryUse { used_bytes: 200, budget_bytes: 1_000, ..MemoryUse::default() };
    let load = Load::of(&look, 1_000);
    assert_eq!(load, Load { connections: 0.1, memory: 0.2, cores: 0.42 });
    assert_eq!(load.largest(), 0.42);
    assert_eq!(Load::of(&look, 50).largest(), 1.0);
    look.memory.budget_bytes = 0;
    assert_eq!(Load::of(&look, 1_000).memory, 0.0, "what is not known weighs nothing");
}

#[test]
fn the_state_is_the_worst_that_holds() {
    let core = Counters::default();
    core.connections_open.set(10);
    let stopping = Stopping { clients: 10, deadline: Instant::now(), is_handed_over: false };
    for (pressure, max_connections, stopping, expected) in [
        (Pressure::Calm, 11, None, State::Ready),
        (Pressure::Calm, 10, None, State::Full),
        (Pressure::Near, 11, None, State::Full),
        (Pressure::Over, 11, None, State::Shedding),
        (Pressure::FarOver, 10, None, State::Shedding),
        (Pressure::FarOver, 10, Some(&stopping), State::Draining),
    ] {
        let mut look = look(Instant::now(), 0, &[&core]);
        look.memory.pressure = pressure;
        assert_eq!(State::of(&look, max_connections, stopping), expected, "{pressure:?} {max_connections}");
    }
}
