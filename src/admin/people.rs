//! People. Wherever a path or a body names a person, an id and an e-mail address are both taken.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    AdminState,
    auth::Actor,
    change::harmless,
    error::ApiError,
    extract::{Body, Segments},
    routes::{Routes, routes},
    values::{Done, NewPerson, OnePerson, People, Removed},
};
use crate::{
    access::Scope,
    catalog::{Catalog, types::Person},
    names::PersonId,
};

pub(super) fn routes() -> Routes {
    routes!(list, add, show, remove)
}

/// The person with this id or e-mail address, or the refusal that says that there is none.
pub(super) async fn find(catalog: &Catalog, text: &str) -> Result<Person, ApiError> {
    let found = match text.parse::<PersonId>() {
        Ok(id) => catalog.person(id).await?,
        Err(_) => catalog.person_by_email(text).await?,
    };
    found.ok_or_else(|| {
        ApiError::missing("person", text)
            .with_hint("give an id or an e-mail address; `sluice person list` shows the people")
    })
}

/// Everybody.
#[utoipa::path(
    get, path = "/v1/people", tag = "People",
    responses((status = 200, description = "In the order of their e-mail addresses.", body = People)),
)]
async fn list(State(state): State<AdminState>) -> Result<Json<People>, ApiError> {
    let people = state.catalog.people().await?;
    Ok(Json(People { people }))
}

/// Adds a person.
#[utoipa::path(
    post, path = "/v1/people", tag = "People",
    request_body(content = NewPerson, example = json!({ "email": "erin@example.com", "name": "Erin" })),
    responses(
        (status = 201, description = "The person.", body = Done<OnePerson>),
        (status = 409, description = "`exists`: somebody has this e-mail address."),
        (status = 422, description = "`invalid`: the e-mail address or the name cannot be one."),
    ),
)]
async fn add(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Body(new): Body<NewPerson>,
) -> Result<(StatusCode, Json<Done<OnePerson>>), ApiError> {
    let name = new.name.as_deref().unwrap_or(&new.email);
    let made = state
        .catalog
        .create_person(&new.email, name, &actor)
        .await?;
    let answer = |person| OnePerson {
        person,
        memberships: Vec::new(),
    };
    Ok((StatusCode::CREATED, Json(harmless(made, answer))))
}

/// One person, with their memberships.
#[utoipa::path(
    get, path = "/v1/people/{person}", tag = "People",
    responses(
        (status = 200, description = "The person.", body = OnePerson),
        (status = 404, description = "No such person."),
    ),
)]
async fn show(
    State(state): State<AdminState>,
    Segments(person): Segments<String>,
) -> Result<Json<OnePerson>, ApiError> {
    let person = find(&state.catalog, &person).await?;
    let memberships = state.catalog.memberships(person.id).await?;
    Ok(Json(OnePerson {
        person,
        memberships,
    }))
}

/// Removes a person with all their tokens, memberships and rules.
#[utoipa::path(
    delete, path = "/v1/people/{person}", tag = "People",
    responses(
        (status = 200, description = "Their sessions are gone.", body = Done<Removed>),
        (status = 404, description = "No such person."),
    ),
)]
async fn remove(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(person): Segments<String>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let person = find(&state.catalog, &person).await?.id;
    let changed = state.catalog.remove_person(person, &actor).await?;
    let scope = Scope::Person(person);
    Ok(Json(state.enforced(changed, scope, |_| Removed {}).await))
}
