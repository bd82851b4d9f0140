//! What a row of activity is made of.

use std::{fmt, str::FromStr};

use postern_model::{DeviceId, GrantId, PolicyId, ResourceId, Revision, Timestamp, grant::Grant};

/// A text that is no kind of activity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a kind of activity; those are allow, renew, change, end, deny, shadow, flow_open, flow_close and gap"
)]
pub struct KindError(String);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivityKind {
    /// A request was allowed, with a new grant.
    Allow,
    /// A grant was asked for again, and goes on.
    Renew,
    /// A grant goes on with another filter or policy.
    Change,
    /// A grant ended.
    End,
    /// A request was denied.
    Deny,
    /// What a policy that only watches would have decided.
    Shadow,
    /// A flow was opened.
    FlowOpen,
    /// A flow is over.
    FlowClose,
    /// Something that happened is missing here; `times` says how much.
    Gap,
}

impl ActivityKind {
    const ALL: [Self; 9] = [
        Self::Allow,
        Self::Renew,
        Self::Change,
        Self::End,
        Self::Deny,
        Self::Shadow,
        Self::FlowOpen,
        Self::FlowClose,
        Self::Gap,
    ];

    /// As it is written everywhere.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Renew => "renew",
            Self::Change => "change",
            Self::End => "end",
            Self::Deny => "deny",
            Self::Shadow => "shadow",
            Self::FlowOpen => "flow_open",
            Self::FlowClose => "flow_close",
            Self::Gap => "gap",
        }
    }
}

impl fmt::Display for ActivityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for ActivityKind {
    type Err = KindError;
    fn from_str(text: &str) -> Result<Self, KindError> {
        Self::ALL.into_iter().find(|kind| kind.label() == text).ok_or_else(|| KindError(text.to_owned()))
    }
}

/// What is known of one thing that happened. Names are those of then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityRecord {
    /// When it happened, by the clock of whoever saw it: the gateway, for a flow.
    pub at: Timestamp,
    /// When the coordinator heard of it.
    pub received_at: Timestamp,
    /// What.
    pub kind: ActivityKind,
    /// Whose device it was, if a person's.
    pub user: Option<String>,
    /// The client.
    pub device_id: Option<DeviceId>,
    /// Its name.
    pub device: Option<String>,
    /// What it asked for, or reached.
    pub resource_id: Option<ResourceId>,
    /// Its name.
    pub resource: Option<String>,
    /// Under which grant.
    pub grant: Option<GrantId>,
    /// Which gateway carries it, or tells of it.
    pub gateway_id: Option<DeviceId>,
    /// Its name.
    pub gateway: Option<String>,
    /// Which policy decided.
    pub policy: Option<PolicyId>,
    /// Which policies in shadow would have decided otherwise.
    pub policies: Vec<PolicyId>,
    /// What the grant lets through.
    pub filter: Option<String>,
    /// Which flow of the gateway: the same when it opens and closes.
    pub flow: Option<u64>,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: Option<String>,
    /// The resource's port.
    pub port: Option<u16>,
    /// The name by which the client has asked for the resource.
    pub queried: Option<String>,
    /// When the flow that is over was opened.
    pub opened_at: Option<Timestamp>,
    /// Bytes from the client to the resource.
    pub up: Option<u64>,
    /// Bytes from the resource to the client.
    pub down: Option<u64>,
    /// Why, as one word.
    pub reason: Option<String>,
    /// How often: more than 1 where the same was counted for a while, or what is missing.
    pub times: u64,
    /// The coordinator's revision that it made.
    pub revision: Option<Revision>,
}

impl ActivityRecord {
    /// A record of which nothing more is known.
    pub fn new(kind: ActivityKind, at: Timestamp, received_at: Timestamp) -> Self {
        Self {
            at,
            received_at,
            kind,
            user: None,
            device_id: None,
            device: None,
            resource_id: None,
            resource: None,
            grant: None,
            gateway_id: None,
            gateway: None,
            policy: None,
            policies: Vec::new(),
            filter: None,
            flow: None,
            protocol: None,
            port: None,
            queried: None,
            opened_at: None,
            up: None,
            down: None,
            reason: None,
            times: 1,
            revision: None,
        }
    }
}

/// A record in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityRow {
    /// The order of arrival, from 1.
    pub id: u64,
    /// What is known.
    pub record: ActivityRecord,
}

/// A grant with the names of its ends as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFacts {
    /// The grant.
    pub grant: Grant,
    /// The name of its gateway.
    pub gateway: String,
    /// The name of its device.
    pub device: String,
    /// The name of the device's user, if it is a person's.
    pub user: Option<String>,
    /// The name of its resource.
    pub resource: String,
}

/// Ids with commas between them; what is none is left out.
pub(super) fn policies(text: &str) -> Vec<PolicyId> {
    text.split(',').filter_map(|id| id.parse().ok()).collect()
}
