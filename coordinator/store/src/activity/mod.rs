//! Access activity: decisions and flows as rows, in an SQLite file beside the coordinator's own.
//!
//! It is apart because it is much, and because it is not what access depends on: what is written here never makes a decision
//! wait. The audit log stays the chained truth of what was decided; this is what can be searched, streamed and thrown away.
//!
//! - [`ActivityLog`]: the one writer: rows, what each gateway has delivered, how far receivers have read
//! - `intake`: what gateways tell of flows: each entry once, and only about what the gateway carried
//! - [`ActivityReader`], [`ActivityQuery`]: reading beside the writer
//! - `retention`: what is old, or more than there is room for, goes
//! - `usage`: sums over a period
//! - [`row`]: what a row is made of

pub mod row;

mod intake;
mod log;
mod query;
mod retention;
mod usage;

pub use intake::Flows;
pub use log::{ActivityLog, Arrival, Decisions, Written};
pub use query::{ActivityPage, ActivityQuery, ActivityReader};
pub use retention::{Retention, Tidied};
pub use row::{ActivityKind, ActivityRecord, ActivityRow, GrantFacts};
