//! What is known here of the grants that a gateway tells of, before the writer holds them against what it tells.

use std::{collections::HashMap, sync::Arc};

use postern_core::State;
use postern_model::{
    DeviceId, Timestamp,
    activity::{FlowEntry, SpoolId},
    record::Owner,
};
use postern_store::activity::Flows;

use super::decisions::facts;

/// What this device tells, with the grants that are in force; `None` when it is no gateway, and has nothing to tell.
pub(crate) fn of(
    state: &State,
    device: DeviceId,
    spool: SpoolId,
    entries: Vec<FlowEntry>,
    now: Timestamp,
) -> Option<Flows> {
    let gateway = state.devices.get(&device).filter(|device| matches!(device.owner, Owner::Site(_)))?;
    let mut known = HashMap::new();
    let mut entry = |entry: FlowEntry| {
        let grant = entry.grant;
        let in_force = || facts(state, state.grants.get(&grant)?).map(Arc::new);
        let in_force = known.entry(grant).or_insert_with(in_force).clone();
        (entry, in_force)
    };
    let entries = entries.into_iter().map(&mut entry).collect();
    Some(Flows { gateway: device, gateway_name: gateway.name.clone(), spool, received_at: now, entries })
}
