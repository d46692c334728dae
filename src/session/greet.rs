//! The end of a login: what the client is told of the server before its first query.
//!
//! The parameters come from a backend of the client's own pool. The first client of a pool opens one; later ones
//! are told what is known, unless they bring settings whose effect only the server can tell.

use std::{collections::HashMap, rc::Rc, time::Duration};

use bytes::BytesMut;

use super::{error::End, session_state};
use crate::{
    access::Grant,
    backend::ParameterStatuses,
    pool::Pool,
    protocol::{message, parameters::Settings, startup::CancelKey},
};

/// PostgreSQL cuts an application name to this many bytes.
const APPLICATION_NAME_MAX_BYTES: usize = 63;

/// The settings a session begins with. A person's name comes before the application's: `person/application`.
pub(super) fn initial_settings(asked: &[(String, String)], grant: Option<&Grant>) -> Settings {
    let mut settings: HashMap<String, String> = asked
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    if let Some(grant) = grant {
        let application = settings.get("application_name").map_or("", String::as_str);
        let name = cut(format!("{}/{application}", grant.email()));
        settings.insert("application_name".to_owned(), name);
    }
    settings.into_iter().collect()
}

fn cut(mut text: String) -> String {
    let end = (0..=APPLICATION_NAME_MAX_BYTES.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

/// The server's parameters as a client with `settings` sees them.
pub(super) async fn parameters(
    pool: &Rc<Pool>,
    settings: &Rc<Settings>,
    patience: Duration,
) -> Result<Rc<ParameterStatuses>, End> {
    let login = pool.parameters();
    if let Some(login) = &login {
        // They may date from a time when the tenant allowed more.
        pool.allows(login)?;
    }
    if let Some(known) = pool.greeting(settings) {
        return Ok(known);
    }
    if let Some(known) = login
        && settings.iter().all(is_predictable)
    {
        let mut parameters = (*known).clone();
        for (name, value) in settings.iter() {
            parameters.overlay(name, value);
        }
        let parameters = Rc::new(parameters);
        pool.remember_prediction(settings, &parameters);
        return Ok(parameters);
    }
    let asked = session_state::with_a_living_backend(async || ask(pool, settings, patience).await);
    Box::pin(asked).await
}

/// Learns from a backend what the settings do.
async fn ask(
    pool: &Rc<Pool>,
    settings: &Rc<Settings>,
    patience: Duration,
) -> Result<Rc<ParameterStatuses>, End> {
    let mut checkout = pool.checkout(patience).await?;
    if let Err(end) = session_state::apply(checkout.backend(), settings, None).await {
        if matches!(end, End::Settings(_)) {
            checkout.release();
        }
        // Otherwise the server's answer is still to come: the checkout is dropped, its backend closed.
        return Err(end);
    }
    let parameters = Rc::new(checkout.backend().connection.parameters.clone());
    checkout.release();
    pool.remember_greeting(Rc::clone(settings), Rc::clone(&parameters));
    Ok(parameters)
}

/// Whether the server takes this setting as it is, so that nobody needs to ask it.
fn is_predictable((name, value): (&str, &str)) -> bool {
    match name {
        "application_name" => {
            value.len() <= APPLICATION_NAME_MAX_BYTES
                && value.bytes().all(|b| (32..127).contains(&b))
        }
        "client_encoding" => value == "UTF8",
        _ => false,
    }
}

/// Writes AuthenticationOk and all that follows it, up to ReadyForQuery.
pub(super) fn write(parameters: &ParameterStatuses, key: &CancelKey, out: &mut BytesMut) {
    message::authentication_ok(out);
    for (name, value) in parameters.iter() {
        message::parameter_status(name, value, out);
    }
    message::backend_key_data(key.pid, key.secret.as_bytes(), out);
    message::ready_for_query(b'I', out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_characters() {
        let long = "ä".repeat(40);
        assert_eq!(cut(long).len(), 62);
        assert_eq!(cut("short".to_owned()), "short");
    }

    #[test]
    fn only_settings_that_the_server_takes_as_they_are_are_predicted() {
        assert!(is_predictable(("application_name", "psql")));
        assert!(is_predictable(("client_encoding", "UTF8")));
        assert!(!is_predictable(("application_name", "a\u{e4}")));
        assert!(!is_predictable(("client_encoding", "utf-8")));
        assert!(!is_predictable(("search_path", "x")));
    }
}
