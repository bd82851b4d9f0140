//! What a commit decided, as records: read off its audit entries, with the names that its changes found.

use std::collections::HashMap;

use postern_core::State;
use postern_model::{
    DeviceId, GrantId, ResourceId, Timestamp,
    audit::{Actor, AuditEvent},
    change::{Batch, Change},
    grant::Grant,
};
use postern_store::activity::{ActivityKind, ActivityRecord, Decisions, GrantFacts};

/// The decisions of a batch; `state` is from before it, `now` when it was committed.
pub(super) fn of(state: &State, batch: &Batch, now: Timestamp) -> Decisions {
    let put = batch.changes.iter().filter_map(|change| match change {
        Change::PutGrant(grant) => facts(state, grant),
        _ => None,
    });
    let grants: Vec<_> = put.collect();
    // One edit may change very many.
    let by_id = grants.iter().map(|facts| (facts.grant.id, facts)).collect();
    let record = |event| record(state, &by_id, event, now);
    let records = batch.audit.iter().filter_map(record).collect();
    Decisions { records, grants }
}

/// A grant with the names that its ends have; `None` when one is gone.
pub(super) fn facts(state: &State, grant: &Grant) -> Option<GrantFacts> {
    let device = state.devices.get(&grant.device)?;
    Some(GrantFacts {
        grant: grant.clone(),
        gateway: state.devices.get(&grant.gateway)?.name.clone(),
        device: device.name.clone(),
        user: state.user_of(device).map(|user| user.name.to_string()),
        resource: state.resources.get(&grant.resource)?.name.to_string(),
    })
}

type Put<'a> = HashMap<GrantId, &'a GrantFacts>;

fn record(state: &State, put: &Put<'_>, event: &AuditEvent, now: Timestamp) -> Option<ActivityRecord> {
    let kind = match event.action.as_str() {
        "grant.allow" => ActivityKind::Allow,
        "grant.renew" => ActivityKind::Renew,
        "grant.change" | "grant.move" => ActivityKind::Change,
        "grant.end" => ActivityKind::End,
        "access.deny" => ActivityKind::Deny,
        action if action.starts_with("shadow.") => ActivityKind::Shadow,
        _ => return None,
    };
    let bare = ActivityRecord {
        reason: detail(event, "why").map(str::to_owned),
        times: detail(event, "times").and_then(|times| times.parse().ok()).unwrap_or(1),
        revision: Some(state.revision.next()),
        ..ActivityRecord::new(kind, event.at, now)
    };
    Some(match kind {
        ActivityKind::Deny => denial(state, event, bare),
        ActivityKind::Shadow => shadow(state, event, bare),
        _ => grant(state, put, event, bare),
    })
}

fn grant(state: &State, put: &Put<'_>, event: &AuditEvent, bare: ActivityRecord) -> ActivityRecord {
    let id: Option<GrantId> = event.object.strip_prefix("grant:").and_then(|id| id.parse().ok());
    let held = || facts(state, state.grants.get(&id?)?);
    let known = id.and_then(|id| put.get(&id)).map(|facts| (*facts).clone());
    let Some(known) = known.or_else(held) else {
        let named = |name| detail(event, name).map(str::to_owned);
        return ActivityRecord { grant: id, device: named("device"), resource: named("resource"), ..bare };
    };
    let Grant { device, resource, gateway, policy, filter, .. } = known.grant;
    ActivityRecord {
        grant: id,
        user: known.user,
        device_id: Some(device),
        device: Some(known.device),
        resource_id: Some(resource),
        resource: Some(known.resource),
        gateway_id: Some(gateway),
        gateway: Some(known.gateway),
        policy: Some(policy),
        filter: Some(filter.to_string()),
        ..bare
    }
}

/// What policies in shadow would have decided: the reason is the difference that they would make.
fn shadow(state: &State, event: &AuditEvent, bare: ActivityRecord) -> ActivityRecord {
    let difference = event.action.strip_prefix("shadow.").unwrap_or_default().to_owned();
    let filter = detail(event, "filter").map(str::to_owned);
    let policies = detail(event, "policies").unwrap_or_default();
    let policies = policies.split(',').filter_map(|id| id.parse().ok()).collect();
    ActivityRecord { reason: Some(difference), policies, filter, ..denial(state, event, bare) }
}

fn denial(state: &State, event: &AuditEvent, bare: ActivityRecord) -> ActivityRecord {
    let asked = detail(event, "device").unwrap_or_default();
    let by_actor = match event.actor {
        Actor::Device(id) => state.devices.get(&id),
        _ => None,
    };
    let device = by_actor.or_else(|| state.device_named(asked));
    let target = event.object.strip_prefix("resource:").unwrap_or(&event.object);
    // By name where there is such a resource, else by what was asked for.
    let named = target.parse().ok().and_then(|name| state.resource_named(&name));
    let resource_id: Option<ResourceId> = named.map(|it| it.id).or_else(|| target.parse().ok());
    ActivityRecord {
        user: device.and_then(|device| state.user_of(device)).map(|user| user.name.to_string()),
        device_id: device.map(|device| device.id).or_else(|| asked.parse::<DeviceId>().ok()),
        device: Some(device.map_or_else(|| asked.to_owned(), |device| device.name.clone())),
        resource_id,
        resource: named.map(|resource| resource.name.to_string()),
        ..bare
    }
}

fn detail<'a>(event: &'a AuditEvent, name: &str) -> Option<&'a str> {
    event.details.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
}
