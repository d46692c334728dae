-- Who a row speaks of, as they were known when it was written: the person may be gone when it is read. Rows from
-- before this have none, and their hashes go without.
ALTER TABLE audit ADD COLUMN email TEXT;
CREATE INDEX audit_email ON audit (email, seq);
