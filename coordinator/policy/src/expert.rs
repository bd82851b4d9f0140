//! Policies that experts write in Cedar: read, validated against the schema, and with ids in place of names.

use std::sync::OnceLock;

use cedar_policy::{Policy as CedarPolicy, PolicyId as CedarId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use postern_model::{
    Condition, DeviceId, Effect, Filter, GroupId, ResourceId, Scope, Timestamp, UserId, record::Principal,
};
use serde_json::Value;

/// Finds what names stand for.
pub trait Names {
    /// A user.
    fn user(&self, name: &str) -> Option<UserId>;
    /// A group.
    fn group(&self, name: &str) -> Option<GroupId>;
    /// A device, by id or name.
    fn device(&self, name: &str) -> Option<DeviceId>;
    /// A resource.
    fn resource(&self, name: &str) -> Option<ResourceId>;
}

/// What a policy in Cedar says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expert {
    /// Whether it allows or denies.
    pub effect: Effect,
    /// Who.
    pub principal: Principal,
    /// What.
    pub scope: Scope,
    /// `@ports("tcp/5432")`.
    pub ports: Option<Filter>,
    /// `@until("2026-12-31")`.
    pub until: Option<Timestamp>,
    /// `@shadow`.
    pub shadow: bool,
    /// Its clauses.
    pub condition: Option<Condition>,
}

/// Why a policy in Cedar was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", .place.map(|(line, column)| format!("line {line}, column {column}: ")).unwrap_or_default())]
pub struct CedarError {
    /// Line and column, in characters from 1, where they are known.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
}

impl CedarError {
    fn new(what: impl Into<String>) -> Self {
        Self { place: None, what: what.into() }
    }

    fn at(source: &str, diagnostic: &dyn Diagnostic) -> Self {
        let offset = diagnostic.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        let place = offset.and_then(|offset| source.get(..offset)).map(|before| {
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
        });
        let mut what = diagnostic.to_string();
        if let Some(help) = diagnostic.help() {
            what.push_str(&format!(" ({help})"));
        }
        Self { place, what }
    }
}

/// The longest policy, in bytes.
const MAX_LENGTH: usize = 16 * 1024;

/// The schema, for whoever asks what may be written.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

fn schema() -> &'static Schema {
    static PARSED: OnceLock<Schema> = OnceLock::new();
    PARSED.get_or_init(|| Schema::from_cedarschema_str(SCHEMA).expect("the schema is valid").0)
}

/// Reads the policies in a text, in their order.
///
/// # Errors
/// With the place of the first thing that is wrong.
pub fn read(source: &str, names: &impl Names) -> Result<Vec<Expert>, CedarError> {
    if source.len() > MAX_LENGTH {
        return Err(CedarError::new(format!("a file of policies is at most {MAX_LENGTH} bytes long")));
    }
    let set: PolicySet = source.parse().map_err(|errors: cedar_policy::ParseErrors| {
        let first = errors.iter().next();
        first.map_or_else(|| CedarError::new("it is not Cedar"), |error| CedarError::at(source, error))
    })?;
    if set.templates().next().is_some() {
        return Err(CedarError::new("templates (?principal, ?resource) are not supported; write a policy for each"));
    }
    let result = Validator::new(schema().clone()).validate(&set, ValidationMode::Strict);
    if let Some(error) = result.validation_errors().next() {
        return Err(CedarError::at(source, error));
    }
    let mut policies: Vec<_> = set.policies().collect();
    // Cedar numbers them as they come.
    policies.sort_by_key(|policy| number(policy.id()));
    if policies.is_empty() {
        return Err(CedarError::new("there is no policy in it"));
    }
    policies.into_iter().map(|policy| expert(policy, names)).collect()
}

fn number(id: &CedarId) -> usize {
    id.to_string().trim_start_matches("policy").parse().unwrap_or(usize::MAX)
}

fn expert(policy: &CedarPolicy, names: &impl Names) -> Result<Expert, CedarError> {
    let mut json = policy.to_json().map_err(|error| CedarError::new(error.to_string()))?;
    let effect = if json["effect"] == "forbid" { Effect::Deny } else { Effect::Allow };
    let principal = principal(&json["principal"], names)?;
    let scope = scope(&json["resource"], names)?;
    let mut clauses = json["conditions"].take();
    name_to_id(&mut clauses, names)?;
    let is_conditional = clauses.as_array().is_some_and(|clauses| !clauses.is_empty());
    let condition =
        is_conditional.then(|| Condition::Cedar { source: policy.to_string(), clauses: clauses.to_string() });
    let mut it = Expert { effect, principal, scope, ports: None, until: None, shadow: false, condition };
    for (name, value) in policy.annotations() {
        match name {
            "ports" => it.ports = Some(value.parse().map_err(|error| CedarError::new(format!("@ports: {error}")))?),
            "until" => {
                it.until =
                    Some(crate::until::parse(value).map_err(|error| CedarError::new(format!("@until: {error}")))?);
            }
            "shadow" => it.shadow = true,
            "id" | "description" => {}
            other => {
                let what = format!("@{other} has no meaning; there are @ports, @until, @shadow, @id and @description");
                return Err(CedarError::new(what));
            }
        }
    }
    Ok(it)
}

fn principal(json: &Value, names: &impl Names) -> Result<Principal, CedarError> {
    let Some((kind, name)) = scope_entity(json)? else { return Ok(Principal::Everyone) };
    let missing = || CedarError::new(format!("there is no {} '{name}'", kind.to_lowercase()));
    match kind {
        "User" => names.user(name).map(Principal::User).ok_or_else(missing),
        "Group" => names.group(name).map(Principal::Group).ok_or_else(missing),
        "Device" => names.device(name).map(Principal::Device).ok_or_else(missing),
        _ => Err(CedarError::new("a principal is in a User or Group, or is a Device")),
    }
}

fn scope(json: &Value, names: &impl Names) -> Result<Scope, CedarError> {
    let Some((kind, name)) = scope_entity(json)? else { return Ok(Scope::Everything) };
    match kind {
        "Resource" => names
            .resource(name)
            .map(Scope::Resource)
            .ok_or_else(|| CedarError::new(format!("there is no resource '{name}'"))),
        "Tag" => name.parse().map(Scope::Tag).map_err(|error| CedarError::new(format!("{error}"))),
        _ => Err(CedarError::new("a resource is in a Tag, or is a Resource")),
    }
}

/// The entity of a scope as Cedar's JSON has it; `None` where everything is meant.
fn scope_entity(json: &Value) -> Result<Option<(&str, &str)>, CedarError> {
    let entity = match json["op"].as_str() {
        Some("All") => return Ok(None),
        Some("==" | "in") => &json["entity"],
        Some("is") if json["in"].is_null() => return Ok(None),
        Some("is") => &json["in"]["entity"],
        _ => &Value::Null,
    };
    match (entity["type"].as_str(), entity["id"].as_str()) {
        (Some(kind), Some(id)) => Ok(Some((kind, id))),
        _ => Err(CedarError::new("a policy's scope names one principal and one resource, or none: use '==' or 'in'")),
    }
}

/// Puts ids in the place of names, wherever entities are.
fn name_to_id(json: &mut Value, names: &impl Names) -> Result<(), CedarError> {
    match json {
        Value::Object(object) => {
            if let Some(entity) = object.get_mut("__entity") {
                let (kind, name) =
                    (entity["type"].as_str().unwrap_or_default(), entity["id"].as_str().unwrap_or_default());
                let id = match kind {
                    "User" => names.user(name).map(|id| id.to_string()),
                    "Group" => names.group(name).map(|id| id.to_string()),
                    "Device" => names.device(name).map(|id| id.to_string()),
                    "Resource" => names.resource(name).map(|id| id.to_string()),
                    _ => Some(name.to_owned()),
                };
                let missing = || CedarError::new(format!("there is no {} '{name}'", kind.to_lowercase()));
                entity["id"] = Value::String(id.ok_or_else(missing)?);
                return Ok(());
            }
            object.values_mut().try_for_each(|value| name_to_id(value, names))
        }
        Value::Array(list) => list.iter_mut().try_for_each(|value| name_to_id(value, names)),
        _ => Ok(()),
    }
}
