//! How the coordinator's durable state moves: a batch of changes, committed whole or not at all.
//!
//! The core makes a [`Batch`] without touching its own state, the store commits it in one transaction with its audit
//! entries, and only then does the core apply it. So memory never runs ahead of the disk, and a full disk changes nothing.

use serde::{Deserialize, Serialize};

use crate::{
    ApiKeyId, DeviceId, GrantId, GroupId, PolicyId, RelayId, ResourceId, SiteId, TokenId, UserId,
    audit::AuditEvent,
    grant::{Grant, GrantEnd},
    record::{ApiKeyRecord, Device, Group, Network, Policy, Relay, Resource, Site, Token, User},
};

/// One step. `Put` adds or replaces the record with that id; removals of what is not there are errors in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each variant says it all")]
pub enum Change {
    PutNetwork(Network),
    PutUser(User),
    RemoveUser(UserId),
    PutGroup(Group),
    RemoveGroup(GroupId),
    AddMember(GroupId, UserId),
    RemoveMember(GroupId, UserId),
    PutSite(Site),
    RemoveSite(SiteId),
    PutResource(Resource),
    RemoveResource(ResourceId),
    PutPolicy(Policy),
    RemovePolicy(PolicyId),
    PutDevice(Device),
    RemoveDevice(DeviceId),
    PutToken(Token),
    RemoveToken(TokenId),
    PutApiKey(ApiKeyRecord),
    RemoveApiKey(ApiKeyId),
    PutRelay(Relay),
    RemoveRelay(RelayId),
    PutGrant(Grant),
    EndGrant(GrantId, GrantEnd),
}

/// One transaction: it bumps the revision by one and appends its audit entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// In order.
    pub changes: Vec<Change>,
    /// What is remembered of it; never empty.
    pub audit: Vec<AuditEvent>,
}
