//! Least privilege: which policies allow more than was used, and what would allow no more than that.
//!
//! Facts in, advice out: the state as it is, and what is recorded of a period. What was used stays allowed, under the same
//! circumstances as now: each use is held against all policies that may have allowed it, whichever was recorded, and advice
//! takes a policy away, or narrows it, only as far as nothing that is held against it needs it. Nothing is ever opened.
//! Nothing is said of what is not fully recorded, or younger than the period; conditions, denials and shadows are left alone.
//!
//! - [`advise`]; `uses`: what was used, and which policies are needed for it; `narrowing`: how much of a policy that takes

mod narrowing;
mod uses;

use std::collections::{HashMap, HashSet};

use postern_model::{
    Condition, Effect, Filter, PolicyId, ResourceId, Scope, SiteId, Timestamp,
    record::{Owner, Policy, Principal},
    usage::{Usage, UsageGap},
};
use postern_policy::Facts as _;

use crate::State;

/// What could be less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdviceReport {
    /// Since when usage was looked at.
    pub since: Timestamp,
    /// For each policy that allows more than was used.
    pub advice: Vec<Advice>,
    /// All policies as they would be with all of the advice: none says the same as another.
    pub policies: Vec<Policy>,
    /// How many policies were looked at.
    pub looked_at: usize,
    /// How many are younger than the period, so that nothing is said of them.
    pub young: usize,
    /// How many are about resources of which some activity is missing.
    pub unrecorded: usize,
}

/// Advice about one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The policy as it is.
    pub policy: Policy,
    /// What is too much in it; never empty.
    pub findings: Vec<Finding>,
    /// What is recorded of it.
    pub evidence: Evidence,
    /// What to have in its place, each under the same condition and up to the same end; nothing where it can go. Their ids
    /// are the policy's.
    pub instead: Vec<Policy>,
}

/// What is too much in a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nothing was granted by it.
    Unused,
    /// Whatever was used, other policies allow as well, without condition.
    Covered,
    /// Ports that nobody used.
    Ports {
        /// Those that were used.
        used: Filter,
        /// The others that it opens.
        unused: Filter,
    },
    /// Few of those whom it allows have used it.
    Subject {
        /// How many it allows: users, and devices that are no user's.
        members: usize,
        /// Who has used it, or is too new to say.
        used: Vec<Principal>,
        /// Whom to allow it instead.
        instead: Vec<Principal>,
    },
    /// Few of the resources that it opens were used.
    Scope {
        /// How many it opens.
        resources: usize,
        /// Which were used, or are too new to say.
        used: Vec<ResourceId>,
        /// What to open instead.
        instead: Vec<Scope>,
    },
}

/// What is recorded of a policy in the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evidence {
    /// How often access was granted by it, or renewed.
    pub granted: u64,
    /// How many flows there were under those grants.
    pub flows: u64,
    /// When either was last.
    pub last: Option<Timestamp>,
}

/// Why nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Uncovered {
    /// The period begins before the record.
    #[error("activity is not recorded from the beginning of the period on")]
    Before {
        /// When the record begins, if there is one.
        recorded_since: Option<Timestamp>,
    },
    /// Something is missing, and nobody can tell of what.
    #[error("activity is missing in the period, of anyone's")]
    Gap(UsageGap),
    /// There is too much.
    #[error("there is more activity in the period than can be looked at")]
    TooMuch,
}

/// Says which policies allow more than was used since then.
///
/// # Errors
/// When usage is not recorded well enough to say anything.
pub fn advise(state: &State, usage: &Usage, since: Timestamp) -> Result<AdviceReport, Uncovered> {
    if usage.is_cut {
        return Err(Uncovered::TooMuch);
    }
    if usage.recorded_since.is_none_or(|recorded| recorded > since) {
        return Err(Uncovered::Before { recorded_since: usage.recorded_since });
    }
    let unrecorded = unrecorded(state, &usage.gaps)?;
    let uses = uses::gather(state, usage, since);
    let needed = uses::needed(state, &uses);
    let evidence = evidence(usage);
    let mut report = AdviceReport { since, advice: vec![], policies: vec![], looked_at: 0, young: 0, unrecorded: 0 };
    let mut said = HashSet::new();
    for policy in state.policies.values() {
        let mut advice = None;
        if policy.effect == Effect::Allow && !policy.shadow {
            let resources = state.resources_in(&policy.scope);
            let site = |id: &ResourceId| state.resources.get(id).map(|resource| resource.site);
            if policy.created_at > since {
                report.young += 1;
            } else if resources.iter().filter_map(site).any(|site| unrecorded.contains(&site)) {
                report.unrecorded += 1;
            } else {
                report.looked_at += 1;
                let evidence = evidence.get(&policy.id).copied().unwrap_or_default();
                let uses = needed.get(&policy.id).map_or(&[][..], Vec::as_slice);
                advice = narrowing::of(state, policy, &resources, uses, (since, evidence));
            }
        }
        let after = advice.as_ref().map_or(std::slice::from_ref(policy), |advice| advice.instead.as_slice());
        report.policies.extend(after.iter().filter(|it| said.insert(what_it_says(it))).cloned());
        report.advice.extend(advice);
    }
    Ok(report)
}

type Said = (Effect, Principal, Scope, Option<Filter>, Option<Condition>, Option<Timestamp>, bool);

fn what_it_says(policy: &Policy) -> Said {
    let Policy { effect, principal, scope, ports, condition, until, shadow, .. } = policy.clone();
    (effect, principal, scope, ports, condition, until, shadow)
}

/// The sites of which some flows are missing.
fn unrecorded(state: &State, gaps: &[UsageGap]) -> Result<HashSet<SiteId>, Uncovered> {
    let site = |gap: &UsageGap| match state.devices.get(&gap.gateway?)?.owner {
        Owner::Site(site) => Some(site),
        Owner::User(_) => None,
    };
    gaps.iter().map(|gap| site(gap).ok_or_else(|| Uncovered::Gap(gap.clone()))).collect()
}

fn evidence(usage: &Usage) -> HashMap<PolicyId, Evidence> {
    let mut evidence = HashMap::<_, Evidence>::new();
    for granted in &usage.granted {
        let it = evidence.entry(granted.policy).or_default();
        it.granted = it.granted.saturating_add(granted.allowed).saturating_add(granted.renewed);
        it.last = it.last.max(Some(granted.last));
    }
    for flow in &usage.flows {
        if let Some(policy) = flow.policy {
            let it = evidence.entry(policy).or_default();
            it.flows = it.flows.saturating_add(flow.flows);
            it.last = it.last.max(Some(flow.last));
        }
    }
    evidence
}
