//! [`Facts`]: what is known when something is decided, and [`principals`]: what a device is to policies.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use postern_model::{
    DenyReason, DeviceId, GroupId, ResourceId, Scope, Timestamp, UserId,
    record::{Device, Owner, Principal, Resource, User},
};

use crate::CompiledPolicy;

/// What is known of the network.
pub trait Facts {
    /// A device, revoked ones too.
    fn device(&self, id: DeviceId) -> Option<&Device>;
    /// A user, suspended ones too.
    fn user(&self, id: UserId) -> Option<&User>;
    /// The groups that a user is in.
    fn groups_of(&self, user: UserId) -> BTreeSet<GroupId>;
    /// A resource.
    fn resource(&self, id: ResourceId) -> Option<&Resource>;
    /// The resources that a scope takes in.
    fn resources_in(&self, scope: &Scope) -> Vec<ResourceId>;
    /// Calls `each` with the policies of exactly this principal and exactly this scope.
    fn policies(&self, principal: Principal, scope: &Scope, each: &mut dyn FnMut(&Arc<CompiledPolicy>));
    /// The scopes of the policies of exactly this principal.
    fn scopes_of(&self, principal: Principal) -> Vec<Scope>;
}

/// What is known of a device's circumstances, beside what is recorded of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// When.
    pub now: Timestamp,
    /// Until when the recorded posture counts; `None` when it does not.
    pub posture_until: Option<Timestamp>,
    /// From where the device reaches the coordinator, if it does.
    pub source: Option<IpAddr>,
}

impl Circumstances {
    /// The same at another time.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        Self { now, ..self }
    }
}

/// What a device is to policies, the most exact first.
pub type Principals = Vec<Principal>;

/// Everything that a device is: itself, its user, its user's groups, and one of everyone.
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
        principals.extend(principals_of_user(facts, user.id));
    } else {
        principals.push(Principal::Everyone);
    }
    Ok(principals)
}

/// What each device of a user is, but for the device itself.
pub fn principals_of_user(facts: &impl Facts, user: UserId) -> Principals {
    let groups = facts.groups_of(user).into_iter().map(Principal::Group);
    std::iter::once(Principal::User(user)).chain(groups).chain([Principal::Everyone]).collect()
}

/// The scopes that take a resource in, the most exact first.
pub fn scopes_of_resource(resource: &Resource) -> Vec<Scope> {
    let tags = resource.tags.iter().cloned().map(Scope::Tag);
    std::iter::once(Scope::Resource(resource.id)).chain(tags).chain([Scope::Everything]).collect()
}
