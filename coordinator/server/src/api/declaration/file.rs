//! What a declaration looks like: in JSON, and in the TOML files that the command line reads. What it can't mean is an error
//! where it stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use postern_core::{
    Declaration, NewPolicy,
    declaration::{Asserted, Assertion, DeclaredGroup, DeclaredPolicy, DeclaredResource, Given},
};
use postern_model::{
    Check, Effect, Fqdn, GroupName, Posture, ResourceName, ScopeName, SiteName, Subject, TagName, Target, UserName,
};
use serde::{Deserialize, Serialize};

use super::values::{Ports, Shown, Until, When};
use crate::api::answer::Time;

/// A whole declaration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) users: BTreeMap<UserName, Plain>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<BTreeMap<GroupName, Group>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sites: Option<BTreeMap<SiteName, Plain>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<BTreeMap<ResourceName, Resource>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policies: Option<Vec<Policy>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) assertions: Vec<Asserts>,
}

/// A thing of which nothing is said but that it is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plain {}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// All of them; left out, they stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    members: Option<BTreeSet<UserName>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resource {
    site: SiteName,
    target: Target,
    open: Ports,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<Fqdn>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    tags: BTreeSet<TagName>,
}

/// A policy in the short form, or some in Cedar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PolicyFields", into = "PolicyFields")]
pub(crate) struct Policy(DeclaredPolicy);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    effect: Option<Effect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<ScopeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ports: Option<Ports>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    when: Option<When>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Until>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shadow: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cedar: Option<String>,
}

impl TryFrom<PolicyFields> for Policy {
    type Error = &'static str;

    fn try_from(fields: PolicyFields) -> Result<Self, Self::Error> {
        let PolicyFields { effect, subject, resource, ports, when, until, shadow, cedar } = fields;
        let is_bare = effect.is_none() && ports.is_none() && when.is_none() && until.is_none() && !shadow;
        match (cedar, subject, resource) {
            (Some(source), None, None) if is_bare => Ok(Self(DeclaredPolicy::Cedar(source))),
            (Some(_), ..) => Err("a policy in 'cedar' says everything there: it has no other field"),
            (None, Some(subject), Some(scope)) => Ok(Self(DeclaredPolicy::Short(Box::new(NewPolicy {
                effect: effect.unwrap_or_default(),
                subject,
                scope,
                ports: ports.map(|ports| ports.0),
                when: when.map(|when| when.0),
                until: until.map(|until| until.0),
                shadow,
            })))),
            (None, ..) => Err("a policy has a 'subject' and a 'resource', or it is in 'cedar'"),
        }
    }
}

impl From<Policy> for PolicyFields {
    fn from(Policy(policy): Policy) -> Self {
        match policy {
            DeclaredPolicy::Cedar(source) => Self { cedar: Some(source), ..Self::default() },
            DeclaredPolicy::Short(new) => {
                let NewPolicy { effect, subject, scope, ports, when, until, shadow } = *new;
                Self {
                    effect: (effect != Effect::default()).then_some(effect),
                    subject: Some(subject),
                    resource: Some(scope),
                    ports: ports.map(Ports),
                    when: when.map(When),
                    until: until.map(Until),
                    shadow,
                    cedar: None,
                }
            }
        }
    }
}

/// An assertion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "AssertionFields", into = "AssertionFields")]
pub(crate) struct Asserts(Assertion);

impl Asserts {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AssertionFields {
    name: String,
    expect: Effect,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<UserName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    resource: ResourceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<Ports>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given: Option<GivenFields>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    posture: Option<PostureFields>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
}

/// What conditions may ask of a posture.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PostureFields {
    #[serde(skip_serializing_if = "String::is_empty")]
    os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kernel: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_encrypted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    firewall: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    screen_lock: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_age_days: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    checks: BTreeMap<Check, Shown>,
}

impl TryFrom<AssertionFields> for Asserts {
    type Error = &'static str;

    fn try_from(fields: AssertionFields) -> Result<Self, Self::Error> {
        let AssertionFields { name, expect, user, device, resource, port, given } = fields;
        let who = match (user, device) {
            (Some(user), None) => Asserted::User(user),
            (None, Some(device)) => Asserted::Device(device),
            _ => return Err("an assertion is about one 'user' or one 'device'"),
        };
        let given = given.map(|GivenFields { posture, time, source }| Given {
            posture: posture.map(Posture::from),
            time: time.map(|time| time.0),
            source,
        });
        Ok(Self(Assertion { name, expect, who, resource, ports: port.map(|ports| ports.0), given }))
    }
}

impl From<Asserts> for AssertionFields {
    fn from(Asserts(assertion): Asserts) -> Self {
        let Assertion { name, expect, who, resource, ports, given } = assertion;
        let (user, device) = match who {
            Asserted::User(user) => (Some(user), None),
            Asserted::Device(device) => (None, Some(device)),
        };
        let given = given.map(|Given { posture, time, source }| GivenFields {
            posture: posture.map(PostureFields::from),
            time: time.map(Time),
            source,
        });
        Self { name, expect, user, device, resource, port: ports.map(Ports), given }
    }
}

impl From<PostureFields> for Posture {
    fn from(fields: PostureFields) -> Self {
        let PostureFields { os, kernel, version, disk_encrypted, firewall, screen_lock, update_age_days, checks } =
            fields;
        let checks = checks.into_iter().map(|(check, shown)| (check, shown.0)).collect();
        let hostname = String::new();
        Self { hostname, os, kernel, version, disk_encrypted, firewall, screen_lock, update_age_days, checks }
    }
}

impl From<Posture> for PostureFields {
    fn from(posture: Posture) -> Self {
        let Posture {
            os,
            kernel,
            version,
            disk_encrypted,
            firewall,
            screen_lock,
            update_age_days,
            checks,
            hostname: _,
        } = posture;
        let checks = checks.into_iter().map(|(check, found)| (check, Shown(found))).collect();
        Self { os, kernel, version, disk_encrypted, firewall, screen_lock, update_age_days, checks }
    }
}

impl From<File> for Declaration {
    fn from(file: File) -> Self {
        let File { users, groups, sites, resources, policies, assertions } = file;
        let group = |(name, group): (GroupName, Group)| (name, DeclaredGroup { members: group.members });
        let resource = |(name, resource): (ResourceName, Resource)| {
            let Resource { site, target, open, aliases, tags } = resource;
            (name, DeclaredResource { site, target, open: open.0, aliases, tags })
        };
        Self {
            users: users.into_keys().collect(),
            groups: groups.map(|groups| groups.into_iter().map(group).collect()),
            sites: sites.map(|sites| sites.into_keys().collect()),
            resources: resources.map(|resources| resources.into_iter().map(resource).collect()),
            policies: policies.map(|policies| policies.into_iter().map(|policy| policy.0).collect()),
            assertions: assertions.into_iter().map(|assertion| assertion.0).collect(),
        }
    }
}

impl From<Declaration> for File {
    fn from(declaration: Declaration) -> Self {
        let Declaration { users, groups, sites, resources, policies, assertions } = declaration;
        let group = |(name, group): (GroupName, DeclaredGroup)| (name, Group { members: group.members });
        let resource = |(name, resource): (ResourceName, DeclaredResource)| {
            let DeclaredResource { site, target, open, aliases, tags } = resource;
            (name, Resource { site, target, open: Ports(open), aliases, tags })
        };
        Self {
            users: users.into_iter().map(|name| (name, Plain {})).collect(),
            groups: groups.map(|groups| groups.into_iter().map(group).collect()),
            sites: sites.map(|sites| sites.into_iter().map(|name| (name, Plain {})).collect()),
            resources: resources.map(|resources| resources.into_iter().map(resource).collect()),
            policies: policies.map(|policies| policies.into_iter().map(Policy).collect()),
            assertions: assertions.into_iter().map(Asserts).collect(),
        }
    }
}
