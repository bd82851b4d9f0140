//! The whole state, read in one go when the coordinator starts. Records come in the order in which they were added.

use std::collections::{BTreeSet, HashMap};

use postern_model::{
    Fqdn, NetworkRanges, ResourceId, Revision, TagName, Timestamp,
    grant::Grant,
    record::{ApiKeyRecord, Device, Group, Network, Policy, Relay, Resource, Site, Token, User, World},
};
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::columns::Columns as _;

/// Reads everything but the audit log; `None` when the network was not made yet.
pub(crate) fn read(db: &Connection) -> rusqlite::Result<Option<World>> {
    let Some(network) = network(db)? else { return Ok(None) };
    let revision = db.query_row("SELECT revision FROM state", [], |row| row.get(0))?;
    Ok(Some(World {
        revision: Revision(revision),
        network,
        users: all(db, "SELECT * FROM users ORDER BY rowid", user)?,
        groups: all(db, "SELECT * FROM groups ORDER BY rowid", group)?,
        members: all(db, "SELECT * FROM members ORDER BY rowid", |row| {
            Ok((row.text("group_id")?, row.text("user_id")?))
        })?,
        sites: all(db, "SELECT * FROM sites ORDER BY rowid", site)?,
        resources: resources(db)?,
        policies: all(db, "SELECT * FROM policies ORDER BY rowid", policy)?,
        devices: all(db, "SELECT * FROM devices ORDER BY rowid", device)?,
        tokens: all(db, "SELECT * FROM tokens ORDER BY rowid", token)?,
        api_keys: all(db, "SELECT * FROM api_keys ORDER BY rowid", api_key)?,
        relays: all(db, "SELECT * FROM relays ORDER BY rowid", relay)?,
        grants: all(db, "SELECT * FROM grants ORDER BY rowid", grant)?,
    }))
}

fn all<T>(db: &Connection, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map([], read)?.collect()
}

fn network(db: &Connection) -> rusqlite::Result<Option<Network>> {
    let read = |row: &Row<'_>| {
        Ok(Network {
            zone: row.text("zone")?,
            ranges: NetworkRanges { ula: row.text("ula")? },
            next_device_index: row.get("next_device_index")?,
            next_resource_index: row.get("next_resource_index")?,
        })
    };
    db.query_row("SELECT * FROM network", [], read).optional()
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.text("id")?,
        name: row.text("name")?,
        suspended: row.get("suspended")?,
        created_at: row.time("created_at")?,
    })
}

fn group(row: &Row<'_>) -> rusqlite::Result<Group> {
    Ok(Group { id: row.text("id")?, name: row.text("name")?, created_at: row.time("created_at")? })
}

fn site(row: &Row<'_>) -> rusqlite::Result<Site> {
    Ok(Site { id: row.text("id")?, name: row.text("name")?, created_at: row.time("created_at")? })
}

fn resources(db: &Connection) -> rusqlite::Result<Vec<Resource>> {
    let mut aliases: HashMap<ResourceId, Vec<Fqdn>> = HashMap::new();
    let rows = all(db, "SELECT * FROM resource_aliases ORDER BY resource_id, position", |row| {
        Ok((row.text("resource_id")?, row.text("alias")?))
    })?;
    for (resource, alias) in rows {
        aliases.entry(resource).or_default().push(alias);
    }
    let mut tags: HashMap<ResourceId, BTreeSet<TagName>> = HashMap::new();
    let rows = all(db, "SELECT * FROM resource_tags", |row| Ok((row.text("resource_id")?, row.text("tag")?)))?;
    for (resource, tag) in rows {
        tags.entry(resource).or_default().insert(tag);
    }
    all(db, "SELECT * FROM resources ORDER BY rowid", |row| {
        let id = row.text("id")?;
        Ok(Resource {
            id,
            name: row.text("name")?,
            aliases: aliases.remove(&id).unwrap_or_default(),
            tags: tags.remove(&id).unwrap_or_default(),
            site: row.text("site_id")?,
            target: row.text("target")?,
            filter: row.filter()?,
            addr: row.addr()?,
            created_at: row.time("created_at")?,
        })
    })
}

fn policy(row: &Row<'_>) -> rusqlite::Result<Policy> {
    Ok(Policy {
        id: row.text("id")?,
        effect: row.text("effect")?,
        principal: row.principal()?,
        scope: row.scope()?,
        ports: row.maybe_text("ports")?,
        condition: row.maybe_json("condition")?,
        until: row.get::<_, Option<i64>>("until")?.map(Timestamp::from_unix_millis),
        shadow: row.get("shadow")?,
        created_at: row.time("created_at")?,
    })
}

fn device(row: &Row<'_>) -> rusqlite::Result<Device> {
    Ok(Device {
        id: row.text("id")?,
        name: row.get("name")?,
        owner: row.owner()?,
        key: row.text("key")?,
        wireguard: row.text("wireguard")?,
        addr: row.addr()?,
        revoked: row.get("revoked")?,
        drained: row.get("drained")?,
        posture: row.json("posture")?,
        enrolled_at: row.time("enrolled_at")?,
        token: row.text("token_id")?,
    })
}

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        id: row.text("id")?,
        secret_hash: row.text("secret_hash")?,
        owner: row.owner()?,
        uses_left: row.get("uses_left")?,
        expires_at: row.time("expires_at")?,
        withdrawn: row.get("withdrawn")?,
        created_at: row.time("created_at")?,
    })
}

fn api_key(row: &Row<'_>) -> rusqlite::Result<ApiKeyRecord> {
    Ok(ApiKeyRecord {
        id: row.text("id")?,
        name: row.get("name")?,
        secret_hash: row.text("secret_hash")?,
        created_at: row.time("created_at")?,
    })
}

fn relay(row: &Row<'_>) -> rusqlite::Result<Relay> {
    Ok(Relay {
        id: row.text("id")?,
        name: row.text("name")?,
        address: row.text("address")?,
        pin: row.text("pin")?,
        created_at: row.time("created_at")?,
    })
}

fn grant(row: &Row<'_>) -> rusqlite::Result<Grant> {
    Ok(Grant {
        id: row.text("id")?,
        device: row.text("device_id")?,
        resource: row.text("resource_id")?,
        gateway: row.text("gateway_id")?,
        policy: row.text("policy_id")?,
        filter: row.filter()?,
        granted_at: row.time("granted_at")?,
        expires_at: row.time("expires_at")?,
    })
}
