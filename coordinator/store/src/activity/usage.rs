//! Sums over a period: what was granted and used, what shadows would have decided, and whether everything is recorded.
//!
//! A period begins at a time of the coordinator's clock: rows count by when they were received, whatever a gateway's clock
//! says, and flows that a gateway has kept for long are not missed.

use std::time::Duration;

use postern_model::{
    DeviceId, PolicyId, Protocol, ResourceId, Timestamp,
    usage::{Client, FlowUse, GrantedUse, ShadowUse, Usage, UsageGap},
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::query::ActivityReader;
use crate::{
    StoreError,
    columns::{Columns as _, Text},
};

/// The most sums of one kind.
pub(super) const MOST: usize = 400_000;
/// The most gaps that are told of one by one.
const GAPS: u32 = 1000;
/// Rows come in the order of their times, but for a clock that was set back by no more than this.
const SET_BACK: Duration = Duration::from_secs(24 * 3600);

impl ActivityReader {
    /// What was granted and used since then.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn usage(&self, since: Timestamp) -> Result<Usage, StoreError> {
        usage(self.db(), since, MOST).map_err(|error| self.error(&error))
    }

    /// What policies in shadow would have decided since then, and whether there is more than is told.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn shadows(&self, since: Timestamp) -> Result<(Vec<ShadowUse>, bool), StoreError> {
        shadows(self.db(), since, MOST).map_err(|error| self.error(&error))
    }

    /// How many flows there were of each device to each resource, since the time that is given with them. In their order.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn flows_of(&self, pairs: &[(DeviceId, ResourceId, Timestamp)]) -> Result<Vec<u64>, StoreError> {
        flows_of(self.db(), pairs).map_err(|error| self.error(&error))
    }

    /// Since when everything is recorded that was received, but for gaps; `None` before the first tidying.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn recorded_since(&self) -> Result<Option<Timestamp>, StoreError> {
        recorded_since(self.db()).map_err(|error| self.error(&error))
    }
}

fn recorded_since(db: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let since: Option<i64> = db.query_row("SELECT since FROM recording", [], |row| row.get(0)).optional()?;
    Ok(since.map(Timestamp::from_unix_millis))
}

/// The first row that can be of the period: nothing before it is looked at.
fn first_row(db: &Connection, since: Timestamp) -> rusqlite::Result<i64> {
    let back = i64::try_from(SET_BACK.as_millis()).unwrap_or(i64::MAX);
    let since = since.unix_millis().saturating_sub(back);
    let sql = "SELECT COALESCE(MIN(id), 0), COALESCE(MAX(id), 0) + 1 FROM activity";
    let (mut low, mut high): (i64, i64) = db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut at = db.prepare_cached("SELECT received_at FROM activity WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        let received: Option<i64> = at.query_row([middle], |row| row.get(0)).optional()?;
        if received.is_some_and(|received| received < since) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn usage(db: &Connection, since: Timestamp, most: usize) -> rusqlite::Result<Usage> {
    let (first, at) = (first_row(db, since)?, since.unix_millis());
    let sql = "SELECT gateway_id, gateway, SUM(times) AS times, MAX(received_at) AS last FROM activity
        WHERE id >= ?1 AND received_at >= ?2 AND kind = 'gap' GROUP BY gateway_id LIMIT ?3";
    let mut statement = db.prepare(sql)?;
    let gaps = statement.query_map(params![first, at, GAPS], |row| {
        Ok(UsageGap {
            gateway: row.get::<_, Option<Text<DeviceId>>>("gateway_id")?.map(|id| id.0),
            name: row.get("gateway")?,
            times: row.get("times")?,
            last: row.time("last")?,
        })
    })?;
    let gaps = gaps.collect::<rusqlite::Result<_>>()?;

    let sql = "SELECT policy_id, device_id, user, resource_id, SUM(kind <> 'renew') AS allowed,
            SUM(kind = 'renew') AS renewed, MAX(received_at) AS last FROM activity
        WHERE id >= ?1 AND received_at >= ?2 AND kind IN ('allow', 'renew', 'change')
            AND policy_id IS NOT NULL AND device_id IS NOT NULL AND resource_id IS NOT NULL
        GROUP BY policy_id, device_id, resource_id, user";
    let granted = some(db, sql, (first, at), most, |row| {
        Ok(Some(GrantedUse {
            policy: row.text("policy_id")?,
            client: client(row)?,
            resource: row.text("resource_id")?,
            allowed: row.get("allowed")?,
            renewed: row.get("renewed")?,
            last: row.time("last")?,
        }))
    })?;

    // An end says all that its beginning did, and either may be missing.
    let sql = "SELECT policy_id, device_id, user, resource_id, protocol, port,
            MAX(SUM(kind = 'flow_open'), SUM(kind = 'flow_close')) AS flows, MAX(received_at) AS last FROM activity
        WHERE id >= ?1 AND received_at >= ?2 AND kind IN ('flow_open', 'flow_close')
        GROUP BY policy_id, device_id, resource_id, protocol, port, user";
    let flows = some(db, sql, (first, at), most, flow)?;

    // Those that began before and have not ended since.
    let sql = "SELECT policy_id, device_id, user, resource_id, protocol, port, COUNT(*) AS flows, MAX(last) AS last
        FROM (SELECT policy_id, device_id, user, resource_id, protocol, port, MAX(received_at) AS last FROM activity
            WHERE kind IN ('flow_open', 'flow_close') GROUP BY gateway_id, grant_id, flow
            HAVING SUM(kind = 'flow_close') = 0 AND (MAX(id) < ?1 OR MAX(received_at) < ?2))
        GROUP BY policy_id, device_id, resource_id, protocol, port, user";
    let earlier = some(db, sql, (first, at), most, flow)?;

    let is_cut = granted.1 || flows.1 || earlier.1;
    let flows = flows.0.into_iter().chain(earlier.0).collect();
    Ok(Usage { recorded_since: recorded_since(db)?, gaps, granted: granted.0, flows, is_cut })
}

fn client(row: &Row<'_>) -> rusqlite::Result<Client> {
    Ok(Client { device: row.text("device_id")?, user: row.get("user")? })
}

/// `None` for what no policy can be about.
fn flow(row: &Row<'_>) -> rusqlite::Result<Option<FlowUse>> {
    let protocol: Option<String> = row.get("protocol")?;
    let protocol = match protocol.as_deref() {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some("icmp") => Protocol::IcmpEcho,
        _ => return Ok(None),
    };
    Ok(Some(FlowUse {
        policy: row.get::<_, Option<Text<PolicyId>>>("policy_id")?.map(|id| id.0),
        client: client(row)?,
        resource: row.text("resource_id")?,
        protocol,
        port: row.get::<_, Option<u16>>("port")?.unwrap_or_default(),
        flows: row.get("flows")?,
        last: row.time("last")?,
    }))
}

fn shadows(db: &Connection, since: Timestamp, most: usize) -> rusqlite::Result<(Vec<ShadowUse>, bool)> {
    let sql = "SELECT policies, reason, user, device_id, device, resource_id, resource, SUM(times) AS times,
            MIN(received_at) AS first, MAX(received_at) AS last FROM activity
        WHERE id >= ?1 AND received_at >= ?2 AND kind = 'shadow' AND policies IS NOT NULL
        GROUP BY policies, reason, user, device_id, resource_id";
    some(db, sql, (first_row(db, since)?, since.unix_millis()), most, |row| {
        Ok(Some(ShadowUse {
            policies: super::row::policies(&row.get::<_, String>("policies")?),
            difference: row.get::<_, Option<String>>("reason")?.unwrap_or_default(),
            device: row.get::<_, Option<Text<DeviceId>>>("device_id")?.map(|id| id.0),
            device_name: row.get("device")?,
            user: row.get("user")?,
            resource: row.get::<_, Option<Text<ResourceId>>>("resource_id")?.map(|id| id.0),
            resource_name: row.get("resource")?,
            times: row.get("times")?,
            first: row.time("first")?,
            last: row.time("last")?,
        }))
    })
}

/// As many as may be, and whether there are more.
fn some<T>(
    db: &Connection,
    sql: &str,
    (first, at): (i64, i64),
    most: usize,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<(Vec<T>, bool)> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![first, at])?;
    let mut sums = Vec::new();
    while let Some(row) = rows.next()? {
        if sums.len() >= most {
            return Ok((sums, true));
        }
        sums.extend(read(row)?);
    }
    Ok((sums, false))
}

fn flows_of(db: &Connection, pairs: &[(DeviceId, ResourceId, Timestamp)]) -> rusqlite::Result<Vec<u64>> {
    let mut counts = vec![0; pairs.len()];
    let Some(since) = pairs.iter().map(|(_, _, since)| *since).min() else { return Ok(counts) };
    let mut json = String::from("[");
    for (n, (device, resource, since)) in pairs.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        json.push_str(&format!("{comma}[\"{device}\",\"{resource}\",{}]", since.unix_millis()));
    }
    json.push(']');
    let sql = "WITH pairs AS MATERIALIZED (SELECT key AS n, value ->> 0 AS device, value ->> 1 AS resource,
            value ->> 2 AS since FROM json_each(?1))
        SELECT n, COUNT(*) FROM activity JOIN pairs ON device_id = pairs.device AND resource_id = pairs.resource
        WHERE id >= ?2 AND kind = 'flow_open' AND received_at >= since GROUP BY n";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![json, first_row(db, since)?])?;
    while let Some(row) = rows.next()? {
        if let Some(count) = counts.get_mut(row.get::<_, usize>(0)?) {
            *count = row.get(1)?;
        }
    }
    Ok(counts)
}
