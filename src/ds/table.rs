//! A hash table that never moves much at once, and gives back what a flood has taken.
//!
//! An ordinary one moves all it holds when it grows, and again when too many of its places have been used and left: with a
//! hundred thousand names, three to thirty milliseconds in which a core hears nobody, as often as strangers like who subscribe
//! to one new name after another. This one is many small tables, each of which moves by itself.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};

/// A power of two: of a million entries 16,384 in each, which is half a millisecond.
const PARTS: usize = 64;

/// A part that is emptier than one in so many gives memory back. It moves fewer entries for that than it has lost.
const SPARSE: usize = 8;

/// What is known of each key.
///
/// ```
/// use megasock::ds::Table;
///
/// let mut table = Table::default();
/// table.insert("scores", 7);
/// *table.get_or_insert("scores", 0) += 1;
/// assert_eq!((table.get("scores"), table.len()), (Some(&8), 1));
/// assert_eq!(table.remove("scores"), Some(8));
/// ```
pub struct Table<K, V> {
    parts: Box<[HashMap<K, V>]>,
    chooser: RandomState,
    len: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        let parts = (0..PARTS).map(|_| HashMap::new()).collect();
        Table { parts, chooser: RandomState::new(), len: 0 }
    }
}

impl<K: Hash + Eq, V> Table<K, V> {
    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// There is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries for which there is memory.
    pub fn capacity(&self) -> usize {
        self.parts.iter().map(HashMap::capacity).sum()
    }

    /// What is known of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts[self.part_of(key)].get(key)
    }

    /// What is known of a key, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let part = self.part_of(key);
        self.parts[part].get_mut(key)
    }

    /// What is known of a key, which is `new` if it is not there yet.
    pub fn get_or_insert(&mut self, key: K, new: V) -> &mut V {
        let part = self.part_of(&key);
        match self.parts[part].entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                entry.insert(new)
            }
        }
    }

    /// Puts it in the place of what was known, which it returns.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = self.part_of(&key);
        let before = self.parts[part].insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes an entry out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let part = self.part_of(key);
        let part = &mut self.parts[part];
        let removed = part.remove(key)?;
        give_back(part);
        self.len -= 1;
        Some(removed)
    }

    /// Keeps those entries for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        for part in &mut self.parts {
            part.retain(&mut keep);
            give_back(part);
        }
        self.len = self.parts.iter().map(HashMap::len).sum();
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(HashMap::values)
    }

    fn part_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.chooser.hash_one(key) as usize % PARTS
    }
}

fn give_back<K: Hash + Eq, V>(part: &mut HashMap<K, V>) {
    if part.len() < part.capacity() / SPARSE {
        part.shrink_to(part.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16, u8),
        GetOrInsert(u16, u8),
        Remove(u16),
        KeepBelow(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..400u16;
        prop_oneof![
            4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::GetOrInsert(key, value)),
            6 => key.prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::KeepBelow),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_hash_map(steps in prop::collection::vec(step(), 1..300)) {
            let (mut table, mut map) = (Table::default(), HashMap::new());
            for step in steps {
                match step {
                    Step::Insert(key, value) => prop_assert_eq!(table.insert(key, value), map.insert(key, value)),
                    Step::GetOrInsert(key, value) => {
                        *table.get_or_insert(key, value) ^= 1;
                        *map.entry(key).or_insert(value) ^= 1;
                    }
                    Step::Remove(key) => prop_assert_eq!(table.remove(&key), map.remove(&key)),
                    Step::KeepBelow(most) => {
                        table.retain(|_, value| *value < most);
                        map.retain(|_, value| *value < most);
                    }
                }
                prop_assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
            }
            for key in 0..400 {
                prop_assert_eq!(table.get(&key), map.get(&key));
                prop_assert_eq!(table.get_mut(&key).copied(), map.get(&key).copied());
            }
            let sum = |values: &mut dyn Iterator<Item = &u8>| values.map(|value| u64::from(*value)).sum::<u64>();
            prop_assert_eq!(sum(&mut table.values()), sum(&mut map.values()));
        }
    }

    #[test]
    fn no_part_has_much_more_than_its_share() {
        let mut table = Table::default();
        (0..64_000u32).for_each(|key| assert_eq!(table.insert(key, ()), None));
        let most = table.parts.iter().map(HashMap::len).max().unwrap();
        assert!(most < 1_200, "{most} of 1,000");
    }

    #[test]
    fn memory_comes_back_after_a_flood() {
        let mut table = Table::default();
        (0..100_000u32).for_each(|key| assert_eq!(table.insert(key, ()), None));
        (0..100_000).filter(|key| key % 100 > 0).for_each(|key| assert_eq!(table.remove(&key), Some(())));
        assert!(table.capacity() < 16_000 && table.get(&99_900).is_some(), "{}", table.capacity());
        (0..100_000).for_each(|key| *table.get_or_insert(key, ()) = ());
        table.retain(|key, ()| key % 100 == 0);
        assert!(table.capacity() < 16_000 && table.get(&99_900).is_some(), "{}", table.capacity());
    }
}
