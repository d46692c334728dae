//! Whether a JSON Web Token is what its issuer has signed for us. Pure.
//!
//! What a token says of itself is believed last: which signatures will do is the tenant's word, which key belongs to which
//! algorithm the key's own, and a token that asks for anything more (`crit`) is refused. `jku`, `jwk` and `x5u` are not looked at.

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::crypto;
use crate::{access::grant::InvalidToken, catalog::types::JwtAuthority};

/// How far the issuer's clock may be ahead of ours (`nbf`). A token's end is its end.
const LEEWAY_SECONDS: u64 = 30;
/// The claim that says that `email` is not merely what somebody has typed.
const EMAIL_VERIFIED: &str = "email_verified";

/// What a token has proven.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Whom it names.
    pub(super) subject: String,
    pub(super) expires_at: OffsetDateTime,
}

/// Why a token proves nothing; for those who look for the reason, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    #[error("it is no JSON Web Token")]
    Shape,
    #[error("its algorithm is not among the tenant's")]
    Algorithm,
    #[error("it asks for extensions (crit)")]
    Critical,
    #[error("no key fits it")]
    Key,
    #[error("its signature is not the key's")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    Early,
    #[error("its issuer is another one")]
    Issuer,
    #[error("its audience is another one")]
    Audience,
    #[error("a claim is missing or of the wrong type")]
    Claims,
    #[error("it names nobody")]
    Subject,
    #[error("the e-mail address that it names is not verified")]
    Email,
}

impl From<Flaw> for InvalidToken {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Expired => Self::Expired,
            _ => Self::Unknown,
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970, perhaps with a fraction.
    exp: f64,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Reads what a token says of itself, if it is signed in a way that the tenant takes.
pub(super) fn header(token: &str, authority: &JwtAuthority) -> Result<Header, Flaw> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| Flaw::Shape)?;
    let pinned = authority.algorithms.iter().copied().map(Algorithm::from);
    if !pinned.into_iter().any(|pinned| pinned == header.alg) {
        return Err(Flaw::Algorithm);
    }
    if header.crit.is_some() {
        return Err(Flaw::Critical);
    }
    Ok(header)
}

/// The key that a token names; one that names none is for the only key that fits.
pub(super) fn key<'a>(header: &Header, keys: &'a [Jwk]) -> Option<&'a Jwk> {
    let mut fitting = keys.iter().filter(|key| fits(key, header.alg));
    match &header.kid {
        Some(kid) => fitting.find(|key| key.common.key_id.as_ref() == Some(kid)),
        None => fitting.next().filter(|_| fitting.next().is_none()),
    }
}

/// Whether the key is made for signatures of this algorithm, and for nothing else.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let common = &key.common;
    let of_kind = match algorithm {
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => matches!(key.algorithm, AlgorithmParameters::RSA(_)),
        Algorithm::ES256 => is_on(key, &EllipticCurve::P256),
        Algorithm::ES384 => is_on(key, &EllipticCurve::P384),
        Algorithm::EdDSA => {
            matches!(&key.algorithm, AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519)
        }
        _ => false,
    };
    let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    let may_verify = (common.key_operations.as_ref())
        .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let named =
        (common.key_algorithm.as_ref()).is_none_or(|named| *named == KeyAlgorithm::from(algorithm));
    of_kind && for_signatures && may_verify && named
}

fn is_on(key: &Jwk, curve: &EllipticCurve) -> bool {
    matches!(&key.algorithm, AlgorithmParameters::EllipticCurve(point) if point.curve == *curve)
}

/// Checks the signature and every claim.
pub(super) fn verify(
    token: &str,
    header: &Header,
    key: &Jwk,
    authority: &JwtAuthority,
    now: OffsetDateTime,
) -> Result<Claim, Flaw> {
    crypto::install();
    let mut validation = Validation::new(header.alg);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.set_issuer(&[&authority.issuer]);
    validation.set_audience(&[&authority.audience]);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    let key = DecodingKey::from_jwk(key).map_err(|_| Flaw::Key)?;
    let decoded = decode::<Claims>(token, &key, &validation);
    let Claims { exp, others } = decoded.map_err(|error| flaw(error.kind()))?.claims;
    let expires_at = OffsetDateTime::UNIX_EPOCH
        .checked_add(time::Duration::checked_seconds_f64(exp).ok_or(Flaw::Claims)?)
        .ok_or(Flaw::Claims)?;
    if expires_at <= now {
        return Err(Flaw::Expired);
    }
    // The library takes a list of issuers, too, and looks for any that fits.
    if others.get("iss") != Some(&Value::from(authority.issuer.as_str())) {
        return Err(Flaw::Issuer);
    }
    let name = authority.subject_claim.as_str();
    let subject = others
        .get(name)
        .and_then(Value::as_str)
        .ok_or(Flaw::Subject)?;
    if name == "email" && others.get(EMAIL_VERIFIED) != Some(&Value::Bool(true)) {
        return Err(Flaw::Email);
    }
    Ok(Claim {
        subject: subject.to_owned(),
        expires_at,
    })
}

fn flaw(error: &ErrorKind) -> Flaw {
    match error {
        ErrorKind::InvalidSignature | ErrorKind::Provider(_) => Flaw::Signature,
        ErrorKind::ExpiredSignature => Flaw::Expired,
        ErrorKind::ImmatureSignature => Flaw::Early,
        ErrorKind::InvalidIssuer => Flaw::Issuer,
        ErrorKind::InvalidAudience => Flaw::Audience,
        ErrorKind::InvalidAlgorithm
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::InvalidAlgorithmName => Flaw::Algorithm,
        ErrorKind::MissingRequiredClaim(_)
        | ErrorKind::InvalidClaimFormat(_)
        | ErrorKind::InvalidSubject
        | ErrorKind::Json(_) => Flaw::Claims,
        _ => Flaw::Shape,
    }
}
