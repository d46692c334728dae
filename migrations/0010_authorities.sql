-- Who decides about a tenant's tokens, as JSON: {"kind": "catalogue"}, or {"kind": "http", "url": "https://…"}.
ALTER TABLE tenants ADD COLUMN authority TEXT NOT NULL DEFAULT '{"kind":"catalogue"}';

-- What an external authority shows to revoke at once: hex HMAC-SHA-256 of the key under the pepper.
CREATE TABLE webhook_keys (
    tenant TEXT NOT NULL PRIMARY KEY REFERENCES tenants (ref) ON DELETE CASCADE,
    mac TEXT NOT NULL
);
