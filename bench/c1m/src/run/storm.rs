//! A storm by schedule: every client is cut at once, and each comes back by itself.

use super::{GRACE, RAMP_PER_SECOND_MIN, Run};
use crate::fleet::{Fleet, Joint};
use crate::progress::Progress;
use crate::report::Storm;
use crate::report::guard::Homecoming;
use crate::ring::Order;
use std::time::{Duration, Instant};

/// A client at the cap of its schedule needs so long for a few more attempts.
const SCHEDULE_MAX: Duration = Duration::from_secs(120);

impl Run {
    /// Cuts all, and waits until each is back by the schedule of `clients/js`. `accept_rate` is what the server keeps to.
    pub(crate) fn storm_by_schedule(&mut self, accept_rate: Option<f64>) {
        if self.over() {
            return;
        }
        let before = self.fleet.tally();
        let slowest = accept_rate.unwrap_or(f64::INFINITY).min(RAMP_PER_SECOND_MIN as f64);
        let deadline = Duration::from_secs_f64(2.0 * before.open as f64 / slowest) + SCHEDULE_MAX;
        let started = Instant::now();
        self.order_returns(true, started);
        let mut progress = Progress::new("coming back", before.open, self.pid());
        self.fleet.wait(started + deadline, |fleet| {
            let returned = fleet.tally().returned - before.returned;
            progress.at(returned);
            returned >= before.open
        });
        let seconds = started.elapsed().as_secs_f64();
        drop(progress);
        let joint = self.end_returns();
        let after = self.fleet.tally();
        let refused = joint.returns.refused();
        let home = Homecoming::of(before.open, joint.returns, accept_rate);
        self.report.storm = Some(Storm {
            seconds,
            refused,
            failed: after.failed - before.failed,
            reopened: after.open,
            homecoming: Some(home),
        });
    }

    /// From now on clients come back.
    pub(super) fn order_returns(&self, cut: bool, from: Instant) {
        for ring in 0..self.fleet.len() {
            self.fleet.order(ring, Order::Return { cut, from });
        }
    }

    /// Ends that; attempts under way are awaited.
    pub(super) fn end_returns(&mut self) -> Joint {
        let nothing = |_: &Fleet| {};
        // The first order went out without waiting for its outcome; this one makes it come.
        let joint = self.fleet.run_all(Instant::now() + GRACE, |_| Order::Drain, nothing);
        self.note_failures(&joint);
        self.count(0, &joint);
        joint
    }
}
