-- Every row costs an entry in each index, so it is in no index that cannot find it: `seq` is the row's own number now, not an
-- index beside it, and rows that speak of no person (the logins with passwords) are in none by person. Rows stay as they are.
CREATE TABLE audit_rows (
    seq INTEGER NOT NULL PRIMARY KEY,
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
    hash TEXT NOT NULL,
    email TEXT,
    fingerprint TEXT
);
INSERT INTO audit_rows SELECT * FROM audit ORDER BY seq;
DROP TABLE audit;
ALTER TABLE audit_rows RENAME TO audit;

CREATE INDEX audit_tenant ON audit (tenant, seq);
CREATE INDEX audit_person ON audit (person, seq) WHERE person IS NOT NULL;
CREATE INDEX audit_email ON audit (email, seq) WHERE email IS NOT NULL;
CREATE INDEX audit_session ON audit (session) WHERE session IS NOT NULL;
CREATE INDEX audit_fingerprint ON audit (fingerprint, seq) WHERE fingerprint IS NOT NULL;
CREATE INDEX audit_token ON audit (token, seq) WHERE fingerprint IS NOT NULL;
CREATE INDEX audit_logins ON audit (tenant, time) WHERE kind = 'auth.succeeded';
CREATE INDEX audit_starts ON audit (time) WHERE kind = 'node.started';
