//! The identities that every part of Sluice speaks of, each a type of its own.
//!
//! A name is cheap to clone (one reference count) and never mistaken for another kind of name. Names that
//! come from outside are parsed here and nowhere else.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};
use uuid::Uuid;

/// A name that does not fit its kind, with what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{kind} is empty")]
    Empty { kind: &'static str },
    #[error("{kind} is longer than {max_bytes} bytes")]
    TooLong {
        kind: &'static str,
        max_bytes: usize,
    },
    #[error("a {kind} may hold {allowed} only")]
    Character {
        kind: &'static str,
        allowed: &'static str,
    },
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $pattern:literal, $allowed:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes `text` if it is a well-formed name of this kind.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let valid: fn(char) -> bool = $valid;
                if text.is_empty() {
                    return Err(NameError::Empty { kind: $kind });
                }
                if text.len() > $max {
                    return Err(NameError::TooLong { kind: $kind, max_bytes: $max });
                }
                if !text.chars().all(valid) {
                    return Err(NameError::Character { kind: $kind, allowed: $allowed });
                }
                Ok(Self(text.into()))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ToSchema for $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some(concat!("A ", $kind, " of at most ", $max, " bytes: ", $allowed, ".")))
                    .min_length(Some(1))
                    .max_length(Some($max))
                    .pattern(Some($pattern))
                    .into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

text_name!(
    /// A tenant's short id in user names and server names: lower-case letters, digits, `-` and `_`.
    TenantRef, "tenant ref", 63, "^[a-z0-9_-]+$", "lower-case letters, digits, - and _",
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
);
text_name!(
    /// A database role's name, as PostgreSQL folds it (at most 63 bytes).
    RoleName, "role name", 63, r"^[^\x00-\x1f\x7f-\x9f]+$", "no control characters", |c| !c.is_control()
);
text_name!(
    /// A database's name (at most 63 bytes).
    DatabaseName, "database name", 63, r"^[^\x00-\x1f\x7f-\x9f]+$", "no control characters", |c| !c.is_control()
);
text_name!(
    /// The public half of a token: 12 base62 characters.
    TokenId, "token id", 12, "^[A-Za-z0-9]+$", "letters and digits", |c| c.is_ascii_alphanumeric()
);

text_name!(
    /// The first 8 bytes of a keyed hash of a token, in hexadecimal: names it and tells nothing of it.
    Fingerprint, "fingerprint", 16, "^[0-9a-f]+$", "hexadecimal digits in lower case",
    |c| c.is_ascii_digit() || ('a'..='f').contains(&c)
);

/// Whether `c` is a control character, or one of Unicode's that turn the direction or break the line of what follows: what
/// holds one can be shown as something else.
#[must_use]
pub fn turns_text(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}

/// Whether `c` is not seen at all, or [turns](turns_text) what is: two texts that differ in such can look the same.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    let unseen = matches!(c, '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}');
    unseen || turns_text(c)
}

impl DatabaseName {
    /// The database that every server has.
    #[must_use]
    pub fn postgres() -> Self {
        Self("postgres".into())
    }
}

macro_rules! uuid_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, ordered by the time of its making (UUIDv7).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_name!(
    /// A human account.
    PersonId
);
uuid_name!(
    /// One rule: member → role.
    RuleId
);
uuid_name!(
    /// One invitation of somebody who is no member.
    InviteId
);
uuid_name!(
    /// One client's life in our process.
    SessionId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_ref_takes_only_what_fits_a_host_name_label() {
        assert_eq!(TenantRef::parse("demo-1").unwrap().as_str(), "demo-1");
        assert!(matches!(TenantRef::parse(""), Err(NameError::Empty { .. })));
        assert!(matches!(
            TenantRef::parse("Demo"),
            Err(NameError::Character { .. })
        ));
        assert!(matches!(
            TenantRef::parse("a.b"),
            Err(NameError::Character { .. })
        ));
        assert!(matches!(
            TenantRef::parse(&"a".repeat(64)),
            Err(NameError::TooLong { .. })
        ));
    }
}
