//! Reads requests: whatever can't be understood is a [`Problem`] that says what would be right.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::problem::Problem;
use crate::coordinator::Coordinator;

/// A JSON body.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Coordinator> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, coordinator: &Coordinator) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
            let detail = "send JSON, with 'Content-Type: application/json'";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let bytes = Bytes::from_request(request, coordinator).await;
        let bytes = bytes.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        // Serde would take a list for an object, by position.
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'{') {
            return Err(Problem::malformed("the JSON body has to be an object: {\"name\": …}"));
        }
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|error| Problem::malformed(format!("the JSON body can't be understood: {error}")))
    }
}

/// The names or ids in the path.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Coordinator> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, coordinator: &Coordinator) -> Result<Self, Problem> {
        let Path(value) = Path::from_request_parts(parts, coordinator)
            .await
            .map_err(|rejection| Problem::malformed(rejection.body_text().trim_start_matches("Invalid URL: ")))?;
        Ok(Self(value))
    }
}

/// Lets no query through to where nobody would read it: whoever asks for a part must not take the whole for it.
pub(super) async fn no_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        Some(query) if !query.is_empty() => {
            let path = request.uri().path();
            Problem::malformed(format!("'{path}' takes no query, but '{query}' was asked; leave it out"))
                .into_response()
        }
        _ => next.run(request).await,
    }
}

/// What is asked by no fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The query.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Coordinator> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, coordinator: &Coordinator) -> Result<Self, Problem> {
        let Query(value) = Query::from_request_parts(parts, coordinator)
            .await
            .map_err(|rejection| Problem::malformed(rejection.body_text()))?;
        Ok(Self(value))
    }
}
