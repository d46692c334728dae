-- What a token is good for at most, as JSON: {"scopes": ["db:connect"], "tenants": [], "roles": []}; no tenants or roles: any.
ALTER TABLE tokens ADD COLUMN limits TEXT NOT NULL DEFAULT '{"scopes":["db:connect"],"tenants":[],"roles":[]}';
ALTER TABLE tokens ADD COLUMN created_by TEXT;
ALTER TABLE tokens ADD COLUMN revoked_by TEXT;
-- The token that was made in its place.
ALTER TABLE tokens ADD COLUMN replaced_by TEXT;

-- Where each token has been used from, so that a new address is noticed. An IPv6 address counts as its /64 network.
CREATE TABLE token_addresses (
    token TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    address TEXT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (token, address)
);

INSERT INTO token_addresses (token, address, used_at)
    SELECT id, last_used_from, last_used_at FROM tokens WHERE last_used_from NOT LIKE '%:%' AND last_used_at IS NOT NULL;

-- Names a token in the trail by a keyed hash of it, also when the token is gone. Rows from before this have none, and
-- their hashes go without.
ALTER TABLE audit ADD COLUMN fingerprint TEXT;
CREATE INDEX audit_fingerprint ON audit (fingerprint, seq) WHERE fingerprint IS NOT NULL;
CREATE INDEX audit_token ON audit (token, seq) WHERE fingerprint IS NOT NULL;
