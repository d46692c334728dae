//! What a person is told about themselves.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::values::TokenView;
use crate::{
    catalog::types::{Member, Person},
    names::{DatabaseName, RoleName, TenantRef},
};

/// Who calls, with which token.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Me {
    pub person: Person,
    pub memberships: Vec<Member>,
    pub token: TokenView,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct OwnAccess {
    pub access: Vec<Way>,
}

/// One role of one tenant that a rule lets the person use.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Way {
    pub tenant: TenantRef,
    /// The tenant's name for people.
    pub name: String,
    pub role: RoleName,
    pub database: DatabaseName,
    #[serde(flatten)]
    pub state: WayState,
    pub host: String,
    pub port: u16,
    /// For libpq and drivers that take its addresses. The token is the password.
    pub uri: String,
}

/// Whether it can be used at the moment.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum WayState {
    Open {
        #[serde(with = "time::serde::rfc3339")]
        expires_at: OffsetDateTime,
        /// Client networks that it holds in; empty: anywhere.
        #[schema(value_type = Vec<String>)]
        networks: Vec<IpNet>,
    },
    /// In spite of the rule.
    Closed { reason: String, message: String },
}
