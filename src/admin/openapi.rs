//! The API's own description: an OpenAPI document, made of the routes that are served. It is docs/openapi.json; made anew, and
//! found to be the same, in a test, so that a pooler need not know how.
//!
//! The attribute `#[utoipa::path(…)]` says what is the route's own: method, path, tag, body, query, the good answer, and
//! which refusals it has a reason for. What follows from that is added here:
//!
//! ```text
//! {segment} in the path    its parameter, from `segment`; 400
//! behind a gate            the keys that open it, the header with the administrator's name; 400, 401
//! to some keys only        403
//! any other key            401
//! query                    400
//! body                     400, 408, 413
//! may change something     500, for a call that breaks off
//! below /v1/               503, when the catalogue cannot be asked
//! refusal without a body   the body that all refusals have (`/v1/projects`: that of compatible ones)
//! ```

use utoipa::{
    PartialSchema as _, ToSchema,
    openapi::{
        Components, Content, Info, License, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Required,
        Response, Schema, SecurityRequirement, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    auth::{ACTOR_HEADER, ACTOR_MAX_BYTES, Gate, Rank},
    compatible_values::Message,
    error::Envelope,
    routes::Routes,
};
use crate::names::{InviteId, RoleName, SessionId, TenantRef, TokenId};

const ADMIN_KEY: &str = "admin_key";
const OPERATOR_KEY: &str = "operator_key";
const VIEWER_KEY: &str = "viewer_key";
const WEBHOOK_KEY: &str = "webhook_key";
const ACCESS_TOKEN: &str = "access_token";
/// The keys that routes ask for, all of them in `Authorization: Bearer`.
const KEYS: [(&str, &str); 6] = [
    (
        ADMIN_KEY,
        "The admin key of the configuration: `[admin] key_file`.",
    ),
    (
        OPERATOR_KEY,
        "The key of those who give and take access: `[admin] operator_key_file`.",
    ),
    (
        VIEWER_KEY,
        "The key of those who look: `[admin] viewer_key_file`.",
    ),
    (
        "guard_key",
        "The key of the guard beside a tenant's database: `POST /v1/tenants/{ref}/guard-key` makes it.",
    ),
    (
        WEBHOOK_KEY,
        "The key of a tenant's HTTP authority: `POST /v1/tenants/{ref}/authority/webhook-key` makes it.",
    ),
    (
        ACCESS_TOKEN,
        "A personal access token (`slp_…`) or, where the tenant trusts an issuer, a JSON Web Token.",
    ),
];

/// Routes whose refusals have a shape of their own.
const COMPATIBLE: &str = "/v1/projects/";

/// The description of all routes.
pub(super) fn document() -> OpenApi {
    let mut document = super::routes(behind).description;
    complete(&mut document);
    document
}

/// Says of `routes` that they are behind `gate`.
fn behind(gate: Gate, mut routes: Routes) -> Routes {
    let paths = &mut routes.description.paths.paths;
    for (method, operation) in paths.values_mut().flat_map(operations) {
        let mut keys = match gate.rank(method == "get") {
            Rank::Viewer => vec![ADMIN_KEY, OPERATOR_KEY, VIEWER_KEY],
            Rank::Operator => vec![ADMIN_KEY, OPERATOR_KEY],
            Rank::Admin => vec![ADMIN_KEY],
        };
        if matches!(gate, Gate::Manager) {
            keys.push(ACCESS_TOKEN);
        }
        operation.security = Some(keys.into_iter().map(requirement).collect());
    }
    routes
}

/// Adds what follows from what the routes say of themselves.
fn complete(document: &mut OpenApi) {
    document.info = Info::new("Sluice: the admin API", env!("CARGO_PKG_VERSION"));
    document.info.description = Some(env!("CARGO_PKG_DESCRIPTION").to_owned());
    document.info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    let components = document.components.get_or_insert_with(Components::new);
    for (name, description) in KEYS {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(description));
        components.add_security_scheme(name, SecurityScheme::Http(scheme.build()));
    }
    add_schema::<Envelope<'_>>(components);
    add_schema::<Message<'_>>(components);
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            complete_operation(path, method, operation);
        }
    }
}

fn add_schema<T: ToSchema>(components: &mut Components) {
    let mut parts = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut parts);
    components.schemas.extend(parts);
}

fn complete_operation(path: &str, method: &str, operation: &mut Operation) {
    operation.operation_id = Some(identifier(path, method));
    let keys = operation.security.iter().flatten();
    let is_keyed = keys.clone().next().is_some();
    let takes = |name| keys.clone().any(|key| *key == requirement(name));
    // A key of the configuration that does not open it, or somebody's token.
    let is_denied =
        takes(ADMIN_KEY) && !takes(WEBHOOK_KEY) && (takes(ACCESS_TOKEN) || !takes(VIEWER_KEY));
    // Not where the key is only sometimes needed.
    let is_administration = takes(ADMIN_KEY)
        && !keys
            .clone()
            .any(|key| *key == SecurityRequirement::default());
    let parameters = operation.parameters.get_or_insert_default();
    parameters.extend(segments(path).filter_map(|name| Some(segment(name)?.into())));
    if is_administration {
        parameters.push(actor().into());
    }
    let takes_parameters = !parameters.is_empty();
    let takes_body = operation.request_body.is_some();
    for (applies, status, description) in [
        (
            takes_parameters || takes_body,
            "400",
            "`malformed_request`: the message names the part that does not fit, and what would.",
        ),
        (
            is_keyed,
            "401",
            "The key is missing, or is not the one that this call needs.",
        ),
        (
            is_denied,
            "403",
            "`forbidden`: the key opens less, or the token is not of somebody who manages this, or not for managing.",
        ),
        (
            takes_body,
            "408",
            "`body_too_slow`: the body did not arrive in time.",
        ),
        (takes_body, "413", "`body_too_large`"),
        (
            method != "get",
            "500",
            "`internal`: a bug; whether something was changed must be looked up.",
        ),
        (
            path.starts_with("/v1/"),
            "503",
            "`catalogue_unavailable`: nothing was changed.",
        ),
    ] {
        if applies {
            let responses = &mut operation.responses.responses;
            let response = || Response::new(description).into();
            responses.entry(status.to_owned()).or_insert_with(response);
        }
    }
    let refusal = if path.starts_with(COMPATIBLE) {
        Message::name()
    } else {
        Envelope::name()
    };
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.as_str() >= "400"
            && response.content.is_empty()
        {
            let content = Content::new(Some(Ref::from_schema_name(&*refusal)));
            let kind = "application/json".to_owned();
            response.content.insert(kind, content.into());
        }
    }
}

/// A name that no other operation has: `delete_v1_tenants_ref_rules_person`.
fn identifier(path: &str, method: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    std::iter::once(method)
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem {
        get,
        put,
        post,
        patch,
        delete,
        ..
    } = item;
    let all = [
        ("get", get),
        ("put", put),
        ("post", post),
        ("patch", patch),
        ("delete", delete),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn requirement(key: &str) -> SecurityRequirement {
    SecurityRequirement::new(key, [] as [&str; 0])
}

/// The names in braces.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    let parts = path.split('/');
    parts.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// What may stand in a segment of this name, in whatever path it is.
fn segment(name: &str) -> Option<Parameter> {
    let id = "0198c0f2-5c1e-7b1c-9d57-3f5a1f0e6f10";
    let (schema, description, example) = match name {
        "ref" => (TenantRef::schema(), "The tenant.", "demo"),
        "person" => (
            text(),
            "A person's id or e-mail address.",
            "anna@example.com",
        ),
        "role" => (RoleName::schema(), "The database role.", "app_readwrite"),
        "invite" => (InviteId::schema(), "The invitation's id.", id),
        "session" => (SessionId::schema(), "The session's id.", id),
        "token" => (
            TokenId::schema(),
            "The public part of a token: its id.",
            "4fQ8zK1mT0aB",
        ),
        _ => return None,
    };
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .example(Some(example.into()))
        .schema(Some(schema));
    Some(parameter.build())
}

fn text() -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String);
    text.min_length(Some(1)).into()
}

fn actor() -> Parameter {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(ACTOR_MAX_BYTES))
        .pattern(Some("^[!-~]+$"));
    ParameterBuilder::new()
        .name(ACTOR_HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Who calls, for the audit trail: what they say, not what is proven.",
        ))
        .schema(Some(schema))
        .build()
}
