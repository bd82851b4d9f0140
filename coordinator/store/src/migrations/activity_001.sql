-- Access activity, in a file of its own: it may be large, and may be lost without anyone's access changing. Names stand as
-- they were when it happened; nothing here refers to the coordinator's database.

-- Times are milliseconds since 1970; ids and addresses are text, as everywhere. An id is never given twice (AUTOINCREMENT),
-- so that whoever reads on after one misses nothing.
CREATE TABLE activity (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    user TEXT,
    device_id TEXT,
    device TEXT,
    resource_id TEXT,
    resource TEXT,
    grant_id TEXT,
    gateway_id TEXT,
    gateway TEXT,
    policy_id TEXT,
    -- Those in shadow that would have decided otherwise: ids with commas between them.
    policies TEXT,
    filter TEXT,
    -- Any 64 bits, as a signed number.
    flow INTEGER,
    protocol TEXT,
    port INTEGER,
    queried TEXT,
    opened_at INTEGER,
    up INTEGER,
    down INTEGER,
    reason TEXT,
    times INTEGER NOT NULL,
    revision INTEGER
) STRICT;

CREATE INDEX activity_by_user ON activity (user) WHERE user IS NOT NULL;
CREATE INDEX activity_by_device ON activity (device) WHERE device IS NOT NULL;
CREATE INDEX activity_by_resource ON activity (resource) WHERE resource IS NOT NULL;
CREATE INDEX activity_by_time ON activity (at);

-- What was granted lately, and as what its ends were then known: what a gateway tells of flows is held against it.
CREATE TABLE grants (
    id TEXT PRIMARY KEY,
    gateway_id TEXT NOT NULL,
    gateway TEXT NOT NULL,
    device_id TEXT NOT NULL,
    device TEXT NOT NULL,
    user TEXT,
    resource_id TEXT NOT NULL,
    resource TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX grants_by_expiry ON grants (expires_at);

-- Up to which entry each spool of a gateway is in the table above.
CREATE TABLE spools (
    gateway_id TEXT NOT NULL,
    spool BLOB NOT NULL,
    up_to INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (gateway_id, spool)
) STRICT, WITHOUT ROWID;

-- Up to which row a receiver elsewhere has taken the activity.
CREATE TABLE cursors (
    receiver TEXT PRIMARY KEY,
    up_to INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Since when everything is in the table above, but for what gap rows stand for: since the file was made, and later when what
-- was old or too much has gone.
CREATE TABLE recording (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    since INTEGER NOT NULL
) STRICT;
