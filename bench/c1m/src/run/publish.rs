//! The phases that publish: fan-out, a broadcast, subscribers that stall, and subscribers that come and go.
//!
//! The first ring holds one connection, which publishes and is a subscriber like the others. Every delivery is judged by
//! the ring it reaches; a phase that lacks one says how many.

use super::{GRACE, Run, SETTLE, Spent};
use crate::fleet::{Fleet, Joint};
use crate::observe::memory::rss_bytes;
use crate::progress::Progress;
use crate::report::fanout::{Broadcast, Churn, FanOut, Slow};
use crate::ring::{Order, Publish};
use crate::stalled::Stalled;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// The ring of the publisher.
const PUBLISHER: usize = 0;
/// Deliveries slower than this, on average, end a broadcast.
const DELIVERIES_PER_SECOND_MIN: u64 = 10_000;
/// Publications a second of slow and of churn.
const SLOW_RATE: f64 = 10.0;
const CHURN_RATE: f64 = 20.0;
/// One in so many never reads.
const STALLED_ONE_IN: u64 = 100;
const CUT_PART: f64 = 1.0 / 3.0;
/// How long publications go on with every subscriber there, in each round of a churn.
const CHURN_REST: Duration = Duration::from_millis(200);
const MEMORY_EVERY: Duration = Duration::from_millis(500);

impl Run {
    /// Closed loop: the next publication begins when every subscriber has received one of those on their way.
    pub(crate) fn fan_out(&mut self) {
        if self.over() {
            return;
        }
        let subscribers = self.fleet.tally().open;
        let outstanding = self.options.outstanding.max(1);
        // Once before, so that what a server does at the first publication is done.
        self.publish(Publish { count: 1, ..self.publication(subscribers) }, "first publication");
        let before = self.spent();
        let until = Instant::now() + self.options.load;
        let order = Publish { outstanding, until, ..self.publication(subscribers) };
        let (joint, deliveries) = self.publish(order, "fan-out");
        let spent = self.since(&before);
        let wall = joint.wall.as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries.len().max(1) as f64;
        self.report.fanout.push(FanOut {
            subscribers,
            outstanding,
            publications: joint.published,
            deliveries: deliveries.len(),
            missing: joint.missing,
            deliveries_per_second: deliveries.len() as f64 / wall.max(1e-6),
            server_us_per_delivery: spent.server.map(each),
            host_us_per_delivery: each(spent.host),
            server_cores: spent.server.map(|cpu| cpu.as_secs_f64() / wall),
            driver_cores: spent.driver.as_secs_f64() / wall,
            last_p50_us: joint.latency_us.value_at_quantile(0.5),
            last_p99_us: joint.latency_us.value_at_quantile(0.99),
            p50_us: deliveries.value_at_quantile(0.5),
            p99_us: deliveries.value_at_quantile(0.99),
        });
    }

    /// One message to everyone.
    pub(crate) fn broadcast(&mut self) {
        if self.over() || !self.publishes {
            return;
        }
        let subscribers = self.fleet.tally().open;
        let before = self.spent();
        let (joint, deliveries) =
            self.publish(Publish { count: 1, ..self.publication(subscribers) }, "broadcast");
        let Spent { server, host, .. } = self.since(&before);
        let seconds_to_last = deliveries.max() as f64 / 1e6;
        let at = |quantile| deliveries.value_at_quantile(quantile) as f64 / 1e3;
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries.len().max(1) as f64;
        self.report.broadcast = Some(Broadcast {
            subscribers,
            seconds_to_last,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            deliveries_per_second: deliveries.len() as f64 / seconds_to_last.max(1e-6),
            missing: joint.missing,
            server_us_per_delivery: server.map(each),
            host_us_per_delivery: each(host),
        });
    }

    /// Publications at fixed times: first to those who read, then with one in a hundred besides that never does.
    pub(crate) fn slow(&mut self) {
        if self.over() {
            return;
        }
        let subscribers = self.fleet.tally().open;
        let (_, baseline) = self.publish(self.paced(subscribers, SLOW_RATE), "without stalled");
        let rss_before_bytes = self.pid().map(rss_bytes);
        let asked = (subscribers / STALLED_ONE_IN).max(1);
        let stalled = match Stalled::open(&self.target, subscribers, asked) {
            Ok(stalled) => stalled,
            Err(why) => return self.note(why),
        };
        let (joint, latency) = self.publish(self.paced(subscribers, SLOW_RATE), "with stalled");
        let rss_peak_bytes = self.pid().map(|pid| rss_bytes(pid).max(self.rss_peak_bytes));
        let grown = rss_peak_bytes.zip(rss_before_bytes);
        self.report.slow = Some(Slow {
            baseline_p50_us: baseline.value_at_quantile(0.5),
            baseline_p99_us: baseline.value_at_quantile(0.99),
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            publications: joint.published,
            missing: joint.missing,
            rss_before_bytes,
            rss_peak_bytes,
            rss_growth_bytes: grown.map(|(peak, before)| peak as i64 - before as i64),
            stalled: stalled.len(),
            disconnected: stalled.ended(),
        });
    }

    /// Publications at fixed times while a third of the subscribers is cut at random and opened again, round after round.
    /// Who comes back must receive everything that follows its subscription.
    pub(crate) fn churn(&mut self) {
        if self.over() {
            return;
        }
        let everyone = self.fleet.tally().open;
        self.publish(Publish { count: 1, ..self.publication(everyone) }, "first publication");
        let others: Vec<usize> = (0..self.fleet.len()).filter(|ring| *ring != PUBLISHER).collect();
        let (before, started) = (self.fleet.tally(), Instant::now());
        let mut churn = Churn { rss_start_bytes: self.pid().map(rss_bytes), ..Churn::default() };
        let mut progress = Progress::new("churn", 0, self.pid());
        while started.elapsed() < self.options.load && !self.over() {
            // Nobody in particular must receive these: who is there changes.
            let paced = Publish { until: Instant::now() + GRACE * 2, ..self.paced(0, CHURN_RATE) };
            self.fleet.order(PUBLISHER, Order::Publish(paced));
            let reopen = Order::Ramp { count: u32::MAX, in_flight: self.options.in_flight, per_second: None };
            for order in [Order::Cut { part: CUT_PART }, reopen] {
                let open = self.fleet.tally().open;
                let deadline = Instant::now() + GRACE;
                let look = |fleet: &Fleet| progress.at(fleet.tally().deliveries - before.deliveries);
                let joint = self.fleet.run(&others, others.len(), deadline, |_| order, look);
                churn.cut += open.saturating_sub(self.fleet.tally().open);
                churn.reopened += joint.opened;
                self.note_failures(&joint);
            }
            self.fleet.hold(CHURN_REST, |_| {});
            let joint = self.fleet.run(&[PUBLISHER], 1, Instant::now() + GRACE, |_| Order::Drain, |_| {});
            churn.publications += joint.published;
            churn.rounds += 1;
            self.note_failures(&joint);
        }
        drop(progress);
        churn.seconds = started.elapsed().as_secs_f64();
        let everyone = self.fleet.tally().open;
        let (last, _) = self.publish(Publish { count: 1, ..self.publication(everyone) }, "last publication");
        churn.missing = last.missing;
        self.fleet.hold(SETTLE, |_| {});
        churn.rss_end_bytes = self.pid().map(rss_bytes);
        let after = self.fleet.tally();
        churn.deliveries = after.deliveries - before.deliveries;
        churn.misdelivered = after.misdelivered - before.misdelivered;
        churn.gaps = after.gaps - before.gaps;
        self.report.churn = Some(churn);
    }

    /// One publication at a time until told otherwise.
    fn publication(&self, subscribers: u64) -> Publish {
        let until = Duration::from_secs(subscribers / DELIVERIES_PER_SECOND_MIN) + GRACE;
        Publish {
            payload_bytes: self.options.payload(),
            subscribers: subscribers as u32,
            outstanding: 1,
            per_second: None,
            count: u32::MAX,
            until: Instant::now() + until,
        }
    }

    /// Publications at the rate asked for, otherwise at `rate`, as long as a load lasts.
    fn paced(&self, subscribers: u64, rate: f64) -> Publish {
        Publish {
            per_second: Some(self.options.publish_rate.unwrap_or(rate)),
            outstanding: u32::MAX,
            until: Instant::now() + self.options.load,
            ..self.publication(subscribers)
        }
    }

    /// Publishes; returns what came of the publications and the time to each delivery.
    fn publish(&mut self, order: Publish, what: &'static str) -> (Joint, Histogram<u32>) {
        let delivered = self.fleet.tally().deliveries;
        let due = if order.count == 1 { u64::from(order.subscribers) } else { 0 };
        let pid = self.pid();
        let mut progress = Progress::new(what, due, pid);
        let mut rss_peak_bytes = 0;
        let mut looked = Instant::now();
        let joint = self.fleet.run(
            &[PUBLISHER],
            1,
            order.until + GRACE,
            |_| Order::Publish(order),
            |fleet| {
                progress.at(fleet.tally().deliveries - delivered);
                if looked.elapsed() > MEMORY_EVERY {
                    looked = Instant::now();
                    rss_peak_bytes = rss_peak_bytes.max(pid.map_or(0, rss_bytes));
                }
            },
        );
        drop(progress);
        self.rss_peak_bytes = rss_peak_bytes;
        let collected = self.fleet.run_all(Instant::now() + GRACE, |_| Order::Collect, |_| {});
        if joint.missing > 0 && !self.fleet.interrupted() {
            self.note(format!("{what}: {} deliveries did not come", joint.missing));
        }
        self.note_failures(&joint);
        self.note_failures(&collected);
        self.count(0, &joint);
        (joint, collected.latency_us)
    }
}
