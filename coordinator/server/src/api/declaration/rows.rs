//! What a plan looks like, and what was applied.

use postern_core::declaration::{
    assertion::{Checked, Verdict},
    plan::{Cut, Difference, Direction, Plan, Reach, Step},
};
use postern_model::{DenyReason, DeviceId, GrantId, GroupName, ResourceName, Revision, UserName};
use postern_policy::until;
use serde::{Deserialize, Serialize};

/// What would come of a declaration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PlanRow {
    /// What it was made for; to be given when it is applied.
    pub(crate) revision: Revision,
    pub(crate) steps: Vec<StepRow>,
    pub(crate) access: Vec<AccessRow>,
    pub(crate) grants: Vec<CutRow>,
    pub(crate) assertions: Vec<CheckedRow>,
    pub(crate) notes: Vec<String>,
}

/// What was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AppliedRow {
    /// The state's revision since.
    pub(crate) revision: Revision,
    pub(crate) steps: Vec<StepRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StepRow {
    pub(crate) verb: String,
    pub(crate) thing: String,
    /// Empty for a policy that is new.
    pub(crate) name: String,
    pub(crate) details: Vec<DetailRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DetailRow {
    pub(crate) name: String,
    pub(crate) value: String,
    /// Before an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) was: Option<String>,
}

/// Who gains or loses what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AccessRow {
    /// The smallest group that all of the users are in.
    pub(crate) group: Option<GroupName>,
    /// How many users that group has, or there are at all.
    pub(crate) of: usize,
    /// How many users this is about.
    pub(crate) count: usize,
    /// These users, but for very long lists.
    pub(crate) users: Vec<UserName>,
    /// Devices that this is about by themselves.
    pub(crate) devices: Vec<String>,
    pub(crate) resources: Vec<ResourceName>,
    pub(crate) changes: Vec<DifferenceRow>,
}

/// Which way access changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    Gained,
    /// Denied no more, where something allows it.
    Lifted,
    Lost,
    /// Denied, though something allows it.
    Restricted,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DifferenceRow {
    pub(crate) change: Way,
    pub(crate) ports: String,
    /// In the short form, or a whole policy in Cedar.
    pub(crate) when: Option<String>,
    pub(crate) until: Option<String>,
}

/// A grant that would end or narrow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CutRow {
    pub(crate) grant: GrantId,
    pub(crate) device: String,
    pub(crate) device_id: DeviceId,
    pub(crate) user: Option<UserName>,
    pub(crate) resource: ResourceName,
    pub(crate) before: String,
    pub(crate) after: String,
    /// Why it ends; nothing where it narrows.
    pub(crate) ends: Option<DenyReason>,
}

/// What became of an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Holds,
    Fails,
    Skipped,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CheckedRow {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) why: Option<String>,
}

impl From<Plan> for PlanRow {
    fn from(plan: Plan) -> Self {
        let Plan { revision, steps, reach, cuts, checks, notes } = plan;
        Self {
            revision,
            steps: steps.into_iter().map(StepRow::from).collect(),
            access: reach.into_iter().map(AccessRow::from).collect(),
            grants: cuts.into_iter().map(CutRow::from).collect(),
            assertions: checks.into_iter().map(CheckedRow::from).collect(),
            notes,
        }
    }
}

impl From<Step> for StepRow {
    fn from(step: Step) -> Self {
        let Step { thing, verb, name, details } = step;
        let details = details.into_iter().map(|it| DetailRow { name: it.name, value: it.value, was: it.was });
        Self { verb, thing, name, details: details.collect() }
    }
}

impl From<Reach> for AccessRow {
    fn from(reach: Reach) -> Self {
        let Reach { who, resources, differences } = reach;
        Self {
            group: who.group,
            of: who.of,
            count: who.users,
            users: who.names,
            devices: who.devices,
            resources,
            changes: differences.into_iter().map(DifferenceRow::from).collect(),
        }
    }
}

impl From<Difference> for DifferenceRow {
    fn from(difference: Difference) -> Self {
        let term = difference.term;
        Self {
            change: match difference.direction {
                Direction::Gained => Way::Gained,
                Direction::Lifted => Way::Lifted,
                Direction::Lost => Way::Lost,
                Direction::Restricted => Way::Restricted,
            },
            ports: term.ports.to_string(),
            when: term.condition.map(|condition| condition.source().to_owned()),
            until: term.until.map(until::display),
        }
    }
}

impl From<Cut> for CutRow {
    fn from(cut: Cut) -> Self {
        let Cut { grant, device, device_name, user, resource, before, after, end } = cut;
        let (before, after) = (before.to_string(), after.to_string());
        Self { grant, device: device_name, device_id: device, user, resource, before, after, ends: end }
    }
}

impl From<Checked> for CheckedRow {
    fn from(checked: Checked) -> Self {
        let (outcome, why) = match checked.verdict {
            Verdict::Holds => (Outcome::Holds, None),
            Verdict::Fails(why) => (Outcome::Fails, Some(why)),
            Verdict::Skipped(why) => (Outcome::Skipped, Some(why)),
        };
        Self { name: checked.name, outcome, why }
    }
}
