-- Invitations of people who are no members. Whoever has accepted one is a guest, until it is revoked.
CREATE TABLE invites (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (ref) ON DELETE CASCADE,
    email TEXT NOT NULL,
    -- Hex HMAC-SHA-256 of the acceptance token under the pepper.
    mac TEXT NOT NULL,
    -- What acceptance grants, as JSON: [{"role": "app", "lasts": "8h", "networks": [], "reach": "everywhere", "reason": null}].
    roles TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- Until when it can be accepted.
    expires_at BIGINT NOT NULL,
    accepted_at BIGINT,
    person TEXT REFERENCES people (id) ON DELETE CASCADE
);
CREATE INDEX invites_tenant ON invites (tenant);
CREATE INDEX invites_person ON invites (person);
CREATE INDEX invites_email ON invites (email);
