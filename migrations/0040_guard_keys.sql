-- What the guard beside a tenant's database shows: hex HMAC-SHA-256 of the key under the pepper.
CREATE TABLE guard_keys (
    tenant TEXT NOT NULL PRIMARY KEY REFERENCES tenants (ref) ON DELETE CASCADE,
    mac TEXT NOT NULL
);
