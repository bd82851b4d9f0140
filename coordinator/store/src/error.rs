//! [`StoreError`]: why the database could not be read or written, in words that say what to do.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why the store could not do what it was asked. Whatever the variant, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room for the change.
    #[error("the disk is full, so {doing} was not recorded: free some space below {path} and try again")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// The database.
        path: PathBuf,
    },
    /// The operating system could not read or write the file.
    #[error("{doing} failed: {path} can't be read or written ({cause}); the disk may be full or failing")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// As SQLite tells it.
        cause: String,
    },
    /// Another program holds the database.
    #[error("{doing} failed: another program holds {path} locked; end it and try again")]
    Busy {
        /// What was being done.
        doing: &'static str,
        /// The database.
        path: PathBuf,
    },
    /// What is in the file is not what this program wrote.
    #[error("{path} is damaged ({what}): restore it from a backup")]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A newer program wrote the file.
    #[error("{path} was written by a newer version of postern-coordinator: install that version again")]
    Newer {
        /// The database.
        path: PathBuf,
    },
    /// The batch contradicts itself or what is there: a fault of whoever made it.
    #[error("{doing} was refused by the database: {what}")]
    Constraint {
        /// What was being done.
        doing: &'static str,
        /// Which rule.
        what: String,
    },
    /// Anything else that SQLite says.
    #[error("{doing} on {path} failed: {cause}")]
    Other {
        /// What was being done.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// As SQLite tells it.
        cause: String,
    },
}

impl StoreError {
    pub(crate) fn from_sqlite(error: &rusqlite::Error, doing: &'static str, path: &std::path::Path) -> Self {
        use rusqlite::Error;
        let (path, cause) = (path.to_owned(), error.to_string());
        // The statements are ours and fixed, so where one does not fit, the tables or rows are not what they were.
        let is_table_missing =
            matches!(error, Error::SqliteFailure(_, Some(message)) if message.starts_with("no such "));
        let is_misfit = matches!(
            error,
            Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)
                | Error::InvalidColumnName(..)
                | Error::QueryReturnedNoRows
                | Error::SqlInputError { .. }
        );
        if is_misfit || is_table_missing {
            return Self::Corrupt { path, what: cause };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { doing, path },
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Disk { doing, path, cause },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { doing, path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { path, what: cause },
            Some(ErrorCode::ConstraintViolation) => Self::Constraint { doing, what: cause },
            _ => Self::Other { doing, path, cause },
        }
    }
}
