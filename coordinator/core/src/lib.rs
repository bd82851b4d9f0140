//! The coordinator's brain, sans-IO: presence, enrolment, the grant lifecycle, leases and revisions.
//!
//! [`Core`] is driven by the server's shell and does nothing by itself. Whatever changes durable state is first
//! *proposed* (a [`Proposal`], made without touching the core), then committed by the store, then *applied*. Only what
//! was applied yields [`Effect`]s, so nothing is told to a node or an admin that a crash could take back.
//!
//! The order of calls, under one lock:
//!
//! 1. `propose_*(…)` → `Result<Proposal<T>, …>`; looks only.
//! 2. the shell commits `proposal.batch` (one transaction); if that fails it drops the proposal and reports the fault.
//! 3. [`Core::apply`] the proposal; then [`Core::poll_effect`] until `None`, carrying each out.
//! 4. [`Core::poll_timeout`] says when to call [`Core::propose_timeout`] next.
//!
//! `handle_*` take what is not durable (connections, acknowledgements); poll for effects after them too.

pub mod command;
pub mod effect;

mod core;

pub use crate::core::{AccessTicket, Core, CoreConfig, EnrolProof, Enrolment, Env, Proposal};
pub use command::{Command, Refusal, ResourceEdit, TokenOwner, Touched};
pub use effect::Effect;
