//! What a batch makes of a world, in plain lists: the reading of [`Change`] that the store is held to.

use postern_model::{
    DeviceId, ResourceId, Scope, UserId,
    change::{Batch, Change},
    record::{Owner, Principal, World},
};

/// The world after the batch; `None` when the batch must be refused.
pub(crate) fn after(world: &World, batch: &Batch) -> Option<World> {
    let mut world = world.clone();
    for change in &batch.changes {
        apply(&mut world, change.clone())?;
    }
    is_whole(&world).then_some(())?;
    world.revision = world.revision.next();
    Some(world)
}

macro_rules! put {
    ($list:expr, $record:expr) => {{
        let record = $record;
        match $list.iter_mut().find(|other| other.id == record.id) {
            Some(other) => *other = record,
            None => $list.push(record),
        }
    }};
}

macro_rules! remove {
    ($list:expr, $is:expr) => {{
        let at = $list.iter().position($is)?;
        $list.remove(at);
    }};
}

fn apply(world: &mut World, change: Change) -> Option<()> {
    match change {
        Change::PutNetwork(network) => world.network = network,
        Change::PutUser(user) => put!(world.users, user),
        Change::RemoveUser(id) => remove!(world.users, |user| user.id == id),
        Change::PutGroup(group) => put!(world.groups, group),
        Change::RemoveGroup(id) => remove!(world.groups, |group| group.id == id),
        Change::AddMember(group, user) => {
            (!world.members.contains(&(group, user))).then_some(())?;
            world.members.push((group, user));
        }
        Change::RemoveMember(group, user) => remove!(world.members, |member| *member == (group, user)),
        Change::PutSite(site) => put!(world.sites, site),
        Change::RemoveSite(id) => remove!(world.sites, |site| site.id == id),
        Change::PutResource(resource) => put!(world.resources, resource),
        Change::RemoveResource(id) => remove!(world.resources, |resource| resource.id == id),
        Change::PutPolicy(policy) => put!(world.policies, policy),
        Change::RemovePolicy(id) => remove!(world.policies, |policy| policy.id == id),
        Change::PutDevice(device) => put!(world.devices, device),
        Change::RemoveDevice(id) => remove!(world.devices, |device| device.id == id),
        Change::PutToken(token) => put!(world.tokens, token),
        Change::RemoveToken(id) => remove!(world.tokens, |token| token.id == id),
        Change::PutApiKey(key) => put!(world.api_keys, key),
        Change::RemoveApiKey(id) => remove!(world.api_keys, |key| key.id == id),
        Change::PutRelay(relay) => put!(world.relays, relay),
        Change::RemoveRelay(id) => remove!(world.relays, |relay| relay.id == id),
        Change::PutGrant(grant) => put!(world.grants, grant),
        Change::EndGrant(id, _) => remove!(world.grants, |grant| grant.id == id),
    }
    Some(())
}

/// Whether everything that is spoken of is there.
fn is_whole(world: &World) -> bool {
    let user = |id: UserId| world.users.iter().any(|user| user.id == id);
    let group = |id| world.groups.iter().any(|group| group.id == id);
    let site = |id| world.sites.iter().any(|site| site.id == id);
    let device = |id: DeviceId| world.devices.iter().any(|device| device.id == id);
    let resource = |id: ResourceId| world.resources.iter().any(|resource| resource.id == id);
    let owner = |owner| match owner {
        Owner::User(id) => user(id),
        Owner::Site(id) => site(id),
    };
    let principal = |principal| match principal {
        Principal::User(id) => user(id),
        Principal::Group(id) => group(id),
        Principal::Device(id) => device(id),
        Principal::Everyone => true,
    };
    let scope = |scope: &Scope| match scope {
        Scope::Resource(id) => resource(*id),
        Scope::Tag(_) | Scope::Everything => true,
    };
    world.members.iter().all(|(of, member)| group(*of) && user(*member))
        && world.resources.iter().all(|record| site(record.site))
        && world.devices.iter().all(|record| owner(record.owner))
        && world.tokens.iter().all(|record| owner(record.owner))
        && world.policies.iter().all(|policy| principal(policy.principal) && scope(&policy.scope))
        && world.grants.iter().all(|grant| {
            let policy = world.policies.iter().any(|policy| policy.id == grant.policy);
            policy && device(grant.device) && device(grant.gateway) && resource(grant.resource)
        })
}
