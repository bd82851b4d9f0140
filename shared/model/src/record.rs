//! The rows of the coordinator's state: what the store keeps and the core decides on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    ApiKeyId, Condition, DeviceId, Effect, Filter, Fqdn, GroupId, GroupName, NetworkRanges, OverlayAddr, PolicyId,
    Posture, PublicKey, RelayId, RelayName, ResourceId, ResourceName, Revision, Scope, Sha256, SiteId, SiteName,
    TagName, Target, Timestamp, TokenId, UserId, UserName, grant::Grant, token::HostPort,
};

/// The network itself: one row, made at the coordinator's first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The zone under which resources answer.
    pub zone: Fqdn,
    /// Where overlay addresses lie.
    pub ranges: NetworkRanges,
    /// The index of the next device's addresses. Indexes are never given twice.
    pub next_device_index: u32,
    /// The index of the next resource's addresses.
    pub next_resource_index: u32,
}

/// A person, or whatever acts as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its unique name.
    pub name: UserName,
    /// Suspended users keep their devices but reach nothing.
    pub suspended: bool,
    /// When it was added.
    pub created_at: Timestamp,
}

/// A set of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its unique name.
    pub name: GroupName,
    /// When it was added.
    pub created_at: Timestamp,
}

/// The gateways that can reach the same targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Its unique name.
    pub name: SiteName,
    /// When it was added.
    pub created_at: Timestamp,
}

/// What is protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// Its unique name.
    pub name: ResourceName,
    /// Other names under which it answers; unique over all resources.
    pub aliases: Vec<Fqdn>,
    /// The groups of resources that it belongs to.
    pub tags: BTreeSet<TagName>,
    /// From where it is reached.
    pub site: SiteId,
    /// Where its packets go.
    pub target: Target,
    /// What is open.
    pub filter: Filter,
    /// Its overlay addresses; they never change and are never reused.
    pub addr: OverlayAddr,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Whom a policy speaks of, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Principal {
    /// One user.
    User(UserId),
    /// A group's members.
    Group(GroupId),
    /// One device.
    Device(DeviceId),
    /// Every device.
    Everyone,
}

/// Who may reach what, or may not, on which ports and under which condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its id.
    pub id: PolicyId,
    /// Whether it allows or denies.
    pub effect: Effect,
    /// Who.
    pub principal: Principal,
    /// What.
    pub scope: Scope,
    /// On which of the resource's ports; all of them unless told. Never empty.
    pub ports: Option<Filter>,
    /// Under which circumstances; under all unless told.
    pub condition: Option<Condition>,
    /// When it stops to apply.
    pub until: Option<Timestamp>,
    /// Whether it is only evaluated and recorded, and decides nothing.
    pub shadow: bool,
    /// When it was added, or taken out of shadow.
    pub created_at: Timestamp,
}

impl Policy {
    /// Allows, on all ports and under all circumstances.
    pub fn allow(id: PolicyId, principal: Principal, scope: Scope, created_at: Timestamp) -> Self {
        let (effect, ports, condition, until) = (Effect::Allow, None, None, None);
        Self { id, effect, principal, scope, ports, condition, until, shadow: false, created_at }
    }
}

/// Whose a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Owner {
    /// A person's.
    User(UserId),
    /// A service device: a gateway of this site.
    Site(SiteId),
}

/// An enrolled machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its unique name, made from its host name.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// SHA-256 of the Ed25519 device key (SubjectPublicKeyInfo, DER): certificates with another key are refused.
    pub key: Sha256,
    /// Its WireGuard key.
    pub wireguard: PublicKey,
    /// Its overlay addresses.
    pub addr: OverlayAddr,
    /// A revoked device can't connect; it stays listed.
    pub revoked: bool,
    /// A drained gateway carries nothing; it stays connected. Only gateways are.
    pub drained: bool,
    /// The last posture it sent.
    pub posture: Posture,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// With which token, which may be gone since: its holder may ask again when the answer was lost.
    pub token: TokenId,
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// SHA-256 of the secret.
    pub secret_hash: Sha256,
    /// Whose the devices become that enrol with it.
    pub owner: Owner,
    /// How many devices may still enrol with it.
    pub uses_left: u32,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// Whether an admin took it back.
    pub withdrawn: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// Its id.
    pub id: ApiKeyId,
    /// What the admin called it.
    pub name: String,
    /// SHA-256 of the secret.
    pub secret_hash: Sha256,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A relay that runs on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Its id.
    pub id: RelayId,
    /// Its unique name.
    pub name: RelayName,
    /// Where nodes reach it.
    pub address: HostPort,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub pin: Sha256,
    /// When it was added.
    pub created_at: Timestamp,
}

/// Everything that the store keeps but the audit log: what a start of the coordinator begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// The revision that this is.
    pub revision: Revision,
    /// The network.
    pub network: Network,
    /// All users.
    pub users: Vec<User>,
    /// All groups.
    pub groups: Vec<Group>,
    /// All memberships.
    pub members: Vec<(GroupId, UserId)>,
    /// All sites.
    pub sites: Vec<Site>,
    /// All resources.
    pub resources: Vec<Resource>,
    /// All policies.
    pub policies: Vec<Policy>,
    /// All devices, revoked ones too.
    pub devices: Vec<Device>,
    /// All tokens, spent ones too.
    pub tokens: Vec<Token>,
    /// All API keys.
    pub api_keys: Vec<ApiKeyRecord>,
    /// All relays that run on their own.
    pub relays: Vec<Relay>,
    /// All grants that have not ended.
    pub grants: Vec<Grant>,
}
