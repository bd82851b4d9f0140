//! What a person reads: sentences for changes, plain aligned columns for lists. Columns don't depend on the terminal, so
//! that they can be piped on.

use std::fmt::Display;

use comfy_table::{Row, Table, presets};
use postern_model::{
    audit::{Actor, AuditEntry},
    filter::Filter,
};
use serde::Deserialize as _;
use serde_json::Value;

use crate::api::{
    answer::Time,
    api_keys::ApiKeyRow,
    audit::AuditReportRow,
    devices::DeviceRow,
    grants::GrantRow,
    groups::GroupRow,
    resources::ResourceRow,
    sites::SiteRow,
    tokens::{TokenRow, TokenStatus},
    users::UserRow,
};

/// `a, b and c`.
pub(super) fn list<T: Display>(things: &[T]) -> String {
    match things {
        [] => "nothing".to_owned(),
        [only] => only.to_string(),
        [others @ .., last] => {
            let others: Vec<_> = others.iter().map(ToString::to_string).collect();
            format!("{} and {last}", others.join(", "))
        }
    }
}

pub(super) fn columns<T>(rows: &[T], nothing: &str, head: &[&str], cells: impl Fn(&T) -> Vec<String>) -> String {
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(head.to_vec());
    for row in rows {
        table.add_row(Row::from(cells(row)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Several values in one column; a dash keeps it visible, and `awk` counting.
fn several<T: Display>(things: &[T]) -> String {
    let things: Vec<_> = things.iter().map(ToString::to_string).collect();
    if things.is_empty() { "-".to_owned() } else { things.join(",") }
}

pub(super) fn maybe<T: Display>(thing: Option<&T>) -> String {
    thing.map_or_else(|| "-".to_owned(), ToString::to_string)
}

pub(super) fn users(rows: &[UserRow]) -> String {
    columns(rows, "There are no users.", &["NAME", "GROUPS", "STATUS", "ADDED", "ID"], |row| {
        let status = if row.suspended { "suspended" } else { "active" };
        vec![row.name.to_string(), several(&row.groups), status.to_owned(), row.created_at.short(), row.id.to_string()]
    })
}

pub(super) fn groups(rows: &[GroupRow]) -> String {
    columns(rows, "There are no groups.", &["NAME", "MEMBERS", "ADDED", "ID"], |row| {
        vec![row.name.to_string(), several(&row.members), row.created_at.short(), row.id.to_string()]
    })
}

pub(super) fn sites(rows: &[SiteRow]) -> String {
    columns(rows, "There are no sites.", &["NAME", "GATEWAYS", "ADDED", "ID"], |row| {
        let mark = |name: &String| if row.drained.contains(name) { format!("{name}:drained") } else { name.clone() };
        let gateways: Vec<_> = row.gateways.iter().map(mark).collect();
        vec![row.name.to_string(), several(&gateways), row.created_at.short(), row.id.to_string()]
    })
}

fn open(row: &ResourceRow) -> Filter {
    Filter { tcp: row.tcp.clone(), udp: row.udp.clone(), icmp: row.icmp }
}

pub(super) fn resources(rows: &[ResourceRow]) -> String {
    let head = ["NAME", "SITE", "TARGET", "OPEN", "ADDRESS", "ALIASES", "TAGS", "ID"];
    columns(rows, "There are no resources.", &head, |row| {
        vec![
            row.name.to_string(),
            row.site.to_string(),
            row.target.to_string(),
            open(row).to_string(),
            row.addr.v4.to_string(),
            several(&row.aliases),
            several(&row.tags),
            row.id.to_string(),
        ]
    })
}

pub(super) fn added_resource(row: &ResourceRow) -> String {
    let (name, dns, target) = (&row.name, &row.fqdn, &row.target);
    format!(
        "Added resource {name}: {dns} is {target} at site {}, open for {}.\nNobody may reach it yet: 'postern-coordinator policy allow user:NAME {name}'.",
        row.site,
        open(row)
    )
}

pub(super) fn edited_resource(row: &ResourceRow) -> String {
    let aliases = if row.aliases.is_empty() { String::new() } else { format!(", also as {}", list(&row.aliases)) };
    format!("Changed resource {}: {} is {}, open for {}{aliases}.", row.name, row.fqdn, row.target, open(row))
}

pub(super) fn tokens(rows: &[TokenRow]) -> String {
    columns(rows, "There are no tokens.", &["OWNER", "STATUS", "USES LEFT", "EXPIRES", "ID"], |row| {
        let status = match row.status {
            TokenStatus::Usable => "usable",
            TokenStatus::UsedUp => "used up",
            TokenStatus::Expired => "expired",
            TokenStatus::Withdrawn => "withdrawn",
        };
        vec![
            row.owner.clone(),
            status.to_owned(),
            row.uses_left.to_string(),
            row.expires_at.short(),
            row.id.to_string(),
        ]
    })
}

pub(super) fn made_token(made: &Value, expires: &str) -> serde_json::Result<String> {
    let row = TokenRow::deserialize(made)?;
    let token = text(made, "token")?;
    let devices = if row.uses_left == 1 { "one device".to_owned() } else { format!("{} devices", row.uses_left) };
    Ok(format!(
        "Made a join token for {}: good for {devices} and {expires}, and shown only now.\nOn the device, run:\n\n  postern up {token}",
        row.owner,
    ))
}

pub(super) fn devices(rows: &[DeviceRow]) -> String {
    let head = ["NAME", "OWNER", "ADDRESS", "STATUS", "FROM", "SYSTEM", "ID"];
    columns(rows, "There are no devices: 'token create' makes what one joins with.", &head, |row| {
        let owner = match (&row.user, &row.site) {
            (Some(user), _) => format!("user:{user}"),
            (None, site) => format!("site:{}", maybe(site.as_ref())),
        };
        let status = match (row.revoked, row.connected, row.drained) {
            (true, ..) => "revoked",
            (false, true, false) => "connected",
            (false, true, true) => "connected,drained",
            (false, false, false) => "away",
            (false, false, true) => "away,drained",
        };
        let system = if row.posture.os.is_empty() { "-".to_owned() } else { row.posture.os.clone() };
        vec![
            row.name.clone(),
            owner,
            row.addr.v4.to_string(),
            status.to_owned(),
            maybe(row.connected_from.as_ref()),
            system,
            row.id.to_string(),
        ]
    })
}

pub(super) fn grants(rows: &[GrantRow]) -> String {
    let head = ["DEVICE", "USER", "RESOURCE", "GATEWAY", "OPEN", "EXPIRES", "ID"];
    columns(rows, "There are no grants in force.", &head, |row| {
        vec![
            row.device.clone(),
            maybe(row.user.as_ref()),
            row.resource.to_string(),
            row.gateway.clone(),
            row.filter.to_string(),
            row.expires_at.short(),
            row.id.to_string(),
        ]
    })
}

pub(super) fn audit(entries: &[AuditEntry]) -> String {
    columns(entries, "There are no such entries.", &["ID", "TIME", "ACTOR", "ACTION", "OBJECT", "DETAILS"], |entry| {
        let event = &entry.event;
        let actor = match &event.actor {
            Actor::AdminSocket => "admin".to_owned(),
            Actor::ApiKey(id) => format!("apikey:{id}"),
            Actor::Device(id) => format!("device:{id}"),
            Actor::Token(id) => format!("token:{id}"),
            Actor::Coordinator => "coordinator".to_owned(),
        };
        let details: Vec<_> = event.details.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (action, object) = (event.action.clone(), event.object.clone());
        vec![entry.id.to_string(), Time(event.at).short(), actor, action, object, details.join(" ")]
    })
}

pub(super) fn audit_report(report: &AuditReportRow) -> String {
    match &report.fault {
        Some(fault) => format!(
            "The audit log does NOT hold: entry {}: {}. Only the {} entries before it can be trusted.",
            fault.id, fault.what, report.entries
        ),
        None => format!(
            "The audit log holds: {} entries, none altered, removed or inserted. The last one's hash is {}.",
            report.entries,
            maybe(report.head.as_ref())
        ),
    }
}

pub(super) fn api_keys(rows: &[ApiKeyRow]) -> String {
    columns(rows, "There are no API keys.", &["NAME", "ADDED", "ID"], |row| {
        vec![row.name.clone(), row.created_at.short(), row.id.to_string()]
    })
}

pub(super) fn made_api_key(made: &Value) -> serde_json::Result<String> {
    Ok(format!(
        "Made API key {}. It is shown only now; put it into POSTERN_API_KEY, or into a file for --api-key-file:\n\n  {}",
        text(made, "name")?,
        text(made, "api_key")?,
    ))
}

fn text<'a>(value: &'a Value, field: &str) -> serde_json::Result<&'a str> {
    value[field].as_str().ok_or_else(|| serde::de::Error::custom(format!("it has no '{field}'")))
}
