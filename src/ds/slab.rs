//! The connection table of one core.
//!
//! The *kernel* hands out the slots: an accepted socket's direct descriptor is its index here, so there is no free list.
//! Each slot counts how often it was freed; a reference to an earlier occupant does not resolve.

use super::wheel::{Timer, Timers};

/// Values at indices chosen elsewhere, each with a generation and a timer.
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    live: usize,
}

struct Entry<T> {
    generation: u32,
    timer: Timer,
    value: Option<T>,
}

/// Bits of a generation: as many as a completion carries beside its slot and operation.
pub const GENERATION_BITS: u32 = 24;

const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

impl<T> Slab<T> {
    /// Bytes of one slot.
    pub const SLOT_BYTES: usize = size_of::<Entry<T>>();

    /// An empty table. Address space for `slots_max` is reserved, memory is touched as slots are used.
    pub fn with_capacity(slots_max: usize) -> Slab<T> {
        Slab { entries: Vec::with_capacity(slots_max), live: 0 }
    }

    /// Puts `value` at `slot` and returns the slot's generation; `None` if the slot is taken.
    pub fn insert(&mut self, slot: u32, value: T) -> Option<u32> {
        let at = slot as usize;
        if at >= self.entries.len() {
            self.entries.resize_with(at + 1, || Entry {
                generation: 0,
                timer: Timer::default(),
                value: None,
            });
        }
        let entry = &mut self.entries[at];
        if entry.value.is_some() {
            return None;
        }
        entry.value = Some(value);
        self.live += 1;
        Some(entry.generation)
    }

    /// The value at `slot` if it is still of `generation`.
    pub fn get(&self, slot: u32, generation: u32) -> Option<&T> {
        let entry = self.entries.get(slot as usize)?;
        if entry.generation == generation { entry.value.as_ref() } else { None }
    }

    /// The value at `slot` if it is still of `generation`.
    pub fn get_mut(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.generation == generation { entry.value.as_mut() } else { None }
    }

    /// The generation of whatever is at `slot` now, if anything is.
    pub fn generation(&self, slot: u32) -> Option<u32> {
        let entry = self.entries.get(slot as usize)?;
        entry.value.as_ref().map(|_| entry.generation)
    }

    /// Takes the value out; every reference of its generation is stale from now on. Its timer must be disarmed.
    pub fn remove(&mut self, slot: u32, generation: u32) -> Option<T> {
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.generation != generation {
            return None;
        }
        debug_assert!(!entry.timer.is_armed(), "a freed slot must not be in the wheel");
        let value = entry.value.take()?;
        entry.generation = (generation + 1) & GENERATION_MASK;
        self.live -= 1;
        Some(value)
    }

    /// Occupied slots.
    pub fn len(&self) -> usize {
        self.live
    }

    /// True when no slot is occupied.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Slots ever used: every occupied slot is below this.
    pub fn slots(&self) -> u32 {
        self.entries.len() as u32
    }
}

impl<T> Timers for Slab<T> {
    fn timer(&mut self, slot: u32) -> &mut Timer {
        &mut self.entries[slot as usize].timer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn behaves_like_a_map_keyed_by_slot_and_generation(
            steps in prop::collection::vec((0u32..6, any::<bool>(), any::<u16>()), 0..200),
        ) {
            let mut slab = Slab::with_capacity(6);
            let mut model: HashMap<u32, (u32, u16)> = HashMap::new();
            let mut freed: Vec<(u32, u32)> = Vec::new();
            for (slot, insert, value) in steps {
                if insert {
                    let inserted = slab.insert(slot, value);
                    prop_assert_eq!(inserted.is_some(), !model.contains_key(&slot));
                    if let Some(generation) = inserted {
                        model.insert(slot, (generation, value));
                    }
                } else if let Some((generation, value)) = model.remove(&slot) {
                    prop_assert_eq!(slab.remove(slot, generation), Some(value));
                    freed.push((slot, generation));
                }
                prop_assert_eq!(slab.len(), model.len());
                for (slot, (generation, value)) in &model {
                    prop_assert_eq!(slab.get(*slot, *generation), Some(value));
                    prop_assert_eq!(slab.generation(*slot), Some(*generation));
                }
                for (slot, generation) in &freed {
                    prop_assert!(slab.get(*slot, *generation).is_none());
                    prop_assert!(slab.remove(*slot, *generation).is_none());
                }
            }
        }
    }

    #[test]
    fn generations_wrap_within_the_bits_a_completion_carries() {
        let mut slab = Slab::with_capacity(1);
        slab.insert(0, ()).unwrap();
        slab.entries[0].generation = GENERATION_MASK;
        slab.remove(0, GENERATION_MASK).unwrap();
        assert_eq!(slab.insert(0, ()), Some(0));
    }
}
