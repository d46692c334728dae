-- A tenant's own limits of time, as JSON: {"query": "30s", "idle": "off"}. What is not named is as configured.
ALTER TABLE tenants ADD COLUMN timeouts TEXT NOT NULL DEFAULT '{}';
