//! [`decide`]: one access request, one decision.

use std::collections::BTreeSet;

use postern_model::{
    Decision, DenyReason, DeviceId, GroupId, PolicyId, ResourceId, Timestamp, UserId,
    record::{Device, Owner, Principal, Resource, User},
};

/// What is known when something is decided.
pub trait Facts {
    /// A device, revoked ones too.
    fn device(&self, id: DeviceId) -> Option<&Device>;
    /// A user, suspended ones too.
    fn user(&self, id: UserId) -> Option<&User>;
    /// The groups that a user is in.
    fn groups_of(&self, user: UserId) -> BTreeSet<GroupId>;
    /// A resource.
    fn resource(&self, id: ResourceId) -> Option<&Resource>;
    /// The policy that lets exactly this principal reach the resource.
    fn policy(&self, principal: Principal, resource: ResourceId) -> Option<PolicyId>;
    /// The resources that policies let exactly this principal reach.
    fn resources_of(&self, principal: Principal) -> Vec<ResourceId>;
}

/// What a device is to policies, in the order in which they are asked.
pub type Principals = Vec<Principal>;

/// Everything that a device is: itself, its user, its user's groups.
///
/// # Errors
/// With the reason, when the device may reach nothing at all.
pub fn principals(facts: &impl Facts, device: DeviceId) -> Result<Principals, DenyReason> {
    let device = facts.device(device).filter(|device| !device.revoked).ok_or(DenyReason::DeviceRevoked)?;
    let mut principals = vec![Principal::Device(device.id)];
    if let Owner::User(user) = device.owner {
        let user = facts.user(user).ok_or(DenyReason::UserRemoved)?;
        if user.suspended {
            return Err(DenyReason::UserSuspended);
        }
        principals.push(Principal::User(user.id));
        principals.extend(facts.groups_of(user.id).into_iter().map(Principal::Group));
    }
    Ok(principals)
}

/// Decides whether `device` may reach `resource` now, and with which filter.
///
/// The answer depends on nothing but the arguments. Whoever acts on it records it.
pub fn decide(facts: &impl Facts, device: DeviceId, resource: ResourceId, _now: Timestamp) -> Decision {
    match principals(facts, device).and_then(|principals| allowed(facts, &principals, resource)) {
        Ok((resource, policy)) => Decision::Allowed { filter: resource.filter.clone(), policy },
        Err(reason) => Decision::Denied { reason },
    }
}

/// What [`decide`] says of a device that is these principals; for whoever looks at many resources at once.
///
/// # Errors
/// With the reason, when it is denied.
pub fn allowed<'a>(
    facts: &'a impl Facts,
    principals: &[Principal],
    resource: ResourceId,
) -> Result<(&'a Resource, PolicyId), DenyReason> {
    let resource = facts.resource(resource).ok_or(DenyReason::UnknownResource)?;
    let policy = principals.iter().find_map(|principal| facts.policy(*principal, resource.id));
    let policy = policy.ok_or(DenyReason::NoPolicy)?;
    if resource.filter.is_empty() {
        return Err(DenyReason::EmptyFilter);
    }
    Ok((resource, policy))
}

/// The resources that a device may know of: exactly those that [`decide`] would allow it.
pub fn visible(facts: &impl Facts, device: DeviceId, _now: Timestamp) -> BTreeSet<ResourceId> {
    let Ok(principals) = principals(facts, device) else { return BTreeSet::new() };
    let reachable: BTreeSet<_> = principals.iter().flat_map(|principal| facts.resources_of(*principal)).collect();
    reachable.into_iter().filter(|resource| allowed(facts, &principals, *resource).is_ok()).collect()
}
