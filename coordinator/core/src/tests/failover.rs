//! Gateways that go away: what they carry moves, in which order who hears of it, and what does not move.

use std::time::Duration;

use postern_model::{DenyReason, DeviceId, GrantId, Moment, ResourceId};
use postern_wire::{CoordinatorMessage, Granted, NodeMessage};

use super::{
    office::{Office, office_with_grant, ports, tcp},
    shell::{ACK_TIMEOUT, LEASE, Shell, Told, config},
};
use crate::{
    Command, Core, Refusal,
    access::GRANTS_PER_BATCH,
    failover::{GATEWAY_PATIENCE, GRACE},
};

/// Alice reaches the wiki through the first of two gateways, the other of which carries nothing.
struct Pair {
    shell: Shell,
    laptop: DeviceId,
    first: DeviceId,
    second: DeviceId,
    wiki: ResourceId,
    grant: GrantId,
}

fn pair() -> Pair {
    let Office { mut shell, laptop, gateway: first, wiki, .. } = office_with_grant();
    let second = shell.gateway("hq");
    shell.connect(second);
    shell.forget();
    let grant = shell.nodes[&laptop].held[&wiki].grant;
    Pair { shell, laptop, first, second, wiki, grant }
}

fn drain(id: DeviceId, is_forced: bool) -> Command {
    Command::DrainGateway { site: "hq".parse().unwrap(), id, is_forced }
}

fn undrain(id: DeviceId) -> Command {
    Command::UndrainGateway { site: "hq".parse().unwrap(), id }
}

impl Pair {
    /// What is due now happens.
    fn settle(&mut self) {
        self.shell.wait(Duration::ZERO);
    }

    fn held(&self) -> Option<&Granted> {
        self.shell.nodes[&self.laptop].held.get(&self.wiki)
    }

    /// Which gateway has the grant by the state.
    fn gateway(&self) -> Option<DeviceId> {
        self.shell.core.state().grant_of(self.laptop, self.wiki).map(|grant| grant.gateway)
    }

    fn detail(&self, action: &str, name: &str) -> Option<&str> {
        let event = self.shell.audit.iter().find(|event| event.action == action)?;
        event.details.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first gateway is gone, and its grant is on its way to the second.
    fn gone(&mut self) {
        self.shell.disconnect(self.first);
        self.shell.wait(GATEWAY_PATIENCE);
        assert_eq!(self.gateway(), Some(self.second));
    }
}

#[test]
fn a_gateway_that_stays_away_is_replaced() {
    let mut pair = pair();
    let before = pair.shell.core.state().grants[&pair.grant].clone();
    pair.shell.disconnect(pair.first);
    pair.shell.wait(GATEWAY_PATIENCE - Duration::from_millis(1));
    assert!(pair.shell.told.is_empty() && pair.shell.audit.is_empty(), "it may be back: {:?}", pair.shell.told);
    pair.shell.wait(Duration::from_millis(1));
    assert_eq!(pair.shell.actions(), ["grant.end", "grant.move"]);
    assert_eq!(pair.detail("grant.move", "why"), Some("gateway_away"));
    assert_eq!(pair.gateway(), Some(pair.second));
    let [CoordinatorMessage::InstallGrant(install)] = pair.shell.told_to(pair.second)[..] else {
        panic!("{:?}", pair.shell.told)
    };
    assert_ne!(install.grant, pair.grant);
    assert!(pair.shell.told_to(pair.laptop).is_empty(), "not before the gateway has it");
    pair.shell.acknowledge(pair.second);
    let held = pair.held().unwrap();
    let gateways = &pair.shell.core.state().devices;
    assert_eq!((held.gateway, &held.filter), (gateways[&pair.second].wireguard, &tcp("443")));
    let after = &pair.shell.core.state().grants[&held.grant];
    assert_eq!((after.expires_at, &after.filter), (before.expires_at, &before.filter), "a move extends no lease");
    assert_eq!(pair.shell.core.state().grants.len(), 1);
}

#[test]
fn a_gateway_that_is_back_in_time_keeps_what_it_has() {
    let mut pair = pair();
    pair.shell.disconnect(pair.first);
    pair.shell.wait(GATEWAY_PATIENCE - Duration::from_millis(1));
    pair.shell.connect(pair.first);
    pair.shell.wait(GRACE);
    assert_eq!((pair.gateway(), pair.held().map(|held| held.grant)), (Some(pair.first), Some(pair.grant)));
    assert!(pair.shell.actions().is_empty(), "{:?}", pair.shell.actions());
}

#[test]
fn patience_counts_from_when_a_gateway_was_last_heard() {
    let mut pair = pair();
    let heard = pair.shell.moment;
    pair.shell.pass(GATEWAY_PATIENCE);
    let connection = pair.shell.nodes[&pair.first].connection.unwrap();
    pair.shell.core.handle_disconnected(pair.first, connection, heard);
    assert_eq!(pair.shell.due_in(), Some(Duration::ZERO));
    pair.settle();
    assert_eq!(pair.gateway(), Some(pair.second));
}

#[test]
fn a_gateway_that_comes_back_late_is_told_nothing_of_what_moved() {
    let mut pair = pair();
    pair.gone();
    pair.shell.acknowledge(pair.second);
    pair.shell.connect(pair.first);
    assert!(pair.shell.nodes[&pair.first].to_acknowledge.is_empty());
    pair.shell.wait(GRACE);
    assert_eq!(pair.gateway(), Some(pair.second), "nothing moves back");
    let revision = pair.shell.core.state().revision;
    pair.shell.message(pair.first, NodeMessage::Settled { revision });
    assert_eq!(pair.shell.core.superseded.len(), 0);
}

#[test]
fn a_drained_gateway_is_told_last() {
    let mut pair = pair();
    pair.shell.run(&drain(pair.first, false)).unwrap();
    pair.settle();
    assert_eq!(pair.shell.actions(), ["gateway.drain", "grant.end", "grant.move"]);
    assert_eq!(pair.detail("grant.move", "why"), Some("gateway_drained"));
    assert!(pair.shell.told_to(pair.first).is_empty() && pair.shell.told_to(pair.laptop).is_empty());
    pair.shell.forget();
    pair.shell.acknowledge(pair.second);
    let [
        Told::Message(client, CoordinatorMessage::Granted(granted)),
        Told::Message(gateway, CoordinatorMessage::RevokeGrant { grant, reason: DenyReason::Replaced }),
    ] = &pair.shell.told[..]
    else {
        panic!("{:?}", pair.shell.told)
    };
    assert_eq!((*client, *gateway, *grant), (pair.laptop, pair.first, pair.grant));
    assert_ne!(granted.grant, pair.grant);
    let grant = *grant;
    pair.shell.message(pair.first, NodeMessage::GrantRevoked { grant, cut: 1 });
    assert_eq!(pair.shell.core.superseded.len(), 0);
}

#[test]
fn a_drained_gateway_gets_nothing_new_until_it_is_undrained() {
    let mut pair = pair();
    pair.shell.run(&drain(pair.first, false)).unwrap();
    pair.settle();
    pair.shell.acknowledge(pair.second);
    pair.shell.disconnect(pair.second);
    pair.shell.wait(GATEWAY_PATIENCE);
    assert_eq!(pair.gateway(), Some(pair.second), "rather none than a drained one");
    assert_eq!(pair.shell.ask_in_vain(pair.laptop, pair.wiki), DenyReason::NoGateway);
    pair.shell.run(&undrain(pair.first)).unwrap();
    pair.settle();
    assert_eq!(pair.gateway(), Some(pair.first));
    pair.shell.acknowledge(pair.first);
    assert_eq!(pair.held().unwrap().gateway, pair.shell.core.state().devices[&pair.first].wireguard);
}

#[test]
fn a_drained_gateway_renews_nothing() {
    let mut pair = pair();
    pair.shell.disconnect(pair.second);
    pair.shell.run(&drain(pair.first, true)).unwrap();
    pair.settle();
    assert_eq!(pair.shell.ask_in_vain(pair.laptop, pair.wiki), DenyReason::NoGateway);
    assert_eq!(pair.gateway(), Some(pair.first), "the lease goes on");
    assert!(pair.held().is_some());
    pair.shell.connect(pair.second);
    pair.settle();
    assert_eq!(pair.gateway(), Some(pair.second), "it moves once it can");
}

#[test]
fn the_last_gateway_is_drained_only_by_force() {
    let mut pair = pair();
    pair.shell.disconnect(pair.second);
    let refused = pair.shell.run(&drain(pair.first, false)).unwrap_err();
    assert!(matches!(&refused, Refusal::Conflict { what } if what.contains("--force")), "{refused:?}");
    pair.shell.run(&drain(pair.first, true)).unwrap();
    for (command, why) in [
        (drain(pair.first, true), "drained already"),
        (undrain(pair.second), "not drained"),
        (drain(pair.laptop, true), "no gateway of site"),
    ] {
        let refused = pair.shell.run(&command).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    // One that serves nobody anyway may go.
    pair.shell.run(&drain(pair.second, false)).unwrap();
    pair.shell.run(&Command::RevokeDevice { id: pair.second }).unwrap();
    let refused = pair.shell.run(&undrain(pair.second)).unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
}

#[test]
fn what_a_revoked_or_removed_gateway_carried_is_given_anew() {
    for is_removal in [false, true] {
        let mut pair = pair();
        let id = pair.first;
        pair.shell.run(&if is_removal { Command::RemoveDevice { id } } else { Command::RevokeDevice { id } }).unwrap();
        assert!(pair.shell.core.state().grants.is_empty() && pair.held().is_none(), "it ends at once");
        pair.settle();
        assert_eq!(pair.gateway(), Some(pair.second));
        let why = if is_removal { "gateway_removed" } else { "gateway_revoked" };
        assert_eq!(pair.detail("grant.move", "why"), Some(why));
        pair.shell.acknowledge(pair.second);
        assert!(pair.held().is_some());
        assert!(pair.shell.core.failover.is_idle());
    }
}

#[test]
fn what_a_revoked_gateway_carried_is_not_given_anew_when_it_is_denied_by_then() {
    let mut pair = pair();
    pair.shell.run(&Command::RevokeDevice { id: pair.first }).unwrap();
    pair.shell.suspend("alice");
    pair.settle();
    assert!(pair.shell.core.state().grants.is_empty());
    assert!(!pair.shell.actions().contains(&"grant.move"));
}

#[test]
fn nothing_moves_where_there_is_nothing_to_move_to() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    shell.disconnect(gateway);
    shell.wait(GRACE);
    assert!(shell.told.is_empty() && shell.audit.is_empty(), "{:?}", shell.told);
    assert!(shell.nodes[&laptop].held.contains_key(&wiki));
    // Nor to a gateway of another site, nor to one that is away.
    shell.site("branch");
    let [elsewhere, away] = ["branch", "hq"].map(|site| shell.gateway(site));
    shell.connect(elsewhere);
    shell.forget();
    shell.wait(GRACE);
    assert!(shell.audit.is_empty());
    shell.connect(away);
    shell.wait(GRACE);
    assert_eq!(shell.core.state().grant_of(laptop, wiki).unwrap().gateway, away);
}

#[test]
fn the_grants_of_a_client_that_is_away_wait_for_it() {
    let mut pair = pair();
    pair.shell.disconnect(pair.laptop);
    pair.shell.disconnect(pair.first);
    pair.shell.wait(GRACE);
    assert_eq!(pair.gateway(), Some(pair.first));
    pair.shell.connect(pair.laptop);
    assert_eq!(pair.held().map(|held| held.grant), Some(pair.grant), "its lease goes on");
    pair.settle();
    pair.shell.acknowledge(pair.second);
    assert_eq!(pair.held().unwrap().gateway, pair.shell.core.state().devices[&pair.second].wireguard);
}

#[test]
fn a_client_that_asks_gets_the_other_gateway_before_anything_moves() {
    let mut pair = pair();
    pair.shell.disconnect(pair.first);
    let granted = pair.shell.access(pair.laptop, pair.wiki, pair.second);
    assert_ne!(granted.grant, pair.grant);
    pair.shell.wait(GRACE);
    assert_eq!(pair.held().map(|held| held.grant), Some(granted.grant), "and it moves no more");
}

#[test]
fn what_is_denied_by_now_ends_in_place_of_moving() {
    let mut pair = pair();
    pair.shell.disconnect(pair.first);
    // What a change ends, it ends at once; so it is made by hand.
    let grant = pair.shell.core.state().grants[&pair.grant].clone();
    pair.shell.core.state.apply(postern_model::change::Change::RemovePolicy(grant.policy));
    pair.shell.wait(GATEWAY_PATIENCE);
    assert!(pair.shell.core.state().grants.is_empty() && pair.held().is_none());
    assert!(!pair.shell.actions().contains(&"grant.move"));
    assert!(pair.shell.told_to(pair.second).is_empty());
}

#[test]
fn a_policy_that_ends_at_the_moment_of_a_move_moves_nothing() {
    let mut pair = pair();
    let policy = pair.shell.core.state().grants[&pair.grant].policy;
    let until = Some(pair.shell.now.plus(GATEWAY_PATIENCE));
    let brief =
        crate::NewPolicy { until, ..crate::NewPolicy::allow("user:alice".parse().unwrap(), "wiki".parse().unwrap()) };
    pair.shell.run(&brief.into()).unwrap();
    pair.shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    pair.shell.acknowledge(pair.first);
    pair.shell.disconnect(pair.first);
    pair.shell.forget();
    pair.shell.pass(GATEWAY_PATIENCE);
    pair.shell.transact(Core::propose_timeout).unwrap();
    pair.settle();
    assert!(pair.shell.core.state().grants.is_empty());
    assert!(!pair.shell.actions().contains(&"grant.move"));
}

#[test]
fn a_revocation_during_a_move_reaches_all_three() {
    let mut pair = pair();
    pair.shell.run(&drain(pair.first, false)).unwrap();
    pair.settle();
    let new = pair.shell.core.state().grant_of(pair.laptop, pair.wiki).unwrap().id;
    pair.shell.forget();
    pair.shell.suspend("alice");
    let revoked = |device| {
        let told = pair.shell.told_to(device);
        let grants = told.iter().filter_map(|message| match message {
            CoordinatorMessage::RevokeGrant { grant, reason: DenyReason::UserSuspended } => Some(*grant),
            _ => None,
        });
        grants.collect::<Vec<_>>()
    };
    assert_eq!(revoked(pair.first), [pair.grant], "which may still carry what it had");
    assert_eq!(revoked(pair.second), [new]);
    assert_eq!(revoked(pair.laptop), [new, pair.grant]);
    assert!(pair.held().is_none());
    let report = pair.shell.core.change_reports().next().unwrap();
    assert_eq!((report.ended, report.nodes.len()), (1, 2), "both gateways have to acknowledge");
    pair.shell.acknowledge(pair.second);
    assert!(pair.held().is_none());
}

/// Invariant: what is told of a revocation is true. A gateway that is only cut off from the coordinator goes on with what it had.
#[test]
fn a_revocation_after_a_move_counts_the_gateway_that_has_not_heard() {
    let mut pair = pair();
    let known = pair.shell.core.state().grants[&pair.grant].expires_at;
    pair.gone();
    pair.shell.acknowledge(pair.second);
    pair.shell.suspend("alice");
    let report = pair.shell.core.change_reports().next().unwrap();
    let node = &report.nodes[&pair.first];
    assert!(node.is_offline && !report.is_enforced(pair.shell.now));
    assert_eq!(node.bound(pair.shell.now), Some(known));
    let revision = pair.shell.core.state().revision;
    pair.shell.connect(pair.first);
    pair.shell.message(pair.first, NodeMessage::Settled { revision });
    let report = pair.shell.core.change_reports().next().unwrap();
    assert!(report.nodes[&pair.first].has_acknowledged());
}

#[test]
fn a_narrowing_during_a_move_is_what_the_new_gateway_gets() {
    let mut pair = pair();
    pair.gone();
    pair.shell.edit("wiki", ports("80"));
    pair.shell.acknowledge(pair.second);
    assert!(pair.held().is_none_or(|held| held.filter == tcp("80")), "{:?}", pair.held());
}

#[test]
fn a_request_that_waits_for_the_old_gateway_is_answered_by_the_new_one() {
    let mut pair = pair();
    pair.shell.wait(LEASE / 2);
    let ticket = pair.shell.ask(pair.laptop, pair.wiki).unwrap();
    pair.gone();
    assert!(!pair.shell.answers.contains_key(&ticket), "it waits on");
    pair.shell.acknowledge(pair.second);
    assert!(matches!(pair.shell.answers[&ticket], postern_wire::AccessReply::Granted(_)));
}

#[test]
fn a_new_gateway_that_does_not_acknowledge_ends_both() {
    let mut pair = pair();
    pair.shell.run(&drain(pair.first, false)).unwrap();
    pair.settle();
    pair.shell.wait(ACK_TIMEOUT);
    assert!(pair.shell.core.state().grants.is_empty());
    assert!(pair.held().is_none(), "it may ask anew");
    let last = pair.shell.told_to(pair.first).pop().cloned();
    assert!(matches!(last, Some(CoordinatorMessage::RevokeGrant { grant, .. }) if grant == pair.grant), "{last:?}");
}

#[test]
fn a_grant_moves_on_when_the_next_gateway_dies_as_well() {
    let mut pair = pair();
    let third = pair.shell.gateway("hq");
    pair.shell.run(&drain(pair.first, false)).unwrap();
    pair.settle();
    let second = pair.gateway().unwrap();
    assert!(second == pair.second, "only that one is there");
    pair.shell.connect(third);
    pair.shell.disconnect(second);
    pair.shell.wait(GATEWAY_PATIENCE);
    assert_eq!(pair.gateway(), Some(third));
    assert_eq!(pair.held().map(|held| held.grant), Some(pair.grant), "meanwhile the first one carries it");
    pair.shell.forget();
    pair.shell.acknowledge(third);
    let told = pair.shell.told_to(pair.first);
    assert!(matches!(told[..], [CoordinatorMessage::RevokeGrant { grant, .. }] if *grant == pair.grant), "{told:?}");
    assert_eq!(pair.held().unwrap().gateway, pair.shell.core.state().devices[&third].wireguard);
}

#[test]
fn a_move_that_is_not_recorded_did_not_happen() {
    let mut pair = pair();
    pair.shell.disconnect(pair.first);
    pair.shell.pass(GATEWAY_PATIENCE);
    pair.shell.disk_is_full = true;
    let before = pair.shell.core.state().clone();
    assert!(pair.shell.transact(Core::propose_timeout).is_none());
    assert_eq!(*pair.shell.core.state(), before);
    assert!(pair.shell.told.is_empty());
    pair.shell.disk_is_full = false;
    pair.settle();
    assert_eq!(pair.gateway(), Some(pair.second));
}

/// The coordinator starts anew, and nobody is connected.
fn restarted(pair: &mut Pair) {
    pair.shell.core = Core::new(pair.shell.core.state().world(), config());
    pair.shell.core.begin(pair.shell.moment);
    pair.shell.nodes.clear();
    pair.shell.forget();
}

#[test]
fn after_its_start_the_coordinator_misses_nobody_for_a_while() {
    let mut pair = pair();
    restarted(&mut pair);
    pair.shell.connect(pair.laptop);
    pair.shell.connect(pair.second);
    // One that came and left again is given no less time.
    pair.shell.connect(pair.first);
    pair.shell.disconnect(pair.first);
    pair.shell.wait(GRACE - Duration::from_millis(1));
    assert_eq!(pair.gateway(), Some(pair.first));
    pair.shell.wait(Duration::from_millis(1));
    assert_eq!(pair.gateway(), Some(pair.second), "and then it does");
}

#[test]
fn a_gateway_that_never_came_back_is_missed_after_that() {
    let mut pair = pair();
    restarted(&mut pair);
    pair.shell.connect(pair.laptop);
    pair.shell.connect(pair.second);
    pair.shell.wait(GRACE - Duration::from_millis(1));
    assert_eq!(pair.gateway(), Some(pair.first));
    pair.shell.wait(Duration::from_millis(1));
    assert_eq!(pair.gateway(), Some(pair.second));
}

#[test]
fn a_drained_gateway_is_so_after_a_restart() {
    let mut pair = pair();
    pair.shell.disconnect(pair.second);
    pair.shell.run(&drain(pair.first, true)).unwrap();
    restarted(&mut pair);
    for device in [pair.laptop, pair.first] {
        pair.shell.connect(device);
    }
    assert_eq!(pair.shell.ask_in_vain(pair.laptop, pair.wiki), DenyReason::NoGateway);
    pair.shell.connect(pair.second);
    pair.settle();
    assert_eq!(pair.gateway(), Some(pair.second));
}

/// All gateways of a site are cut off at once: by and by they are all back, and nothing has moved.
#[test]
fn the_first_gateway_that_is_back_does_not_take_all() {
    let mut pair = pair();
    for gateway in [pair.first, pair.second] {
        pair.shell.disconnect(gateway);
    }
    pair.shell.wait(GRACE);
    pair.shell.connect(pair.second);
    pair.shell.wait(GRACE - Duration::from_millis(1));
    assert_eq!(pair.gateway(), Some(pair.first));
    pair.shell.connect(pair.first);
    pair.shell.wait(GRACE);
    assert_eq!((pair.gateway(), pair.held().map(|held| held.grant)), (Some(pair.first), Some(pair.grant)));
    assert!(pair.shell.actions().is_empty());
}

#[test]
fn many_grants_move_a_batch_at_a_time_and_are_spread() {
    const MANY: usize = GRANTS_PER_BATCH + 200;
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    let grant = shell.core.state().grant_of(laptop, wiki).unwrap().clone();
    let record = shell.core.state().resources[&wiki].clone();
    let policy = shell.core.state().policies[&grant.policy].clone();
    let moment = |number: usize| u128::try_from(number).unwrap().to_be_bytes();
    for number in 1..MANY {
        let resource = ResourceId::from_bytes(moment(number));
        let apply = |shell: &mut Shell, change| shell.core.state.apply(change);
        let index = postern_model::addr::FIRST_INDEX + 100 + u32::try_from(number).unwrap();
        let addr = shell.core.state().network.ranges.resource(index).unwrap();
        let name = format!("r{number}").parse().unwrap();
        apply(
            &mut shell,
            postern_model::change::Change::PutResource(postern_model::record::Resource {
                id: resource,
                name,
                addr,
                ..record.clone()
            }),
        );
        let policy = postern_model::record::Policy {
            id: postern_model::PolicyId::from_bytes(moment(number)),
            scope: postern_model::Scope::Resource(resource),
            ..policy.clone()
        };
        let id = GrantId::from_bytes(moment(number));
        let grant = postern_model::grant::Grant { id, resource, policy: policy.id, ..grant.clone() };
        apply(&mut shell, postern_model::change::Change::PutPolicy(policy));
        apply(&mut shell, postern_model::change::Change::PutGrant(grant));
    }
    let others = [(); 2].map(|()| shell.gateway("hq"));
    for other in others {
        shell.connect(other);
    }
    shell.forget();
    shell.disconnect(gateway);
    shell.pass(GATEWAY_PATIENCE);
    shell.transact(Core::propose_timeout).unwrap();
    let moved = |shell: &Shell| shell.actions().iter().filter(|action| **action == "grant.move").count();
    assert_eq!(moved(&shell), GRANTS_PER_BATCH);
    assert_eq!(shell.due_in(), Some(Duration::ZERO), "the next at once");
    shell.transact(Core::propose_timeout).unwrap();
    assert_eq!(moved(&shell), MANY);
    assert!(shell.core.failover.is_idle());
    let loads = others.map(|other| shell.core.state().load_of_gateway(other));
    assert_eq!(loads, [MANY / 2; 2], "and not all to one of them");
    assert_eq!(shell.core.state().load_of_gateway(gateway), 0);
}

#[test]
fn time_before_the_clock_began_harms_nothing() {
    let mut pair = pair();
    let connection = pair.shell.nodes[&pair.first].connection.unwrap();
    pair.shell.core.handle_disconnected(pair.first, connection, Moment::default());
    pair.settle();
    assert_eq!(pair.gateway(), Some(pair.second));
}
