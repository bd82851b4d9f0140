//! [`Coordinator`]: the handle that the API, the sessions and the timers share.

use postern_core::{Command, Core, Refusal, Touched};
use postern_model::{
    Sha256,
    audit::{Actor, AuditEntry},
    token::HostPort,
};
use postern_store::{AuditQuery, AuditReport, StoreError};

/// Through which door a request to the admin API came; an axum `Extension` on every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiOrigin {
    /// The admin socket in the state directory: whoever may open it is an admin. These requests also carry the
    /// extension [`Actor::AdminSocket`].
    Socket,
    /// HTTPS: whoever shows an API key is.
    Network,
}

/// Why a command did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The core says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be recorded.
    #[error(transparent)]
    Fault(#[from] StoreError),
    /// The coordinator is shutting down.
    #[error("the coordinator is shutting down; try again when it is back")]
    Stopped,
}

/// The running coordinator; clones are the same one.
#[derive(Clone)]
pub struct Coordinator {}

#[allow(clippy::todo, clippy::unused_async, unused_variables)]
impl Coordinator {
    /// Carries out an admin's command: when this returns `Ok`, it is on disk and everyone concerned is being told.
    /// Dropping the future does not take the command back.
    ///
    /// # Errors
    /// When the command was refused or could not be recorded; then nothing changed.
    pub async fn submit(&self, actor: Actor, command: Command) -> Result<Touched, SubmitError> {
        todo!()
    }

    /// Looks at the state as last committed. `f` must be quick: changes wait for it.
    pub async fn read<R>(&self, f: impl FnOnce(&Core) -> R) -> R {
        todo!()
    }

    /// Reads the audit log.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, SubmitError> {
        todo!()
    }

    /// Verifies the audit log from its first entry on.
    ///
    /// # Errors
    /// When the database can't be read; a broken chain is not an error but in the report.
    pub async fn audit_verify(&self) -> Result<AuditReport, SubmitError> {
        todo!()
    }

    /// SHA-256 of the coordinator's public key: what join tokens and API keys pin.
    pub fn identity_pin(&self) -> Sha256 {
        todo!()
    }

    /// Where nodes and API clients reach this coordinator.
    pub fn public_address(&self) -> HostPort {
        todo!()
    }
}
