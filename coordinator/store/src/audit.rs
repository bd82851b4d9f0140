//! The audit log: appending to the chain, reading it, and telling where it was tampered with.

use postern_model::Sha256;

/// Which entries to read; they come in the order in which they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditQuery {
    /// The first entries after this id; without it, the last ones there are.
    pub after: Option<u64>,
    /// How many at most.
    pub limit: u32,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// How many entries the chain has, counted up to the first that does not fit.
    pub entries: u64,
    /// The hash of the last entry that fits; `None` when there is none.
    pub head: Option<Sha256>,
    /// The first entry that does not fit, if there is one.
    pub fault: Option<AuditFault>,
}

/// Where the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFault {
    /// The id of the first entry that does not fit.
    pub id: u64,
    /// In which way, as a sentence.
    pub what: String,
}
