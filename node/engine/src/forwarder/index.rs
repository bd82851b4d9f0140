//! Flows in numbered slots, found by their tuple: one look-up for packets that follow each other in one flow.

use rustc_hash::FxHashMap;

use super::flows::Tuple;

/// Which slot a tuple's flow is in.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: FxHashMap<Tuple, usize>,
    /// What was found last: in a batch, the next packet mostly is of the same flow.
    last: Option<(Tuple, usize)>,
}

impl Index {
    /// The slot of this tuple's flow.
    pub(super) fn find(&mut self, tuple: &Tuple) -> Option<usize> {
        if let Some((last, slot)) = &self.last
            && last == tuple
        {
            return Some(*slot);
        }
        let slot = *self.slots.get(tuple)?;
        self.last = Some((*tuple, slot));
        Some(slot)
    }

    pub(super) fn contains(&self, tuple: &Tuple) -> bool {
        self.slots.contains_key(tuple)
    }

    pub(super) fn insert(&mut self, tuple: Tuple, slot: usize) {
        self.slots.insert(tuple, slot);
        self.last = None;
    }

    pub(super) fn remove(&mut self, tuple: &Tuple) {
        self.slots.remove(tuple);
        self.last = None;
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// Things in slots that are used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Puts it into a free slot; which.
    pub(super) fn insert(&mut self, value: T) -> (usize, &mut T) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        (slot, self.slots[slot].insert(value))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        self.slots.iter().flatten()
    }

    /// Takes out each that `keep` does not keep, and gives it to `removed`.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool, mut removed: impl FnMut(T)) {
        for (slot, place) in self.slots.iter_mut().enumerate() {
            let Some(value) = place.take_if(|value| !keep(value)) else { continue };
            self.free.push(slot);
            removed(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_model::Protocol;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn tuple(port: u16) -> Tuple {
        let [client, service] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(std::net::IpAddr::from);
        Tuple { protocol: Protocol::Udp, client, client_port: port, service, service_port: 53 }
    }

    proptest! {
        /// Whatever comes and goes, each is found in its own slot and nothing else is.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u16..6, 0u8..3), 0..100)) {
            let (mut index, mut slots) = (Index::default(), Slots::default());
            let mut expected = BTreeMap::new();
            for (port, step) in steps {
                match step {
                    0 if !index.contains(&tuple(port)) => {
                        let (slot, _) = slots.insert(port);
                        index.insert(tuple(port), slot);
                        expected.insert(port, ());
                    }
                    1 => {
                        slots.retain(|held| *held != port, |held| index.remove(&tuple(held)));
                        expected.remove(&port);
                    }
                    _ => {}
                }
                let found = index.find(&tuple(port)).and_then(|slot| slots.get_mut(slot)).copied();
                prop_assert_eq!(found, expected.get(&port).map(|()| port));
                prop_assert_eq!((index.len(), slots.iter().count()), (expected.len(), expected.len()));
            }
        }
    }
}
