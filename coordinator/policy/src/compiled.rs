//! [`CompiledPolicy`]: a policy, ready to be asked whether it applies.

use std::sync::{Arc, OnceLock};

use cedar_policy as cedar;
use postern_model::{Check, Condition, Filter, Timestamp, record::Policy};
use serde_json::json;

use crate::{
    condition::{self, Atom, Expr},
    kept,
};

/// A policy with its condition compiled.
#[derive(Debug)]
pub struct CompiledPolicy {
    policy: Policy,
    condition: Compiled,
}

#[derive(Debug)]
pub(crate) enum Compiled {
    Always,
    When(Arc<When>),
    /// It was valid once and can't be compiled by this version. It is never met where that would allow, and always where
    /// that denies.
    Broken(String),
}

/// A condition as Cedar, and what answering it takes.
#[derive(Debug)]
pub(crate) struct When {
    /// One policy that permits where the condition is met.
    pub(crate) set: cedar::PolicySet,
    /// The short form's tests.
    pub(crate) expr: Option<Expr>,
    pub(crate) atoms: Vec<Atom>,
    pub(crate) needs: Needs,
    /// What it means, equal for conditions that say the same things in another order.
    pub(crate) canonical: Arc<str>,
    /// As it was written.
    pub(crate) source: Arc<str>,
}

/// What an answer depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) hour: bool,
    pub(crate) minute: bool,
    pub(crate) auth_age: bool,
    pub(crate) posture: bool,
    /// Whether it asks who or what is in which group.
    pub(crate) entities: bool,
}

impl PartialEq for CompiledPolicy {
    /// What a policy is compiled to follows from the policy.
    fn eq(&self, other: &Self) -> bool {
        self.policy == other.policy
    }
}

impl Eq for CompiledPolicy {}

impl CompiledPolicy {
    /// Compiles a policy. What can't be compiled fails closed: see [`Self::fault`].
    pub fn new(policy: Policy) -> Self {
        let condition = match &policy.condition {
            None => Compiled::Always,
            Some(condition) => match kept::compiled(condition, compile) {
                Ok(when) => Compiled::When(when),
                Err(fault) => Compiled::Broken(fault),
            },
        };
        Self { policy, condition }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn condition(&self) -> &Compiled {
        &self.condition
    }

    /// Whether it holds under all circumstances, until it expires.
    pub fn is_unconditional(&self) -> bool {
        matches!(self.condition, Compiled::Always)
    }

    /// Why its condition can't be compiled, if it can't.
    pub fn fault(&self) -> Option<&str> {
        match &self.condition {
            Compiled::Broken(fault) => Some(fault),
            _ => None,
        }
    }

    /// Whether it still applies at `now`.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.policy.until.is_none_or(|until| now < until)
    }

    /// What it is about of a resource that opens `open`.
    pub fn ports_of(&self, open: &Filter) -> Filter {
        self.policy.ports.as_ref().map_or_else(|| open.clone(), |ports| open.intersection(ports))
    }

    /// What devices have to look at for it.
    pub fn checks(&self) -> impl Iterator<Item = Check> + '_ {
        let atoms = match &self.condition {
            Compiled::When(when) => when.atoms.as_slice(),
            _ => &[],
        };
        atoms.iter().filter_map(Atom::check)
    }
}

/// Whether a condition can be compiled.
///
/// # Errors
/// With the reason, when it can't.
pub(crate) fn check(condition: &Condition) -> Result<(), String> {
    compile(condition).map(drop)
}

fn compile(condition: &Condition) -> Result<When, String> {
    let (policy, expr) = match condition {
        Condition::Short { text } => {
            let expr = condition::parse(text).map_err(|error| error.to_string())?;
            let source = format!("permit(principal, action, resource) when {{ {} }};", condition::expression(&expr));
            (cedar::Policy::parse(Some(id()), source).map_err(|error| error.to_string())?, Some(expr))
        }
        Condition::Cedar { clauses, .. } => {
            let clauses: serde_json::Value = serde_json::from_str(clauses).map_err(|error| error.to_string())?;
            let any = json!({ "op": "All" });
            let policy =
                json!({ "effect": "permit", "principal": any, "action": any, "resource": any, "conditions": clauses });
            (cedar::Policy::from_json(Some(id()), policy).map_err(|error| error.to_string())?, None)
        }
    };
    let clauses = policy.to_json().map_err(|error| error.to_string())?;
    let mut seen = Seen::default();
    seen.look(&clauses["conditions"]);
    let mut set = cedar::PolicySet::new();
    set.add(policy).map_err(|error| error.to_string())?;
    let canonical = match (&expr, condition) {
        (Some(expr), _) => condition::canonical(expr),
        (None, Condition::Cedar { clauses, .. } | Condition::Short { text: clauses }) => clauses.clone(),
    };
    let source = condition.source().into();
    Ok(When { set, expr, atoms: seen.atoms, needs: seen.needs, canonical: canonical.into(), source })
}

/// The one policy of each set has this id.
fn id() -> cedar::PolicyId {
    static ID: OnceLock<cedar::PolicyId> = OnceLock::new();
    ID.get_or_init(|| cedar::PolicyId::new("condition")).clone()
}

/// What was found in a condition.
#[derive(Default)]
struct Seen {
    atoms: Vec<Atom>,
    needs: Needs,
}

impl Seen {
    /// Looks through Cedar's JSON. What is mistaken for a need only costs time.
    fn look(&mut self, json: &serde_json::Value) {
        match json {
            serde_json::Value::Object(object) => {
                if let Some(access) = object.get(".") {
                    if let Some((record, field)) = field_of_context(access) {
                        return self.field(record, field);
                    }
                    if let Some(record) = record_of_context(access) {
                        return self.record(record);
                    }
                }
                for (key, value) in object {
                    match (key.as_str(), value.as_str()) {
                        // All of it, to be compared.
                        ("Var", Some("context")) => ["time", "auth", "posture"].iter().for_each(|it| self.record(it)),
                        ("Var", Some("principal" | "resource")) | ("__entity", _) => self.needs.entities = true,
                        _ => {}
                    }
                    self.look(value);
                }
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| self.look(value)),
            serde_json::Value::String(text) => {
                if let Ok(atom) = text.parse::<Atom>() {
                    self.needs.posture = true;
                    if !self.atoms.contains(&atom) {
                        self.atoms.push(atom);
                    }
                }
            }
            _ => {}
        }
    }

    /// One field of a record of the context.
    fn field(&mut self, record: &str, name: &str) {
        match (record, name) {
            ("time", "minute") => self.needs.minute = true,
            ("time", _) => self.needs.hour = true,
            ("auth", "strength") => {}
            _ => self.record(record),
        }
    }

    /// A whole record of the context, to be compared with another.
    fn record(&mut self, name: &str) {
        match name {
            "time" => (self.needs.hour, self.needs.minute) = (true, true),
            "auth" => self.needs.auth_age = true,
            "posture" | "checks" => self.needs.posture = true,
            _ => {}
        }
    }
}

/// `context.RECORD.FIELD`.
fn field_of_context(access: &serde_json::Value) -> Option<(&str, &str)> {
    Some((record_of_context(access["left"].get(".")?)?, access["attr"].as_str()?))
}

/// `context.RECORD`.
fn record_of_context(access: &serde_json::Value) -> Option<&str> {
    if access["left"]["Var"] == "context" { access["attr"].as_str() } else { None }
}
