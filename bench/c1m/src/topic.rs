//! The topic of one server as all rings of the driver see it: what was published, when, and how many have received it.
//!
//! Publications are numbered from 0 and one connection makes them all, so their order is known. Each payload carries its
//! number and a run of letters that depends on it. A subscriber keeps one number, that of the next publication it must
//! receive; so a publication lost, doubled, out of order or altered shows at once.

use crate::wire::Script;
use megasock::sys::wake::Waker;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Publications that may be on their way at once.
pub(crate) const WINDOW: u32 = 4096;
/// In place of a number: any publication may come next. Only where nothing is known yet.
pub(crate) const ANY: u32 = u32::MAX;
/// In place of a connection's number in a payload.
const TAG: u32 = 0xC1A0_70C1;
const UNKNOWN: i64 = i64::MIN;

/// Counters are relaxed: one ring writes a publication's line before any byte of it is sent.
pub(crate) struct Topic {
    pub(crate) channel: String,
    /// How many were published, which is the number of the next.
    published: AtomicU32,
    payload_bytes: AtomicUsize,
    /// Connections that must receive each publication.
    subscribers: AtomicU32,
    /// A publication's offset at the server less its number here.
    offset_base: AtomicI64,
    lines: Box<[Line]>,
    publisher: OnceLock<(usize, Waker)>,
}

/// One publication on its way.
#[derive(Default)]
struct Line {
    due_us: AtomicU64,
    /// Subscribers it has yet to reach.
    left: AtomicU32,
    /// Subscribers it cannot reach any more.
    lost: AtomicU32,
    /// When the last subscriber had it.
    done_us: AtomicU64,
}

/// What a delivery is to the connection that received it.
#[derive(Debug, PartialEq)]
pub(crate) enum Delivered {
    /// As it must be; the publication's number.
    Right(u32),
    /// Not of this driver's making.
    Foreign,
    /// Wrong, and how.
    Wrong(&'static str),
}

impl Topic {
    pub(crate) fn new(channel: &str) -> Topic {
        Topic {
            channel: channel.to_owned(),
            published: AtomicU32::new(0),
            payload_bytes: AtomicUsize::new(0),
            subscribers: AtomicU32::new(0),
            offset_base: AtomicI64::new(UNKNOWN),
            lines: (0..WINDOW).map(|_| Line::default()).collect(),
            publisher: OnceLock::new(),
        }
    }

    fn line(&self, number: u32) -> &Line {
        &self.lines[(number % WINDOW) as usize]
    }

    /// Payloads from now on have this size and go to this many subscribers; 0: to whoever is there.
    pub(crate) fn begin(&self, payload_bytes: usize, subscribers: u32) {
        self.payload_bytes.store(payload_bytes, Relaxed);
        self.subscribers.store(subscribers, Relaxed);
    }

    /// The ring that publishes, and how to wake it.
    pub(crate) fn set_publisher(&self, ring: usize, waker: &Waker) {
        self.publisher.get_or_init(|| (ring, waker.clone()));
    }

    pub(crate) fn published(&self) -> u32 {
        self.published.load(Relaxed)
    }

    /// The number of a new publication that was due at `due_us`.
    pub(crate) fn publish(&self, due_us: u64) -> u32 {
        let number = self.published.load(Relaxed);
        let line = self.line(number);
        line.due_us.store(due_us, Relaxed);
        let subscribers = self.subscribers.load(Relaxed);
        line.left.store(subscribers, Relaxed);
        line.lost.store(0, Relaxed);
        // With nobody in particular to receive it, it is done.
        line.done_us.store(if subscribers == 0 { due_us.max(1) } else { 0 }, Relaxed);
        self.published.store(number + 1, Relaxed);
        number
    }

    /// `ring` counts an arrival of a publication; returns when it was due.
    pub(crate) fn arrive(&self, number: u32, now_us: u64, ring: usize) -> u64 {
        self.settle(number, now_us, ring);
        self.line(number).due_us.load(Relaxed)
    }

    /// A subscriber that had yet to receive `next` is gone: what is on its way will not reach it.
    pub(crate) fn lose(&self, next: u32, now_us: u64, ring: usize) {
        let one_less = |count: u32| count.checked_sub(1);
        if self.subscribers.fetch_update(Relaxed, Relaxed, one_less).is_err() {
            return; // nobody in particular must receive anything
        }
        let published = self.published();
        for number in next.max(published.saturating_sub(WINDOW))..published {
            self.line(number).lost.fetch_add(1, Relaxed);
            self.settle(number, now_us, ring);
        }
    }

    /// A publication has one subscriber less to reach.
    fn settle(&self, number: u32, now_us: u64, ring: usize) {
        let line = self.line(number);
        let left = line.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left == Ok(1) {
            line.done_us.store(now_us.max(1), Relaxed);
            if let Some((publisher, waker)) = self.publisher.get()
                && *publisher != ring
            {
                waker.wake();
            }
        }
    }

    /// Time from when it was due until the last subscriber had it; `None` as long as one is waited for.
    pub(crate) fn time_to_last_us(&self, number: u32) -> Option<u64> {
        let line = self.line(number);
        let done_us = line.done_us.load(Relaxed);
        (done_us > 0).then(|| done_us.saturating_sub(line.due_us.load(Relaxed)))
    }

    /// Deliveries of a publication that have not come.
    pub(crate) fn missing(&self, number: u32) -> u32 {
        let line = self.line(number);
        line.left.load(Relaxed) + line.lost.load(Relaxed)
    }

    /// What a new subscriber must receive first: the publication after `last_offset`, where the server says that.
    pub(crate) fn first_for(&self, last_offset: Option<u64>) -> u32 {
        match (last_offset, self.offset_base.load(Relaxed)) {
            _ if self.published() == 0 => 0,
            (Some(last), base) if base != UNKNOWN => (last as i64 + 1 - base) as u32,
            _ => ANY,
        }
    }

    /// What must follow a gap that ends at this offset.
    pub(crate) fn after_gap(&self, to: u64) -> u32 {
        match self.offset_base.load(Relaxed) {
            UNKNOWN => ANY,
            base => (to as i64 + 1 - base) as u32,
        }
    }

    /// A payload as the publisher says it.
    pub(crate) fn script(&self) -> Script {
        Script::payloads(self.payload_bytes.load(Relaxed))
    }

    /// Judges a delivery to a connection that must receive publication `next`.
    pub(crate) fn judge(
        &self,
        script: &mut Script,
        next: u32,
        data: &[u8],
        offset: Option<u64>,
    ) -> Delivered {
        let Some((tag, number)) = Script::stamped(data) else { return Delivered::Foreign };
        if tag != TAG {
            return Delivered::Foreign;
        }
        if script.message_bytes() != self.payload_bytes.load(Relaxed) {
            *script = self.script();
        }
        if data.len() != script.message_bytes() || !script.matches(TAG, number, 0, data) {
            return Delivered::Wrong("a delivery was altered");
        }
        if number >= self.published() {
            return Delivered::Wrong("a delivery of nothing published");
        }
        if next != ANY && number != next {
            return Delivered::Wrong(if number < next {
                "delivered twice or out of order"
            } else {
                "a delivery is missing"
            });
        }
        match offset.map(|offset| offset as i64 - i64::from(number)) {
            Some(base) if !self.has_base(base) => Delivered::Wrong("an offset is wrong"),
            _ => Delivered::Right(number),
        }
    }

    /// Whether offsets and numbers lie `base` apart; the first delivery of all decides.
    fn has_base(&self, base: i64) -> bool {
        let known = self.offset_base.compare_exchange(UNKNOWN, base, Relaxed, Relaxed);
        known.is_ok() || known == Err(base)
    }
}

/// Appends the payload of publication `number` as it is.
pub(crate) fn payload(script: &Script, number: u32, out: &mut Vec<u8>) {
    script.write(out, TAG, number);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> (Topic, Script) {
        let topic = Topic::new("c1m");
        topic.begin(64, 2);
        let script = topic.script();
        (topic, script)
    }

    fn bytes(script: &Script, number: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        payload(script, number, &mut bytes);
        bytes
    }

    #[test]
    fn only_the_next_publication_is_right() {
        let (topic, mut script) = topic();
        (0..3).for_each(|_| _ = topic.publish(0));
        let payloads: Vec<Vec<u8>> = (0..4).map(|number| bytes(&script, number)).collect();
        let mut judge = |next, data: &[u8]| topic.judge(&mut script, next, data, None);
        assert_eq!(judge(1, &payloads[1]), Delivered::Right(1));
        assert_eq!(judge(ANY, &payloads[2]), Delivered::Right(2));
        assert!(matches!(judge(1, &payloads[0]), Delivered::Wrong(why) if why.contains("twice")));
        assert!(matches!(judge(1, &payloads[2]), Delivered::Wrong(why) if why.contains("missing")));
        assert!(matches!(judge(3, &payloads[3]), Delivered::Wrong(why) if why.contains("nothing")));
        assert!(matches!(judge(1, &payloads[1][..63]), Delivered::Wrong(why) if why.contains("altered")));
        for at in 0..64 {
            let mut altered = payloads[1].clone();
            altered[at] ^= 1;
            assert!(!matches!(judge(1, &altered), Delivered::Right(_)), "byte {at}");
        }
        assert_eq!(judge(1, b"queued messages: 1"), Delivered::Foreign);
    }

    #[test]
    fn offsets_run_beside_the_numbers() {
        let (topic, mut script) = topic();
        assert_eq!(topic.first_for(Some(17)), 0, "nothing was published yet");
        (0..9).for_each(|_| _ = topic.publish(0));
        assert_eq!(topic.first_for(Some(17)), ANY);
        let data = bytes(&script, 0);
        assert_eq!(topic.judge(&mut script, 0, &data, Some(18)), Delivered::Right(0));
        assert_eq!((topic.first_for(Some(20)), topic.first_for(None), topic.after_gap(20)), (3, ANY, 3));
        let data = bytes(&script, 1);
        assert_eq!(topic.judge(&mut script, 1, &data, Some(20)), Delivered::Wrong("an offset is wrong"));
    }

    #[test]
    fn a_publication_is_done_when_the_last_subscriber_has_it() {
        let (topic, _) = topic();
        let number = topic.publish(100);
        assert_eq!((topic.arrive(number, 150, 0), topic.time_to_last_us(number)), (100, None));
        assert_eq!(topic.missing(number), 1);
        topic.arrive(number, 170, 0);
        assert_eq!((topic.time_to_last_us(number), topic.missing(number)), (Some(70), 0));
    }

    #[test]
    fn a_lost_subscriber_is_missing_and_waited_for_no_longer() {
        let (topic, _) = topic();
        let (first, second) = (topic.publish(100), topic.publish(100));
        topic.arrive(first, 110, 0);
        topic.arrive(first, 120, 0);
        topic.arrive(second, 130, 0);
        topic.lose(second, 140, 0);
        assert_eq!((topic.missing(first), topic.missing(second)), (0, 1));
        assert_eq!(topic.time_to_last_us(second), Some(40));
        let third = topic.publish(200);
        topic.arrive(third, 210, 0);
        assert_eq!((topic.time_to_last_us(third), topic.missing(third)), (Some(10), 0));
    }
}
