//! Who may reach what. Pure: the facts and the time come in, a decision comes out.
//!
//! [`decide`] is the one place where access is decided: for a first request, for a renewal and for every re-decision.
//! Policies are compiled into a [`PolicySet`], indexed by principal and by resource, so that a decision looks at the few
//! principals that a device is and never at all policies.
//!
//! - [`PolicySet`]: the compiled policies
//! - [`Facts`]: what is known of users, groups, devices and resources; the coordinator's state, or that state as it would be
//!   after a change
//! - [`decide`], [`visible`]: one resource, or all that a device may know of; [`principals`], [`allowed`]: the two halves of
//!   a decision, for many at once

mod decide;
mod policy_set;
#[cfg(test)]
mod tests;

pub use decide::{Facts, Principals, allowed, decide, principals, visible};
pub use policy_set::PolicySet;
