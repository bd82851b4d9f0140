//! Records by number: two with different numbers never clash, and `kind` varies what may change.

use std::time::Duration;

use postern_model::{
    ApiKeyId, Condition, DenyReason, DeviceId, Effect, Filter, GrantId, GroupId, NetworkRanges, PolicyId, PortSet,
    Posture, PublicKey, RelayId, ResourceId, Scope, Sha256, SiteId, Target, TokenId, UserId,
    addr::FIRST_INDEX,
    change::Change,
    grant::{Grant, GrantEnd},
    record::{ApiKeyRecord, Device, Group, Owner, Policy, Principal, Relay, Resource, Site, Token, User},
};

use super::{NOW, network};

macro_rules! ids {
    ($($name:ident: $id:ident),*) => { $(pub(crate) fn $name(n: u8) -> $id { $id::from_bytes([n; 16]) })* };
}
ids!(user_id: UserId, group_id: GroupId, site_id: SiteId, resource_id: ResourceId, policy_id: PolicyId,
    device_id: DeviceId, token_id: TokenId, api_key_id: ApiKeyId, relay_id: RelayId, grant_id: GrantId);

fn later(kind: u8) -> postern_model::Timestamp {
    NOW.plus(Duration::from_millis(u64::from(kind)))
}

pub(crate) fn filter(kind: u8) -> Filter {
    let tcp = ["none", "any", "80,443", "1,8000-8100,65535"][usize::from(kind % 4)].parse().unwrap();
    Filter { tcp, udp: if kind.is_multiple_of(3) { PortSet::Any } else { PortSet::None }, icmp: kind.is_multiple_of(2) }
}

fn owner(kind: u8) -> Owner {
    if kind.is_multiple_of(2) { Owner::User(user_id(kind % 3)) } else { Owner::Site(site_id(kind % 3)) }
}

fn principal(kind: u8) -> Principal {
    match kind % 3 {
        0 => Principal::User(user_id(kind % 4)),
        1 => Principal::Group(group_id(kind % 4)),
        _ => Principal::Device(device_id(kind % 4)),
    }
}

fn target(kind: u8) -> Target {
    ["10.0.0.5", "2001:db8::5", "db.corp.example.com"][usize::from(kind % 3)].parse().unwrap()
}

fn scope(kind: u8) -> Scope {
    match kind % 6 {
        4 => Scope::Tag("prod".parse().unwrap()),
        5 => Scope::Everything,
        n => Scope::Resource(resource_id(n)),
    }
}

fn condition(kind: u8) -> Option<Condition> {
    match kind % 3 {
        0 => None,
        1 => Some(Condition::Short { text: "posture.os == \"it's\"".into() }),
        _ => Some(Condition::Cedar { source: "permit(…);".into(), clauses: "[]".into() }),
    }
}

pub(crate) fn user(n: u8, kind: u8) -> User {
    let name = format!("u{n}@example.com").parse().unwrap();
    User { id: user_id(n), name, suspended: kind.is_multiple_of(2), created_at: later(kind) }
}

pub(crate) fn resource(n: u8, kind: u8) -> Resource {
    // In no order, since theirs is to be kept.
    let aliases = (0..kind % 4).rev().map(|at| format!("a{at}.r{n}.example.com").parse().unwrap()).collect();
    Resource {
        id: resource_id(n),
        name: format!("r{n}").parse().unwrap(),
        aliases,
        tags: (0..kind % 3).map(|at| format!("t{at}").parse().unwrap()).collect(),
        site: site_id(kind % 3),
        target: target(kind),
        filter: filter(kind),
        addr: NetworkRanges::from_random([9; 5]).resource(FIRST_INDEX + u32::from(n)).unwrap(),
        created_at: later(kind),
    }
}

pub(crate) fn device(n: u8, kind: u8) -> Device {
    Device {
        id: device_id(n),
        name: format!("d{n}"),
        owner: owner(kind),
        key: Sha256([n; 32]),
        wireguard: PublicKey([n ^ 0xff; 32]),
        addr: NetworkRanges::from_random([9; 5]).device(FIRST_INDEX + u32::from(n)).unwrap(),
        revoked: kind.is_multiple_of(2),
        drained: kind.is_multiple_of(3),
        posture: Posture { hostname: format!("höst'{kind}"), os: String::new(), ..Posture::default() },
        enrolled_at: later(kind),
        token: token_id(kind),
    }
}

pub(crate) fn token(n: u8, kind: u8) -> Token {
    Token {
        id: token_id(n),
        secret_hash: Sha256([n; 32]),
        owner: owner(kind),
        uses_left: if kind == 7 { u32::MAX } else { u32::from(kind) },
        expires_at: later(kind),
        withdrawn: kind.is_multiple_of(2),
        created_at: NOW,
    }
}

fn grant(n: u8, kind: u8) -> Grant {
    Grant {
        id: grant_id(n),
        device: device_id(kind % 4),
        resource: resource_id(kind % 4),
        gateway: device_id((kind + 1) % 4),
        policy: policy_id(kind % 4),
        filter: filter(kind),
        granted_at: NOW,
        expires_at: later(kind),
    }
}

/// Every change that there is, by number.
pub(crate) const CHANGES: u8 = 23;

pub(crate) fn change(which: u8, n: u8, kind: u8) -> Change {
    let ends = [GrantEnd::Expired, GrantEnd::Replaced, GrantEnd::Revoked(DenyReason::NoPolicy)];
    match which {
        0 => Change::PutNetwork(postern_model::record::Network {
            next_device_index: FIRST_INDEX + u32::from(kind),
            next_resource_index: FIRST_INDEX + u32::from(n),
            ..network()
        }),
        1 => Change::PutUser(user(n, kind)),
        2 => Change::RemoveUser(user_id(n)),
        3 => {
            Change::PutGroup(Group { id: group_id(n), name: format!("g{n}").parse().unwrap(), created_at: later(kind) })
        }
        4 => Change::RemoveGroup(group_id(n)),
        5 => Change::AddMember(group_id(n), user_id(kind % 4)),
        6 => Change::RemoveMember(group_id(n), user_id(kind % 4)),
        7 => Change::PutSite(Site { id: site_id(n), name: format!("s{n}").parse().unwrap(), created_at: later(kind) }),
        8 => Change::RemoveSite(site_id(n)),
        9 => Change::PutResource(resource(n, kind)),
        10 => Change::RemoveResource(resource_id(n)),
        11 => Change::PutPolicy(Policy {
            id: policy_id(n),
            effect: if kind.is_multiple_of(3) { Effect::Deny } else { Effect::Allow },
            principal: principal(kind),
            scope: scope(kind),
            ports: kind.is_multiple_of(2).then(|| "tcp/443 icmp".parse().unwrap()),
            condition: condition(kind),
            until: (kind > 4).then(|| later(kind)),
            shadow: kind == 5,
            created_at: later(kind),
        }),
        12 => Change::RemovePolicy(policy_id(n)),
        13 => Change::PutDevice(device(n, kind)),
        14 => Change::RemoveDevice(device_id(n)),
        15 => Change::PutToken(token(n, kind)),
        16 => Change::RemoveToken(token_id(n)),
        17 => Change::PutApiKey(ApiKeyRecord {
            id: api_key_id(n),
            name: format!("k{kind}").parse().unwrap(),
            secret_hash: Sha256([n; 32]),
            created_at: later(kind),
        }),
        18 => Change::RemoveApiKey(api_key_id(n)),
        19 => Change::PutGrant(grant(n, kind)),
        20 => Change::EndGrant(grant_id(n), ends[usize::from(kind % 3)]),
        21 => Change::PutRelay(Relay {
            id: relay_id(n),
            name: format!("x{n}").parse().unwrap(),
            address: [format!("r{n}.example.com:443"), format!("[2001:db8::{n}]:8443")][usize::from(kind % 2)]
                .parse()
                .unwrap(),
            pin: Sha256([n; 32]),
            created_at: later(kind),
        }),
        22 => Change::RemoveRelay(relay_id(n)),
        _ => unreachable!("there are {CHANGES}"),
    }
}
