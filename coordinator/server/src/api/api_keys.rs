//! `/api-keys`: what programs show to ask from afar. The secret is made here and handed out once.

use axum::{
    Json, Router,
    http::StatusCode,
    response::IntoResponse,
    routing::{delete, get},
};
use postern_core::{Command, Core, Touched};
use postern_model::{ApiKey, ApiKeyId, ApiKeyName, SecretBytes, record::ApiKeyRecord, token::hash_secret};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::coordinator::Coordinator;

/// One API key, without its secret.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ApiKeyRow {
    pub(crate) id: ApiKeyId,
    pub(crate) name: String,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewApiKey {
    name: ApiKeyName,
}

/// An API key just made, with the text to hand out.
#[derive(Serialize)]
struct MadeApiKey {
    id: ApiKeyId,
    name: ApiKeyName,
    created_at: Option<Time>,
    #[serde(serialize_with = "as_text")]
    api_key: Zeroizing<String>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/api-keys", get(list).post(create)).route("/api-keys/{id}", delete(revoke))
}

fn row(record: &ApiKeyRecord) -> ApiKeyRow {
    ApiKeyRow { id: record.id, name: record.name.clone(), created_at: Time(record.created_at) }
}

async fn list(admin: Admin) -> Json<Vec<ApiKeyRow>> {
    let mut rows = admin.list(|core: &Core| core.state().api_keys.values().map(row).collect()).await;
    rows.sort_by(|a: &ApiKeyRow, b| a.name.cmp(&b.name));
    rows
}

async fn create(admin: Admin, Body(new): Body<NewApiKey>) -> Result<impl IntoResponse, Problem> {
    let secret = new_secret()?;
    let command = Command::CreateApiKey { name: new.name.to_string(), secret_hash: hash_secret(&secret) };
    let Touched::ApiKey(id) = admin.submit(command).await? else { return Err(Problem::unexpected()) };
    let created_at = admin.coordinator.read(|core| core.state().api_keys.get(&id).map(|key| key.created_at)).await;
    let (pin, coordinator) = (admin.coordinator.identity_pin(), admin.coordinator.public_address());
    let api_key = ApiKey { coordinator, pin, id, secret }.expose();
    let made = MadeApiKey { id, name: new.name, created_at: created_at.map(Time), api_key };
    Ok((StatusCode::CREATED, Json(made)))
}

async fn revoke(admin: Admin, Named(id): Named<ApiKeyId>) -> Result<Answer<()>, Problem> {
    admin.remove(Command::RevokeApiKey { id }).await
}

/// 256 random bits.
pub(super) fn new_secret() -> Result<SecretBytes, Problem> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).map_err(|_| Problem::unexpected())?;
    Ok(SecretBytes::new(*bytes))
}

pub(super) fn as_text<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}
