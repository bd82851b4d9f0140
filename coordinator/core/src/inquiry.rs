//! Questions that change nothing: why a device may or may not reach a resource, and who can.

use std::collections::BTreeSet;

use postern_model::{
    Decision, DeviceId, Filter, ResourceId, Timestamp, UserId,
    audit::Actor,
    change::Change,
    record::{Owner, Principal},
};
use postern_policy::{Case, Explanation, explain, may_know, principals_of_user, scopes_of_resource, visible_in};

use crate::{Command, Core, Env, Refusal, core::has_less};

/// How many live grants a change takes away, and from how many it takes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cuts {
    /// Those that end.
    pub ended: usize,
    /// Those that let less through, or for less long.
    pub narrowed: usize,
}

/// A device that a policy lets reach a resource, at least under some circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Which.
    pub device: DeviceId,
    /// What would be decided now, by what is known of the device.
    pub now: Decision,
    /// What policies could open to it, conditions left out.
    pub could: Filter,
}

impl Core {
    /// Why a device may reach a resource now, or why not: computed by the policies that decide.
    pub fn explain(&self, device: DeviceId, resource: ResourceId, now: Timestamp) -> Explanation {
        explain(&self.state, device, resource, self.surroundings.of(device, now))
    }

    /// The devices that may know of a resource, with what each could do now. Revoked devices and suspended users are not
    /// among them.
    pub fn who_can(&self, resource: ResourceId, now: Timestamp) -> Vec<Reach> {
        let devices = self.devices_spoken_of(resource).into_iter();
        let reach = |device| {
            let case = Case::new(&self.state, device, resource).ok()?;
            let decision = case.decide(self.surroundings.of(device, now));
            Some(Reach { device, now: decision, could: case.could_open(now) })
        };
        devices.filter(|device| may_know(&self.state, *device, resource)).filter_map(reach).collect()
    }

    /// The users whom policies let reach a resource, at least under some circumstances, and who have no device to do so.
    pub fn users_without_device(&self, resource: ResourceId) -> Vec<UserId> {
        let users = self.users_spoken_of(resource).into_iter();
        let has_none = |user: &UserId| self.state.devices_of(Owner::User(*user)).all(|device| device.revoked);
        let may_know =
            |user: &UserId| visible_in(&self.state, &principals_of_user(&self.state, *user), resource).is_ok();
        let is_active = |user: &UserId| self.state.users.get(user).is_some_and(|user| !user.suspended);
        users.filter(|user| has_none(user) && is_active(user) && may_know(user)).collect()
    }

    /// What a command would cut, if it were carried out now.
    ///
    /// # Errors
    /// When it would be refused.
    pub fn cuts(&self, command: &Command, env: &mut Env<'_>) -> Result<Cuts, Refusal> {
        let batch = self.propose_command(&Actor::Coordinator, command, env)?.batch;
        let is_less = |change: &&Change| match change {
            Change::PutGrant(grant) => self.state.grants.get(&grant.id).is_some_and(|before| has_less(before, grant)),
            _ => false,
        };
        Ok(Cuts {
            ended: batch.changes.iter().filter(|change| matches!(change, Change::EndGrant(..))).count(),
            narrowed: batch.changes.iter().filter(is_less).count(),
        })
    }

    fn principals_spoken_of(&self, resource: ResourceId) -> BTreeSet<Principal> {
        let Some(resource) = self.state.resources.get(&resource) else { return BTreeSet::new() };
        let scopes = scopes_of_resource(resource);
        scopes.iter().flat_map(|scope| self.state.policy_set().policies_about(scope)).map(|(_, it)| it).collect()
    }

    fn users_spoken_of(&self, resource: ResourceId) -> BTreeSet<UserId> {
        let mut users = BTreeSet::new();
        for principal in self.principals_spoken_of(resource) {
            match principal {
                Principal::User(user) => drop(users.insert(user)),
                Principal::Group(group) => users.extend(self.state.members_of(group)),
                Principal::Everyone => users.extend(self.state.users.keys()),
                Principal::Device(_) => {}
            }
        }
        users
    }

    fn devices_spoken_of(&self, resource: ResourceId) -> BTreeSet<DeviceId> {
        let of_users = self.users_spoken_of(resource);
        let of_users = of_users.into_iter().flat_map(|user| self.state.devices_of(Owner::User(user)));
        let mut devices: BTreeSet<_> = of_users.map(|device| device.id).collect();
        for principal in self.principals_spoken_of(resource) {
            match principal {
                Principal::Device(device) => drop(devices.insert(device)),
                Principal::Everyone => devices.extend(self.state.devices.keys()),
                Principal::User(_) | Principal::Group(_) => {}
            }
        }
        devices
    }
}
