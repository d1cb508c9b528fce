//! What a subscriber that does not keep up is owed, and what it loses.
//!
//! It owns no queue: it is owed a run of its topic's log, which all share. So a policy is only a decision about where
//! that run begins and ends; what lies outside is lost, and becomes a gap the client is told.

use super::local::{Item, Log};
use super::namespace::SlowConsumer;

/// The run of the log that a subscriber is owed begins at its cursor.
pub struct Lag {
    /// What is done about it, to its end: a run that one policy has cut means nothing to another.
    policy: SlowConsumer,
    /// Items before this one have been looked at.
    seen: u32,
    /// With [`SlowConsumer::DropNewest`]: the run ends here, and what was seen since is lost.
    stop: Option<u32>,
    /// First and last publication lost.
    gap: Option<(u64, u64)>,
}

/// What has become of a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its connection is owed so many bytes now.
    Owed(usize),
    /// It is to be closed.
    TooSlow,
}

impl Lag {
    /// Nothing is owed before `cursor`.
    pub fn from(cursor: u32, policy: SlowConsumer) -> Lag {
        Lag { policy, seen: cursor, stop: None, gap: None }
    }

    /// The policy of the topic when it began.
    pub fn policy(&self) -> SlowConsumer {
        self.policy
    }

    /// Everything before this has been looked at.
    pub fn seen(&self) -> u32 {
        self.seen
    }

    /// Whether something is lost that the client has not been told of.
    pub fn has_lost(&self) -> bool {
        self.gap.is_some()
    }

    /// The end of the run.
    pub fn end(&self) -> u32 {
        self.stop.unwrap_or(self.seen)
    }

    /// What was lost before the run.
    pub fn take_gap_before(&mut self) -> Option<(u64, u64)> {
        if self.stop.is_none() { self.gap.take() } else { None }
    }

    /// What was lost behind it.
    pub fn take_gap_behind(&mut self) -> Option<(u64, u64)> {
        self.gap.take()
    }

    /// Bytes of the run that begins at `cursor`.
    pub fn owed_bytes(&self, log: &Log, cursor: u32) -> usize {
        let items = self.end().wrapping_sub(cursor) as usize;
        log.since(cursor).take(items).map(|item| item.frame.len()).sum()
    }

    /// Looks at what is new in the log. `owed` bytes are owed to the connection already, by this topic and others; more
    /// than `bytes_max` may not be. Publications lost are added to `dropped`.
    pub fn owe(
        &mut self,
        log: &Log,
        cursor: &mut u32,
        mut owed: usize,
        bytes_max: usize,
        dropped: &mut u64,
    ) -> Verdict {
        while self.seen != log.next() {
            let (number, item) = (self.seen, log.get(self.seen));
            self.seen = self.seen.wrapping_add(1);
            let fits = owed + item.frame.len() <= bytes_max;
            match self.policy {
                SlowConsumer::Disconnect if !fits => return Verdict::TooSlow,
                SlowConsumer::DropNewest if !fits || self.stop.is_some() => {
                    self.stop.get_or_insert(number);
                    self.lose(item, dropped);
                    continue;
                }
                _ => owed += item.frame.len(),
            }
            // A message replaces those before it; an event says nothing about them.
            let conflates = self.policy == SlowConsumer::Conflate && item.to > 0;
            while *cursor != self.seen && (owed > bytes_max || conflates && *cursor != number) {
                let oldest = log.get(*cursor);
                *cursor = cursor.wrapping_add(1);
                owed -= oldest.frame.len();
                self.lose(oldest, dropped);
            }
        }
        Verdict::Owed(owed)
    }

    fn lose(&mut self, item: &Item, dropped: &mut u64) {
        if item.to > 0 {
            *dropped += item.to - item.from + 1;
            let first = self.gap.map_or(item.from, |(first, _)| first);
            self.gap = Some((first, item.to));
        }
    }
}
