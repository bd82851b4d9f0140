//! Assertions without a coordinator: on a state that a declaration alone makes, for tests in CI.
//!
//! What hangs on things that the declaration leaves to the coordinator is skipped: it may turn out either way there.
//!
//! - here: the state that is made up; `named`: whom policies name; `unknown`: what can't be told in it

mod named;
mod unknown;

use std::time::Duration;

use postern_model::{
    DeviceId, NetworkRanges, OverlayAddr, Posture, PublicKey, Revision, SecretBytes, Sha256, SiteId, TokenId,
    addr::FIRST_INDEX,
    audit::Actor,
    record::{Device, Network, Owner, World},
};

use self::{named::Named, unknown::Unknown};
use super::{
    Asserted, Assertion, Declaration, DeclaredGroup,
    assertion::{self, Checked, Verdict},
    rehearsal,
};
use crate::{Core, CoreConfig, Env, Refusal};

/// Checks a declaration's assertions in a network of nothing but what it declares. Whoever it names as a user is there, and so
/// are groups, sites and devices that its policies name, where it has no section for them.
///
/// Skipped is what only the coordinator can tell: assertions about devices; all, when no policies or no resources are declared;
/// and what turns on who is in a group without declared members, or on whose a device is.
///
/// # Errors
/// When the declaration itself is refused.
pub fn check_offline(declaration: &Declaration, env: &mut Env<'_>) -> Result<Vec<Checked>, Refusal> {
    let mut whole = declaration.clone();
    let named = Named::by(declaration);
    let devices = named.devices.iter().map(|name| device(name, env)).collect();
    make_up(&mut whole, named);
    let core = Core::new(world(devices, env), config());
    let now = env.now;
    let rehearsal = rehearsal::rehearse(&core, &Actor::Coordinator, &whole, env)?;
    let mut checked = assertion::check_all(&rehearsal.state, &whole, now);
    let unknown = Unknown::new(&rehearsal.state, &whole);
    for (checked, assertion) in checked.iter_mut().zip(&whole.assertions) {
        let holds = checked.verdict == Verdict::Holds;
        let why = undeclared(declaration, assertion).or_else(|| match &assertion.who {
            Asserted::User(name) => unknown.doubt(assertion, name, holds, now),
            Asserted::Device(_) => None,
        });
        if let Some(why) = why {
            checked.verdict = Verdict::Skipped(why);
        }
    }
    Ok(checked)
}

/// What an assertion is about and the declaration has no word of: a sentence.
fn undeclared(declaration: &Declaration, assertion: &Assertion) -> Option<String> {
    let section = match &assertion.who {
        Asserted::Device(name) => {
            return Some(format!(
                "only the coordinator knows the device '{name}': 'policy plan' and 'policy apply' check it"
            ));
        }
        Asserted::User(_) if declaration.policies.is_none() => "policies",
        Asserted::User(_) if declaration.resources.is_none() => "resources",
        Asserted::User(_) => return None,
    };
    Some(format!("no {section} are declared: 'policy plan' and 'policy apply' check it with those that there are"))
}

fn make_up(declaration: &mut Declaration, named: Named) {
    let members = declaration.groups.iter().flatten().filter_map(|(_, group)| group.members.as_ref()).flatten();
    let asserted = declaration.assertions.iter().filter_map(|assertion| match &assertion.who {
        Asserted::User(name) => Some(name),
        Asserted::Device(_) => None,
    });
    let others: Vec<_> = members.chain(asserted).cloned().collect();
    declaration.users.extend(others);
    declaration.users.extend(named.users);
    if declaration.groups.is_none() {
        declaration.groups = Some(named.groups.into_iter().map(|name| (name, DeclaredGroup::default())).collect());
    }
    if declaration.sites.is_none() {
        let sites = declaration.resources.iter().flatten().map(|(_, resource)| resource.site.clone());
        declaration.sites = Some(sites.collect());
    }
}

/// A network with the devices that policies name, which are nobody's.
fn world(devices: Vec<Device>, env: &mut Env<'_>) -> World {
    let mut seed = [0; 5];
    (env.random)(&mut seed);
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
        relays: vec![],
        grants: vec![],
    }
}

/// The device with this id, or with any id and this name.
fn device(name: &str, env: &mut Env<'_>) -> Device {
    Device {
        id: name.parse().unwrap_or_else(|_| env.id(DeviceId::from_bytes)),
        name: name.to_owned(),
        owner: Owner::Site(SiteId::from_bytes([0xff; 16])),
        key: Sha256([0; 32]),
        wireguard: PublicKey([0; 32]),
        addr: OverlayAddr { v4: std::net::Ipv4Addr::UNSPECIFIED, v6: std::net::Ipv6Addr::UNSPECIFIED },
        revoked: false,
        drained: false,
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
        relays: None,
    }
}
