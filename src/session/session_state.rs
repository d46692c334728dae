//! Session state that outlives a transaction: noticed as it comes about, learnt before the backend is released.
//!
//! There is no SQL parser here. Command tags and ParameterStatus tell of nearly everything that is set; the text
//! of a statement is searched for the one function that sets without a tag. What exactly is set is then asked of
//! the server itself, so a rolled-back SET, a SET LOCAL or a SET inside a function need no special case.

use std::{rc::Rc, time::Duration};

use memchr::memmem;

use super::error::End;
use crate::{
    backend::ExchangeError,
    pool::{Backend, Residue},
    protocol::parameters::Settings,
};

/// How long the server may take to say what is set.
const LEARN_MAX: Duration = Duration::from_secs(5);

/// All names are qualified: the client's `search_path` must not decide what they mean.
const LEARN: &str = "SELECT name, setting FROM pg_catalog.pg_settings \
    WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) 'seed' \
    AND name OPERATOR(pg_catalog.!~~) 'transaction\\_%' \
    UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
    WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'";

/// Searches the text of a Query or Parse for what changes settings without a telling command tag.
pub(super) fn look_at_text(message: &[u8], residue: &mut Residue) {
    if memmem::find(message, b"set_config").is_some()
        || memmem::find(message, b"SET_CONFIG").is_some()
    {
        taint(residue, Residue::Settings);
    }
}

/// Looks at the command tag in the body of a CommandComplete.
pub(super) fn look_at_tag(body: &[u8], residue: &mut Residue) {
    let tag = body.split(|byte| *byte == 0).next().unwrap_or_default();
    match tag {
        b"SET" | b"RESET" | b"DISCARD ALL" | b"DO" | b"CALL" => taint(residue, Residue::Settings),
        b"LISTEN" | b"PREPARE" | b"DECLARE CURSOR" => taint(residue, Residue::State),
        _ => {}
    }
}

/// Takes a ParameterStatus: the server's view of a setting has changed.
pub(super) fn look_at_parameter(backend: &mut Backend, body: &[u8]) -> Result<(), End> {
    backend
        .connection
        .parameters
        .update(body)
        .ok_or(End::BackendMessage)?;
    taint(&mut backend.residue, Residue::Settings);
    Ok(())
}

fn taint(residue: &mut Residue, found: Residue) {
    *residue = (*residue).max(found);
}

/// Asks the server what is set and answers it as the client's settings. Of those the client began with, `initial`,
/// none is lost: RESET goes back to them, as it would on a connection of its own.
pub(super) async fn learn(backend: &mut Backend, initial: &Settings) -> Result<Rc<Settings>, End> {
    let reply = backend.connection.query(LEARN, LEARN_MAX).await?;
    if let Some(error) = reply.error {
        return Err(End::Exchange(ExchangeError::Refused(error)));
    }
    let rows = reply.rows.into_iter();
    let learnt = rows.filter_map(|row| <[Option<String>; 2]>::try_from(row).ok());
    let learnt: Settings = learnt
        .filter_map(|[name, value]| Some((name?, value?)))
        .collect();
    let begun_with = initial
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let set = learnt
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Rc::new(begun_with.chain(set).collect());
    backend.settings = Rc::new(learnt);
    if backend.residue == Residue::Settings {
        backend.residue = Residue::None;
    }
    Ok(settings)
}

/// Gives the backend the client's settings, if it has others; equal ones, the usual case, cost nothing.
pub(super) async fn apply(backend: &mut Backend, settings: &Rc<Settings>) -> Result<(), End> {
    if Rc::ptr_eq(&backend.settings, settings) || backend.settings == *settings {
        return Ok(());
    }
    let sql = settings.statements_from(&backend.settings);
    let reply = backend.connection.query(&sql, LEARN_MAX).await?;
    if let Some(error) = reply.error {
        return Err(End::Settings(error));
    }
    backend.settings = Rc::clone(settings);
    Ok(())
}
