//! Relays, passes and where devices wait.

use std::time::Duration;

use postern_model::{DeviceId, Sha256, TrustKey, record::Device};
use postern_wire::{CoordinatorMessage, NodeMessage, RelayEntry, SignedPass, Welcome};

use super::{
    office::{Office, office},
    shell::{LEASE, Shell, Told, config},
};
use crate::{Command, Core, CoreConfig, PassSigner, RelayConfig};

/// No signature, but one that says what was signed.
fn sign(bytes: &[u8]) -> [u8; 64] {
    std::array::from_fn(|at| bytes.iter().skip(at).step_by(64).fold(7, |sum, byte| sum ^ byte))
}

fn own() -> RelayEntry {
    RelayEntry {
        id: postern_model::RelayId::from_bytes([0xee; 16]),
        name: "coordinator".into(),
        address: "coordinator.example.com:8443".parse().unwrap(),
        pin: Sha256([0xee; 32]),
    }
}

/// The office, at a coordinator that has relays; all reconnect.
fn relayed_office(own: Option<RelayEntry>) -> Office {
    let mut office = office();
    let relays = Some(RelayConfig { signer: PassSigner::new(sign), trust: TrustKey([8; 32]), own });
    office.shell.core = Core::new(office.shell.core.state().world(), CoreConfig { relays, ..config() });
    office.shell.nodes.clear();
    office.shell.connect(office.laptop);
    office.shell.connect(office.gateway);
    office.shell.forget();
    office
}

fn add(name: &str, n: u8) -> Command {
    Command::AddRelay {
        name: name.parse().unwrap(),
        address: format!("r{n}.example.com:443").parse().unwrap(),
        pin: Sha256([n; 32]),
    }
}

fn record(shell: &Shell, id: DeviceId) -> Device {
    shell.core.state().devices[&id].clone()
}

#[track_caller]
fn is_pass(shell: &Shell, pass: &SignedPass, holder: DeviceId, peer: DeviceId, life: Duration) {
    let (holder, peer) = (record(shell, holder), record(shell, peer));
    assert_eq!((pass.pass.key, pass.pass.holder, pass.pass.peer), (holder.key, holder.wireguard, peer.wireguard));
    assert_eq!(pass.pass.expires, shell.now.plus(life));
    assert_eq!(pass.signature, sign(&pass.pass.signed_bytes()));
}

fn welcome(shell: &mut Shell, device: DeviceId) -> Welcome {
    shell.forget();
    shell.connect(device);
    let welcome = shell.told.iter().find_map(|told| match told {
        Told::Message(to, CoordinatorMessage::Welcome(welcome)) if *to == device => Some((**welcome).clone()),
        _ => None,
    });
    welcome.expect("it is welcomed")
}

#[test]
fn both_ends_of_a_grant_get_a_pass_for_the_other_that_outlives_the_lease() {
    let Office { mut shell, laptop, gateway, wiki, .. } = relayed_office(Some(own()));
    let ticket = shell.ask(laptop, wiki).unwrap();
    let told = shell.told_to(gateway);
    let [CoordinatorMessage::InstallGrant(install)] = told[..] else { panic!("{told:?}") };
    let of_gateway = install.relayed.clone().unwrap();
    is_pass(&shell, &of_gateway.pass, gateway, laptop, LEASE + Duration::from_secs(60));
    shell.acknowledge(gateway);
    let postern_wire::AccessReply::Granted(granted) = shell.answers[&ticket].clone() else { panic!() };
    let of_laptop = granted.relayed.unwrap();
    is_pass(&shell, &of_laptop.pass, laptop, gateway, LEASE + Duration::from_secs(60));
    assert_eq!((of_gateway.relay, of_laptop.relay), (None, None), "nobody said where it waits");
}

#[test]
fn where_there_are_no_relays_nobody_hears_of_any() {
    for config in [None, Some(RelayConfig { signer: PassSigner::new(sign), trust: TrustKey([8; 32]), own: None })] {
        let mut office = office();
        let world = office.shell.core.state().world();
        office.shell.core = Core::new(world, CoreConfig { relays: config, ..super::shell::config() });
        let Office { mut shell, laptop, gateway, wiki, .. } = office;
        let first = welcome(&mut shell, laptop);
        assert!(first.relays.is_empty() && first.relay_pass.is_none());
        shell.connect(gateway);
        shell.ask(laptop, wiki).unwrap();
        shell.acknowledge(gateway);
        assert_eq!(shell.nodes[&laptop].held[&wiki].relayed, None);
        shell.forget();
        shell.message(laptop, NodeMessage::RenewCertificate { csr: vec![] });
        assert!(shell.told.is_empty());
    }
}

#[test]
fn a_welcome_names_all_relays_and_carries_a_pass_for_a_day() {
    let Office { mut shell, laptop, .. } = relayed_office(Some(own()));
    shell.run(&add("east", 1)).unwrap();
    let told = welcome(&mut shell, laptop);
    let names: Vec<_> = told.relays.iter().map(|relay| relay.name.as_str()).collect();
    assert_eq!(names, ["coordinator", "east"]);
    let day = Duration::from_secs(24 * 3600);
    is_pass(&shell, &told.relay_pass.unwrap(), laptop, laptop, day);
    shell.forget();
    shell.pass(day / 2);
    shell.message(laptop, NodeMessage::RenewCertificate { csr: vec![] });
    let [CoordinatorMessage::Relays { relays, relay_pass: Some(pass) }] = shell.told_to(laptop)[..] else {
        panic!("{:?}", shell.told)
    };
    assert_eq!(*relays, told.relays);
    is_pass(&shell, pass, laptop, laptop, day);
}

#[test]
fn everyone_hears_of_a_relay_that_comes_or_goes() {
    let Office { mut shell, laptop, gateway, .. } = relayed_office(None);
    shell.run(&add("east", 1)).unwrap();
    for device in [laptop, gateway] {
        let [CoordinatorMessage::Relays { relays, relay_pass: Some(_) }] = shell.told_to(device)[..] else {
            panic!("{:?}", shell.told)
        };
        assert_eq!(relays[0].address, "r1.example.com:443".parse().unwrap());
    }
    assert_eq!(shell.actions(), ["relay.add"]);
    shell.forget();
    shell.run(&Command::RemoveRelay { name: "east".parse().unwrap() }).unwrap();
    let [CoordinatorMessage::Relays { relays, relay_pass: None }] = shell.told_to(laptop)[..] else {
        panic!("{:?}", shell.told)
    };
    assert!(relays.is_empty());
    assert_eq!(shell.actions(), ["relay.remove"]);
}

#[test]
fn relays_are_one_of_a_kind() {
    let Office { mut shell, .. } = relayed_office(Some(own()));
    shell.run(&add("east", 1)).unwrap();
    let refusal = |shell: &mut Shell, command: &Command| shell.run(command).unwrap_err().to_string();
    assert!(refusal(&mut shell, &add("east", 2)).contains("already"));
    assert!(refusal(&mut shell, &add("west", 1)).contains("relay 'east' has that address"));
    assert!(refusal(&mut shell, &add("coordinator", 3)).contains("another name"));
    let same_pin = Command::AddRelay {
        name: "west".parse().unwrap(),
        address: "r9.example.com:443".parse().unwrap(),
        pin: Sha256([1; 32]),
    };
    assert!(refusal(&mut shell, &same_pin).contains("relay 'east' has that pin"));
    for name in ["west", "coordinator"] {
        let remove = Command::RemoveRelay { name: name.parse().unwrap() };
        assert!(!refusal(&mut shell, &remove).is_empty());
    }
    let many = (2..=64).filter(|n| shell.run(&add(&format!("relay{n}"), *n)).is_ok()).count();
    assert_eq!(many, 63);
    assert!(refusal(&mut shell, &add("one-more", 200)).contains("remove one first"));
}

#[test]
fn the_other_ends_of_its_grants_hear_where_a_device_waits_and_nobody_else() {
    let Office { mut shell, laptop, gateway, wiki, .. } = relayed_office(Some(own()));
    shell.message(gateway, NodeMessage::HomeRelay { relay: Some(own().id) });
    assert!(shell.told.is_empty(), "there is no grant yet");
    shell.ask(laptop, wiki).unwrap();
    shell.acknowledge(gateway);
    assert_eq!(shell.nodes[&laptop].held[&wiki].relayed.as_ref().unwrap().relay, Some(own().id));
    shell.forget();
    shell.message(laptop, NodeMessage::HomeRelay { relay: Some(own().id) });
    let [CoordinatorMessage::InstallGrant(install)] = shell.told_to(gateway)[..] else { panic!("{:?}", shell.told) };
    assert_eq!(install.relayed.as_ref().unwrap().relay, Some(own().id));
    shell.forget();
    shell.message(laptop, NodeMessage::HomeRelay { relay: Some(own().id) });
    assert!(shell.told.is_empty(), "that is nothing new");
    let invented = postern_model::RelayId::from_bytes([1; 16]);
    shell.message(gateway, NodeMessage::HomeRelay { relay: Some(invented) });
    let held = shell.nodes[&laptop].held[&wiki].relayed.clone().unwrap();
    assert_eq!(held.relay, None, "a relay that there is not");
}

#[test]
fn a_device_that_is_away_is_expected_where_it_was_until_the_relay_is_gone() {
    let Office { mut shell, laptop, gateway, wiki, .. } = relayed_office(None);
    shell.run(&add("east", 1)).unwrap();
    let east = shell.core.relays()[0].id;
    shell.message(gateway, NodeMessage::HomeRelay { relay: Some(east) });
    shell.ask(laptop, wiki).unwrap();
    shell.acknowledge(gateway);
    shell.disconnect(gateway);
    let held = &welcome(&mut shell, laptop).granted[0];
    assert_eq!(held.relayed.as_ref().unwrap().relay, Some(east));
    shell.run(&add("west", 2)).unwrap();
    shell.run(&Command::RemoveRelay { name: "east".parse().unwrap() }).unwrap();
    let held = &welcome(&mut shell, laptop).granted[0];
    assert_eq!(held.relayed.as_ref().unwrap().relay, None);
}
