//! Access requests: who is told first, and what the denied learn.

use postern_model::{DenyReason, ResourceId};
use postern_wire::{AccessReply, CoordinatorMessage, NodeMessage};

use super::{
    office::{Office, office, office_with_grant, ports, tcp},
    shell::{ACK_TIMEOUT, LEASE, REQUESTS_PER_DEVICE, Told},
};
use crate::Command;

#[test]
fn the_gateway_is_told_first_and_the_client_after_it_acknowledged() {
    let Office { mut shell, laptop, gateway, wiki, policy } = office();
    let ticket = shell.ask(laptop, wiki).unwrap();
    let [CoordinatorMessage::InstallGrant(install)] = shell.told_to(gateway)[..] else { panic!("{:?}", shell.told) };
    assert_eq!((install.client.id, install.resource, install.lease), (laptop, wiki, LEASE));
    assert_eq!(install.client.user.as_deref(), Some("alice"));
    assert_eq!(install.filter, tcp("443"));
    let install = install.clone();
    assert!(shell.told_to(laptop).is_empty() && shell.answers.is_empty(), "not before the gateway has it");
    assert_eq!(shell.actions(), ["grant.allow"]);

    shell.acknowledge(gateway);
    let Some(AccessReply::Granted(granted)) = shell.answers.get(&ticket) else { panic!("{:?}", shell.answers) };
    assert_eq!((granted.grant, granted.resource, granted.lease), (install.grant, wiki, LEASE));
    assert_eq!(granted.preshared_key, install.preshared_key);
    let state = shell.core.state();
    assert_eq!(granted.gateway, state.devices[&gateway].wireguard);
    assert_eq!(state.grants[&granted.grant].policy, policy);
    assert!(!granted.candidates.is_empty());
}

#[test]
fn what_the_catalogue_lacks_is_answered_like_what_does_not_exist() {
    let Office { mut shell, laptop, gateway, .. } = office();
    let secret = shell.resource("secret", "hq");
    let [hidden, absent] = [secret, ResourceId::from_bytes([0; 16])].map(|id| shell.ask_in_vain(laptop, id));
    assert_eq!(hidden, DenyReason::UnknownResource);
    assert_eq!(hidden, absent);
    assert!(shell.told_to(gateway).is_empty());
    let why: Vec<_> = shell.audit.iter().filter(|event| event.action == "access.deny").map(why).collect();
    assert_eq!(why, ["no_policy", "unknown_resource"], "the admin is told the difference");
}

fn why(event: &postern_model::audit::AuditEvent) -> &str {
    &event.details.iter().find(|(name, _)| name == "why").unwrap().1
}

#[test]
fn without_a_connected_gateway_there_is_no_grant() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    shell.disconnect(gateway);
    assert_eq!(shell.ask_in_vain(laptop, wiki), DenyReason::NoGateway);
    assert!(shell.core.state().grants.is_empty());
    shell.connect(gateway);
    shell.access(laptop, wiki, gateway);
}

#[test]
fn a_gateway_of_another_site_is_none() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    shell.disconnect(gateway);
    shell.site("branch");
    let other = shell.gateway("branch");
    shell.connect(other);
    assert_eq!(shell.ask_in_vain(laptop, wiki), DenyReason::NoGateway);
}

#[test]
fn a_gateway_does_not_reach_its_own_resources_through_itself() {
    let Office { mut shell, gateway, wiki, .. } = office();
    shell.allow(&format!("device:{gateway}"), "wiki");
    assert_eq!(shell.ask_in_vain(gateway, wiki), DenyReason::NoGateway);
}

#[test]
fn the_least_loaded_gateway_carries_the_grant_and_keeps_it() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    shell.access(laptop, wiki, gateway);
    let second = shell.gateway("hq");
    shell.connect(second);
    let other = shell.laptop("alice");
    shell.connect(other);
    let granted = shell.access(other, wiki, second);
    assert_eq!(shell.core.state().grants[&granted.grant].gateway, second);
    let renewed = shell.access(laptop, wiki, gateway);
    assert_eq!(shell.core.state().grants[&renewed.grant].gateway, gateway);
}

#[test]
fn a_gateway_that_does_not_acknowledge_in_time_ends_the_attempt() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    let ticket = shell.ask(laptop, wiki);
    assert_eq!(shell.due_in(), Some(ACK_TIMEOUT));
    shell.wait(ACK_TIMEOUT);
    assert_eq!(shell.denied(ticket), Some(DenyReason::GatewayUnreachable));
    assert!(shell.core.state().grants.is_empty());
    let last = shell.told_to(gateway).pop();
    assert!(matches!(last, Some(CoordinatorMessage::RevokeGrant { .. })), "{last:?}");
    // That it does not acknowledge this either will be recorded, and that is all.
    shell.forget();
    shell.wait(std::time::Duration::from_secs(3600));
    assert_eq!((shell.actions(), shell.due_in()), (vec!["change.enforced"], None));
}

#[test]
fn a_late_acknowledgement_is_too_late() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    shell.ask(laptop, wiki);
    let grant = shell.nodes[&gateway].to_acknowledge[0].0;
    shell.wait(ACK_TIMEOUT);
    shell.message(gateway, NodeMessage::GrantInstalled { grant, cut: 0 });
    assert!(shell.nodes[&laptop].held.is_empty());
}

#[test]
fn only_the_gateway_itself_can_acknowledge() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    let ticket = shell.ask(laptop, wiki).unwrap();
    let grant = shell.nodes[&gateway].to_acknowledge[0].0;
    shell.message(laptop, NodeMessage::GrantInstalled { grant, cut: 0 });
    assert!(!shell.answers.contains_key(&ticket));
    shell.acknowledge(gateway);
    assert!(shell.answers.contains_key(&ticket));
}

#[test]
fn the_same_question_again_waits_for_the_same_grant() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    let tickets = [shell.ask(laptop, wiki).unwrap(), shell.ask(laptop, wiki).unwrap()];
    assert_eq!(shell.actions(), ["grant.allow"]);
    assert_eq!(shell.told_to(gateway).len(), 1);
    shell.acknowledge(gateway);
    let [AccessReply::Granted(one), AccessReply::Granted(other)] = tickets.map(|ticket| shell.answers[&ticket].clone())
    else {
        panic!("{:?}", shell.answers)
    };
    assert_eq!(one, other);
}

#[test]
fn too_many_open_requests_are_refused_and_leave_no_trace() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    let tickets: Vec<_> = (0..REQUESTS_PER_DEVICE).map(|_| shell.ask(laptop, wiki)).collect();
    let before = shell.audit.len();
    assert_eq!(shell.ask_in_vain(laptop, wiki), DenyReason::TooManyRequests);
    assert_eq!(shell.audit.len(), before);
    shell.acknowledge(gateway);
    assert!(tickets.into_iter().all(|ticket| shell.answers.contains_key(&ticket.unwrap())));
    shell.access(laptop, wiki, gateway);
}

#[test]
fn a_decision_that_is_not_recorded_was_not_made() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    let before = shell.core.state().clone();
    shell.disk_is_full = true;
    assert!(shell.ask(laptop, wiki).is_none());
    assert_eq!(*shell.core.state(), before);
    assert!(shell.told.is_empty(), "{:?}", shell.told);
    shell.disk_is_full = false;
    shell.access(laptop, wiki, gateway);
}

#[test]
fn a_policy_removed_while_the_gateway_is_asked_denies() {
    let Office { mut shell, laptop, gateway, wiki, policy } = office();
    let ticket = shell.ask(laptop, wiki);
    shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    assert_eq!(
        shell.denied(ticket),
        Some(DenyReason::UnknownResource),
        "not 'no policy': that would tell that it exists"
    );
    shell.acknowledge(gateway);
    assert!(shell.nodes[&laptop].held.is_empty());
}

#[test]
fn an_acknowledgement_of_what_was_sent_before_is_none_of_what_came_after() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    // The client moves: the gateway is sent its grant anew, and nobody waits for that.
    shell.message(laptop, NodeMessage::Candidates { candidates: vec![] });
    shell.edit("wiki", ports("8443"));
    assert_eq!(shell.nodes[&gateway].to_acknowledge.len(), 2);
    shell.acknowledge_one(gateway);
    assert_eq!(shell.nodes[&laptop].held[&wiki].filter, tcp("443"), "the gateway does not have the new filter yet");
    shell.acknowledge_one(gateway);
    assert_eq!(shell.nodes[&laptop].held[&wiki].filter, tcp("8443"));
}

#[test]
fn a_gateway_that_comes_back_in_time_is_not_missed() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    let ticket = shell.ask(laptop, wiki).unwrap();
    let old = shell.nodes[&gateway].to_acknowledge[0].0;
    shell.disconnect(gateway);
    shell.connect(gateway);
    assert_eq!(shell.nodes[&gateway].to_acknowledge[0].0, old, "the welcome lists it");
    assert!(!shell.answers.contains_key(&ticket));
    shell.acknowledge(gateway);
    assert!(matches!(shell.answers[&ticket], AccessReply::Granted(_)));
}

#[test]
fn a_change_while_the_gateway_is_away_does_not_stand_for_its_acknowledgement() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    shell.ask(laptop, wiki);
    shell.disconnect(gateway);
    shell.edit("wiki", ports("8443"));
    let told = |told: &Told| matches!(told, Told::Message(_, CoordinatorMessage::Granted(_)) | Told::Answer(..));
    assert!(!shell.told.iter().any(told), "{:?}", shell.told);
    shell.connect(gateway);
    shell.acknowledge(gateway);
    assert_eq!(shell.nodes[&laptop].held[&wiki].filter, tcp("8443"));
}

/// Invariant: what a client says of the name that it looked up goes on only if the resource has that name.
#[test]
fn the_gateway_hears_by_which_name_the_resource_was_asked_for_if_it_has_that_name() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    let mut installed_as = |name: Option<&str>| {
        shell.ask_by(laptop, wiki, name).unwrap();
        let told = shell.told_to(gateway);
        let Some(CoordinatorMessage::InstallGrant(install)) = told.last() else { panic!("{told:?}") };
        let queried = install.queried.as_ref().map(ToString::to_string);
        shell.acknowledge(gateway);
        shell.pass(LEASE / 3);
        queried
    };
    assert_eq!(installed_as(None), None);
    assert_eq!(installed_as(Some("secret.postern.internal")), None, "another name");
    assert_eq!(installed_as(Some("wiki.postern.internal")).as_deref(), Some("wiki.postern.internal"));
    assert_eq!(installed_as(Some("bob-was-here.example.com")).as_deref(), Some("wiki.postern.internal"), "as before");
    assert_eq!(installed_as(None).as_deref(), Some("wiki.postern.internal"), "as before");
}

#[test]
fn the_name_is_forgotten_with_its_grant() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office();
    shell.ask_by(laptop, wiki, Some("wiki.postern.internal")).unwrap();
    shell.acknowledge(gateway);
    assert_eq!(shell.core.queried.len(), 1);
    shell.wait(LEASE * 2);
    assert!(shell.core.state().grants.is_empty() && shell.core.queried.is_empty());
}
