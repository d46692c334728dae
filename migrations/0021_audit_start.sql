-- Which row the oldest one kept follows, sealed like the head: rows up to it were let go when their time was over.
CREATE TABLE audit_start (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL,
    mac TEXT NOT NULL
);
