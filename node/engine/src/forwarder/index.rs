//! Flows in numbered slots, found by their tuple: one look-up for packets that follow each other in one flow.
//!
//! The index holds numbers only, and looks at the flow itself to see whether it is the one: of a hundred thousand flows it
//! stays in the processor's cache, and what it looks at is needed anyway.

use std::hash::BuildHasher as _;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::flows::Tuple;

/// What has a tuple that it is found by; an [`Index`] is for one of them.
pub(super) trait Keyed<const WHICH: u8> {
    fn key(&self) -> &Tuple;
}

/// Which slot a tuple's flow is in.
///
/// Clients choose their tuples, and are not to know which of them hash alike: so that depends on a secret.
#[derive(Debug)]
pub(super) struct Index<const WHICH: u8> {
    slots: HashTable<u32>,
    hash: FixedState,
    /// What was found last: in a batch, the next packet mostly is of the same flow.
    last: Option<(Tuple, u32)>,
}

impl<const WHICH: u8> Index<WHICH> {
    /// An empty one.
    pub(super) fn new(secret: u64) -> Self {
        Self { slots: HashTable::new(), hash: FixedState::with_seed(secret), last: None }
    }

    /// The slot of this tuple's flow.
    pub(super) fn find<T: Keyed<WHICH>>(&mut self, tuple: &Tuple, flows: &Slots<T>) -> Option<u32> {
        if let Some((last, slot)) = &self.last
            && last == tuple
        {
            return Some(*slot);
        }
        let slot = self.look_up(tuple, flows)?;
        self.last = Some((*tuple, slot));
        Some(slot)
    }

    pub(super) fn contains<T: Keyed<WHICH>>(&self, tuple: &Tuple, flows: &Slots<T>) -> bool {
        self.look_up(tuple, flows).is_some()
    }

    fn look_up<T: Keyed<WHICH>>(&self, tuple: &Tuple, flows: &Slots<T>) -> Option<u32> {
        self.slots.find(self.hash.hash_one(tuple), |slot| flows.has(*slot, tuple)).copied()
    }

    /// Adds the flow in a slot, whose tuple is not in yet.
    pub(super) fn insert<T: Keyed<WHICH>>(&mut self, slot: u32, flows: &Slots<T>) {
        let Some(flow) = flows.get(slot) else { return };
        let Self { slots, hash, .. } = self;
        let again = |slot: &u32| flows.get(*slot).map_or(0, |flow| hash.hash_one(flow.key()));
        slots.insert_unique(hash.hash_one(flow.key()), slot, again);
    }

    /// Takes a flow out; it still lies in its slot, or did just now.
    pub(super) fn remove(&mut self, tuple: &Tuple, slot: u32) {
        if let Ok(found) = self.slots.find_entry(self.hash.hash_one(tuple), |held| *held == slot) {
            found.remove();
        }
        self.last = None;
    }

    /// A number that looks like chance, and is the same for the same tuple.
    pub(super) fn hash(&self, tuple: &Tuple) -> u64 {
        self.hash.hash_one(tuple)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// Things in slots that are used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    fn has<const WHICH: u8>(&self, slot: u32, tuple: &Tuple) -> bool
    where
        T: Keyed<WHICH>,
    {
        self.get(slot).is_some_and(|held| held.key() == tuple)
    }

    /// Puts it into a free slot; which. `None` when there are as many as can be numbered.
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(None);
                slot
            }
        };
        self.slots[slot as usize] = Some(value);
        Some(slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        self.slots.iter().flatten()
    }

    /// Takes out each that `keep` does not keep, and gives it to `removed` with the number of its slot.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool, mut removed: impl FnMut(u32, T)) {
        for (slot, place) in (0..).zip(&mut self.slots) {
            let Some(value) = place.take_if(|value| !keep(value)) else { continue };
            self.free.push(slot);
            removed(slot, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_model::Protocol;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tuple(port: u16) -> Tuple {
        let [client, service] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(std::net::IpAddr::from);
        Tuple { protocol: Protocol::Udp, client, client_port: port, service, service_port: 53 }
    }

    impl Keyed<0> for Tuple {
        fn key(&self) -> &Tuple {
            self
        }
    }

    proptest! {
        /// Whatever comes and goes, each is found in its own slot and nothing else is.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u16..40, 0u8..3), 0..200)) {
            let (mut index, mut slots) = (Index::<0>::new(7), Slots::default());
            let mut expected = BTreeSet::new();
            for (port, step) in steps {
                let tuple = tuple(port);
                match step {
                    0 if !index.contains(&tuple, &slots) => {
                        let slot = slots.insert(tuple).unwrap();
                        index.insert(slot, &slots);
                        expected.insert(port);
                    }
                    1 => {
                        slots.retain(|held| *held != tuple, |slot, held| index.remove(&held, slot));
                        expected.remove(&port);
                    }
                    _ => {}
                }
                let found = index.find(&tuple, &slots).and_then(|slot| slots.get(slot)).copied();
                prop_assert_eq!(found, expected.contains(&port).then_some(tuple));
                prop_assert_eq!((index.len(), slots.iter().count()), (expected.len(), expected.len()));
            }
        }
    }
}
