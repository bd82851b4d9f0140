//! A large network: 10,000 users in 500 groups, 20,000 devices, 1,000 resources, and as many policies as are asked for.

use std::collections::BTreeSet;

use postern_model::{
    Condition, DeviceId, Effect, Filter, GrantId, GroupId, NetworkRanges, PolicyId, Posture, PublicKey, ResourceId,
    Revision, Scope, Sha256, SiteId, Timestamp, TokenId, UserId,
    addr::FIRST_INDEX,
    grant::Grant,
    record::{Device, Group, Network, Owner, Policy, Principal, Resource, Site, User, World},
};

pub(crate) const USERS: u32 = 10_000;
pub(crate) const GROUPS: u32 = 500;
pub(crate) const DEVICES: u32 = 20_000;
pub(crate) const RESOURCES: u32 = 1_000;
const TAGS: u32 = 50;
/// Each user is in so many groups.
const GROUPS_PER_USER: u32 = 5;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_millis(1_780_000_000_000);

/// One of some hundreds.
fn condition(seed: u64) -> String {
    let number = pick(seed, 100);
    match pick(seed + 1, 5) {
        0 => "posture.disk_encrypted".to_owned(),
        1 => format!("posture.disk_encrypted && time.hour in {}..20", number % 18),
        2 => format!("posture.firewall && posture.update_age_days < {}", 20 + number),
        3 => format!("source.ip in [\"10.{number}.0.0/16\", \"192.0.2.0/24\"] || auth.age_hours < 720"),
        _ => format!("process(\"edr\") && posture.kernel >= \"6.{}\"", number % 12),
    }
}

fn bytes(kind: u8, n: u32) -> [u8; 16] {
    let mut bytes = [kind; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes
}

pub(crate) fn user(n: u32) -> UserId {
    UserId::from_bytes(bytes(1, n))
}

fn group(n: u32) -> GroupId {
    GroupId::from_bytes(bytes(2, n))
}

pub(crate) fn device(n: u32) -> DeviceId {
    DeviceId::from_bytes(bytes(3, n))
}

pub(crate) fn resource(n: u32) -> ResourceId {
    ResourceId::from_bytes(bytes(4, n))
}

fn site() -> SiteId {
    SiteId::from_bytes(bytes(5, 0))
}

/// Numbers that look like chance and are the same each time (splitmix64).
pub(crate) fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn pick(seed: u64, of: u32) -> u32 {
    u32::try_from(scatter(seed) % u64::from(of)).unwrap_or_default()
}

fn filter(tcp: &str) -> Filter {
    Filter { tcp: tcp.parse().unwrap_or_default(), ..Filter::default() }
}

fn posture(n: u32) -> Posture {
    Posture {
        hostname: format!("laptop-{n}"),
        os: "Debian GNU/Linux 12 (bookworm)".into(),
        kernel: "6.1.0-28-amd64".into(),
        version: "0.1.0".into(),
        disk_encrypted: Some(!n.is_multiple_of(10)),
        firewall: Some(!n.is_multiple_of(7)),
        screen_lock: None,
        update_age_days: Some(n % 60),
        checks: [(postern_model::Check::Process("edr".into()), postern_model::Found::Present)].into(),
    }
}

fn policy(n: u32) -> Policy {
    let seed = u64::from(n) * 8;
    let principal = match n % 20 {
        0 => Principal::User(user(pick(seed, USERS))),
        1 => Principal::Device(device(pick(seed, DEVICES))),
        _ => Principal::Group(group(pick(seed, GROUPS))),
    };
    let scope = match n % 5 {
        0 => Scope::Tag(tag(pick(seed + 1, TAGS))),
        _ => Scope::Resource(resource(pick(seed + 1, RESOURCES))),
    };
    let text = condition(seed + 2);
    Policy {
        id: PolicyId::from_bytes(bytes(6, n)),
        effect: if n % 25 == 7 { Effect::Deny } else { Effect::Allow },
        principal,
        scope,
        ports: n.is_multiple_of(3).then(|| filter("443")),
        condition: (!n.is_multiple_of(4)).then(|| Condition::Short { text: text.clone() }),
        until: None,
        shadow: false,
        created_at: NOW,
    }
}

fn tag(n: u32) -> postern_model::TagName {
    format!("tag-{n}").parse().expect("it is a label")
}

/// The policies of a network with so many.
pub(crate) fn policies(count: u32) -> Vec<Policy> {
    (0..count).map(policy).collect()
}

/// The network.
pub(crate) fn world(policy_count: u32) -> World {
    let ranges = NetworkRanges::from_random([1, 2, 3, 4, 5]);
    let key = |kind: u8, n: u32| {
        let mut key = [kind; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        key
    };
    let users = (0..USERS).map(|n| User {
        id: user(n),
        name: format!("user{n}").parse().expect("it is a name"),
        suspended: false,
        created_at: NOW,
    });
    let groups = (0..GROUPS).map(|n| Group {
        id: group(n),
        name: format!("group-{n}").parse().expect("it is a label"),
        created_at: NOW,
    });
    let members = (0..USERS).flat_map(|user_n| {
        (0..GROUPS_PER_USER).map(move |k| (group(pick(u64::from(user_n) * 16 + u64::from(k), GROUPS)), user(user_n)))
    });
    let devices = (0..DEVICES).map(|n| Device {
        id: device(n),
        name: format!("laptop-{n}"),
        owner: if n == 0 { Owner::Site(site()) } else { Owner::User(user(n / 2)) },
        key: Sha256(key(1, n)),
        wireguard: PublicKey(key(2, n)),
        addr: ranges.device(FIRST_INDEX + n).expect("there are enough"),
        revoked: false,
        drained: false,
        posture: posture(n),
        enrolled_at: NOW,
        token: TokenId::from_bytes(bytes(7, n)),
    });
    let resources = (0..RESOURCES).map(|n| Resource {
        id: resource(n),
        name: format!("resource-{n}").parse().expect("it is a label"),
        aliases: vec![],
        tags: BTreeSet::from([tag(n % TAGS)]),
        site: site(),
        target: "10.0.0.5".parse().expect("it is an address"),
        filter: filter("80,443,8080"),
        addr: ranges.resource(FIRST_INDEX + n).expect("there are enough"),
        created_at: NOW,
    });
    World {
        revision: Revision(1),
        network: Network {
            zone: "postern.internal".parse().expect("it is a name"),
            ranges,
            next_device_index: FIRST_INDEX + DEVICES,
            next_resource_index: FIRST_INDEX + RESOURCES,
        },
        users: users.collect(),
        groups: groups.collect(),
        members: members.collect::<BTreeSet<_>>().into_iter().collect(),
        sites: vec![Site { id: site(), name: "office".parse().expect("it is a label"), created_at: NOW }],
        resources: resources.collect(),
        policies: policies(policy_count),
        devices: devices.collect(),
        tokens: vec![],
        api_keys: vec![],
        relays: vec![],
        grants: vec![],
    }
}

/// A grant in force.
pub(crate) fn grant(n: u32, device_id: DeviceId, resource_id: ResourceId, filter: Filter, by: PolicyId) -> Grant {
    Grant {
        id: GrantId::from_bytes(bytes(8, n)),
        device: device_id,
        resource: resource_id,
        gateway: device(0),
        policy: by,
        filter,
        granted_at: NOW,
        expires_at: NOW.plus(std::time::Duration::from_secs(600)),
    }
}
