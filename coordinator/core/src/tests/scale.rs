//! A network of the size that it is made for: how much work a change is. Times are printed and decide nothing.

use std::{collections::BTreeSet, time::Instant};

use postern_model::{
    DeviceId, Filter, GrantId, GroupId, Moment, PolicyId, Posture, PublicKey, ResourceId, Scope, Sha256, SiteId,
    Timestamp, TokenId, UserId,
    addr::FIRST_INDEX,
    audit::Actor,
    change::Change,
    grant::Grant,
    record::{Device, Group, Owner, Policy, Principal, Resource, Site, Token, User, World},
};
use postern_wire::{AccessRequest, CoordinatorMessage};

use super::{
    office::{ports, tcp},
    shell::{LEASE, config, hello},
};
use crate::{Command, Core, Effect, EnrolProof, Env, NewPolicy, Proposal, Refusal, state::LOOKS};

pub(super) const USERS: u32 = 10_000;
const DEVICES: u32 = 20_000;
pub(super) const RESOURCES: u32 = 1_000;
pub(super) const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
const SECRET: Sha256 = Sha256([7; 32]);

/// An id of its own for each kind and number.
pub(super) fn bytes<const N: usize>(kind: u8, number: u32) -> [u8; N] {
    let mut bytes = [kind; N];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn device_id(n: u32) -> DeviceId {
    DeviceId::from_bytes(bytes(1, n))
}

pub(super) fn resource_id(n: u32) -> ResourceId {
    ResourceId::from_bytes(bytes(2, n))
}

fn everyone() -> GroupId {
    GroupId::from_bytes(bytes(3, 0))
}

pub(super) fn policy_id(n: u32) -> PolicyId {
    PolicyId::from_bytes(bytes(4, n))
}

/// Two laptops for each user, but for the last two devices, which are gateways; all users in one group.
pub(super) fn world() -> World {
    let mut world = super::world();
    let ranges = world.network.ranges;
    let user = |n: u32| UserId::from_bytes(bytes(5, n));
    let site = SiteId::from_bytes(bytes(6, 0));
    world.network.next_device_index = FIRST_INDEX + DEVICES;
    world.sites = vec![Site { id: site, name: "hq".parse().unwrap(), created_at: NOW }];
    world.groups = vec![Group { id: everyone(), name: "all".parse().unwrap(), created_at: NOW }];
    let name = |n: u32| format!("u{n}").parse().unwrap();
    world.users = (0..USERS).map(|n| User { id: user(n), name: name(n), suspended: false, created_at: NOW }).collect();
    world.members = (0..USERS).map(|n| (everyone(), user(n))).collect();
    let device = |n: u32| Device {
        id: device_id(n),
        // All machines were made from one image.
        name: if n == 0 { "laptop".into() } else { format!("laptop-{}", n + 1) },
        owner: if n < DEVICES - 2 { Owner::User(user(n / 2)) } else { Owner::Site(site) },
        key: Sha256(bytes(1, n)),
        wireguard: PublicKey(bytes(1, n)),
        addr: ranges.device(FIRST_INDEX + n).unwrap(),
        revoked: false,
        drained: false,
        posture: Posture::default(),
        enrolled_at: NOW,
        token: TokenId::from_bytes(bytes(7, 0)),
    };
    world.devices = (0..DEVICES).map(device).collect();
    let resource = |n: u32| Resource {
        id: resource_id(n),
        name: format!("r{n}").parse().unwrap(),
        aliases: vec![format!("r{n}.example.com").parse().unwrap()],
        tags: BTreeSet::new(),
        site,
        target: "10.0.0.5".parse().unwrap(),
        filter: tcp("443"),
        addr: ranges.resource(FIRST_INDEX + n).unwrap(),
        created_at: NOW,
    };
    world.resources = (0..RESOURCES).map(resource).collect();
    world.tokens = vec![Token {
        id: TokenId::from_bytes(bytes(7, 0)),
        secret_hash: SECRET,
        owner: Owner::User(user(0)),
        uses_left: 10,
        expires_at: NOW.plus(LEASE),
        withdrawn: false,
        created_at: NOW,
    }];
    world
}

/// What one step was.
#[derive(Debug, Default)]
struct Work {
    /// How often a fact was looked at.
    looks: u64,
    catalogues: usize,
    put: usize,
    removed: usize,
    others: usize,
}

struct Scale(Core);

impl Scale {
    /// Everyone is connected, and everyone may see all resources but the last.
    fn new() -> Self {
        let mut core = Core::new(world(), config());
        for n in 0..DEVICES {
            core.handle_connected(
                device_id(n),
                u64::from(n),
                &hello([1; 16]),
                ([192, 0, 2, 1], 5000).into(),
                LEASE,
                (NOW, Moment::default()),
            );
            while core.poll_effect().is_some() {}
        }
        // Not by commands, each of which would be told to everyone.
        for n in 0..RESOURCES - 1 {
            let (principal, scope) = (Principal::Group(everyone()), Scope::Resource(resource_id(n)));
            core.state.apply(Change::PutPolicy(Policy::allow(policy_id(n), principal, scope, NOW)));
        }
        Self(core)
    }

    /// Every laptop holds a grant to the resource.
    fn grant(&mut self, resource: u32) {
        for n in 0..DEVICES - 2 {
            self.0.state.apply(Change::PutGrant(Grant {
                id: GrantId::from_bytes(bytes(u8::try_from(resource).unwrap(), n)),
                device: device_id(n),
                resource: resource_id(resource),
                gateway: device_id(DEVICES - 1 - n % 2),
                policy: policy_id(resource),
                filter: Filter::clone(&self.0.state.resources[&resource_id(resource)].filter),
                granted_at: NOW,
                expires_at: NOW.plus(LEASE),
            }));
        }
    }

    #[allow(clippy::disallowed_methods, reason = "printed only")]
    fn step<T>(
        &mut self,
        what: &str,
        propose: impl FnOnce(&Core, &mut Env<'_>) -> Result<Proposal<T>, Refusal>,
    ) -> Work {
        let start = Instant::now();
        LOOKS.set(0);
        let mut counter = 0;
        let mut random = |buffer: &mut [u8]| {
            for byte in buffer {
                counter += 1;
                *byte = counter;
            }
        };
        let moment = Moment::from_boot(LEASE);
        let proposal = propose(&self.0, &mut Env { now: NOW, moment, random: &mut random }).unwrap();
        let proposed = start.elapsed();
        drop(self.0.apply(proposal, NOW, moment));
        let mut work = Work { looks: LOOKS.get(), ..Work::default() };
        let applied = start.elapsed();
        while let Some(effect) = self.0.poll_effect() {
            match effect {
                Effect::Send { message: CoordinatorMessage::Catalogue { put, removed, .. }, .. } => {
                    work.catalogues += 1;
                    work.put += put.len();
                    work.removed += removed.len();
                }
                _ => work.others += 1,
            }
        }
        println!("{what}: proposed in {proposed:?}, applied by {applied:?}: {work:?}");
        work
    }

    fn command(&mut self, what: &str, command: &Command) -> Work {
        self.step(what, |core, env| core.propose_command(&Actor::AdminSocket, command, env))
    }
}

/// Invariant: a change is as much work as there is to tell, not as there is to know.
#[test]
fn a_change_costs_what_it_changes() {
    let mut scale = Scale::new();
    let laptops = usize::try_from(DEVICES - 2).unwrap();
    let per_laptop = |looks: u64| looks / u64::from(DEVICES);

    let last = format!("r{}", RESOURCES - 1);
    let allow = Command::from(NewPolicy::allow("group:all".parse().unwrap(), last.parse().unwrap()));
    let work = scale.command("policy allow", &allow);
    assert_eq!((work.catalogues, work.put, work.removed, work.others), (laptops, laptops, 0, 0));
    assert!(per_laptop(work.looks) < 10, "{work:?}");

    let edit = Command::EditResource { name: last.parse().unwrap(), edit: ports("80") };
    let work = scale.command("resource edit", &edit);
    assert_eq!((work.catalogues, work.put, work.removed, work.others), (laptops, laptops, 0, 0));
    assert!(per_laptop(work.looks) < 10, "{work:?}");

    let user = "u7".parse().unwrap();
    let work = scale.command("group member remove", &Command::RemoveMember { group: "all".parse().unwrap(), user });
    assert_eq!((work.catalogues, work.removed), (2, 2 * usize::try_from(RESOURCES).unwrap()));
    assert!(work.looks < 10 * u64::from(RESOURCES), "once for both of the user's laptops: {work:?}");
    scale.command(
        "group member add",
        &Command::AddMember { group: "all".parse().unwrap(), user: "u7".parse().unwrap() },
    );

    let resource = AccessRequest { resource: resource_id(3), queried: None };
    let work = scale.step("access", |core, env| Ok(core.propose_access(device_id(0), &resource, env)));
    assert_eq!((work.catalogues, work.others), (0, 1));
    assert!(work.looks < 20, "{work:?}");

    scale.grant(0);
    let work = scale.command("resource remove", &Command::RemoveResource { name: "r0".parse().unwrap() });
    assert_eq!((work.catalogues, work.put, work.removed, work.others), (laptops, 0, laptops, 2 * laptops));
    assert!(per_laptop(work.looks) < 10, "{work:?}");

    scale.grant(1);
    let work = scale.command("group remove", &Command::RemoveGroup { name: "all".parse().unwrap() });
    let seen = laptops * usize::try_from(RESOURCES - 1).unwrap();
    assert_eq!((work.catalogues, work.put, work.removed), (laptops, 0, seen));
    assert!(per_laptop(work.looks) < 30, "{work:?}");
    assert!(scale.0.state.grants.is_empty());

    let proof = EnrolProof {
        token: TokenId::from_bytes(bytes(7, 0)),
        secret_hash: SECRET,
        device_key: Sha256([8; 32]),
        wireguard: PublicKey([8; 32]),
        posture: Posture { hostname: "laptop".into(), ..Posture::default() },
        from: ([192, 0, 2, 1], 5000).into(),
    };
    scale.step("enrolment", |core, env| Ok(core.propose_enrolment(&proof, env)));
    let name = format!("laptop-{}", DEVICES + 1);
    assert_eq!(scale.0.state.device_with_key(&proof.device_key).map(|device| &device.name), Some(&name));
}
