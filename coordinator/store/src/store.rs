//! [`Store`]: the open database.

use std::path::Path;

use postern_model::{Revision, audit::AuditEntry, change::Batch, record::World};

use crate::{AuditQuery, AuditReport, StoreError};

/// The coordinator's database.
#[derive(Debug)]
pub struct Store {}

#[allow(clippy::todo, unused_variables, missing_docs)]
impl Store {
    pub fn open(path: &Path, first: &Batch) -> Result<Self, StoreError> {
        todo!()
    }
    pub fn load(&self) -> Result<World, StoreError> {
        todo!()
    }
    pub fn commit(&mut self, batch: &Batch) -> Result<Revision, StoreError> {
        todo!()
    }
    pub fn audit(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        todo!()
    }
    pub fn audit_verify(&self) -> Result<AuditReport, StoreError> {
        todo!()
    }
}
