//! Who decides about a tenant's tokens: the catalogue's own rules, or a service of the tenant's.

use std::{fmt, sync::Arc};

use jsonwebtoken::{Algorithm, jwk::JwkSet};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type},
};

use super::timeouts::TimeLimit;
use crate::names::TenantRef;

/// What answers "may this token use this role here".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Authority {
    /// The rules and tokens of the catalogue.
    #[default]
    Catalogue,
    /// Of a branch: whoever answers for its parent.
    Parent,
    /// An HTTP service; its contract is that of the Management API's authorise call.
    Http(Arc<HttpAuthority>),
    /// Whoever signs JSON Web Tokens: they prove who it is, the catalogue's rules decide.
    Jwt(Arc<JwtAuthority>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpAuthority {
    pub url: AuthorityUrl,
    /// PEM of the certificate authorities that may vouch for it; none: the usual public ones.
    #[serde(default)]
    pub ca: Option<String>,
    /// For one answer; none: as configured.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "10s")]
    pub deadline: Option<TimeLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtAuthority {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must hold.
    pub audience: String,
    /// Tokens signed in any other way are refused, whatever their header says.
    pub algorithms: Vec<JwtAlgorithm>,
    pub keys: JwtKeys,
    /// PEM of the certificate authorities that may vouch for the address of the keys; none: the usual public ones.
    #[serde(default)]
    pub ca: Option<String>,
    /// The claim that names the person: their id here, or their e-mail address.
    #[serde(default = "sub")]
    pub subject_claim: String,
}

/// Where an issuer's public keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JwtKeys {
    /// Fetched, and again when a token names a key that is not among them.
    Url(AuthorityUrl),
    #[schema(value_type = Object)]
    Jwks(JwkSet),
}

/// Signatures that can be checked with a public key. There is none here that a public key could be a secret for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum JwtAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

// By hand: a kind is one more field of an object that takes no fields but its own, which cannot be derived.
impl ToSchema for Authority {
    fn schemas(found: &mut Vec<(String, RefOr<Schema>)>) {
        HttpAuthority::schemas(found);
        JwtAuthority::schemas(found);
    }
}

impl utoipa::PartialSchema for Authority {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .description(Some("Who decides about tokens."))
            .item(of_kind("catalogue", ObjectBuilder::new().into()))
            .item(of_kind("parent", ObjectBuilder::new().into()))
            .item(of_kind(
                "http",
                <HttpAuthority as utoipa::PartialSchema>::schema(),
            ))
            .item(of_kind(
                "jwt",
                <JwtAuthority as utoipa::PartialSchema>::schema(),
            ))
            .into()
    }
}

/// `schema` with the field that tells which one it is.
fn of_kind(kind: &str, schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            let field = ObjectBuilder::new()
                .schema_type(Type::String)
                .enum_values(Some([kind]));
            object.properties.insert("kind".to_owned(), field.into());
            object.required.push("kind".to_owned());
            object.into()
        }
        other => other,
    }
}

impl From<JwtAlgorithm> for Algorithm {
    fn from(algorithm: JwtAlgorithm) -> Self {
        match algorithm {
            JwtAlgorithm::RS256 => Self::RS256,
            JwtAlgorithm::RS384 => Self::RS384,
            JwtAlgorithm::RS512 => Self::RS512,
            JwtAlgorithm::PS256 => Self::PS256,
            JwtAlgorithm::PS384 => Self::PS384,
            JwtAlgorithm::PS512 => Self::PS512,
            JwtAlgorithm::ES256 => Self::ES256,
            JwtAlgorithm::ES384 => Self::ES384,
            JwtAlgorithm::EdDSA => Self::EdDSA,
        }
    }
}

fn sub() -> String {
    "sub".to_owned()
}

/// What stands for a tenant's ref; a query keeps it as it is, in a path the braces are encoded.
const REF: &str = "{ref}";
const ENCODED_REF: &str = "%7Bref%7D";

/// An address that can be called: http or https with a host, and without credentials, which would end up in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(into = "String", try_from = "String")]
#[schema(value_type = String, format = "uri")]
pub struct AuthorityUrl(Url);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an address such as https://auth.example.com/authorise, without user name, password and fragment, and {{ref}} only behind the host"
)]
pub struct InvalidUrl;

impl AuthorityUrl {
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Where to ask about logins to `tenant`: `{ref}` in the path or query stands for its ref.
    #[must_use]
    pub fn about(&self, tenant: &TenantRef) -> Url {
        let mut url = self.0.clone();
        url.set_path(&url.path().replace(ENCODED_REF, tenant.as_str()));
        if let Some(query) = url.query().map(|query| query.replace(REF, tenant.as_str())) {
            url.set_query(Some(&query));
        }
        url
    }
}

impl TryFrom<String> for AuthorityUrl {
    type Error = InvalidUrl;

    fn try_from(text: String) -> Result<Self, InvalidUrl> {
        let url = Url::parse(&text).map_err(|_| InvalidUrl)?;
        let plain =
            url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        // What a tenant is called must not lead to another server.
        let host = url.host_str().filter(|host| !host.contains('{'));
        let callable = matches!(url.scheme(), "https" | "http") && host.is_some();
        (plain && callable).then_some(Self(url)).ok_or(InvalidUrl)
    }
}

impl From<AuthorityUrl> for String {
    fn from(url: AuthorityUrl) -> Self {
        url.to_string()
    }
}

/// As it was written.
impl fmt::Display for AuthorityUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.as_str().replace(ENCODED_REF, REF))
    }
}

impl fmt::Debug for AuthorityUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(text: &str) -> Result<Authority, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn an_authority_is_written_as_its_kind_and_what_that_needs() {
        let http =
            authority(r#"{"kind": "http", "url": "https://auth.example.com/a", "deadline": "2s"}"#);
        let written = serde_json::to_value(http.unwrap()).unwrap();
        assert_eq!(
            written,
            serde_json::json!({"kind": "http", "url": "https://auth.example.com/a", "ca": null, "deadline": "2s"})
        );
        assert_eq!(
            authority(r#"{"kind": "catalogue"}"#).unwrap(),
            Authority::Catalogue
        );
        assert_eq!(
            authority(r#"{"kind": "parent"}"#).unwrap(),
            Authority::Parent
        );
    }

    #[test]
    fn the_ref_in_an_address_is_that_of_the_tenant() {
        let demo = TenantRef::parse("demo").unwrap();
        for (text, about) in [
            ("https://a/v1/{ref}/jit", "https://a/v1/demo/jit"),
            ("https://a/?of={ref}&x=1", "https://a/?of=demo&x=1"),
            ("https://a/v1/jit", "https://a/v1/jit"),
        ] {
            let url = AuthorityUrl::try_from(text.to_owned()).unwrap();
            assert_eq!(url.to_string(), text);
            assert_eq!(url.about(&demo).as_str(), about);
        }
        assert!(AuthorityUrl::try_from("https://{ref}.example.com/".to_owned()).is_err());
    }

    #[test]
    fn what_cannot_be_called_is_no_address() {
        for url in [
            "",
            "auth.example.com",
            "ftp://a/",
            "file:///etc/passwd",
            "https://u:p@a/",
            "https://a/#x",
            "data:x",
        ] {
            assert_eq!(
                AuthorityUrl::try_from(url.to_owned()),
                Err(InvalidUrl),
                "{url}"
            );
        }
        assert!(authority(r#"{"kind": "http"}"#).is_err());
        assert!(authority(r#"{"kind": "http", "url": "https://a/", "redirects": true}"#).is_err());
    }
}
