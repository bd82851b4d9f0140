//! What gateways tell of flows: at least once on the wire, exactly once in the table.
//!
//! A gateway is believed about flows under grants that it carries or has carried, with the device and the resource of the
//! grant, and about nothing else; whose they are is what the coordinator knows. The highest number of each spool moves with
//! the rows, in the same transaction, whether an entry was taken or refused.

use std::{collections::HashMap, sync::Arc};

use postern_model::{
    DeviceId, GrantId, PolicyId, Protocol, ResourceId, Timestamp,
    activity::{FlowEnd, FlowEntry, FlowEvent, SpoolId},
};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{
    ActivityKind, ActivityRecord, GrantFacts, Written,
    log::{insert, put_grant},
};
use crate::columns::{Columns as _, Text};

/// How many spools of one gateway are known: it has one, and a new one after it lost that.
const SPOOLS: u32 = 16;

/// What one gateway tells in one message.
#[derive(Debug)]
pub struct Flows {
    /// Who tells: a gateway, by its certificate.
    pub gateway: DeviceId,
    /// Its name.
    pub gateway_name: String,
    /// From which of its spools.
    pub spool: SpoolId,
    /// When it came.
    pub received_at: Timestamp,
    /// The entries, each with its grant where that is in force. Whether it fits is checked here.
    pub entries: Vec<(FlowEntry, Option<Arc<GrantFacts>>)>,
}

/// What is known of a grant, as rows need it.
struct Known {
    gateway: DeviceId,
    device: DeviceId,
    device_name: String,
    user: Option<String>,
    resource: ResourceId,
    resource_name: String,
    policy: PolicyId,
}

/// Writes what is new, and returns up to which entry the spool is recorded.
pub(super) fn write(tx: &Transaction<'_>, flows: &Flows, written: &mut Written) -> rusqlite::Result<u64> {
    let sql = "SELECT up_to FROM spools WHERE gateway_id = ?1 AND spool = ?2";
    let key = params![Text(flows.gateway), flows.spool.0];
    let recorded: Option<u64> = tx.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?;
    let before = recorded.unwrap_or(0);
    let (mut up_to, mut known) = (before, HashMap::new());
    for (entry, facts) in &flows.entries {
        if entry.number <= up_to {
            written.repeated += 1;
            continue;
        }
        // No spool gets that far by counting.
        if i64::try_from(entry.number).is_err() {
            written.refused += 1;
            continue;
        }
        let missing = entry.number - up_to - 1;
        if missing > 0 {
            insert(tx, &gap(flows, missing))?;
            written.rows += 1;
        }
        up_to = entry.number;
        let known = match known.entry(entry.grant) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(look_up(tx, entry.grant, facts.as_deref())?),
        };
        let fits =
            |it: &&Known| it.gateway == flows.gateway && it.device == entry.device && it.resource == entry.resource;
        match known.as_ref().filter(fits) {
            Some(known) => {
                insert(tx, &record(flows, entry, known))?;
                written.rows += 1;
            }
            None => written.refused += 1,
        }
    }
    if up_to > before {
        remember(tx, flows, up_to, recorded.is_none())?;
    }
    Ok(up_to)
}

fn remember(tx: &Transaction<'_>, flows: &Flows, up_to: u64, is_new: bool) -> rusqlite::Result<()> {
    let sql = "INSERT INTO spools (gateway_id, spool, up_to, seen_at) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (gateway_id, spool) DO UPDATE SET up_to = excluded.up_to, seen_at = excluded.seen_at";
    let gateway = Text(flows.gateway);
    tx.prepare_cached(sql)?.execute(params![gateway, flows.spool.0, up_to, flows.received_at.unix_millis()])?;
    if is_new {
        let sql = "DELETE FROM spools WHERE gateway_id = ?1 AND spool <> ?2 AND spool NOT IN
            (SELECT spool FROM spools WHERE gateway_id = ?1 AND spool <> ?2 ORDER BY seen_at DESC LIMIT ?3)";
        tx.prepare_cached(sql)?.execute(params![gateway, flows.spool.0, SPOOLS - 1])?;
    }
    Ok(())
}

/// A grant in force, or one that was carried lately.
fn look_up(tx: &Transaction<'_>, id: GrantId, in_force: Option<&GrantFacts>) -> rusqlite::Result<Option<Known>> {
    if let Some(facts) = in_force.filter(|facts| facts.grant.id == id) {
        // It may have come past the decisions, which are dropped when they are too many at once.
        put_grant(tx, facts)?;
        return Ok(Some(Known {
            gateway: facts.grant.gateway,
            device: facts.grant.device,
            device_name: facts.device.clone(),
            user: facts.user.clone(),
            resource: facts.grant.resource,
            resource_name: facts.resource.clone(),
            policy: facts.grant.policy,
        }));
    }
    let mut statement = tx.prepare_cached("SELECT * FROM grants WHERE id = ?1")?;
    let known = statement.query_row([Text(id)], |row| {
        Ok(Known {
            gateway: row.text("gateway_id")?,
            device: row.text("device_id")?,
            device_name: row.get("device")?,
            user: row.get("user")?,
            resource: row.text("resource_id")?,
            resource_name: row.get("resource")?,
            policy: row.text("policy_id")?,
        })
    });
    known.optional()
}

fn gap(flows: &Flows, missing: u64) -> ActivityRecord {
    ActivityRecord {
        gateway_id: Some(flows.gateway),
        gateway: Some(flows.gateway_name.clone()),
        reason: Some("spool_full".to_owned()),
        times: missing,
        ..ActivityRecord::new(ActivityKind::Gap, flows.received_at, flows.received_at)
    }
}

fn record(flows: &Flows, entry: &FlowEntry, known: &Known) -> ActivityRecord {
    let common = ActivityRecord {
        user: known.user.clone(),
        device_id: Some(entry.device),
        device: Some(known.device_name.clone()),
        resource_id: Some(entry.resource),
        resource: Some(known.resource_name.clone()),
        grant: Some(entry.grant),
        gateway_id: Some(flows.gateway),
        gateway: Some(flows.gateway_name.clone()),
        policy: Some(known.policy),
        flow: Some(entry.flow),
        protocol: Some(protocol(entry.protocol)),
        port: Some(entry.port),
        queried: entry.queried.as_ref().map(ToString::to_string),
        ..ActivityRecord::new(ActivityKind::FlowOpen, entry.at, flows.received_at)
    };
    match entry.event {
        FlowEvent::Opened => common,
        FlowEvent::Closed { opened_at, up, down, end } => ActivityRecord {
            kind: ActivityKind::FlowClose,
            opened_at: Some(opened_at),
            up: Some(up),
            down: Some(down),
            reason: Some(why(end).to_owned()),
            ..common
        },
    }
}

fn protocol(protocol: Protocol) -> String {
    match protocol {
        Protocol::Tcp => "tcp".to_owned(),
        Protocol::Udp => "udp".to_owned(),
        Protocol::IcmpEcho => "icmp".to_owned(),
        Protocol::Other(number) => format!("ip/{number}"),
    }
}

fn why(end: FlowEnd) -> &'static str {
    match end {
        FlowEnd::Finished => "finished",
        FlowEnd::Idle => "idle",
        FlowEnd::Cut => "cut",
        FlowEnd::Stopped => "stopped",
        FlowEnd::Unknown => "unknown",
    }
}
