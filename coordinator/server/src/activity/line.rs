//! [`ActivityLine`]: a row as JSON, the same in the API, on the command line and in every sink.

use postern_model::{DeviceId, GrantId, PolicyId, ResourceId, Revision, Timestamp};
use postern_store::activity::{ActivityKind, ActivityRecord, ActivityRow};
use serde::{Deserialize, Serialize};

use crate::api::answer::Time;

/// One row. What is not known of it is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ActivityLine {
    pub(crate) id: u64,
    pub(crate) at: Time,
    pub(crate) received_at: Time,
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device_id: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource_id: Option<ResourceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway_id: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grant: Option<GrantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<PolicyId>,
    /// Those in shadow that would have decided otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) policies: Vec<PolicyId>,
    /// What the grant lets through, like `tcp/80,443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    /// As text: it is any 64 bits, and JSON's numbers are often read with 53.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flow: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queried: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) opened_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) down: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) times: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<Revision>,
}

impl From<ActivityRow> for ActivityLine {
    fn from(ActivityRow { id, record }: ActivityRow) -> Self {
        let ActivityRecord { at, received_at, kind, user, device_id, device, resource_id, resource, grant, .. } =
            record;
        let ActivityRecord { gateway_id, gateway, policy, policies, filter, flow, protocol, port, queried, .. } =
            record;
        let ActivityRecord { opened_at, up, down, reason, times, revision, .. } = record;
        Self {
            id,
            at: Time(at),
            received_at: Time(received_at),
            kind: kind.to_string(),
            user,
            device,
            device_id,
            resource,
            resource_id,
            gateway,
            gateway_id,
            grant,
            policy,
            policies,
            filter,
            flow: flow.map(|flow| flow.to_string()),
            protocol,
            port,
            queried,
            opened_at: opened_at.map(Time),
            up,
            down,
            reason,
            times,
            revision,
        }
    }
}

impl ActivityLine {
    /// In place of rows that a reader did not get, the last of which was this one.
    pub(crate) fn gap(last: u64, times: u64, reason: &str, now: Timestamp) -> Self {
        let record = ActivityRecord {
            times,
            reason: Some(reason.to_owned()),
            ..ActivityRecord::new(ActivityKind::Gap, now, now)
        };
        ActivityRow { id: last, record }.into()
    }
}

/// Rows as JSON lines, each with its end.
pub(crate) fn lines(rows: &[ActivityLine]) -> serde_json::Result<Vec<u8>> {
    let mut lines = Vec::with_capacity(rows.len() * 512);
    for row in rows {
        serde_json::to_writer(&mut lines, row)?;
        lines.push(b'\n');
    }
    Ok(lines)
}
