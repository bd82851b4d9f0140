//! `/explain` and `/who-can`: why someone may or may not reach a resource, and who can.

use axum::{Json, Router, routing::get};
use postern_core::{Core, Refusal};
use postern_model::{
    Decision, DenyReason, DeviceId, Effect, Filter, PolicyId, Protocol, ResourceId, ResourceName, ScopeName, Subject,
    Timestamp, UserName,
    record::{Device, Owner},
};
use postern_policy::{Answer, Answered, Asks, Explained, Explanation, Outcome, until};
use serde::{Deserialize, Serialize};

use super::{auth::Admin, problem::Problem, request::Asked};
use crate::{clock, coordinator::Coordinator};

/// Why one device may or may not reach a resource.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExplanationRow {
    pub(crate) device: String,
    pub(crate) device_id: DeviceId,
    pub(crate) user: Option<UserName>,
    pub(crate) resource: ResourceName,
    /// Whether what was asked for is open: the port, or any.
    pub(crate) allowed: bool,
    /// What is open.
    pub(crate) open: Filter,
    /// Why nothing is.
    pub(crate) reason: Option<DenyReason>,
    pub(crate) because: Option<String>,
    /// The policy that allows it.
    pub(crate) policy: Option<PolicyId>,
    /// Every policy that speaks of this device and this resource.
    pub(crate) policies: Vec<ExplainedRow>,
    /// What would have to change for it to be allowed, where that is known.
    pub(crate) fix: Vec<TestRow>,
}

/// What one policy says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExplainedRow {
    pub(crate) id: PolicyId,
    pub(crate) effect: Effect,
    pub(crate) subject: Subject,
    pub(crate) resource: ScopeName,
    pub(crate) ports: Filter,
    pub(crate) until: Option<String>,
    pub(crate) current: bool,
    pub(crate) shadow: bool,
    /// `met`, `not met`, or why that can't be told.
    pub(crate) condition: String,
    pub(crate) tests: Vec<TestRow>,
    pub(crate) cedar: Option<String>,
}

/// One test of a condition.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TestRow {
    pub(crate) test: String,
    /// `met`, `not met` or `unknown`.
    pub(crate) answer: String,
    pub(crate) hint: Option<String>,
}

/// Someone who can reach a resource, at least under some circumstances.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReachRow {
    pub(crate) user: Option<UserName>,
    pub(crate) device: Option<String>,
    /// What is open to it now.
    pub(crate) open: Filter,
    /// Why nothing is now.
    pub(crate) reason: Option<DenyReason>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whether {
    /// `user:NAME`, `device:ID`, or the name of either.
    who: String,
    resource: ResourceName,
    port: Option<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whom {
    resource: ResourceName,
    port: Option<Port>,
}

/// `tcp/443`, `udp/53`, `icmp`, or `443`, which is TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) Protocol, pub(crate) u16);

impl std::str::FromStr for Port {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, port) = match text.split_once('/') {
            _ if text == "icmp" => return Ok(Self(Protocol::IcmpEcho, 0)),
            Some(("tcp", port)) => (Protocol::Tcp, port),
            Some(("udp", port)) => (Protocol::Udp, port),
            Some(_) => (Protocol::Other(0), ""),
            None => (Protocol::Tcp, text),
        };
        let port = port.parse().ok().filter(|port| *port != 0);
        port.map(|port| Self(protocol, port))
            .ok_or_else(|| format!("'{text}' is not a port: write it like 443, tcp/443, udp/53 or icmp"))
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/explain", get(explain)).route("/who-can", get(who_can))
}

async fn explain(
    admin: Admin,
    Asked(Whether { who, resource, port }): Asked<Whether>,
) -> Result<Json<Vec<ExplanationRow>>, Problem> {
    let now = clock::now();
    let rows = admin.coordinator.read(|core| {
        let resource = resource_id(core, &resource)?;
        let devices = devices(core, &who)?;
        let rows = devices.into_iter().filter_map(|device| explanation(core, device, resource, port, now));
        Ok::<_, Refusal>(rows.collect())
    });
    Ok(Json(rows.await?))
}

fn resource_id(core: &Core, name: &ResourceName) -> Result<ResourceId, Refusal> {
    let missing = || Refusal::NotFound { kind: "resource", name: name.to_string(), list: "resource list" };
    core.state().resource_named(name).map(|resource| resource.id).ok_or_else(missing)
}

/// The devices that are meant: a user's, or the one.
fn devices(core: &Core, who: &str) -> Result<Vec<DeviceId>, Refusal> {
    let state = core.state();
    let user = who.strip_prefix("user:").unwrap_or(who);
    let user = user.parse().ok().and_then(|name| state.user_named(&name)).filter(|_| !who.starts_with("device:"));
    if let Some(user) = user {
        let devices = state.devices_of(Owner::User(user.id)).filter(|device| !device.revoked);
        let devices: Vec<_> = devices.map(|device| device.id).collect();
        if devices.is_empty() {
            let name = &user.name;
            let what = format!("user '{name}' has no device; 'token create --user {name}' makes what one joins with");
            return Err(Refusal::Conflict { what });
        }
        return Ok(devices);
    }
    let name = who.strip_prefix("device:").unwrap_or(who);
    let by_id = name.parse().ok().filter(|id| state.devices.contains_key(id));
    let device = by_id.or_else(|| state.device_named(name).map(|device| device.id));
    let missing =
        || Refusal::NotFound { kind: "user or device", name: who.to_owned(), list: "user list' and 'device list" };
    device.map(|device| vec![device]).ok_or_else(missing)
}

fn explanation(
    core: &Core,
    device: DeviceId,
    resource: ResourceId,
    port: Option<Port>,
    now: Timestamp,
) -> Option<ExplanationRow> {
    let state = core.state();
    let record = state.devices.get(&device)?;
    let Explanation { decision, policies, fix, .. } = core.explain(device, resource, now);
    let (open, reason, policy) = outcome(decision);
    let allowed = port.map_or(!open.is_empty(), |Port(protocol, port)| open.allows(protocol, port));
    let fix = match port {
        Some(port) if !allowed && reason.is_none() => fix_of_port(&policies, port),
        _ => fix,
    };
    Some(ExplanationRow {
        device: record.name.clone(),
        device_id: device,
        user: user_name(core, record),
        resource: state.resources.get(&resource)?.name.clone(),
        allowed,
        because: reason.map(|reason| match reason {
            // Which it is follows.
            DenyReason::ConditionNotMet => "a condition of access is not met".to_owned(),
            reason => reason.to_string(),
        }),
        open,
        reason,
        policy,
        policies: policies.into_iter().filter_map(|policy| explained(core, policy)).collect(),
        fix: fix.into_iter().map(test).collect(),
    })
}

/// What the policy lacks that is closest to opening a port.
fn fix_of_port(policies: &[Explained], Port(protocol, port): Port) -> Vec<Answered> {
    let could = policies.iter().filter(|policy| {
        policy.effect == Effect::Allow && policy.is_current && !policy.is_shadow && policy.ports.allows(protocol, port)
    });
    let lacks = could.map(|policy| &policy.lacks).filter(|lacks| !lacks.is_empty());
    lacks.min_by_key(|lacks| lacks.len()).cloned().unwrap_or_default()
}

fn user_name(core: &Core, device: &Device) -> Option<UserName> {
    core.state().user_of(device).map(|user| user.name.clone())
}

fn outcome(decision: Decision) -> (Filter, Option<DenyReason>, Option<PolicyId>) {
    match decision {
        Decision::Allowed { filter, policy } => (filter, None, Some(policy)),
        Decision::Denied { reason } => (Filter::default(), Some(reason), None),
    }
}

fn explained(core: &Core, explained: Explained) -> Option<ExplainedRow> {
    let policy = core.state().policies.get(&explained.id)?;
    let (tests, cedar) = match explained.asks {
        Asks::Nothing => (vec![], None),
        Asks::Tests(tests) => (tests.into_iter().map(test).collect(), None),
        Asks::Clauses(source) => (vec![], Some(source)),
    };
    Some(ExplainedRow {
        id: explained.id,
        effect: explained.effect,
        subject: core.state().subject_of(policy.principal)?,
        resource: core.state().scope_name(&policy.scope)?,
        ports: explained.ports,
        until: policy.until.map(until::display),
        current: explained.is_current,
        shadow: explained.is_shadow,
        condition: match explained.outcome {
            Outcome::Met => "met".to_owned(),
            Outcome::NotMet => "not met".to_owned(),
            Outcome::Fault(fault) => fault,
        },
        tests,
        cedar,
    })
}

fn test(answered: Answered) -> TestRow {
    let answer = match answered.answer {
        Answer::Met => "met",
        Answer::NotMet => "not met",
        Answer::Unknown => "unknown",
    };
    TestRow { test: answered.text, answer: answer.to_owned(), hint: answered.hint }
}

async fn who_can(admin: Admin, Asked(Whom { resource, port }): Asked<Whom>) -> Result<Json<Vec<ReachRow>>, Problem> {
    let now = clock::now();
    let rows = admin.coordinator.read(|core| {
        let resource = resource_id(core, &resource)?;
        let state = core.state();
        let opens = |open: &Filter| port.is_none_or(|Port(protocol, port)| open.allows(protocol, port));
        let devices = core.who_can(resource, now).into_iter().filter_map(|reach| {
            let device = state.devices.get(&reach.device)?;
            let (open, reason, _) = outcome(reach.now);
            let (user, device) = (user_name(core, device), Some(device.name.clone()));
            // What is closed now may be open under other circumstances.
            (opens(&open) || opens(&reach.could)).then_some(ReachRow { user, device, open, reason })
        });
        let without = core.users_without_device(resource).into_iter().filter_map(|user| {
            let user = Some(state.users.get(&user)?.name.clone());
            Some(ReachRow { user, device: None, open: Filter::default(), reason: None })
        });
        let mut rows: Vec<_> = devices.chain(without).collect();
        rows.sort_by(|a, b| (&a.user, &a.device).cmp(&(&b.user, &b.device)));
        Ok::<_, Refusal>(rows)
    });
    Ok(Json(rows.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!("443".parse(), Ok(Port(Protocol::Tcp, 443)));
        assert_eq!("udp/53".parse(), Ok(Port(Protocol::Udp, 53)));
        assert_eq!("icmp".parse(), Ok(Port(Protocol::IcmpEcho, 0)));
        for bad in ["", "0", "sctp/5", "tcp/", "http", "65536"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }
}
