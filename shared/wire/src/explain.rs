//! Why a device may or may not reach a resource: as much of it as its user may know.

use postern_model::{DenyReason, Filter, ResourceId};
use serde::{Deserialize, Serialize};

/// This device asks why, on a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Of which resource.
    pub resource: ResourceId,
}

/// What its user may know: their own device and the time, and nothing of policies or of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReply {
    /// What is open; the empty filter when access is denied.
    #[serde(default)]
    pub open: Filter,
    /// Why it is denied.
    #[serde(default)]
    pub reason: Option<DenyReason>,
    /// The ways to more access, the shortest first: of each all that is lacking.
    #[serde(default)]
    pub ways: Vec<Vec<Lack>>,
    /// Whether there may be other ways, which can't be told.
    #[serde(default)]
    pub has_untold: bool,
}

/// A condition that is not met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lack {
    /// As it was written: `posture.disk_encrypted`.
    pub test: String,
    /// Whether it could be answered at all.
    pub is_known: bool,
    /// What would help.
    pub hint: String,
}
