//! Who is asking: whoever could open the admin socket, or the holder of an API key.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use postern_core::{Command, Core, Touched};
use postern_model::{ApiKey, audit::Actor, token::hash_secret};
use serde::Serialize;

use super::{answer::Answer, problem::Problem};
use crate::coordinator::{ApiOrigin, Coordinator};

/// Lets a request in if someone with the right to ask sent it. What it answers is nobody's to keep.
pub(super) async fn authenticate(State(coordinator): State<Coordinator>, mut request: Request, next: Next) -> Response {
    let origin = request.extensions().get::<ApiOrigin>().copied();
    let admitted = match origin {
        Some(ApiOrigin::Socket) => Ok(Actor::AdminSocket),
        Some(ApiOrigin::Network) => actor_of(&coordinator, request.headers()).await,
        None => Err(Problem::unauthorized("nobody knows through which door this request came")),
    };
    let mut response = match admitted {
        Ok(actor) => {
            request.extensions_mut().insert(Admitted(actor));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whose API key it is. What is wrong with one is not told apart: it might help who guesses.
async fn actor_of(coordinator: &Coordinator, headers: &HeaderMap) -> Result<Actor, Problem> {
    let missing = || {
        Problem::unauthorized(
            "an API key is needed: send it as 'Authorization: Bearer postern-key-…'; 'apikey create' makes one",
        )
    };
    let refused =
        || Problem::unauthorized("this API key is not valid here: it is altered, revoked, or another coordinator's");
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(missing()) };
    let (scheme, text) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    let key: ApiKey = text.parse().map_err(|_| refused())?;
    if !key.pin.ct_eq(&coordinator.identity_pin()) {
        return Err(refused());
    }
    let shown = hash_secret(&key.secret);
    let kept = coordinator.read(|core| core.state().api_keys.get(&key.id).map(|record| record.secret_hash)).await;
    match kept {
        Some(kept) if kept.ct_eq(&shown) => Ok(Actor::ApiKey(key.id)),
        _ => Err(refused()),
    }
}

/// Put on a request by [`authenticate`] and by nothing else.
#[derive(Debug, Clone)]
struct Admitted(Actor);

/// Someone with the right to ask, and whom to ask.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) coordinator: Coordinator,
    actor: Actor,
}

impl Admin {
    /// Carries out a command.
    pub(super) async fn submit(&self, command: Command) -> Result<Touched, Problem> {
        Ok(self.coordinator.submit(self.actor.clone(), command).await?)
    }

    /// Whether whoever asked could ask again: for what goes on for longer than a request.
    pub(super) async fn is_still_admitted(&self) -> bool {
        match &self.actor {
            Actor::ApiKey(id) => self.coordinator.read(|core| core.state().api_keys.contains_key(id)).await,
            _ => true,
        }
    }

    /// Carries out a command and answers with what it touched, as it is then.
    pub(super) async fn change<R: Serialize>(
        &self,
        command: Command,
        row: impl FnOnce(&Core, &Touched) -> Option<R>,
    ) -> Result<Answer<R>, Problem> {
        let touched = self.submit(command).await?;
        let row = self.coordinator.read(|core| row(core, &touched)).await;
        // Someone else may have removed it in between.
        Ok(row.map_or_else(|| Answer::removed(touched), Answer::Row))
    }

    /// Carries out a command that removes something.
    pub(super) async fn remove(&self, command: Command) -> Result<Answer<()>, Problem> {
        Ok(Answer::removed(self.submit(command).await?))
    }

    /// Copies rows out of the state.
    pub(super) async fn list<R>(&self, rows: impl FnOnce(&Core) -> Vec<R>) -> axum::Json<Vec<R>> {
        axum::Json(self.coordinator.read(rows).await)
    }
}

impl FromRequestParts<Coordinator> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, coordinator: &Coordinator) -> Result<Self, Problem> {
        let Some(Admitted(actor)) = parts.extensions.get().cloned() else {
            return Err(Problem::unauthorized("nobody has checked who is asking"));
        };
        Ok(Self { coordinator: coordinator.clone(), actor })
    }
}
