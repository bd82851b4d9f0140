//! Declarations: how groups, sites, resources and policies are to be, as a file says it, and the way there.
//!
//! What a declaration has a section for is what it says there and nothing else; what it has no section for stays as it is. Users
//! are only ever added. Differences are carried out one by one, through the drafts of the single commands, on a copy of the
//! state that moves along; so whatever those check, record and re-decide, a declaration does as well, all in one batch.
//!
//! - here: what a declaration says; `rehearsal`: its differences from a state, drafted
//! - [`plan`]: what comes of that, told before anything is done; `reach`: who gains and who loses access by it
//! - [`assertion`]: what must hold afterwards; `offline`: the same without a coordinator
//! - `export`: a state as the declaration that leads to it

pub mod assertion;
pub mod plan;

mod export;
mod offline;
pub(crate) mod reach;
mod rehearsal;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use postern_model::{
    Effect, Filter, Fqdn, GroupName, Posture, ResourceName, Revision, SiteName, TagName, Target, Timestamp, UserName,
    audit::Actor, change::Change,
};

use crate::{Core, Env, NewPolicy, Refusal, Touched, draft::Drafted};

pub use offline::check_offline;

/// How things are to be. Its values are valid, but what they name may not be there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declaration {
    /// Users that are to be there; others stay.
    pub users: BTreeSet<UserName>,
    /// All groups.
    pub groups: Option<BTreeMap<GroupName, DeclaredGroup>>,
    /// All sites.
    pub sites: Option<BTreeSet<SiteName>>,
    /// All resources.
    pub resources: Option<BTreeMap<ResourceName, DeclaredResource>>,
    /// All policies.
    pub policies: Option<Vec<DeclaredPolicy>>,
    /// What must hold then.
    pub assertions: Vec<Assertion>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeclaredGroup {
    /// All its members; without it, they stay as they are.
    pub members: Option<BTreeSet<UserName>>,
}

/// One resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredResource {
    /// From where it is reached.
    pub site: SiteName,
    /// Where its packets go.
    pub target: Target,
    /// What is open.
    pub open: Filter,
    /// Other names under which it answers.
    pub aliases: Vec<Fqdn>,
    /// The groups of resources that it belongs to.
    pub tags: BTreeSet<TagName>,
}

/// One policy, or several in Cedar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclaredPolicy {
    /// In the short form.
    Short(Box<NewPolicy>),
    /// As experts write it.
    Cedar(String),
}

/// What must hold of the policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// What it is about, for whoever reads that it fails.
    pub name: String,
    /// Whether the access is to be allowed or denied.
    pub expect: Effect,
    /// Whose access.
    pub who: Asserted,
    /// To what.
    pub resource: ResourceName,
    /// On which ports: all of them are to be open, or none. Without it, one that is open is enough to be allowed.
    pub ports: Option<Filter>,
    /// Under which circumstances; without it, under any that there may be.
    pub given: Option<Given>,
}

/// Whose access an assertion is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asserted {
    /// Any device of this user: one that would enrol now (or at the given time), and each that there is and is not revoked. To
    /// be allowed, all of them must be; to be denied as well.
    User(UserName),
    /// The device with this id or name.
    Device(String),
}

/// Circumstances. What is left out is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// What the device says of itself.
    pub posture: Option<Posture>,
    /// When; now unless told. A device that is made up for an assertion enrols then.
    pub time: Option<Timestamp>,
    /// From where the device reaches the coordinator.
    pub source: Option<IpAddr>,
}

/// Drafts what makes the state as it is declared, or says why not: a name that is not there, a revision that moved on, an
/// assertion that would not hold. May be nothing.
pub(crate) fn draft(
    core: &Core,
    actor: &Actor,
    declaration: &Declaration,
    revision: Option<Revision>,
    env: &mut Env<'_>,
) -> Result<(Drafted, Touched), Refusal> {
    if let Some(planned) = revision.filter(|planned| !core.is_as_planned(*planned)) {
        let what = format!(
            "this was planned at revision {planned}, and what it is about was changed since (revision {} now): plan again",
            core.state.revision
        );
        return Err(Refusal::Conflict { what });
    }
    let rehearsal = rehearsal::rehearse(core, actor, declaration, env)?;
    let failed: Vec<_> = assertion::check_all(&rehearsal.state, declaration, env.now)
        .into_iter()
        .filter_map(|checked| Some(format!("'{}': {}", checked.name, checked.failure()?)))
        .collect();
    if !failed.is_empty() {
        let what = format!("nothing was changed, since assertions would not hold: {}", failed.join("; "));
        return Err(Refusal::Conflict { what });
    }
    let steps = rehearsal.steps;
    Ok((rehearsal.draft.finish(), Touched::Declared(steps)))
}

/// Whether a change is of what declarations speak of.
pub(crate) fn is_declarative(change: &Change) -> bool {
    match change {
        Change::PutUser(_)
        | Change::RemoveUser(_)
        | Change::PutGroup(_)
        | Change::RemoveGroup(_)
        | Change::AddMember(..)
        | Change::RemoveMember(..)
        | Change::PutSite(_)
        | Change::RemoveSite(_)
        | Change::PutResource(_)
        | Change::RemoveResource(_)
        | Change::PutPolicy(_)
        | Change::RemovePolicy(_) => true,
        Change::PutNetwork(_)
        | Change::PutDevice(_)
        | Change::RemoveDevice(_)
        | Change::PutToken(_)
        | Change::RemoveToken(_)
        | Change::PutApiKey(_)
        | Change::RemoveApiKey(_)
        | Change::PutRelay(_)
        | Change::RemoveRelay(_)
        | Change::PutGrant(_)
        | Change::EndGrant(..) => false,
    }
}

impl Core {
    /// Whether nothing that declarations speak of has changed since `revision`. Grants, devices and what they say of
    /// themselves come and go all the time, and don't count.
    fn is_as_planned(&self, revision: Revision) -> bool {
        (self.declared_at..=self.state.revision).contains(&revision)
    }
}
