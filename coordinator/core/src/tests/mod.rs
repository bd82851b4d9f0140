//! The core driven as the shell drives it, with simulated time.

mod access;
mod advice;
mod assertions;
mod catalogue;
mod commands;
mod conditions;
mod declarations;
mod declared;
mod denials;
mod enforcement;
mod enrolment;
mod failover;
mod leases;
mod office;
mod plan_scale;
mod presence;
mod random;
mod relays;
mod removal;
mod revocation;
mod scale;
mod shell;

use postern_model::{
    NetworkRanges, Revision,
    record::{Network, World},
};

/// A network with nothing in it.
pub(crate) fn world() -> World {
    World {
        revision: Revision(1),
        network: Network {
            zone: "postern.internal".parse().unwrap(),
            ranges: NetworkRanges::from_random([1, 2, 3, 4, 5]),
            next_device_index: postern_model::addr::FIRST_INDEX,
            next_resource_index: postern_model::addr::FIRST_INDEX,
        },
        users: vec![],
        groups: vec![],
        members: vec![],
        sites: vec![],
        resources: vec![],
        policies: vec![],
        devices: vec![],
        tokens: vec![],
        api_keys: vec![],
        relays: vec![],
        grants: vec![],
    }
}
