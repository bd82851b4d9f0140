//! The coordinator's durable state in SQLite: one file, one writer, one transaction per batch, one audit chain.
//!
//! Memory never runs ahead of this: a [`Batch`](postern_model::change::Batch) is committed whole, with its audit
//! entries and the next revision, or it leaves nothing behind. SQL stays in here.
//!
//! - [`Store`]: open, load, commit; [`Reader`]: the audit log, beside the writer
//! - [`audit`]: the chain of hashes, [`AuditQuery`], [`AuditReport`]
//! - [`activity`]: decisions and flows, in a file of their own
//! - [`StoreError`]: what went wrong, and what to do
//! - `migrations/`, `changes`, `world`: the tables, and between them and the model

pub mod activity;
pub mod audit;
pub mod error;

mod changes;
mod columns;
mod store;
mod world;

#[cfg(test)]
mod tests;

pub use audit::{AuditFault, AuditQuery, AuditReport};
pub use error::StoreError;
pub use store::{Reader, Store};
