//! The catalogue: tenants, people, members, tokens, rules and the audit trail.

pub mod types;
