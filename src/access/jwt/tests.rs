//! Tokens of every kind of signature, and of every way to get one past us.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::jwk::Jwk;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::verify::{Claim, Flaw, header, key, verify};
use crate::catalog::types::{Authority, JwtAuthority};

const NOW: OffsetDateTime = time::macros::datetime!(2026-05-25 10:00 UTC);

/// Signs with P-256.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    fn key(&self, kid: &str) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self
            .0
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("{message}.{}", BASE64.encode(signature.as_ref()))
    }
}

fn message(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        BASE64.encode(header.to_string()),
        BASE64.encode(claims.to_string())
    )
}

fn claims() -> Value {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    json!({"iss": "https://id.example.com", "aud": "sluice", "sub": "anna@example.com", "exp": now + 600})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn authority(algorithms: Value, subject_claim: &str) -> JwtAuthority {
    let authority = serde_json::from_value(json!({
        "kind": "jwt", "issuer": "https://id.example.com", "audience": "sluice", "algorithms": algorithms,
        "keys": {"jwks": {"keys": []}}, "subject_claim": subject_claim,
    }));
    match authority.unwrap() {
        Authority::Jwt(jwt) => JwtAuthority::clone(&jwt),
        other => panic!("{other:?}"),
    }
}

fn check(token: &str, keys: &[Value], authority: &JwtAuthority) -> Result<Claim, Flaw> {
    let keys: Vec<Jwk> = keys
        .iter()
        .map(|key| serde_json::from_value(key.clone()).unwrap())
        .collect();
    let header = header(token, authority)?;
    let key = key(&header, &keys).ok_or(Flaw::Key)?;
    verify(token, &header, key, authority, OffsetDateTime::now_utc())
}

fn es256() -> JwtAuthority {
    authority(json!(["ES256"]), "sub")
}

fn head() -> Value {
    json!({"alg": "ES256", "kid": "one", "typ": "JWT"})
}

#[test]
fn a_good_token_names_its_subject_until_it_expires() {
    let issuer = Issuer::new();
    let keys = [issuer.key("one"), Issuer::new().key("two")];
    let exp = claims()["exp"].as_i64().unwrap();
    let claim = check(&issuer.sign(&head(), &claims()), &keys, &es256()).unwrap();
    assert_eq!(claim.subject, "anna@example.com");
    assert!((claim.expires_at.unix_timestamp() - exp).abs() <= 1);
    for good in [
        with(claims(), "aud", json!(["other", "sluice"])),
        with(claims(), "exp", json!(exp as f64 + 0.5)),
        with(claims(), "nbf", json!(exp - 600)),
        // Its issuer's clock may be a little ahead.
        with(claims(), "nbf", json!(exp - 600 + 20)),
        with(claims(), "scope", json!({"any": ["thing"]})),
    ] {
        assert!(
            check(&issuer.sign(&head(), &good), &keys, &es256()).is_ok(),
            "{good}"
        );
    }
    let unnamed = issuer.sign(&json!({"alg": "ES256"}), &claims());
    assert!(check(&unnamed, &keys[..1], &es256()).is_ok());
    assert_eq!(
        check(&unnamed, &keys, &es256()),
        Err(Flaw::Key),
        "which of the two?"
    );
}

#[test]
fn every_claim_counts() {
    let issuer = Issuer::new();
    let keys = [issuer.key("one")];
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for (claims, flaw) in [
        (without(claims(), "exp"), Flaw::Claims),
        (without(claims(), "iss"), Flaw::Claims),
        (without(claims(), "aud"), Flaw::Claims),
        (without(claims(), "sub"), Flaw::Subject),
        (with(claims(), "sub", json!(7)), Flaw::Subject),
        (
            with(claims(), "iss", json!("https://id.example.com/")),
            Flaw::Issuer,
        ),
        (
            with(claims(), "iss", json!("https://evil.example.com")),
            Flaw::Issuer,
        ),
        (with(claims(), "aud", json!("other")), Flaw::Audience),
        (with(claims(), "aud", json!(["other"])), Flaw::Audience),
        (with(claims(), "aud", json!([])), Flaw::Audience),
        (with(claims(), "exp", json!(now - 3600)), Flaw::Expired),
        // Leeway is for clocks that are ahead, not for a longer life.
        (with(claims(), "exp", json!(now - 5)), Flaw::Expired),
        (with(claims(), "nbf", json!(now + 120)), Flaw::Early),
    ] {
        assert_eq!(
            check(&issuer.sign(&head(), &claims), &keys, &es256()),
            Err(flaw),
            "{claims}"
        );
    }
    for (name, value) in [
        ("exp", json!((now + 600).to_string())),
        ("exp", json!(null)),
        ("exp", json!(1e300)),
        ("exp", json!(-1)),
        ("nbf", json!((now + 120).to_string())),
        ("iss", json!(null)),
        ("iss", json!(["https://id.example.com"])),
        ("aud", json!({"sluice": true})),
    ] {
        let claims = with(claims(), name, value);
        assert!(
            check(&issuer.sign(&head(), &claims), &keys, &es256()).is_err(),
            "{claims}"
        );
    }
}

#[test]
fn an_address_must_be_verified() {
    let issuer = Issuer::new();
    let by_email = authority(json!(["ES256"]), "email");
    let told = |verified: Value| {
        let claims = with(
            with(claims(), "email", json!("anna@example.com")),
            "email_verified",
            verified,
        );
        check(
            &issuer.sign(&head(), &claims),
            &[issuer.key("one")],
            &by_email,
        )
    };
    assert_eq!(told(json!(true)).unwrap().subject, "anna@example.com");
    for verified in [json!(false), json!(null), json!("true"), json!(1)] {
        assert_eq!(told(verified), Err(Flaw::Email));
    }
}

#[test]
fn how_a_token_is_signed_is_not_the_tokens_to_say() {
    let issuer = Issuer::new();
    let public = issuer.key("one");
    let keys = [public.clone()];
    let all = authority(json!(["RS256", "PS256", "ES256", "ES384", "EdDSA"]), "sub");

    // Not at all.
    for none in ["none", "None", "NONE", ""] {
        let unsigned = message(&json!({"alg": none, "kid": "one"}), &claims());
        for token in [format!("{unsigned}."), unsigned] {
            assert!(check(&token, &keys, &all).is_err(), "{token}");
        }
    }
    // With the public key as a shared secret, in every form that it is known in.
    let point = issuer.0.public_key().as_ref();
    for secret in [
        point.to_vec(),
        public.to_string().into_bytes(),
        public["x"].as_str().unwrap().into(),
    ] {
        let message = message(&json!({"alg": "HS256", "kid": "one"}), &claims());
        let signature = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, &secret),
            message.as_bytes(),
        );
        let token = format!("{message}.{}", BASE64.encode(signature.as_ref()));
        assert_eq!(check(&token, &keys, &all), Err(Flaw::Algorithm));
        // As if it were what the key is for.
        let forged = token.replacen(
            &message.split('.').next().unwrap().to_owned(),
            &BASE64.encode(head().to_string()),
            1,
        );
        assert_eq!(check(&forged, &keys, &all), Err(Flaw::Signature));
    }
    // In a way that the tenant has not named, or that the key is not for.
    assert_eq!(
        check(
            &issuer.sign(&head(), &claims()),
            &keys,
            &authority(json!(["RS256"]), "sub")
        ),
        Err(Flaw::Algorithm)
    );
    for alg in ["RS256", "PS256", "ES384", "EdDSA"] {
        let token = issuer.sign(&json!({"alg": alg, "kid": "one"}), &claims());
        assert_eq!(check(&token, &keys, &all), Err(Flaw::Key), "{alg}");
    }
    for (name, value) in [
        ("use", json!("enc")),
        ("alg", json!("ES384")),
        ("key_ops", json!(["sign"])),
    ] {
        let other = with(public.clone(), name, value);
        assert_eq!(
            check(&issuer.sign(&head(), &claims()), &[other], &all),
            Err(Flaw::Key),
            "{name}"
        );
    }
    for (name, value) in [
        ("use", json!("sig")),
        ("alg", json!("ES256")),
        ("key_ops", json!(["verify"])),
    ] {
        let same = with(public.clone(), name, value);
        assert!(
            check(&issuer.sign(&head(), &claims()), &[same], &all).is_ok(),
            "{name}"
        );
    }
}

#[test]
fn keys_that_a_token_brings_along_and_other_peoples_keys_are_nothing() {
    let issuer = Issuer::new();
    let stranger = Issuer::new();
    let keys = [issuer.key("one")];
    let foreign = stranger.sign(&head(), &claims());
    assert_eq!(check(&foreign, &keys, &es256()), Err(Flaw::Signature));
    let brought = json!({"alg": "ES256", "kid": "one", "jwk": stranger.key("one"), "jku": "https://evil.example.com/"});
    assert_eq!(
        check(&stranger.sign(&brought, &claims()), &keys, &es256()),
        Err(Flaw::Signature)
    );
    let unknown = json!({"alg": "ES256", "kid": "../../one"});
    assert_eq!(
        check(&issuer.sign(&unknown, &claims()), &keys, &es256()),
        Err(Flaw::Key)
    );
    let critical = json!({"alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false});
    assert_eq!(
        check(&issuer.sign(&critical, &claims()), &keys, &es256()),
        Err(Flaw::Critical)
    );
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "one"});
    assert_eq!(
        check(&issuer.sign(&head(), &claims()), &[secret], &es256()),
        Err(Flaw::Key)
    );
}

#[test]
fn any_changed_byte_is_noticed_and_nothing_panics() {
    let issuer = Issuer::new();
    let keys = [issuer.key("one")];
    let token = issuer.sign(&head(), &claims());
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last character of a signature of 64 bytes carries four bits that nobody reads.
        if at + 1 < token.len() {
            assert!(check(&changed, &keys, &es256()).is_err(), "byte {at}");
        }
    }
    for text in [
        "",
        ".",
        "..",
        "...",
        "eyJ",
        "eyJ..",
        "a.b.c",
        &token[..token.len() / 2],
    ] {
        assert!(check(text, &keys, &es256()).is_err(), "{text}");
    }
}

#[test]
fn ed25519_signatures_are_checked() {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
    let public = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(pair.public_key().as_ref()), "kid": "one"});
    let message = message(&json!({"alg": "EdDSA", "kid": "one"}), &claims());
    let token = |message: &str, signature: &[u8]| format!("{message}.{}", BASE64.encode(signature));
    let signature = pair.sign(message.as_bytes());
    let eddsa = authority(json!(["EdDSA"]), "sub");
    assert!(
        check(
            &token(&message, signature.as_ref()),
            std::slice::from_ref(&public),
            &eddsa
        )
        .is_ok()
    );
    assert_eq!(
        check(&token(&message, &[0; 64]), &[public], &eddsa),
        Err(Flaw::Signature)
    );
}

/// RFC 7515, A.2: its claims do not fit, but that is found only once its signature does.
#[test]
fn rsa_signatures_are_checked() {
    let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_\
        YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qC\
        o5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4\
        BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv\
        hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let key = json!({"kty": "RSA", "n": n, "e": "AQAB"});
    let rs256 = authority(json!(["RS256"]), "sub");
    let flaw = check(token, std::slice::from_ref(&key), &rs256).unwrap_err();
    assert_ne!(flaw, Flaw::Signature);
    let changed = token.replace("cC4h", "cC4i");
    assert_eq!(check(&changed, &[key], &rs256), Err(Flaw::Signature));
}

#[test]
fn a_proof_that_runs_out_in_the_next_century_is_one_all_the_same() {
    let issuer = Issuer::new();
    let far = NOW + Duration::days(36_500);
    let token = issuer.sign(&head(), &with(claims(), "exp", json!(far.unix_timestamp())));
    let claim = check(&token, &[issuer.key("one")], &es256()).unwrap();
    assert_eq!(claim.expires_at, far);
}
