//! What the demo registers through the admin API: tenants, two people, what they may do, and their tokens.
//!
//! All of it may be there from an earlier start with the same `--data`: ids stay, tokens are made anew, because
//! nobody can read an old one back.

use std::{collections::BTreeSet, iter};

use reqwest::Method;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    folder::Secrets,
    server::{AUTH_USER, DATABASE, Server, TOKEN_ROLE},
};
use crate::{
    admin::values::{
        Done, IssuedToken, MemberTerms, NewPerson, OneMember, OnePerson, OneRule, OneTenant,
        People, RuleTerms, SecretText, TenantFields, Tenants, TokenTerms, Tokens,
    },
    catalog::types::{BackendLogin, MemberKind, Person, TokenAccess},
    cli::{client::Client, error::CliError},
    names::{DatabaseName, NameError, RoleName, TenantRef},
};

/// The first tenant; further ones are called `demo-1`, `demo-2`…
pub(super) const TENANT: &str = "demo";
const EMAILS: [&str; 2] = ["first@example.com", "second@example.com"];
const TOKEN_NAME: &str = "sluice demo";
const LIFETIME: &str = "24h";

#[derive(Debug, thiserror::Error)]
pub(super) enum PeopleError {
    #[error(transparent)]
    Admin(#[from] CliError),
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Who may log in now, and with what.
pub(super) struct Registration {
    pub(super) holders: Vec<Holder>,
}

/// A person and the token made for this start.
pub(super) struct Holder {
    pub(super) person: Person,
    pub(super) token: Zeroizing<String>,
}

impl Registration {
    pub(super) async fn make(
        client: &Client,
        server: &Server,
        secrets: &Secrets,
        more_tenants: u32,
    ) -> Result<Self, PeopleError> {
        let known = client.get::<People>(&["v1", "people"]).await?.value.people;
        let mut people = Vec::new();
        for email in EMAILS {
            people.push(person(client, &known, email).await?);
        }

        let known = client
            .get::<Tenants>(&["v1", "tenants"])
            .await?
            .value
            .tenants;
        let names = (1..=more_tenants).map(|number| format!("{TENANT}-{number}"));
        for name in iter::once(TENANT.to_owned()).chain(names) {
            let tenant = TenantRef::parse(&name)?;
            let there = known.iter().any(|known| known.tenant == tenant);
            register(client, server, secrets, &tenant, there).await?;
            for person in &people {
                admit(client, &tenant, person).await?;
            }
        }

        let mut holders = Vec::new();
        for person in people {
            holders.push(Holder::new(client, person).await?);
        }
        Ok(Self { holders })
    }
}

impl Holder {
    async fn new(client: &Client, person: Person) -> Result<Self, PeopleError> {
        let id = person.id.to_string();
        let tokens = ["v1", "people", &id, "tokens"];
        let old = client.get::<Tokens>(&tokens).await?.value.tokens;
        for token in old
            .iter()
            .map(|token| &token.record)
            .filter(|token| token.name == TOKEN_NAME && token.revoked_at.is_none())
        {
            client
                .delete::<Done<Value>>(&["v1", "tokens", token.id.as_str()])
                .await?;
        }
        let terms = TokenTerms {
            name: TOKEN_NAME.to_owned(),
            expires: LIFETIME.to_owned(),
            scopes: None,
            tenants: BTreeSet::new(),
            roles: BTreeSet::new(),
        };
        let issued = client
            .send::<Done<IssuedToken>>(Method::POST, &tokens, &terms)
            .await?;
        Ok(Self {
            person,
            token: issued.value.value.secret,
        })
    }
}

async fn person(client: &Client, known: &[Person], email: &str) -> Result<Person, CliError> {
    if let Some(person) = known.iter().find(|person| person.email == email) {
        return Ok(person.clone());
    }
    let new = NewPerson {
        email: email.to_owned(),
        name: None,
    };
    let made = client
        .send::<Done<OnePerson>>(Method::POST, &["v1", "people"], &new)
        .await?;
    Ok(made.value.value.person)
}

/// Makes the tenant, or tells one that is there already where its server is now.
async fn register(
    client: &Client,
    server: &Server,
    secrets: &Secrets,
    tenant: &TenantRef,
    there: bool,
) -> Result<(), PeopleError> {
    let mut fields = TenantFields {
        host: Some(server.host.clone()),
        port: Some(server.port),
        default_database: Some(Some(DatabaseName::parse(DATABASE)?)),
        backend_tls: Some(server.tls),
        backend_ca: Some(server.ca.clone()),
        login: Some(server.login),
        auth_user: Some(Some(RoleName::parse(AUTH_USER)?)),
        token_access: Some(TokenAccess::Enabled),
        ..TenantFields::default()
    };
    if there {
        let path = ["v1", "tenants", tenant.as_str()];
        client
            .send::<Done<OneTenant>>(Method::PATCH, &path, &fields)
            .await?;
    } else {
        fields.tenant = Some(tenant.clone());
        client
            .send::<Done<OneTenant>>(Method::POST, &["v1", "tenants"], &fields)
            .await?;
    }
    keep_secret(client, tenant, AUTH_USER, &secrets.auth_user).await?;
    if server.login == BackendLogin::RoleSecret {
        keep_secret(client, tenant, TOKEN_ROLE, &secrets.token_role).await?;
    }
    Ok(())
}

async fn keep_secret(
    client: &Client,
    tenant: &TenantRef,
    role: &str,
    password: &Zeroizing<String>,
) -> Result<(), CliError> {
    let path = ["v1", "tenants", tenant.as_str(), "roles", role, "secret"];
    let secret = SecretText::Password(password.clone());
    client
        .send::<Done<Value>>(Method::PUT, &path, &secret)
        .await?;
    Ok(())
}

/// Makes the person a member who may use the token role for a day.
async fn admit(client: &Client, tenant: &TenantRef, person: &Person) -> Result<(), CliError> {
    let id = person.id.to_string();
    let membership = ["v1", "tenants", tenant.as_str(), "members", &id];
    let terms = MemberTerms {
        kind: MemberKind::Member,
    };
    client
        .send::<Done<OneMember>>(Method::PUT, &membership, &terms)
        .await?;
    let rule = ["v1", "tenants", tenant.as_str(), "rules", &id, TOKEN_ROLE];
    let terms = RuleTerms {
        expires: Some(LIFETIME.to_owned()),
        ..RuleTerms::default()
    };
    client
        .send::<Done<OneRule>>(Method::PUT, &rule, &terms)
        .await?;
    Ok(())
}
