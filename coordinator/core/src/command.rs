//! What an admin may ask for, after the text was parsed: values are valid, but what they name may not exist.

use std::{collections::BTreeSet, time::Duration};

use postern_model::{
    ApiKeyId, DeviceId, Effect, Filter, Fqdn, GroupName, PolicyId, PortSet, RelayName, ResourceName, Revision,
    ScopeName, SiteName, Subject, TagName, Target, Timestamp, TokenId, UserName,
};

use crate::{Declaration, declaration::plan::Step};

/// A change that an admin asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant says it all")]
pub enum Command {
    AddUser {
        name: UserName,
        groups: Vec<GroupName>,
    },
    SuspendUser {
        name: UserName,
    },
    ResumeUser {
        name: UserName,
    },
    RemoveUser {
        name: UserName,
    },
    AddGroup {
        name: GroupName,
    },
    AddMember {
        group: GroupName,
        user: UserName,
    },
    RemoveMember {
        group: GroupName,
        user: UserName,
    },
    RemoveGroup {
        name: GroupName,
    },
    AddSite {
        name: SiteName,
    },
    AddResource {
        name: ResourceName,
        site: SiteName,
        target: Target,
        filter: Filter,
        aliases: Vec<Fqdn>,
        tags: BTreeSet<TagName>,
    },
    EditResource {
        name: ResourceName,
        edit: ResourceEdit,
    },
    RemoveResource {
        name: ResourceName,
    },
    AddPolicy(Box<NewPolicy>),
    /// Policies in Cedar, all of them or none.
    AddCedar {
        source: String,
    },
    RemovePolicy {
        id: PolicyId,
    },
    /// All that the declaration speaks of becomes as it says.
    Declare {
        declaration: Box<Declaration>,
        /// Refuse if what declarations speak of has changed since this revision.
        revision: Option<Revision>,
    },
    /// Takes a policy out of shadow.
    EnforcePolicy {
        id: PolicyId,
    },
    /// The secret is made by the shell and only its hash comes here.
    CreateToken {
        owner: TokenOwner,
        expires_in: Duration,
        uses: u32,
        secret_hash: postern_model::Sha256,
    },
    WithdrawToken {
        id: TokenId,
    },
    /// Nothing passes through this gateway any more; what does, moves to others of its site.
    DrainGateway {
        site: SiteName,
        id: DeviceId,
        /// Also if no other one is in service.
        is_forced: bool,
    },
    /// It may carry grants again.
    UndrainGateway {
        site: SiteName,
        id: DeviceId,
    },
    RevokeDevice {
        id: DeviceId,
    },
    RemoveDevice {
        id: DeviceId,
    },
    CreateApiKey {
        name: String,
        secret_hash: postern_model::Sha256,
    },
    RevokeApiKey {
        id: ApiKeyId,
    },
    AddRelay {
        name: RelayName,
        address: postern_model::token::HostPort,
        pin: postern_model::Sha256,
    },
    RemoveRelay {
        name: RelayName,
    },
}

/// What to change of a resource; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceEdit {
    /// From where it is reached.
    pub site: Option<SiteName>,
    /// Where its packets go.
    pub target: Option<Target>,
    /// Open TCP ports.
    pub tcp: Option<PortSet>,
    /// Open UDP ports.
    pub udp: Option<PortSet>,
    /// Whether echo requests pass.
    pub icmp: Option<bool>,
    /// All its aliases.
    pub aliases: Option<Vec<Fqdn>>,
    /// All its tags.
    pub tags: Option<BTreeSet<TagName>>,
}

/// A policy in the short form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPolicy {
    /// Whether it allows or denies.
    pub effect: Effect,
    /// Who.
    pub subject: Subject,
    /// What.
    pub scope: ScopeName,
    /// On which of the resource's ports; on all of them unless told.
    pub ports: Option<Filter>,
    /// Under which circumstances; under all unless told.
    pub when: Option<String>,
    /// When it stops to apply.
    pub until: Option<Timestamp>,
    /// Whether it is only evaluated and recorded.
    pub shadow: bool,
}

impl NewPolicy {
    /// Allows someone to reach a resource on all its open ports.
    pub fn allow(subject: Subject, resource: ResourceName) -> Self {
        let (effect, scope) = (Effect::Allow, ScopeName::Resource(resource));
        Self { effect, subject, scope, ports: None, when: None, until: None, shadow: false }
    }
}

impl From<NewPolicy> for Command {
    fn from(policy: NewPolicy) -> Self {
        Self::AddPolicy(Box::new(policy))
    }
}

/// Whose the devices become that enrol with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOwner {
    /// A person's.
    User(UserName),
    /// Gateways of a site.
    Site(SiteName),
}

/// What a command made or touched, once it is committed: the id of the thing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant says it all")]
pub enum Touched {
    User(postern_model::UserId),
    Group(postern_model::GroupId),
    Site(postern_model::SiteId),
    Resource(postern_model::ResourceId),
    Policy(PolicyId),
    Policies(Vec<PolicyId>),
    /// What was done to make things as they are declared.
    Declared(Vec<Step>),
    Token(TokenId),
    Device(DeviceId),
    ApiKey(ApiKeyId),
    Relay(postern_model::RelayId),
}

/// Why a command was refused: nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It names something that is not there.
    #[error("there is no {kind} '{name}'; see '{list}'")]
    NotFound {
        /// `user`, `group`, …
        kind: &'static str,
        /// As given.
        name: String,
        /// The command that lists them: `postern-coordinator user list`.
        list: &'static str,
    },
    /// It would make a second of something that is one of a kind.
    #[error("{what}")]
    Conflict {
        /// A sentence: what is there already, and what to do.
        what: String,
    },
    /// It makes no sense as it stands.
    #[error("{what}")]
    Invalid {
        /// A sentence: what is wrong, and what would be right.
        what: String,
    },
}
