//! Policies that experts write in Cedar: read, validated against the schema, and with ids in place of names.

use std::sync::OnceLock;

use cedar_policy::{Policy as CedarPolicy, PolicyId as CedarId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use postern_model::{
    Condition, DeviceId, Effect, Filter, GroupId, ResourceId, Scope, Timestamp, UserId, record::Principal,
};
use serde_json::Value;

use crate::{compiled, nesting, until};

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
        let place = offset.and_then(|offset| place(source, offset));
        let mut what = diagnostic.to_string();
        if let Some(help) = diagnostic.help() {
            what.push_str(&format!(" ({help})"));
        }
        Self { place, what }
    }
}

/// Line and column of an offset.
fn place(source: &str, offset: usize) -> Option<(usize, usize)> {
    let before = source.get(..offset)?;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
}

/// The longest policy, in bytes.
const MAX_LENGTH: usize = 16 * 1024;

/// The schema, for whoever asks what may be written.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

pub(crate) fn schema() -> &'static Schema {
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
    if let Some(offset) = nesting::too_deep(source) {
        let what = "it is nested too deeply, or too long a chain: divide it into several policies".to_owned();
        return Err(CedarError { place: place(source, offset), what });
    }
    let set: PolicySet = source.parse().map_err(|errors: cedar_policy::ParseErrors| {
        let first = errors.iter().next();
        first.map_or_else(|| CedarError::new("it is not Cedar"), |error| CedarError::at(source, error))
    })?;
    if set.templates().next().is_some() {
        let at = ["?principal", "?resource"].into_iter().find_map(|slot| source.find(slot));
        return Err(CedarError {
            place: at.and_then(|at| place(source, at)),
            what: "templates (?principal, ?resource) are not supported; write a policy for each".to_owned(),
        });
    }
    let result = Validator::new(schema().clone()).validate(&set, ValidationMode::Strict);
    if let Some(error) = result.validation_errors().next() {
        return Err(CedarError::at(source, error));
    }
    // Such as a policy that can never apply: whoever wrote it meant something else.
    if let Some(warning) = result.validation_warnings().next() {
        return Err(CedarError::at(source, warning));
    }
    let mut policies: Vec<_> = set.policies().collect();
    // Cedar numbers them as they come.
    policies.sort_by_key(|policy| number(policy.id()));
    if policies.is_empty() {
        return Err(CedarError::new("there is no policy in it"));
    }
    policies.into_iter().map(|policy| expert(policy, names).map_err(|error| error.placed(source, policy))).collect()
}

fn number(id: &CedarId) -> usize {
    id.to_string().trim_start_matches("policy").parse().unwrap_or(usize::MAX)
}

/// What is wrong with a policy that Cedar understands, and the text in it that is meant.
struct Refusal {
    at: String,
    what: String,
}

impl Refusal {
    fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self { at: at.into(), what: what.into() }
    }

    /// Nothing has this name.
    fn missing(kind: &str, name: &str) -> Self {
        Self::new(format!("{kind}::\"{name}\""), format!("there is no {} '{name}'", kind.to_lowercase()))
    }

    /// With the place of what is meant, else of the policy.
    fn placed(self, source: &str, policy: &CedarPolicy) -> CedarError {
        let text = policy.to_string();
        let start = source.find(&text);
        let within = text.find(&self.at).unwrap_or(0);
        CedarError { place: start.and_then(|start| place(source, start + within)), what: self.what }
    }
}

fn expert(policy: &CedarPolicy, names: &impl Names) -> Result<Expert, Refusal> {
    let whole = |error: cedar_policy::PolicyToJsonError| Refusal::new("", error.to_string());
    let mut json = policy.to_json().map_err(whole)?;
    let effect = if json["effect"] == "forbid" { Effect::Deny } else { Effect::Allow };
    let principal = principal(&json["principal"], names)?;
    let scope = scope(&json["resource"], names)?;
    let mut clauses = json["conditions"].take();
    name_to_id(&mut clauses, names)?;
    let is_conditional = clauses.as_array().is_some_and(|clauses| !clauses.is_empty());
    let condition =
        is_conditional.then(|| Condition::Cedar { source: policy.to_string(), clauses: clauses.to_string() });
    // What is stored must compile.
    condition.as_ref().map_or(Ok(()), compiled::check).map_err(|what| Refusal::new("when", what))?;
    let mut it = Expert { effect, principal, scope, ports: None, until: None, shadow: false, condition };
    for (name, value) in policy.annotations() {
        let refused = |what: String| Refusal::new(format!("@{name}"), what);
        match name {
            "ports" => it.ports = Some(value.parse().map_err(|error| refused(format!("@ports: {error}")))?),
            "until" => it.until = Some(until::parse(value).map_err(|error| refused(format!("@until: {error}")))?),
            "shadow" if value.is_empty() => it.shadow = true,
            "shadow" => {
                return Err(refused("@shadow is written without a value; leave it out where it is not meant".into()));
            }
            "id" | "description" => {}
            _ => {
                return Err(refused(format!(
                    "@{name} has no meaning; there are @ports, @until, @shadow, @id and @description"
                )));
            }
        }
    }
    Ok(it)
}

fn principal(json: &Value, names: &impl Names) -> Result<Principal, Refusal> {
    let Some((is_equal, kind, name)) = scope_entity(json, "Device")? else { return Ok(Principal::Everyone) };
    let found = match (kind, is_equal) {
        ("User", false) => names.user(name).map(Principal::User),
        ("Group", false) => names.group(name).map(Principal::Group),
        ("Device", _) => names.device(name).map(Principal::Device),
        _ => return Err(Refusal::new("principal", "a principal is in a User or Group, or == a Device")),
    };
    found.ok_or_else(|| Refusal::missing(kind, name))
}

fn scope(json: &Value, names: &impl Names) -> Result<Scope, Refusal> {
    let Some((is_equal, kind, name)) = scope_entity(json, "Resource")? else { return Ok(Scope::Everything) };
    match (kind, is_equal) {
        ("Resource", _) => names.resource(name).map(Scope::Resource).ok_or_else(|| Refusal::missing(kind, name)),
        ("Tag", false) => {
            name.parse().map(Scope::Tag).map_err(|error| Refusal::new(format!("Tag::\"{name}\""), format!("{error}")))
        }
        _ => Err(Refusal::new("resource", "a resource is in a Tag, or == a Resource")),
    }
}

/// The entity of a scope as Cedar's JSON has it, and whether it is asked for itself; `None` where everything is meant.
fn scope_entity<'a>(json: &'a Value, kind: &str) -> Result<Option<(bool, &'a str, &'a str)>, Refusal> {
    let is_kind = json["entity_type"] == kind;
    let entity = match json["op"].as_str() {
        Some("All") => return Ok(None),
        Some("==" | "in") => &json["entity"],
        Some("is") if is_kind && json["in"].is_null() => return Ok(None),
        Some("is") if is_kind => &json["in"]["entity"],
        _ => &Value::Null,
    };
    match (entity["type"].as_str(), entity["id"].as_str()) {
        (Some(kind), Some(id)) => Ok(Some((json["op"] == "==", kind, id))),
        _ => {
            let what = "a policy's scope names one principal and one resource, or none: use '==' or 'in'";
            Err(Refusal::new(kind.to_lowercase().replace("device", "principal"), what))
        }
    }
}

/// Puts ids in the place of names, wherever entities are.
fn name_to_id(json: &mut Value, names: &impl Names) -> Result<(), Refusal> {
    match json {
        Value::Object(object) => {
            if let Some(entity) = object.get_mut("__entity")
                && let (Some(kind), Some(name)) = (entity["type"].as_str(), entity["id"].as_str())
            {
                let id = match kind {
                    "User" => names.user(name).map(|id| id.to_string()),
                    "Group" => names.group(name).map(|id| id.to_string()),
                    "Device" => names.device(name).map(|id| id.to_string()),
                    "Resource" => names.resource(name).map(|id| id.to_string()),
                    _ => Some(name.to_owned()),
                };
                entity["id"] = Value::String(id.ok_or_else(|| Refusal::missing(kind, name))?);
                return Ok(());
            }
            object.values_mut().try_for_each(|value| name_to_id(value, names))
        }
        Value::Array(list) => list.iter_mut().try_for_each(|value| name_to_id(value, names)),
        _ => Ok(()),
    }
}
