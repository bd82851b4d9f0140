//! The coordinator's durable state in SQLite: one file, one writer, one transaction per batch, one audit chain.
//!
//! Memory never runs ahead of this: a [`Batch`](postern_model::change::Batch) is committed whole, with its audit
//! entries and the next revision, or it leaves nothing behind. SQL stays in here.
//!
//! - [`Store`]: open, load, commit
//! - [`AuditQuery`], [`AuditReport`]: reading and verifying the audit log
//! - [`StoreError`]: what went wrong, and what to do

pub mod audit;
pub mod error;

mod store;

pub use audit::{AuditFault, AuditQuery, AuditReport};
pub use error::StoreError;
pub use store::Store;
