//! Each [`Change`] as SQL, inside a transaction that someone else opened.

use postern_model::{
    Timestamp,
    change::Change,
    grant::Grant,
    record::{ApiKeyRecord, Device, Group, Network, Policy, Relay, Resource, Site, Token, User},
};
use rusqlite::{Params, Transaction, params};

use crate::columns::{Text, owner_columns, principal_columns, scope_columns, to_json};

/// Why a change could not be written.
#[derive(Debug)]
pub(crate) enum ChangeError {
    Sqlite(rusqlite::Error),
    /// It removes what is not there.
    Missing(String),
}

impl From<rusqlite::Error> for ChangeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Writes one change.
pub(crate) fn write(tx: &Transaction<'_>, change: &Change) -> Result<(), ChangeError> {
    match change {
        Change::PutNetwork(network) => put_network(tx, network)?,
        Change::PutUser(user) => put_user(tx, user)?,
        Change::PutGroup(group) => put_group(tx, group)?,
        Change::PutSite(site) => put_site(tx, site)?,
        Change::PutResource(resource) => put_resource(tx, resource)?,
        Change::PutPolicy(policy) => put_policy(tx, policy)?,
        Change::PutDevice(device) => put_device(tx, device)?,
        Change::PutToken(token) => put_token(tx, token)?,
        Change::PutApiKey(key) => put_api_key(tx, key)?,
        Change::PutRelay(relay) => put_relay(tx, relay)?,
        Change::PutGrant(grant) => put_grant(tx, grant)?,
        Change::AddMember(group, user) => {
            execute(tx, "INSERT INTO members (group_id, user_id) VALUES (?1, ?2)", params![Text(group), Text(user)])?;
        }
        Change::RemoveMember(group, user) => {
            let sql = "DELETE FROM members WHERE group_id = ?1 AND user_id = ?2";
            if execute(tx, sql, params![Text(group), Text(user)])? == 0 {
                return Err(ChangeError::Missing(format!("user {user} is not a member of group {group}")));
            }
        }
        Change::RemoveResource(id) => {
            execute(tx, "DELETE FROM resource_aliases WHERE resource_id = ?1", params![Text(id)])?;
            execute(tx, "DELETE FROM resource_tags WHERE resource_id = ?1", params![Text(id)])?;
            remove(tx, "resource", "DELETE FROM resources WHERE id = ?1", id)?;
        }
        Change::RemoveUser(id) => remove(tx, "user", "DELETE FROM users WHERE id = ?1", id)?,
        Change::RemoveGroup(id) => remove(tx, "group", "DELETE FROM groups WHERE id = ?1", id)?,
        Change::RemoveSite(id) => remove(tx, "site", "DELETE FROM sites WHERE id = ?1", id)?,
        Change::RemovePolicy(id) => remove(tx, "policy", "DELETE FROM policies WHERE id = ?1", id)?,
        Change::RemoveDevice(id) => remove(tx, "device", "DELETE FROM devices WHERE id = ?1", id)?,
        Change::RemoveToken(id) => remove(tx, "token", "DELETE FROM tokens WHERE id = ?1", id)?,
        Change::RemoveApiKey(id) => remove(tx, "API key", "DELETE FROM api_keys WHERE id = ?1", id)?,
        Change::RemoveRelay(id) => remove(tx, "relay", "DELETE FROM relays WHERE id = ?1", id)?,
        // Why it ended is in the batch's audit entries.
        Change::EndGrant(id, _) => remove(tx, "grant", "DELETE FROM grants WHERE id = ?1", id)?,
    }
    Ok(())
}

fn execute(tx: &Transaction<'_>, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    tx.prepare_cached(sql)?.execute(params)
}

fn remove(tx: &Transaction<'_>, kind: &str, sql: &str, id: &impl std::fmt::Display) -> Result<(), ChangeError> {
    match execute(tx, sql, params![Text(id)])? {
        0 => Err(ChangeError::Missing(format!("there is no {kind} {id} to remove"))),
        _ => Ok(()),
    }
}

fn put_network(tx: &Transaction<'_>, network: &Network) -> rusqlite::Result<()> {
    let sql = "INSERT INTO network (one, zone, ula, next_device_index, next_resource_index)
        VALUES (1, ?1, ?2, ?3, ?4)
        ON CONFLICT (one) DO UPDATE SET zone = excluded.zone, ula = excluded.ula,
            next_device_index = excluded.next_device_index, next_resource_index = excluded.next_resource_index";
    let values =
        params![Text(&network.zone), Text(network.ranges.ula), network.next_device_index, network.next_resource_index];
    execute(tx, sql, values).map(drop)
}

fn put_user(tx: &Transaction<'_>, user: &User) -> rusqlite::Result<()> {
    let sql = "INSERT INTO users (id, name, suspended, created_at) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, suspended = excluded.suspended,
            created_at = excluded.created_at";
    let values = params![Text(user.id), Text(&user.name), user.suspended, user.created_at.unix_millis()];
    execute(tx, sql, values).map(drop)
}

fn put_group(tx: &Transaction<'_>, group: &Group) -> rusqlite::Result<()> {
    let sql = "INSERT INTO groups (id, name, created_at) VALUES (?1, ?2, ?3)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, created_at = excluded.created_at";
    execute(tx, sql, params![Text(group.id), Text(&group.name), group.created_at.unix_millis()]).map(drop)
}

fn put_site(tx: &Transaction<'_>, site: &Site) -> rusqlite::Result<()> {
    let sql = "INSERT INTO sites (id, name, created_at) VALUES (?1, ?2, ?3)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, created_at = excluded.created_at";
    execute(tx, sql, params![Text(site.id), Text(&site.name), site.created_at.unix_millis()]).map(drop)
}

fn put_resource(tx: &Transaction<'_>, resource: &Resource) -> rusqlite::Result<()> {
    let sql = "INSERT INTO resources (id, name, site_id, target, tcp, udp, icmp, v4, v6, created_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, site_id = excluded.site_id, target = excluded.target,
            tcp = excluded.tcp, udp = excluded.udp, icmp = excluded.icmp, v4 = excluded.v4, v6 = excluded.v6,
            created_at = excluded.created_at";
    let values = params![
        Text(resource.id),
        Text(&resource.name),
        Text(resource.site),
        Text(&resource.target),
        Text(&resource.filter.tcp),
        Text(&resource.filter.udp),
        resource.filter.icmp,
        Text(resource.addr.v4),
        Text(resource.addr.v6),
        resource.created_at.unix_millis(),
    ];
    execute(tx, sql, values)?;
    execute(tx, "DELETE FROM resource_aliases WHERE resource_id = ?1", params![Text(resource.id)])?;
    for (position, alias) in resource.aliases.iter().enumerate() {
        let sql = "INSERT INTO resource_aliases (alias, resource_id, position) VALUES (?1, ?2, ?3)";
        execute(tx, sql, params![Text(alias), Text(resource.id), position])?;
    }
    execute(tx, "DELETE FROM resource_tags WHERE resource_id = ?1", params![Text(resource.id)])?;
    for tag in &resource.tags {
        execute(
            tx,
            "INSERT INTO resource_tags (resource_id, tag) VALUES (?1, ?2)",
            params![Text(resource.id), Text(tag)],
        )?;
    }
    Ok(())
}

fn put_policy(tx: &Transaction<'_>, policy: &Policy) -> rusqlite::Result<()> {
    let sql = "INSERT INTO policies (id, effect, user_id, group_id, device_id, resource_id, tag, ports, condition, until,
            shadow, created_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
        ON CONFLICT (id) DO UPDATE SET effect = excluded.effect, user_id = excluded.user_id, group_id = excluded.group_id,
            device_id = excluded.device_id, resource_id = excluded.resource_id, tag = excluded.tag, ports = excluded.ports,
            condition = excluded.condition, until = excluded.until, shadow = excluded.shadow,
            created_at = excluded.created_at";
    let (user, group, device) = principal_columns(policy.principal);
    let (resource, tag) = scope_columns(&policy.scope);
    let values = params![
        Text(policy.id),
        Text(policy.effect),
        user,
        group,
        device,
        resource,
        tag,
        policy.ports.as_ref().map(Text),
        policy.condition.as_ref().map(to_json).transpose()?,
        policy.until.map(Timestamp::unix_millis),
        policy.shadow,
        policy.created_at.unix_millis(),
    ];
    execute(tx, sql, values).map(drop)
}

fn put_device(tx: &Transaction<'_>, device: &Device) -> rusqlite::Result<()> {
    let sql = "INSERT INTO devices (id, name, user_id, site_id, key, wireguard, v4, v6, revoked, drained,
            posture, enrolled_at, token_id)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, user_id = excluded.user_id, site_id = excluded.site_id,
            key = excluded.key, wireguard = excluded.wireguard, v4 = excluded.v4, v6 = excluded.v6,
            revoked = excluded.revoked, drained = excluded.drained, posture = excluded.posture, enrolled_at = excluded.enrolled_at,
            token_id = excluded.token_id";
    let (user, site) = owner_columns(device.owner);
    let values = params![
        Text(device.id),
        device.name,
        user,
        site,
        Text(device.key),
        Text(device.wireguard),
        Text(device.addr.v4),
        Text(device.addr.v6),
        device.revoked,
        device.drained,
        to_json(&device.posture)?,
        device.enrolled_at.unix_millis(),
        Text(device.token),
    ];
    execute(tx, sql, values).map(drop)
}

fn put_token(tx: &Transaction<'_>, token: &Token) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tokens (id, secret_hash, user_id, site_id, uses_left, expires_at, withdrawn, created_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
        ON CONFLICT (id) DO UPDATE SET secret_hash = excluded.secret_hash, user_id = excluded.user_id,
            site_id = excluded.site_id, uses_left = excluded.uses_left, expires_at = excluded.expires_at,
            withdrawn = excluded.withdrawn, created_at = excluded.created_at";
    let (user, site) = owner_columns(token.owner);
    let values = params![
        Text(token.id),
        Text(token.secret_hash),
        user,
        site,
        token.uses_left,
        token.expires_at.unix_millis(),
        token.withdrawn,
        token.created_at.unix_millis(),
    ];
    execute(tx, sql, values).map(drop)
}

fn put_api_key(tx: &Transaction<'_>, key: &ApiKeyRecord) -> rusqlite::Result<()> {
    let sql = "INSERT INTO api_keys (id, name, secret_hash, created_at) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, secret_hash = excluded.secret_hash,
            created_at = excluded.created_at";
    let values = params![Text(key.id), key.name, Text(key.secret_hash), key.created_at.unix_millis()];
    execute(tx, sql, values).map(drop)
}

fn put_relay(tx: &Transaction<'_>, relay: &Relay) -> rusqlite::Result<()> {
    let sql = "INSERT INTO relays (id, name, address, pin, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address, pin = excluded.pin,
            created_at = excluded.created_at";
    let values = params![
        Text(relay.id),
        Text(&relay.name),
        Text(&relay.address),
        Text(relay.pin),
        relay.created_at.unix_millis(),
    ];
    execute(tx, sql, values).map(drop)
}

fn put_grant(tx: &Transaction<'_>, grant: &Grant) -> rusqlite::Result<()> {
    let sql = "INSERT INTO grants (id, device_id, resource_id, gateway_id, policy_id, tcp, udp, icmp,
            granted_at, expires_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
        ON CONFLICT (id) DO UPDATE SET device_id = excluded.device_id, resource_id = excluded.resource_id,
            gateway_id = excluded.gateway_id, policy_id = excluded.policy_id, tcp = excluded.tcp, udp = excluded.udp,
            icmp = excluded.icmp, granted_at = excluded.granted_at, expires_at = excluded.expires_at";
    let values = params![
        Text(grant.id),
        Text(grant.device),
        Text(grant.resource),
        Text(grant.gateway),
        Text(grant.policy),
        Text(&grant.filter.tcp),
        Text(&grant.filter.udp),
        grant.filter.icmp,
        grant.granted_at.unix_millis(),
        grant.expires_at.unix_millis(),
    ];
    execute(tx, sql, values).map(drop)
}
