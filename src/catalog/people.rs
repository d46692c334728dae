//! People: human accounts, known by an e-mail address.

use serde_json::json;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, What,
        changes::{Effect, change_event},
        columns::{milliseconds, now, parsed, time},
        types::{AuditEvent, Person},
    },
    names::{PersonId, is_unseen, turns_text},
};

/// Longest address that mail can carry (RFC 5321, 4.5.3.1.3, without the angle brackets).
const EMAIL_MAX_BYTES: usize = 254;
/// Longest name of a person, a token or a tenant.
pub(super) const NAME_MAX_BYTES: usize = 200;

impl Catalog {
    pub async fn person(&self, person: PersonId) -> Result<Option<Person>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        find(&mut reader, person).await
    }

    /// The person with this address; upper and lower case make no difference.
    pub async fn person_by_email(&self, email: &str) -> Result<Option<Person>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        find_by_email(&mut reader, &folded_email(email)).await
    }

    /// Everybody, by address.
    pub async fn people(&self) -> Result<Vec<Person>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query("SELECT * FROM people ORDER BY email")
            .fetch_all(&mut *reader)
            .await?;
        rows.iter().map(person).collect()
    }

    /// Adds a person. The address is kept in lower case, and nobody else may have it.
    pub async fn create_person(
        &self,
        email: &str,
        name: &str,
        actor: &str,
    ) -> Result<Changed<Person>, CatalogError> {
        let new = Person {
            id: PersonId::generate(),
            email: checked_email(email)?,
            name: checked_name(name)?,
            created_at: now(),
        };
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                if find_by_email(connection, &new.email).await?.is_some() {
                    return Err(CatalogError::exists(What::Person, &new.email));
                }
                insert(connection, &new).await?;
                let event = person_event("person.created", &new, &actor);
                Ok(Effect::one(new, event))
            })
            .await
    }

    /// Removes a person with their tokens, memberships, rules and invitations. Answers who it was.
    pub async fn remove_person(
        &self,
        person: PersonId,
        actor: &str,
    ) -> Result<Changed<Person>, CatalogError> {
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                let old = require(connection, person).await?;
                // An invitation under way would bring them back.
                sqlx::query("DELETE FROM invites WHERE email = $1")
                    .bind(&old.email)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("DELETE FROM people WHERE id = $1")
                    .bind(person.to_string())
                    .execute(connection)
                    .await?;
                let event = person_event("person.removed", &old, &actor);
                Ok(Effect::one(old, event))
            })
            .await
    }
}

pub(super) async fn find(
    connection: &mut SqliteConnection,
    id: PersonId,
) -> Result<Option<Person>, CatalogError> {
    let row = sqlx::query("SELECT * FROM people WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(person).transpose()
}

pub(super) async fn require(
    connection: &mut SqliteConnection,
    id: PersonId,
) -> Result<Person, CatalogError> {
    find(connection, id)
        .await?
        .ok_or_else(|| CatalogError::missing(What::Person, id))
}

/// A name that fits on a line.
pub(super) fn checked_name(name: &str) -> Result<String, CatalogError> {
    let name = name.trim();
    let invalid = |problem| CatalogError::Invalid {
        field: "name",
        problem,
    };
    if name.is_empty() {
        return Err(invalid("must not be empty"));
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(invalid("is longer than 200 bytes"));
    }
    if name.contains(turns_text) {
        return Err(invalid("holds a control character"));
    }
    Ok(name.to_owned())
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    person: &Person,
) -> Result<(), CatalogError> {
    sqlx::query("INSERT INTO people (id, email, name, created_at) VALUES ($1, $2, $3, $4)")
        .bind(person.id.to_string())
        .bind(&person.email)
        .bind(&person.name)
        .bind(milliseconds(person.created_at))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn find_by_email(
    connection: &mut SqliteConnection,
    email: &str,
) -> Result<Option<Person>, CatalogError> {
    let row = sqlx::query("SELECT * FROM people WHERE email = $1")
        .bind(email)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(person).transpose()
}

fn person(row: &SqliteRow) -> Result<Person, CatalogError> {
    Ok(Person {
        id: parsed(row, "id")?,
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        created_at: time(row, "created_at")?,
    })
}

/// Not a grammar of addresses, only what tells one from a typing error.
pub(super) fn checked_email(email: &str) -> Result<String, CatalogError> {
    let email = email.trim();
    let plain = email.len() <= EMAIL_MAX_BYTES
        && !email.contains(|c: char| c.is_whitespace() || is_unseen(c));
    let parts: Vec<&str> = email.split('@').collect();
    if !plain || parts.len() != 2 || parts.contains(&"") {
        return Err(CatalogError::Invalid {
            field: "email",
            problem: "is not an e-mail address",
        });
    }
    Ok(folded_email(email))
}

/// An address as it is kept and compared. The case of ASCII letters alone does not count: the lower case of K, the sign of
/// kelvin, is the letter k, and an address with the one must not be taken for somebody's with the other.
#[must_use]
pub fn folded_email(text: &str) -> String {
    text.trim().to_ascii_lowercase()
}

pub(super) fn person_event(kind: &str, person: &Person, actor: &str) -> AuditEvent {
    AuditEvent {
        person: Some(person.id),
        detail: json!({ "email": person.email, "name": person.name }),
        ..change_event(kind, actor)
    }
}
