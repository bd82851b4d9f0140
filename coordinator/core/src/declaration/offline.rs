//! Assertions without a coordinator: on a state that a declaration alone makes, for tests in CI.

use std::time::Duration;

use postern_model::{
    DeviceId, NetworkRanges, OverlayAddr, Posture, PublicKey, Revision, SecretBytes, Sha256, SiteId, Subject, TokenId,
    addr::FIRST_INDEX,
    audit::Actor,
    record::{Device, Network, Owner, World},
};

use super::{
    Asserted, Declaration, DeclaredPolicy,
    assertion::{self, Checked, Verdict},
    rehearsal,
};
use crate::{Core, CoreConfig, Env, Refusal};

/// Checks a declaration's assertions in a network of nothing but what it declares. Whoever it names as a user is there, and so
/// are groups, sites and devices that its policies name, where it has no section for them.
///
/// # Errors
/// When the declaration itself is refused.
pub fn check_offline(declaration: &Declaration, env: &mut Env<'_>) -> Result<Vec<Checked>, Refusal> {
    let mut whole = declaration.clone();
    make_up(&mut whole);
    let core = Core::new(world(declaration, env), config());
    let now = env.now;
    let rehearsal = rehearsal::rehearse(&core, &Actor::Coordinator, &whole, env)?;
    let mut checked = assertion::check_all(&rehearsal.state, &whole, now);
    for (checked, assertion) in checked.iter_mut().zip(&whole.assertions) {
        if let Asserted::Device(name) = &assertion.who {
            let why =
                format!("only the coordinator knows the device '{name}': 'policy plan' and 'policy apply' check it");
            checked.verdict = Verdict::Skipped(why);
        }
    }
    Ok(checked)
}

fn make_up(declaration: &mut Declaration) {
    let shorts = declaration.policies.iter().flatten().filter_map(|policy| match policy {
        DeclaredPolicy::Short(new) => Some(&new.subject),
        DeclaredPolicy::Cedar(_) => None,
    });
    let subjects: Vec<_> = shorts.cloned().collect();
    let members = declaration.groups.iter().flatten().filter_map(|(_, group)| group.members.as_ref()).flatten();
    let asserted = declaration.assertions.iter().filter_map(|assertion| match &assertion.who {
        Asserted::User(name) => Some(name),
        Asserted::Device(_) => None,
    });
    let named: Vec<_> = members.chain(asserted).cloned().collect();
    declaration.users.extend(named);
    let has_groups = declaration.groups.is_some();
    for subject in subjects {
        match subject {
            Subject::User(name) => drop(declaration.users.insert(name)),
            Subject::Group(name) if !has_groups => {
                declaration.groups.get_or_insert_default().entry(name).or_default();
            }
            Subject::Group(_) | Subject::Device(_) | Subject::Everyone => {}
        }
    }
    if declaration.sites.is_none() {
        let sites = declaration.resources.iter().flatten().map(|(_, resource)| resource.site.clone());
        declaration.sites = Some(sites.collect());
    }
}

/// A network with the devices that policies name, which are nobody's.
fn world(declaration: &Declaration, env: &mut Env<'_>) -> World {
    let mut seed = [0; 5];
    (env.random)(&mut seed);
    let devices = declaration.policies.iter().flatten().filter_map(|policy| match policy {
        DeclaredPolicy::Short(new) => match new.subject {
            Subject::Device(id) => Some(id),
            _ => None,
        },
        DeclaredPolicy::Cedar(_) => None,
    });
    let devices = devices.map(|id| device(id, env)).collect();
    World {
        revision: Revision(1),
        network: Network {
            zone: "postern.internal".parse().expect("it is a DNS name"),
            ranges: NetworkRanges::from_random(seed),
            next_device_index: FIRST_INDEX,
            next_resource_index: FIRST_INDEX,
        },
        users: vec![],
        groups: vec![],
        members: vec![],
        sites: vec![],
        resources: vec![],
        policies: vec![],
        devices,
        tokens: vec![],
        api_keys: vec![],
        grants: vec![],
    }
}

fn device(id: DeviceId, env: &Env<'_>) -> Device {
    Device {
        id,
        name: id.to_string(),
        owner: Owner::Site(SiteId::from_bytes([0xff; 16])),
        key: Sha256([0; 32]),
        wireguard: PublicKey([0; 32]),
        addr: OverlayAddr { v4: std::net::Ipv4Addr::UNSPECIFIED, v6: std::net::Ipv6Addr::UNSPECIFIED },
        revoked: false,
        posture: Posture::default(),
        enrolled_at: env.now,
        token: TokenId::from_bytes([0xff; 16]),
    }
}

fn config() -> CoreConfig {
    CoreConfig {
        lease: Duration::from_secs(600),
        ack_timeout: Duration::from_secs(5),
        requests_per_device: 1,
        // No device is ever told anything that comes of it.
        psk_master: SecretBytes::new([0; 32]),
    }
}
