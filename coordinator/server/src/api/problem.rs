//! What an admin is told when something is refused: `application/problem+json` (RFC 9457).

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use postern_core::Refusal;
use postern_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::coordinator::SubmitError;

/// Why a request was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// The status's own name.
    pub(crate) title: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What failed, on what, and what to do.
    pub(crate) detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { title, status: status.as_u16(), detail: detail.into() }
    }

    /// The request can't be understood.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// What can't happen, did.
    pub(crate) fn unexpected() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the coordinator failed; its log may say more")
    }

    /// Nobody has shown who is asking.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
            Refusal::Conflict { .. } => StatusCode::CONFLICT,
            Refusal::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let status = match &error {
            SubmitError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            SubmitError::Fault(StoreError::Full { .. }) => StatusCode::INSUFFICIENT_STORAGE,
            SubmitError::Stopped | SubmitError::Fault(StoreError::Busy { .. } | StoreError::Disk { .. }) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            SubmitError::Fault(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match error {
            SubmitError::Refused(refusal) => refusal.into(),
            error => {
                tracing::error!(%error, "an admin's request failed");
                Self::new(status, error.to_string())
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"postern\""));
        }
        response
    }
}
