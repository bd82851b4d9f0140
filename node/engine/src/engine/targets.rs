//! Targets that are names: the gateway resolves them itself, ahead of the first packet and again from time to time.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use postern_model::{Fqdn, Moment, Target};

use super::{Engine, EngineEvent};

/// How long an answer is good for. The system's resolver has its own cache with the true lifetimes.
const REFRESH: Duration = Duration::from_secs(30);
/// How soon a name that did not resolve is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// A resolution that has not come back after this long is started again.
const LOST: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Name {
    addresses: Vec<IpAddr>,
    was_answered: bool,
    next: Moment,
}

/// All names that targets have.
#[derive(Debug, Default)]
pub(super) struct Targets {
    names: HashMap<Fqdn, Name>,
}

impl Targets {
    /// Notes that a name is needed; `true` when it is to be resolved now.
    pub(super) fn want(&mut self, host: &Fqdn, now: Moment) -> bool {
        if self.names.contains_key(host) {
            return false;
        }
        let name = Name { addresses: Vec::new(), was_answered: false, next: now + LOST };
        self.names.insert(host.clone(), name);
        true
    }

    /// Whether the resolver has said anything about the name yet.
    pub(super) fn was_answered(&self, host: &Fqdn) -> bool {
        self.names.get(host).is_some_and(|name| name.was_answered)
    }

    /// Where a target is, best first.
    pub(super) fn addresses(&self, target: &Target) -> Vec<IpAddr> {
        match target {
            Target::Ip(ip) => vec![*ip],
            Target::Host(host) => self.names.get(host).map(|name| name.addresses.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.names.values().map(|name| name.next).min()
    }
}

impl Engine {
    /// What a target's name resolves to now (none: it does not, or not now; the last answer stays good).
    pub fn handle_resolved(&mut self, host: &Fqdn, addresses: Vec<IpAddr>, now: Moment) {
        let ranges = self.place.as_ref().map(|place| place.ranges);
        // A name that leads into the overlay would let one resource's grant reach another.
        let is_outside =
            |addr: &IpAddr| ranges.is_none_or(|ranges| !ranges.is_resource(*addr) && !ranges.is_device(*addr));
        // Nor may whoever answers for a name choose the gateway itself: only an admin does, with an address.
        let is_elsewhere = |addr: &IpAddr| !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback();
        let usable = |addr: &IpAddr| is_outside(addr) && is_elsewhere(addr);
        let addresses: Vec<_> = addresses.into_iter().map(|addr| addr.to_canonical()).filter(usable).collect();
        let Some(name) = self.targets.names.get_mut(host) else { return };
        name.next = now + if addresses.is_empty() { RETRY } else { REFRESH };
        let is_news = !addresses.is_empty() && name.addresses != addresses;
        let is_first = !std::mem::replace(&mut name.was_answered, true);
        if is_news {
            name.addresses = addresses;
        }
        if is_news || is_first {
            self.publish();
            self.acknowledge_resolved();
        }
    }

    pub(super) fn refresh_targets(&mut self, now: Moment) {
        let wanted: std::collections::HashSet<_> =
            self.carried.values().map(|carried| &carried.install.target).collect();
        self.targets.names.retain(|host, _| wanted.contains(&Target::Host(host.clone())));
        for (host, name) in self.targets.names.iter_mut().filter(|(_, name)| name.next <= now) {
            name.next = now + LOST;
            self.events.push_back(EngineEvent::Resolve(host.clone()));
        }
    }
}
