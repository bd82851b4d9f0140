//! Leases: renewal is a new decision about the same grant; what is not renewed ends.

use std::time::Duration;

use postern_model::DenyReason;
use postern_wire::CoordinatorMessage;

use super::{
    office::{Office, office, office_with_grant},
    shell::{ACK_TIMEOUT, LEASE, Told},
};

#[test]
fn a_renewal_keeps_the_grant_and_extends_it() {
    let mut office = office();
    let first = office.access();
    let before = office.shell.core.state().grants[&first.grant].clone();
    office.shell.wait(LEASE * 2 / 3);
    office.shell.forget();
    let second = office.access();
    assert_eq!((second.grant, second.lease), (first.grant, LEASE));
    assert_eq!(office.shell.actions(), ["grant.renew"]);
    let after = &office.shell.core.state().grants[&first.grant];
    assert_eq!((after.granted_at, after.expires_at), (before.granted_at, office.shell.now.plus(LEASE)));
    assert_eq!(office.shell.core.state().grants.len(), 1);
    office.shell.wait(LEASE - Duration::from_millis(1));
    assert_eq!(office.shell.core.state().grants.len(), 1);
}

#[test]
fn a_lease_that_is_not_renewed_ends_and_both_are_told() {
    let Office { mut shell, laptop, gateway, .. } = office_with_grant();
    shell.wait(LEASE - Duration::from_millis(1));
    assert!(shell.told.is_empty());
    shell.wait(Duration::from_millis(1));
    assert!(shell.core.state().grants.is_empty());
    assert_eq!(shell.actions(), ["grant.end"]);
    for device in [gateway, laptop] {
        let told = shell.told_to(device);
        let [CoordinatorMessage::RevokeGrant { reason: DenyReason::LeaseExpired, .. }] = told[..] else {
            panic!("{told:?}")
        };
    }
}

#[test]
fn a_lease_that_ended_is_not_renewed_but_granted_anew() {
    let mut office = office();
    let first = office.access();
    // The clock runs, but the end of the lease was not recorded yet.
    office.shell.pass(LEASE);
    let second = office.access();
    assert_ne!(first.grant, second.grant);
    assert_eq!(office.shell.core.state().grants.len(), 1);
}

#[test]
fn a_denied_renewal_ends_the_grant() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    // What a change ends, it ends at once; so the device is made to ask for what it may no longer have by hand.
    let grant = shell.core.state().grants.values().next().unwrap().clone();
    let policy = shell.core.state().policies[&grant.policy].clone();
    shell.core.state.apply(postern_model::change::Change::RemovePolicy(policy.id));
    assert_eq!(shell.ask_in_vain(laptop, wiki), DenyReason::UnknownResource);
    assert!(shell.core.state().grants.is_empty());
    assert_eq!(shell.actions(), ["access.deny", "grant.end"]);
    assert!(matches!(shell.told_to(gateway)[..], [CoordinatorMessage::RevokeGrant { .. }]));
}

#[test]
fn a_renewal_without_a_gateway_leaves_the_grant_to_its_lease() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    shell.disconnect(gateway);
    assert_eq!(shell.ask_in_vain(laptop, wiki), DenyReason::NoGateway);
    assert_eq!(shell.core.state().grants.len(), 1);
    assert!(shell.nodes[&laptop].held.contains_key(&wiki));
}

#[test]
fn a_renewal_that_is_not_acknowledged_leaves_the_grant_to_its_lease() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    shell.wait(LEASE / 2);
    let ticket = shell.ask(laptop, wiki);
    shell.disconnect(gateway);
    shell.wait(ACK_TIMEOUT);
    assert_eq!(shell.denied(ticket), Some(DenyReason::GatewayUnreachable));
    assert!(shell.nodes[&laptop].held.contains_key(&wiki), "its open connections are not cut");
    assert_eq!(shell.core.state().grants.len(), 1);
    shell.connect(gateway);
    shell.access(laptop, wiki, gateway);
}

#[test]
fn a_client_that_reconnects_during_a_renewal_keeps_its_grant() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    shell.ask(laptop, wiki);
    shell.disconnect(laptop);
    shell.connect(laptop);
    assert!(shell.nodes[&laptop].held.contains_key(&wiki), "its open connections are not cut");
    shell.acknowledge(gateway);
    assert_eq!(shell.nodes[&laptop].held[&wiki].lease, LEASE);
}

#[test]
fn a_client_that_reconnects_before_the_first_acknowledgement_is_told_after_it() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    shell.ask(laptop, wiki);
    shell.disconnect(laptop);
    shell.connect(laptop);
    assert!(shell.nodes[&laptop].held.is_empty());
    shell.acknowledge(gateway);
    assert!(shell.nodes[&laptop].held.contains_key(&wiki));
}

#[test]
fn another_gateway_takes_over_when_the_grant_is_renewed() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    let old = shell.nodes[&laptop].held[&wiki].grant;
    shell.disconnect(gateway);
    let second = shell.gateway("hq");
    shell.connect(second);
    let granted = shell.access(laptop, wiki, second);
    assert_ne!(granted.grant, old);
    assert_eq!(shell.core.state().grants.len(), 1);
    shell.connect(gateway);
    assert!(shell.nodes[&gateway].to_acknowledge.is_empty(), "the old gateway is told nothing of it any more");
}

#[test]
fn leases_that_run_out_together_all_end() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    for n in 0..5 {
        let name = format!("r{n}");
        let id = shell.resource(&name, "hq");
        shell.allow("user:alice", &name);
        shell.access(laptop, id, gateway);
    }
    shell.access(laptop, wiki, gateway);
    shell.wait(LEASE);
    assert!(shell.core.state().grants.is_empty());
    assert_eq!(shell.due_in(), None);
}

/// The wall clock is set back by a day, the other one goes on.
fn set_back(office: &mut Office) {
    let millis = office.shell.now.unix_millis() - 24 * 3600 * 1000;
    office.shell.now = postern_model::Timestamp::from_unix_millis(millis);
}

#[test]
fn a_clock_set_back_makes_no_lease_longer_than_it_may_be() {
    let mut office = office_with_grant();
    set_back(&mut office);
    let Office { shell, laptop, gateway, wiki, .. } = &mut office;
    for device in [*laptop, *gateway] {
        shell.connect(device);
    }
    assert_eq!(shell.nodes[laptop].held[wiki].lease, LEASE);
    let installed = shell.told.iter().filter_map(|told| match told {
        Told::Message(_, CoordinatorMessage::Welcome(welcome)) => Some(&welcome.installed),
        _ => None,
    });
    let installed: Vec<_> = installed.flatten().map(|install| install.lease).collect();
    assert_eq!(installed, [LEASE]);
    // It ends by the new time, and the nodes hear nothing of that until it does.
    shell.forget();
    assert_eq!(shell.due_in(), Some(Duration::ZERO));
    shell.wait(LEASE - Duration::from_millis(1));
    assert_eq!(shell.actions(), ["grant.shorten"]);
    assert!(shell.told.is_empty(), "{:?}", shell.told);
    assert_eq!(shell.core.state().grants.len(), 1);
    shell.wait(Duration::from_millis(1));
    assert!(shell.core.state().grants.is_empty());
}

#[test]
fn a_renewal_after_the_clock_was_set_back_reaches_both_ends() {
    let mut office = office_with_grant();
    let old = *office.shell.core.state().grants.keys().next().unwrap();
    set_back(&mut office);
    let granted = office.access();
    assert_eq!((granted.grant, granted.lease), (old, LEASE));
    assert_eq!(office.shell.actions(), ["grant.renew"]);
    assert_eq!(office.shell.told_to(office.gateway).len(), 1);
}

#[test]
fn an_acknowledgement_is_not_awaited_any_longer_when_the_clock_is_set_back() {
    let mut office = office();
    let ticket = office.shell.ask(office.laptop, office.wiki);
    set_back(&mut office);
    office.shell.wait(ACK_TIMEOUT - Duration::from_millis(1));
    assert_eq!(office.shell.denied(ticket), None);
    office.shell.wait(Duration::from_millis(1));
    assert_eq!(office.shell.denied(ticket), Some(DenyReason::GatewayUnreachable));
}

#[test]
fn an_acknowledgement_may_take_its_time_when_the_clock_is_set_forward() {
    let mut office = office();
    let ticket = office.shell.ask(office.laptop, office.wiki);
    office.shell.now = office.shell.now.plus(ACK_TIMEOUT * 2);
    office.shell.wait(Duration::ZERO);
    assert_eq!(office.shell.denied(ticket), None);
    office.shell.acknowledge(office.gateway);
    assert!(office.shell.nodes[&office.laptop].held.contains_key(&office.wiki));
}
