//! The coordinator's brain, sans-IO: presence, enrolment, decisions and re-decisions, grants, leases and revisions.
//!
//! [`Core`] is driven by the server's shell and does nothing by itself. Whatever changes durable state is first
//! *proposed* (a [`Proposal`], made without touching the core), then committed by the store, then *applied*. Only what
//! was applied yields [`Effect`]s, so nothing is told to a node or an admin that a crash could take back.
//!
//! The order of calls, under one lock, after [`Core::begin`] once:
//!
//! 1. `propose_*(…)` → `Result<Proposal<T>, …>`; looks only.
//! 2. the shell commits `proposal.batch` (one transaction); if that fails it drops the proposal and reports the fault.
//! 3. [`Core::apply`] the proposal; then [`Core::poll_effect`] until `None`, carrying each out.
//! 4. [`Core::poll_timeout`] says in how long to call [`Core::propose_timeout`] next.
//!
//! `handle_*` take what is not durable (connections, acknowledgements); poll for effects after them too.
//!
//! - [`command`], [`effect`]: what comes in from admins, what is to be done
//! - [`state`]: what the store keeps, with its indexes; `draft`: a batch in the making, with its re-decisions; `changes`: the
//!   state as it would be after it
//! - [`declaration`]: how all of that is to be, as a file says it, and what would come of it
//! - `commands`, `enrolment`, `access`: what a batch is made of; `shadow`: what shadow policies would make of it; `core`: proposing, applying
//! - `gateways`: which gateway carries a grant; `failover`: what becomes of grants when it goes away; `superseded`: what it may have left
//! - `enforcement`: who has acknowledged a change; `inquiry`: why, and who can; `advice`: what policies allow and nobody uses
//! - `presence`: sessions, candidates; `surroundings`: postures and sources; `catalogue`: what they are told of resources; `waiting`: acknowledgements that are due;
//!   `denials`: how often the same was denied; `psk`: preshared keys; `relays`: passes, and who waits where

pub mod command;
pub mod declaration;
pub mod effect;
pub mod state;

mod access;
mod advice;
mod catalogue;
mod changes;
mod commands;
mod core;
mod denials;
mod draft;
mod enforcement;
mod enrolment;
mod failover;
mod gateways;
mod inquiry;
mod presence;
mod psk;
mod relays;
mod shadow;
mod superseded;
mod surroundings;
#[cfg(test)]
mod tests;
mod waiting;

pub use crate::core::{AccessTicket, Core, CoreConfig, Env, Proposal};
pub use advice::{Advice, AdviceReport, Evidence, Finding, Uncovered, advise};
pub use command::{Command, NewPolicy, Refusal, ResourceEdit, TokenOwner, Touched};
pub use declaration::Declaration;
pub use effect::Effect;
pub use enforcement::{ChangeReport, NodeReport};
pub use enrolment::{EnrolProof, Enrolment, Foreseen};
pub use inquiry::{Cuts, Reach};
pub use relays::{OWN_RELAY, PassSigner, RelayConfig};
pub use state::State;
