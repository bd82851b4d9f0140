//! [`Plan`]: what would come of a declaration, worked out on a copy and not carried out.

use postern_model::{
    DenyReason, DeviceId, Filter, GrantId, ResourceName, Revision, UserName,
    audit::Actor,
    change::{Batch, Change},
    grant::{Grant, GrantEnd},
};

use super::{
    Declaration,
    assertion::{self, Checked},
    reach, rehearsal,
};
use crate::{Core, Env, Refusal, State};

pub use super::reach::{Difference, Direction, Reach, Who};

/// What would come of a declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of the state that it was made for.
    pub revision: Revision,
    /// What would be done, in order. Nothing, when all is as declared.
    pub steps: Vec<Step>,
    /// Who would gain and who would lose access.
    pub reach: Vec<Reach>,
    /// The grants in force that would end or let less through.
    pub cuts: Vec<Cut>,
    /// Whether what must hold would hold.
    pub checks: Vec<Checked>,
    /// What is declared and would not be done, and why: sentences.
    pub notes: Vec<String>,
}

/// One change, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `user`, `group`, `group.member`, `site`, `resource` or `policy`.
    pub thing: String,
    /// `add`, `edit` or `remove`.
    pub verb: String,
    /// Which one: its name, or a policy's id; empty for a policy that is new.
    pub name: String,
    /// The particulars; of an edit, those that change.
    pub details: Vec<Detail>,
}

/// One particular of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// What it is: `target`, `subject`.
    pub name: String,
    /// What it becomes, or what it is of what goes. May be empty.
    pub value: String,
    /// What it was before an edit.
    pub was: Option<String>,
}

/// A grant in force that would end or let less through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Which grant.
    pub grant: GrantId,
    /// Whose.
    pub device: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// The device's user, if it is a person's.
    pub user: Option<UserName>,
    /// To what.
    pub resource: ResourceName,
    /// What it lets through.
    pub before: Filter,
    /// What it would let through; nothing where it ends.
    pub after: Filter,
    /// Why it would end; `None` where it goes on.
    pub end: Option<DenyReason>,
}

impl Step {
    /// Leaves of an edit's particulars those that are others now.
    pub(super) fn keep_changed(&mut self, was: &[(String, String)]) {
        let now = std::mem::take(&mut self.details);
        for (name, was) in was {
            let value = now.iter().find(|detail| detail.name == *name).map(|it| it.value.clone()).unwrap_or_default();
            if value != *was {
                self.details.push(Detail { name: name.clone(), value, was: Some(was.clone()) });
            }
        }
    }
}

impl Plan {
    /// Whether anything would be done.
    pub fn has_changes(&self) -> bool {
        !self.steps.is_empty()
    }
}

impl Core {
    /// What would come of a declaration, were it carried out now. Changes nothing.
    ///
    /// # Errors
    /// With what is wrong and what would be right, as when it is carried out; but an assertion that would not hold is no
    /// error and in the plan.
    pub fn plan(&self, declaration: &Declaration, env: &mut Env<'_>) -> Result<Plan, Refusal> {
        let rehearsal = rehearsal::rehearse(self, &Actor::Coordinator, declaration, env)?;
        let (before, after) = (&self.state, &*rehearsal.state);
        let checks = assertion::check_all(after, declaration, env.now);
        let batch = rehearsal.draft.finish().batch;
        Ok(Plan {
            revision: self.state.revision,
            reach: reach::compare(before, after, &batch.changes, env.now),
            cuts: cuts(before, &batch),
            steps: rehearsal.steps,
            checks,
            notes: rehearsal.notes,
        })
    }
}

fn cuts(before: &State, batch: &Batch) -> Vec<Cut> {
    let mut cuts: Vec<_> = batch.changes.iter().filter_map(|change| cut(before, change)).collect();
    cuts.sort_by(|a, b| (&a.resource, &a.device_name).cmp(&(&b.resource, &b.device_name)));
    cuts
}

fn cut(state: &State, change: &Change) -> Option<Cut> {
    let (grant, after, end) = match change {
        Change::EndGrant(id, end) => (state.grants.get(id)?, Filter::default(), Some(reason(*end)?)),
        Change::PutGrant(after) => {
            let before = state.grants.get(&after.id)?;
            if before.filter.minus(&after.filter).is_empty() {
                return None;
            }
            (before, after.filter.clone(), None)
        }
        _ => return None,
    };
    let Grant { id, device, resource, filter, .. } = grant.clone();
    let device = state.devices.get(&device)?;
    Some(Cut {
        grant: id,
        device: device.id,
        device_name: device.name.clone(),
        user: state.user_of(device).map(|user| user.name.clone()),
        resource: state.resources.get(&resource)?.name.clone(),
        before: filter,
        after,
        end,
    })
}

/// Why a grant ends; `None` for a lease that is over anyway.
fn reason(end: GrantEnd) -> Option<DenyReason> {
    match end {
        GrantEnd::Revoked(reason) => Some(reason),
        GrantEnd::Replaced => Some(DenyReason::Replaced),
        GrantEnd::Expired => None,
    }
}
