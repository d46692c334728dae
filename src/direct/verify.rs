//! One login: what PAM hands over, what Sluice says of it, and the record that is left. Whatever fails refuses.

use std::{io::Read, net::IpAddr};

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    authority::{Authority, AuthorityError},
    process::{Process, ProcessError},
    records::{Record, RecordError, Records},
};
use crate::{
    catalog::Token,
    names::{NameError, PersonId, RoleName},
};

/// Longer than any token; what is longer is none.
const SECRET_MAX_BYTES: u64 = 1024;

/// Why somebody does not get in. No text holds any of what was typed as password.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("PAM asks for {0:?}, not for authentication")]
    Purpose(String),
    #[error("PAM names no user that a role could be: {0}")]
    Role(#[from] NameError),
    #[error("PAM names no client address: use hostssl lines, with an address")]
    Address,
    #[error("the password cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    #[error("what was typed is no token")]
    NotAToken,
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("Sluice's answer is about another role")]
    OtherRole,
    #[error("the rule has expired")]
    Expired,
    #[error("the session cannot be recorded for the guard: {0}")]
    Process(#[from] ProcessError),
    #[error("the session cannot be recorded for the guard: {0}")]
    Record(#[from] RecordError),
}

/// A login as PAM describes it in the environment of what it runs (`pam_exec(8)`).
pub struct Login {
    pub role: RoleName,
    pub from: IpAddr,
}

impl Login {
    /// Reads role and client address; refuses what is no login (`PAM_TYPE`), no role name, or comes from no address.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Refusal> {
        let value = |name: &str| variable(name).unwrap_or_default();
        let purpose = value("PAM_TYPE");
        if purpose != "auth" {
            return Err(Refusal::Purpose(purpose));
        }
        Ok(Self {
            role: RoleName::parse(&value("PAM_USER"))?,
            from: value("PAM_RHOST").parse().map_err(|_| Refusal::Address)?,
        })
    }
}

/// Reads what `pam_exec` writes with `expose_authtok`: the password, with or without a zero byte behind it.
fn read_token(input: impl Read) -> Result<Token, Refusal> {
    let mut secret = Zeroizing::new(Vec::with_capacity(SECRET_MAX_BYTES as usize));
    input
        .take(SECRET_MAX_BYTES)
        .read_to_end(&mut secret)
        .map_err(Refusal::Unreadable)?;
    let end = secret
        .iter()
        .position(|byte| matches!(byte, 0 | b'\n'))
        .unwrap_or(secret.len());
    std::str::from_utf8(&secret[..end])
        .ok()
        .and_then(Token::parse)
        .ok_or(Refusal::NotAToken)
}

/// Somebody who gets in.
pub struct Verified {
    pub person: PersonId,
    pub expires_at: Option<OffsetDateTime>,
}

/// Asks whether the token may use the role and, where a guard looks after sessions, leaves it a record.
pub async fn verify(
    authority: &Authority,
    login: &Login,
    input: impl Read,
    records: Option<&Records>,
) -> Result<Verified, Refusal> {
    // A password is not sent anywhere.
    let token = read_token(input)?;
    let allowed = authority.authorise(&token, &login.role, login.from).await?;
    if allowed.role != login.role {
        return Err(Refusal::OtherRole);
    }
    let now = OffsetDateTime::now_utc();
    if allowed
        .expires_at
        .is_some_and(|expires_at| expires_at <= now)
    {
        return Err(Refusal::Expired);
    }
    if let Some(records) = records {
        records.keep(&Record {
            backend: Process::parent()?,
            person: allowed.person,
            token: token.id().clone(),
            role: login.role.clone(),
            from: login.from,
            expires_at: allowed.expires_at,
        })?;
    }
    Ok(Verified {
        person: allowed.person,
        expires_at: allowed.expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(variables: &[(&str, &str)]) -> Result<Login, Refusal> {
        Login::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_login_needs_its_purpose_a_role_and_an_address() {
        let whole = [
            ("PAM_TYPE", "auth"),
            ("PAM_USER", "app"),
            ("PAM_RHOST", "192.0.2.7"),
        ];
        assert!(login(&whole).is_ok());
        assert!(matches!(login(&whole[1..]), Err(Refusal::Purpose(_))));
        assert!(matches!(login(&whole[..2]), Err(Refusal::Address)));
        let account = [("PAM_TYPE", "account"), whole[1], whole[2]];
        assert!(matches!(login(&account), Err(Refusal::Purpose(_))));
        let local = [whole[0], whole[1], ("PAM_RHOST", "[local]")];
        assert!(matches!(login(&local), Err(Refusal::Address)));
        let nobody = [whole[0], ("PAM_USER", ""), whole[2]];
        assert!(matches!(login(&nobody), Err(Refusal::Role(_))));
    }

    #[test]
    fn a_token_is_taken_with_or_without_an_end_and_nothing_else_is() {
        let token = Token::generate().unwrap().reveal();
        for end in ["", "\0", "\n"] {
            let text = format!("{}{end}", *token);
            let read = read_token(text.as_bytes()).unwrap();
            assert_eq!(*read.reveal(), *token);
        }
        for wrong in ["", "hunter2", &format!("{}x", *token), &"x".repeat(5000)] {
            assert!(matches!(
                read_token(wrong.as_bytes()),
                Err(Refusal::NotAToken)
            ));
        }
    }
}
