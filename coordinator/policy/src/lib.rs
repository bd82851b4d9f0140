//! Who may reach what. Pure: the facts and the time come in, a decision comes out.
//!
//! [`decide`] is the one place where access is decided: for a first request, for a renewal and for every re-decision.
//! Policies are compiled into a [`PolicySet`], indexed by principal and scope, so that a decision looks at the slice that can
//! concern it and never at all policies. Conditions are Cedar's to evaluate, one by one; what is allowed follows from them here.
//!
//! - [`facts`](Facts): what is known of users, groups, devices and resources; [`Circumstances`]: of this moment
//! - [`CompiledPolicy`], [`PolicySet`]: policies, compiled and indexed
//! - `condition`: the short form; [`expert`]: Cedar as experts write it (`nesting`: how deep); [`until`]: ends
//! - [`decide`], [`Case`]: a decision, for how long it holds, and what shadow policies would make of it; `asking`: circumstances
//!   as Cedar sees them
//! - [`visible`], [`visible_in`]: what a device may know of
//! - [`terms`], [`plan`], [`who_can`]: access without circumstances, to be compared and listed
//! - [`mentions`]: whom clauses in Cedar speak of
//! - [`explain`]: why, and what would help (`hint`)

mod asking;
mod compiled;
mod condition;
mod decide;
pub mod expert;
mod explain;
mod facts;
mod hint;
mod kept;
mod mentions;
mod nesting;
mod policy_set;
mod terms;
#[cfg(test)]
mod tests;
pub mod until;

use postern_model::Condition;

pub use compiled::CompiledPolicy;
pub use condition::ConditionError;
pub use decide::{Case, Counting, decide, may_know, resources_of, visible, visible_in};
pub use explain::{Answer, Answered, Asks, DeviceExplanation, Explained, Explanation, Outcome, explain};
pub use facts::{Circumstances, Facts, Principals, principals, principals_of_user, scopes_of_resource};
pub use mentions::mentions;
pub use policy_set::PolicySet;
pub use terms::{
    Ability, Able, Access, Change, Planned, Term, TermCondition, Who, access, difference, plan, terms, who_can,
};

/// Whether a condition in the short form can be understood.
///
/// # Errors
/// With the column and with what would be right.
pub fn check_condition(text: &str) -> Result<(), ConditionError> {
    condition::parse(text)?;
    // What is stored must compile.
    compiled::check(&Condition::Short { text: text.to_owned() }).map_err(|what| ConditionError { column: 1, what })
}
