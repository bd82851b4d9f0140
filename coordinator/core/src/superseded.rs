//! [`Superseded`]: grants whose place another one has taken, and which their gateways may still have in force.
//!
//! A gateway that can't be reached goes on with a grant to the end of its lease, though the device has moved to another gateway.
//! So whoever takes the device's access away has to know of both: the old gateway has to acknowledge too, or its lease bounds it.
//! And while a gateway that can be reached hands its grants over, it is told only once its successor has them.

use std::collections::{BTreeMap, HashMap};

use postern_model::{DeviceId, GrantId, Timestamp, grant::Grant};

/// A gateway, and a grant that it may have in force.
type Carried = (DeviceId, GrantId);

/// One that came before another.
#[derive(Debug, Clone, Copy)]
struct Past {
    carried: Carried,
    /// Whether its two ends were told that it is over, or the client was told of the other one.
    is_told: bool,
}

/// All of them. There are no more than gateways for each grant that is in force.
#[derive(Debug, Default)]
pub(crate) struct Superseded {
    grants: BTreeMap<Carried, Grant>,
    /// By the grant that is in force now.
    before: HashMap<GrantId, Vec<Past>>,
}

impl Superseded {
    /// Another grant has taken this one's place, and that of all that it had taken.
    pub(crate) fn put(&mut self, old: Grant, new: GrantId, is_told: bool, now: Timestamp) {
        let Self { grants, before } = self;
        let mut past = before.remove(&old.id).unwrap_or_default();
        past.retain(|it| {
            let is_live = grants.get(&it.carried).is_some_and(|grant| now < grant.expires_at);
            if !is_live {
                grants.remove(&it.carried);
            }
            is_live
        });
        let carried = (old.gateway, old.id);
        grants.insert(carried, old);
        past.push(Past { carried, is_told });
        before.insert(new, past);
    }

    /// Those before this one that may still be in force somewhere.
    pub(crate) fn before(&self, grant: GrantId, now: Timestamp) -> impl Iterator<Item = &Grant> {
        let past = self.before.get(&grant).into_iter().flatten();
        past.filter_map(|it| self.grants.get(&it.carried)).filter(move |grant| now < grant.expires_at)
    }

    /// Those before this one of whose end nobody was told, and who are told now.
    pub(crate) fn take_untold(&mut self, grant: GrantId) -> Vec<Grant> {
        let past = self.before.get_mut(&grant).into_iter().flatten();
        let untold = past.filter_map(|it| (!std::mem::replace(&mut it.is_told, true)).then_some(it.carried));
        untold.filter_map(|carried| self.grants.get(&carried).cloned()).collect()
    }

    /// This one is over, and nothing has taken its place.
    pub(crate) fn forget(&mut self, grant: GrantId) {
        for past in self.before.remove(&grant).unwrap_or_default() {
            self.grants.remove(&past.carried);
        }
    }

    /// A gateway has acknowledged that a grant is over.
    pub(crate) fn acknowledged(&mut self, gateway: DeviceId, grant: GrantId) {
        self.grants.remove(&(gateway, grant));
    }

    /// A gateway has a snapshot in force: what is not in it is over.
    pub(crate) fn settled(&mut self, gateway: DeviceId) {
        let all = (gateway, GrantId::from_raw([0; 16]))..=(gateway, GrantId::from_raw([u8::MAX; 16]));
        let over: Vec<_> = self.grants.range(all).map(|(carried, _)| *carried).collect();
        for carried in over {
            self.grants.remove(&carried);
        }
    }

    /// Whether a device may still hold this grant, because it has not heard of the next one yet.
    #[cfg(test)]
    pub(crate) fn is_untold(&self, grant: GrantId) -> bool {
        self.before.values().flatten().any(|past| past.carried.1 == grant && !past.is_told)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.grants.len()
    }

    /// Nothing is kept for grants that are no more.
    #[cfg(test)]
    pub(crate) fn assert_whole(&self, is_in_force: impl Fn(GrantId) -> bool) {
        assert!(self.before.keys().all(|grant| is_in_force(*grant)), "{self:?}");
        let known: std::collections::BTreeSet<_> = self.before.values().flatten().map(|past| past.carried).collect();
        assert!(self.grants.keys().all(|carried| known.contains(carried)), "{self:?}");
    }
}
