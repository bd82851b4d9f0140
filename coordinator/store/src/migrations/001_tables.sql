-- Ids are UUIDs, keys and digests base64, addresses, names and port sets the text that people read; times are
-- milliseconds since the Unix epoch. References are checked when the transaction commits, so the order of the changes in
-- a batch does not matter; nothing cascades: a batch says all that it does, because it is also applied in memory.

-- One row: which revision this is, and where the audit log ends.
CREATE TABLE state (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    revision      INTEGER NOT NULL,
    audit_entries INTEGER NOT NULL,
    audit_head    TEXT    NOT NULL
) STRICT;

-- 32 zero bytes stand before the first entry.
INSERT INTO state VALUES (1, 0, 0, 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=');

CREATE TABLE network (
    one                 INTEGER PRIMARY KEY CHECK (one = 1),
    zone                TEXT    NOT NULL,
    ula                 TEXT    NOT NULL,
    next_device_index   INTEGER NOT NULL,
    next_resource_index INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    suspended  INTEGER NOT NULL CHECK (suspended IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE groups (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
    group_id TEXT NOT NULL REFERENCES groups (id) DEFERRABLE INITIALLY DEFERRED,
    user_id  TEXT NOT NULL REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (group_id, user_id)
) STRICT;
CREATE INDEX members_by_user ON members (user_id);

CREATE TABLE sites (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE resources (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    site_id    TEXT    NOT NULL REFERENCES sites (id) DEFERRABLE INITIALLY DEFERRED,
    target     TEXT    NOT NULL,
    tcp        TEXT    NOT NULL,
    udp        TEXT    NOT NULL,
    icmp       INTEGER NOT NULL CHECK (icmp IN (0, 1)),
    v4         TEXT    NOT NULL UNIQUE,
    v6         TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX resources_by_site ON resources (site_id);

CREATE TABLE resource_aliases (
    alias       TEXT    PRIMARY KEY,
    resource_id TEXT    NOT NULL REFERENCES resources (id) DEFERRABLE INITIALLY DEFERRED,
    position    INTEGER NOT NULL,
    UNIQUE (resource_id, position)
) STRICT;

CREATE TABLE resource_tags (
    resource_id TEXT NOT NULL REFERENCES resources (id) DEFERRABLE INITIALLY DEFERRED,
    tag         TEXT NOT NULL,
    PRIMARY KEY (resource_id, tag)
) STRICT;

CREATE TABLE devices (
    id          TEXT    PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    user_id     TEXT    REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED,
    site_id     TEXT    REFERENCES sites (id) DEFERRABLE INITIALLY DEFERRED,
    key         TEXT    NOT NULL UNIQUE,
    wireguard   TEXT    NOT NULL UNIQUE,
    v4          TEXT    NOT NULL UNIQUE,
    v6          TEXT    NOT NULL UNIQUE,
    revoked     INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    -- Gateways only.
    drained     INTEGER NOT NULL CHECK (drained IN (0, 1)),
    -- What it last said of itself: JSON.
    posture     TEXT    NOT NULL,
    enrolled_at INTEGER NOT NULL,
    -- With what it enrolled; no reference, since a token may be gone before the device.
    token_id    TEXT    NOT NULL,
    CHECK ((user_id IS NULL) <> (site_id IS NULL))
) STRICT;
CREATE INDEX devices_by_user ON devices (user_id);
CREATE INDEX devices_by_site ON devices (site_id);

-- Without user, group and device it speaks of everyone, without resource and tag it is about everything.
CREATE TABLE policies (
    id          TEXT    PRIMARY KEY,
    effect      TEXT    NOT NULL CHECK (effect IN ('allow', 'deny')),
    user_id     TEXT    REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED,
    group_id    TEXT    REFERENCES groups (id) DEFERRABLE INITIALLY DEFERRED,
    device_id   TEXT    REFERENCES devices (id) DEFERRABLE INITIALLY DEFERRED,
    resource_id TEXT    REFERENCES resources (id) DEFERRABLE INITIALLY DEFERRED,
    tag         TEXT,
    -- All that the resource opens, unless it is told.
    ports       TEXT,
    -- JSON.
    condition   TEXT,
    until       INTEGER,
    shadow      INTEGER NOT NULL CHECK (shadow IN (0, 1)),
    created_at  INTEGER NOT NULL,
    CHECK ((user_id IS NOT NULL) + (group_id IS NOT NULL) + (device_id IS NOT NULL) <= 1),
    CHECK (resource_id IS NULL OR tag IS NULL)
) STRICT;
CREATE INDEX policies_by_user ON policies (user_id);
CREATE INDEX policies_by_group ON policies (group_id);
CREATE INDEX policies_by_device ON policies (device_id);
CREATE INDEX policies_by_resource ON policies (resource_id);

CREATE TABLE tokens (
    id          TEXT    PRIMARY KEY,
    secret_hash TEXT    NOT NULL UNIQUE,
    user_id     TEXT    REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED,
    site_id     TEXT    REFERENCES sites (id) DEFERRABLE INITIALLY DEFERRED,
    uses_left   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    withdrawn   INTEGER NOT NULL CHECK (withdrawn IN (0, 1)),
    created_at  INTEGER NOT NULL,
    CHECK ((user_id IS NULL) <> (site_id IS NULL))
) STRICT;
CREATE INDEX tokens_by_user ON tokens (user_id);
CREATE INDEX tokens_by_site ON tokens (site_id);

CREATE TABLE api_keys (
    id          TEXT    PRIMARY KEY,
    name        TEXT    NOT NULL,
    secret_hash TEXT    NOT NULL UNIQUE,
    created_at  INTEGER NOT NULL
) STRICT;

-- Relays that run on their own; the coordinator's is no row.
CREATE TABLE relays (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    address    TEXT    NOT NULL UNIQUE,
    pin        TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- Grants in force; how the others ended is in the audit log.
CREATE TABLE grants (
    id          TEXT    PRIMARY KEY,
    device_id   TEXT    NOT NULL REFERENCES devices (id) DEFERRABLE INITIALLY DEFERRED,
    resource_id TEXT    NOT NULL REFERENCES resources (id) DEFERRABLE INITIALLY DEFERRED,
    gateway_id  TEXT    NOT NULL REFERENCES devices (id) DEFERRABLE INITIALLY DEFERRED,
    policy_id   TEXT    NOT NULL REFERENCES policies (id) DEFERRABLE INITIALLY DEFERRED,
    tcp         TEXT    NOT NULL,
    udp         TEXT    NOT NULL,
    icmp        INTEGER NOT NULL CHECK (icmp IN (0, 1)),
    granted_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX grants_by_device ON grants (device_id);
CREATE INDEX grants_by_resource ON grants (resource_id);
CREATE INDEX grants_by_gateway ON grants (gateway_id);
CREATE INDEX grants_by_policy ON grants (policy_id);

CREATE TABLE audit (
    id         INTEGER PRIMARY KEY,
    revision   INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    actor_kind TEXT    NOT NULL,
    actor_id   TEXT,
    action     TEXT    NOT NULL,
    object     TEXT    NOT NULL,
    details    TEXT    NOT NULL,
    hash       TEXT    NOT NULL
) STRICT;
