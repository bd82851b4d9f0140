//! `/tokens`: join tokens. The secret is made here, handed out once, and kept by nobody but its holder.

use std::time::Duration;

use axum::{
    Json, Router,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use postern_core::{Command, Core, TokenOwner, Touched};
use postern_model::{
    JoinToken, SecretBytes, SiteName, Timestamp, TokenId, UserName,
    record::{Owner, Token},
    token::hash_secret,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::{clock, coordinator::Coordinator};

/// How long a token lives unless told.
pub(crate) const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

/// One join token, without its secret.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    pub(crate) id: TokenId,
    /// `user:alice` or `site:office`.
    pub(crate) owner: String,
    pub(crate) uses_left: u32,
    pub(crate) expires_at: Time,
    pub(crate) withdrawn: bool,
    pub(crate) status: TokenStatus,
    pub(crate) created_at: Time,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenStatus {
    /// A device can enrol with it.
    Usable,
    /// It has enrolled as many devices as it could.
    UsedUp,
    /// Its time is over.
    Expired,
    /// An admin took it back.
    Withdrawn,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    user: Option<UserName>,
    site: Option<SiteName>,
    /// Like `1h`.
    expires_in: Option<String>,
    #[serde(default = "one")]
    uses: u32,
}

fn one() -> u32 {
    1
}

/// A token just made, with the text to hand out.
#[derive(Serialize)]
struct MadeToken {
    #[serde(flatten)]
    row: Option<TokenRow>,
    #[serde(serialize_with = "super::api_keys::as_text")]
    token: Zeroizing<String>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/tokens", get(list).post(create)).route("/tokens/{id}/withdraw", post(withdraw))
}

fn row(core: &Core, token: &Token, now: Timestamp) -> Option<TokenRow> {
    let state = core.state();
    let owner = match token.owner {
        Owner::User(id) => format!("user:{}", state.users.get(&id)?.name),
        Owner::Site(id) => format!("site:{}", state.sites.get(&id)?.name),
    };
    let status = if token.withdrawn {
        TokenStatus::Withdrawn
    } else if token.uses_left == 0 {
        TokenStatus::UsedUp
    } else if token.expires_at <= now {
        TokenStatus::Expired
    } else {
        TokenStatus::Usable
    };
    Some(TokenRow {
        id: token.id,
        owner,
        uses_left: token.uses_left,
        expires_at: Time(token.expires_at),
        withdrawn: token.withdrawn,
        status,
        created_at: Time(token.created_at),
    })
}

fn touched(core: &Core, touched: &Touched) -> Option<TokenRow> {
    let Touched::Token(id) = touched else { return None };
    row(core, core.state().tokens.get(id)?, clock::now())
}

async fn list(admin: Admin) -> Json<Vec<TokenRow>> {
    let now = clock::now();
    let mut rows = admin.list(|core| core.state().tokens.values().filter_map(|it| row(core, it, now)).collect()).await;
    rows.sort_by_key(|row: &TokenRow| row.created_at.0);
    rows
}

async fn create(admin: Admin, Body(new): Body<NewToken>) -> Result<impl IntoResponse, Problem> {
    let owner = match (new.user, new.site) {
        (Some(user), None) => TokenOwner::User(user),
        (None, Some(site)) => TokenOwner::Site(site),
        _ => return Err(Problem::malformed("say whose the devices become: either 'user' or 'site'")),
    };
    let expires_in = match new.expires_in {
        None => DEFAULT_LIFE,
        Some(text) => humantime::parse_duration(&text).map_err(|error| {
            Problem::malformed(format!(
                "'expires_in': '{text}' is not a duration ({error}): write it like '1h' or '7days'"
            ))
        })?,
    };
    let secret = super::api_keys::new_secret()?;
    let command = Command::CreateToken { owner, expires_in, uses: new.uses, secret_hash: hash_secret(&secret) };
    let made = admin.submit(command).await?;
    let Touched::Token(id) = made else { return Err(Problem::unexpected()) };
    let row = admin.coordinator.read(|core| touched(core, &made)).await;
    let token = token_text(&admin.coordinator, id, secret);
    Ok((StatusCode::CREATED, Json(MadeToken { row, token })))
}

fn token_text(coordinator: &Coordinator, id: TokenId, secret: SecretBytes) -> Zeroizing<String> {
    let (pin, address) = (coordinator.identity_pin(), coordinator.public_address());
    JoinToken { coordinator: address, pin, id, secret }.expose()
}

async fn withdraw(admin: Admin, Named(id): Named<TokenId>) -> Result<Answer<TokenRow>, Problem> {
    admin.change(Command::WithdrawToken { id }, touched).await
}
