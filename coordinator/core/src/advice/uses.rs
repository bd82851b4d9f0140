//! What was used by whom who is still there, and which policies it takes to allow that.

use std::collections::{BTreeSet, HashMap, HashSet};

use postern_model::{
    DeviceId, Effect, Filter, PolicyId, Protocol, ResourceId, Timestamp, UserId,
    record::{Owner, Policy, Principal, Resource},
    usage::{Client, Usage},
};
use postern_policy::{principals_of_user, scopes_of_resource};

use crate::State;

/// Somebody's use of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    /// The device, if it is still there.
    pub(super) device: Option<DeviceId>,
    /// Its user, if it is a person's. One of the two is there.
    pub(super) user: Option<UserId>,
    pub(super) resource: ResourceId,
    pub(super) what: What,
}

/// Which part of the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// This port.
    Port(Protocol, u16),
    /// Something: it was granted, and nothing came through.
    Something,
    /// It is in use for longer than flows are recorded: any port may be.
    Anything,
}

/// What was used.
pub(super) fn gather(state: &State, usage: &Usage, since: Timestamp) -> BTreeSet<Use> {
    let granted: HashSet<_> = usage.granted.iter().map(|it| (it.client.device, it.resource)).collect();
    let mut flowed = HashSet::new();
    let mut uses = BTreeSet::new();
    let mut add = |client: &Client, resource, what| {
        let device = state.devices.get(&client.device);
        let user = match device.map(|device| device.owner) {
            Some(Owner::User(user)) => Some(user),
            Some(Owner::Site(_)) => None,
            // They may have another device by now.
            None => client.user.as_ref().and_then(|name| Some(state.user_named(&name.parse().ok()?)?.id)),
        };
        let device = device.map(|device| device.id);
        if device.is_some() || user.is_some() {
            uses.insert(Use { device, user, resource, what });
        }
    };
    for flow in &usage.flows {
        let pair = (flow.client.device, flow.resource);
        // One that never ended and has no grant any more was cut, or its gateway crashed.
        if flow.last >= since || granted.contains(&pair) {
            flowed.insert(pair);
            add(&flow.client, flow.resource, What::Port(flow.protocol, flow.port));
        }
    }
    for granted in &usage.granted {
        if !flowed.contains(&(granted.client.device, granted.resource)) {
            let what = if granted.renewed > 0 { What::Anything } else { What::Something };
            add(&granted.client, granted.resource, what);
        }
    }
    uses
}

/// For each policy, what needs it.
///
/// Any policy may have been the one that allowed a use, depending on circumstances that nobody knows any more; so each that
/// could have is needed, unless one does it under all circumstances and without end: that one is enough. Of several, it is
/// the most exact one.
pub(super) fn needed<'a>(state: &State, uses: &'a BTreeSet<Use>) -> HashMap<PolicyId, Vec<&'a Use>> {
    let mut needed = HashMap::<_, Vec<_>>::new();
    for it in uses {
        let Some(resource) = state.resources.get(&it.resource) else { continue };
        let able = able(state, it, resource);
        let all = able.iter().fold(Filter::default(), |all, (_, ports)| all.union(ports));
        let is_enough = |(policy, ports): &&(&Policy, Filter)| {
            let has_all = matches!(it.what, What::Port(..)) || all.minus(ports).is_empty();
            has_all && policy.condition.is_none() && policy.until.is_none()
        };
        match able.iter().find(is_enough) {
            Some((policy, _)) => needed.entry(policy.id).or_default().push(it),
            None => able.iter().for_each(|(policy, _)| needed.entry(policy.id).or_default().push(it)),
        }
    }
    needed
}

/// The policies that could allow a use, with what they open of the resource; the most exact ones first.
fn able<'a>(state: &'a State, it: &Use, resource: &Resource) -> Vec<(&'a Policy, Filter)> {
    let of_user = match it.user {
        Some(user) => principals_of_user(state, user),
        None => vec![Principal::Everyone],
    };
    let scopes = scopes_of_resource(resource);
    let mut able = Vec::new();
    for principal in it.device.map(Principal::Device).into_iter().chain(of_user) {
        for compiled in scopes.iter().flat_map(|scope| state.policy_set().slice(principal, scope)) {
            let policy = compiled.policy();
            if policy.effect != Effect::Allow || policy.shadow {
                continue;
            }
            let ports = compiled.ports_of(&resource.filter);
            let does = match it.what {
                What::Port(protocol, port) => ports.allows(protocol, port),
                What::Something | What::Anything => !ports.is_empty(),
            };
            if does {
                able.push((policy, ports));
            }
        }
    }
    able
}
