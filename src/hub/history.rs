//! The last publications of one topic, bounded by count, bytes and age.

use super::namespace::Settings;
use crate::buf::Payload;
use crate::handler::ConnId;
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// One publication as it was sent.
pub struct Entry {
    pub frame: Payload,
    pub at_ms: u64,
    /// When it was made, by [`super::stats::now_us`].
    pub made_us: u32,
    /// The connection that did not get it, behind its core's number and one, which is never 0 and needs no room for a tag.
    except: Option<(NonZeroU16, ConnId)>,
}

const _: () = assert!(size_of::<Entry>() <= 32);

impl Entry {
    /// A publication for all but `except`, a connection on the core named first.
    pub fn new(frame: Payload, at_ms: u64, made_us: u32, except: Option<(u16, ConnId)>) -> Entry {
        let except = except.map(|(core, conn)| (NonZeroU16::MIN.saturating_add(core), conn));
        Entry { frame, at_ms, made_us, except }
    }

    /// The connection on this core that does not get it.
    pub fn except_on(&self, core: u16) -> Option<ConnId> {
        self.except.filter(|(other, _)| other.get() - 1 == core).map(|(_, conn)| conn)
    }
}

/// Publications with offsets `last - len + 1 ..= last`.
#[derive(Default)]
pub struct History {
    entries: VecDeque<Entry>,
    bytes: usize,
    last: u64,
}

impl History {
    /// Offset of the newest publication, kept or not; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Offset of the oldest one kept; `last + 1` when none is.
    pub fn first(&self) -> u64 {
        self.last + 1 - self.entries.len() as u64
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes the next publication, whose offset is `last + 1`, and drops what is over the bounds.
    pub fn push(&mut self, entry: Entry, settings: &Settings) {
        self.last += 1;
        if settings.history_count_max == 0 {
            // What was kept before it was said to keep nothing would go by wrong offsets from now on.
            self.entries.clear();
            self.bytes = 0;
            return;
        }
        let now_ms = entry.at_ms;
        self.bytes += entry.frame.len();
        self.entries.push_back(entry);
        self.trim(now_ms, settings);
    }

    /// Drops what is over the bounds.
    pub fn trim(&mut self, now_ms: u64, settings: &Settings) {
        while let Some(oldest) = self.entries.front() {
            let fits = self.entries.len() <= settings.history_count_max
                && self.bytes <= settings.history_bytes_max
                && now_ms < oldest.at_ms + settings.history_age_ms;
            if fits {
                return;
            }
            self.drop_oldest();
        }
        self.entries.shrink_to_fit(); // empty: it may stay so for long
    }

    /// Drops the oldest publication kept.
    pub fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.bytes -= oldest.frame.len();
        }
    }

    /// The publication with this offset, if it is kept.
    pub fn get(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset.checked_sub(self.first())?).ok()?)
    }

    /// The frames after `offset`, or `None` if one of them is not kept.
    pub fn after(&self, offset: u64) -> Option<impl Iterator<Item = &Payload>> {
        if offset > self.last {
            return None; // whatever a client claims to have
        }
        let skip = (offset + 1).checked_sub(self.first())?;
        Some(self.entries.iter().skip(skip as usize).map(|entry| &entry.frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(bytes: usize, at_ms: u64) -> Entry {
        Entry::new(Payload::new(&[&vec![7; bytes]]), at_ms, 0, None)
    }

    proptest! {
        /// Against a list of everything ever published.
        #[test]
        fn the_bounds_hold_and_offsets_name_the_same_publications(
            count in 0usize..6, bytes in 0usize..60, age in 1u64..40,
            steps in prop::collection::vec((1usize..20, 0u64..15), 1..40),
        ) {
            let settings = Settings {
                history_count_max: count, history_bytes_max: bytes, history_age_ms: age, ..Settings::CHANNEL
            };
            let (mut history, mut all, mut now) = (History::default(), Vec::new(), 0);
            for (size, wait) in steps {
                now += wait;
                all.push((size, now));
                history.push(entry(size, now), &settings);
                let kept = (history.last() + 1 - history.first()) as usize;
                let newest = &all[all.len() - kept..];
                prop_assert_eq!(history.last(), all.len() as u64);
                prop_assert!(kept <= count && newest.iter().all(|(_, at)| now < at + age));
                prop_assert_eq!(newest.iter().map(|(size, _)| size).sum::<usize>(), history.bytes());
                prop_assert!(history.bytes() <= bytes);
                for (offset, (size, _)) in (1u64..).zip(&all) {
                    let expected = (offset >= history.first()).then_some(*size);
                    prop_assert_eq!(history.get(offset).map(|entry| entry.frame.len()), expected);
                    let after: Option<Vec<usize>> = history.after(offset).map(|f| f.map(|f| f.len()).collect());
                    let expected: Option<Vec<usize>> = (offset + 1 >= history.first())
                        .then(|| all[offset as usize..].iter().map(|(size, _)| *size).collect());
                    prop_assert_eq!(after, expected);
                }
                prop_assert!(history.get(0).is_none() && history.get(u64::MAX).is_none());
                prop_assert!(history.after(history.last() + 1).is_none() && history.after(u64::MAX).is_none());
            }
        }
    }
}
