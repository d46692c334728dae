-- The catalogue's first schema. Times are unix milliseconds; words are what the types' serde names say; everything
-- here means the same to SQLite and to PostgreSQL.

CREATE TABLE catalogue (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    -- Raised by one with every committed change.
    revision BIGINT NOT NULL,
    -- HMAC of a fixed text under the master key: tells a wrong key before anything is misread.
    key_check TEXT NOT NULL
);

CREATE TABLE tenants (
    ref TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    parent TEXT REFERENCES tenants (ref),
    host TEXT NOT NULL,
    port BIGINT NOT NULL,
    default_database TEXT,
    backend_tls TEXT NOT NULL,
    backend_ca TEXT,
    login TEXT NOT NULL,
    auth_user TEXT,
    auth_query TEXT,
    auth_database TEXT,
    pool_size BIGINT,
    backend_budget BIGINT,
    max_clients BIGINT,
    client_tls TEXT NOT NULL,
    token_access TEXT NOT NULL,
    privileged_roles TEXT NOT NULL,
    networks TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX tenants_parent ON tenants (parent);

CREATE TABLE role_secrets (
    tenant TEXT NOT NULL REFERENCES tenants (ref) ON DELETE CASCADE,
    role TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- Base64 of nonce and AES-256-GCM ciphertext.
    sealed TEXT NOT NULL,
    PRIMARY KEY (tenant, role)
);

CREATE TABLE people (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE members (
    tenant TEXT NOT NULL REFERENCES tenants (ref) ON DELETE CASCADE,
    person TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, person)
);
CREATE INDEX members_person ON members (person);

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    person TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- Hex HMAC-SHA-256 of the secret under the pepper.
    mac TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    last_used_at BIGINT,
    last_used_from TEXT
);
CREATE INDEX tokens_person ON tokens (person);

CREATE TABLE rules (
    id TEXT NOT NULL PRIMARY KEY,
    -- Not bound to `members`: on a branch, membership of the parent is enough.
    tenant TEXT NOT NULL REFERENCES tenants (ref) ON DELETE CASCADE,
    person TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    networks TEXT NOT NULL,
    reach TEXT NOT NULL,
    reason TEXT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (tenant, person, role)
);
CREATE INDEX rules_person ON rules (person);

-- The trail outlives what it speaks of, so nothing here refers to another table.
CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    time BIGINT NOT NULL,
    kind TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    actor TEXT NOT NULL,
    tenant TEXT,
    person TEXT,
    role TEXT,
    session TEXT,
    token TEXT,
    peer TEXT,
    detail TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX audit_tenant ON audit (tenant, seq);
CREATE INDEX audit_person ON audit (person, seq);
CREATE INDEX audit_session ON audit (session);

-- Where the trail ends, sealed with a key that is not in this file, so that a cut-off tail is noticed.
CREATE TABLE audit_head (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL,
    mac TEXT NOT NULL
);
