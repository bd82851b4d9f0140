//! Sessions: the welcome is the whole truth, one identity has one session, and candidates reach the other end.

use postern_model::{Candidate, DeviceId, candidate::CandidateKind, candidate::MAX_CANDIDATES};
use postern_wire::{CoordinatorMessage, Eviction, NodeMessage, Welcome, close};

use super::{
    office::{Office, office, office_with_grant},
    shell::{Shell, Told, hello, posture},
};
use crate::{Command, Core};

fn last_welcome(shell: &Shell, device: DeviceId) -> &Welcome {
    let welcome = shell.told.iter().rev().find_map(|told| match told {
        Told::Message(to, CoordinatorMessage::Welcome(welcome)) if *to == device => Some(welcome),
        _ => None,
    });
    welcome.expect("it was welcomed")
}

fn closes(shell: &Shell) -> Vec<(DeviceId, u64, u32)> {
    let close = |told: &Told| match told {
        Told::Close(device, connection, code) => Some((*device, *connection, *code)),
        _ => None,
    };
    shell.told.iter().filter_map(close).collect()
}

#[test]
fn the_welcome_says_who_and_where_the_device_is() {
    let Office { mut shell, laptop, gateway, .. } = office();
    for device in [laptop, gateway] {
        shell.disconnect(device);
        shell.connect(device);
    }
    let state = shell.core.state();
    let client = last_welcome(&shell, laptop);
    assert_eq!((client.device, client.user.as_deref(), client.site), (laptop, Some("alice"), None));
    assert_eq!(client.addr, state.devices[&laptop].addr);
    assert_eq!((client.revision, &client.zone), (state.revision, &state.network.zone));
    let site = state.site_named(&"hq".parse().unwrap()).unwrap().id;
    let served = last_welcome(&shell, gateway);
    assert_eq!((served.user.as_deref(), served.site), (None, Some(site)));
}

#[test]
fn the_welcome_lists_the_grants_of_both_ends_and_nothing_that_ended() {
    let Office { mut shell, laptop, gateway, policy, .. } = office_with_grant();
    let grant = *shell.core.state().grants.keys().next().unwrap();
    for device in [laptop, gateway] {
        shell.disconnect(device);
        shell.connect(device);
    }
    assert_eq!(last_welcome(&shell, laptop).granted.iter().map(|g| g.grant).collect::<Vec<_>>(), [grant]);
    assert_eq!(last_welcome(&shell, gateway).installed.iter().map(|g| g.grant).collect::<Vec<_>>(), [grant]);
    for device in [laptop, gateway] {
        shell.disconnect(device);
    }
    shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    for device in [laptop, gateway] {
        shell.connect(device);
    }
    assert!(last_welcome(&shell, laptop).granted.is_empty());
    assert!(last_welcome(&shell, gateway).installed.is_empty());
}

#[test]
fn grants_survive_the_coordinators_restart() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    let grant = shell.nodes[&laptop].held[&wiki].grant;
    shell.core = Core::new(shell.core.state().world(), super::shell::config());
    shell.nodes.clear();
    shell.connect(laptop);
    shell.connect(gateway);
    assert_eq!(shell.nodes[&laptop].held[&wiki].grant, grant);
    assert_eq!(shell.nodes[&gateway].to_acknowledge[0].0, grant);
    assert!(!shell.nodes[&laptop].held[&wiki].candidates.is_empty(), "told once the gateway was there");
}

#[test]
fn a_node_with_a_copied_identity_takes_the_place_of_the_other_and_is_noted() {
    let Office { mut shell, laptop, wiki, .. } = office();
    let older = shell.nodes[&laptop].connection.unwrap();
    let newer = shell.connect_as(laptop, [7; 16]);
    assert_eq!(closes(&shell), [(laptop, older, close::SUPERSEDED)]);
    let evicted = CoordinatorMessage::Evicted { reason: Eviction::Superseded };
    assert_eq!(*shell.told_to(laptop)[0], evicted);
    assert_eq!(shell.actions(), ["device.superseded"]);
    assert_eq!(shell.nodes[&laptop].connection, Some(newer));
    shell.forget();
    // What the older one still says or does is not heard.
    shell.core.handle_message(laptop, older, NodeMessage::Candidates { candidates: vec![] }, (shell.now, shell.moment));
    shell.core.handle_disconnected(laptop, older, shell.moment);
    shell.carry_out();
    assert!(shell.told.is_empty());
    assert!(shell.ask(laptop, wiki).is_some() && shell.core.presence(laptop).is_some());
}

#[test]
fn a_node_that_reconnects_is_no_second_node() {
    let Office { mut shell, laptop, .. } = office();
    let older = shell.connect_as(laptop, [7; 16]);
    shell.forget();
    shell.connect_as(laptop, [7; 16]);
    assert_eq!(closes(&shell), [(laptop, older, close::DONE)]);
    assert!(shell.told_to(laptop).is_empty(), "it is not evicted");
    assert!(shell.audit.is_empty());
}

#[test]
fn a_revoked_device_is_turned_away() {
    let Office { mut shell, laptop, .. } = office();
    let connection = shell.nodes[&laptop].connection.unwrap();
    shell.run(&Command::RevokeDevice { id: laptop }).unwrap();
    assert_eq!(closes(&shell), [(laptop, connection, close::UNAUTHORIZED)]);
    assert!(shell.told_to(laptop).contains(&&CoordinatorMessage::Evicted { reason: Eviction::Revoked }));
    shell.forget();
    let again = shell.connect(laptop);
    assert_eq!(closes(&shell), [(laptop, again, close::UNAUTHORIZED)]);
    assert_eq!(shell.core.presence(laptop), None);
}

#[test]
fn a_session_that_is_not_recorded_does_not_begin() {
    let Office { mut shell, laptop, .. } = office();
    let older = shell.connect_as(laptop, [7; 16]);
    shell.forget();
    shell.disk_is_full = true;
    shell.connect_as(laptop, [8; 16]);
    assert!(shell.told.is_empty());
    assert_eq!(shell.nodes[&laptop].connection, Some(older));
}

#[test]
fn a_changed_posture_is_recorded_once() {
    let Office { mut shell, laptop, .. } = office();
    let newer = postern_model::Posture { kernel: "6.12".into(), ..posture() };
    for _ in 0..2 {
        shell.transact(|core, env| core.propose_posture(laptop, &newer, env)).unwrap();
    }
    assert_eq!(shell.actions(), ["device.posture"]);
    assert_eq!(shell.core.state().devices[&laptop].posture, newer);
}

#[test]
fn both_ends_of_a_grant_learn_where_the_other_may_be_reached() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    let moved = vec![Candidate { addr: "203.0.113.9:1000".parse().unwrap(), kind: CandidateKind::Host }];
    shell.message(laptop, NodeMessage::Candidates { candidates: moved.clone() });
    let [CoordinatorMessage::InstallGrant(install)] = shell.told_to(gateway)[..] else { panic!("{:?}", shell.told) };
    assert!(install.candidates.contains(&moved[0]));
    shell.message(gateway, NodeMessage::Candidates { candidates: moved.clone() });
    assert!(shell.nodes[&laptop].held[&wiki].candidates.contains(&moved[0]));
}

#[test]
fn a_device_without_a_grant_is_told_of_nobodys_whereabouts() {
    let Office { mut shell, laptop, gateway, .. } = office();
    shell.message(gateway, NodeMessage::Candidates { candidates: vec![] });
    assert!(shell.told_to(laptop).is_empty());
}

#[test]
fn the_address_seen_by_the_coordinator_is_never_crowded_out() {
    let Office { mut shell, laptop, gateway, .. } = office_with_grant();
    // Above and below the observed one in any order of addresses, and one that claims to be observed.
    let host = |addr: String| Candidate { addr: addr.parse().unwrap(), kind: CandidateKind::Host };
    let mut many: Vec<_> = (0..20).map(|n| host(format!("[2001:db8::{n}]:1"))).collect();
    many.extend((0..20).map(|n| host(format!("10.0.0.{n}:1"))));
    many.push(Candidate { addr: "203.0.113.66:6".parse().unwrap(), kind: CandidateKind::Observed });
    many.push(host("10.0.0.99:0".into()));
    shell.message(laptop, NodeMessage::Candidates { candidates: many });
    let [CoordinatorMessage::InstallGrant(install)] = shell.told_to(gateway)[..] else { panic!("{:?}", shell.told) };
    assert_eq!(install.candidates.len(), MAX_CANDIDATES);
    let observed = install.candidates.iter().filter(|c| c.kind == CandidateKind::Observed).map(|c| c.addr.to_string());
    assert_eq!(observed.collect::<Vec<_>>(), ["192.0.2.1:51820", "203.0.113.66:6"]);
}

#[test]
fn what_others_see_of_a_node_survives_the_cut_and_takes_the_place_of_the_guess() {
    let Office { mut shell, laptop, gateway, .. } = office_with_grant();
    let at = |addr: &str, kind| Candidate { addr: addr.parse().unwrap(), kind };
    let mut told: Vec<_> = (0..20).map(|n| at(&format!("[2001:db8::{n}]:1"), CandidateKind::Host)).collect();
    // Seen from the session's own address with another port, as a NAT makes it; asked of a router.
    let seen = at("192.0.2.1:40000", CandidateKind::Observed);
    let mapped = at("192.0.2.1:5000", CandidateKind::Mapped);
    told.extend([seen, mapped, at("192.0.2.7:1", CandidateKind::Unknown), at("192.0.2.7:0", CandidateKind::Mapped)]);
    shell.message(laptop, NodeMessage::Candidates { candidates: told });
    let [CoordinatorMessage::InstallGrant(install)] = shell.told_to(gateway)[..] else { panic!("{:?}", shell.told) };
    assert_eq!(install.candidates.len(), MAX_CANDIDATES);
    let seen_by_others: Vec<_> = install.candidates.iter().filter(|c| c.kind != CandidateKind::Host).collect();
    assert_eq!(seen_by_others, [&seen, &mapped], "no guess beside what the node knows of that address");
    shell.forget();
    // It moves: until it says so itself, the guess stands beside what was seen before.
    let connection = shell.nodes[&laptop].connection.unwrap();
    let elsewhere = "198.51.100.200:9".parse().unwrap();
    shell.transact(|core, env| core.propose_move(laptop, connection, elsewhere, env)).unwrap();
    let [CoordinatorMessage::InstallGrant(install)] = shell.told_to(gateway)[..] else { panic!("{:?}", shell.told) };
    assert!(install.candidates.contains(&at("198.51.100.200:51820", CandidateKind::Observed)));
    assert!(install.candidates.contains(&seen) && install.candidates.len() == MAX_CANDIDATES);
}

#[test]
fn an_observed_address_is_written_in_its_own_family() {
    let Office { mut shell, laptop, gateway, .. } = office_with_grant();
    let connection = shell.fresh();
    shell.carry_out_connect(laptop, connection, &hello([7; 16]), "[::ffff:192.0.2.77]:9".parse().unwrap());
    let told = shell.told_to(gateway);
    let [CoordinatorMessage::InstallGrant(install)] = told[..] else { panic!("{told:?}") };
    assert!(install.candidates.iter().any(|candidate| candidate.addr == "192.0.2.77:51820".parse().unwrap()));
}
