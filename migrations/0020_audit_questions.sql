-- "Who was in at that moment?": the starts of sessions by tenant and time, and the starts of Sluice itself, at which
-- every session before is over. Small indexes: most rows are in neither.
CREATE INDEX audit_logins ON audit (tenant, time) WHERE kind = 'auth.succeeded';
CREATE INDEX audit_starts ON audit (time) WHERE kind = 'node.started';
