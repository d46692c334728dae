//! Session state that outlives a transaction: noticed as it comes about, learnt before the backend is released.
//!
//! There is no SQL parser here. Command tags and ParameterStatus tell of nearly everything that is set; the text
//! of a statement is searched for the one function that sets without a tag. What exactly is set is then asked of
//! the server itself, so a rolled-back SET, a SET LOCAL or a SET inside a function need no special case.

use std::{rc::Rc, time::Duration};

use memchr::memmem;

use super::{error::End, statements::Prepared};
use crate::{
    backend::ExchangeError,
    pool::{Backend, Residue},
    protocol::{
        effect::{self, Effect},
        parameters::Settings,
    },
};

/// How long the server may take to say what is set.
const LEARN_MAX: Duration = Duration::from_secs(5);

/// All names are qualified: the client's `search_path` must not decide what they mean.
const LEARN: &str = "SELECT name, setting FROM pg_catalog.pg_settings \
    WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) \
    ALL (ARRAY['seed', 'transaction_isolation', 'transaction_read_only', 'transaction_deferrable']) \
    UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
    WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'";

/// Looks at the text of a Query or Parse, of which `bytes` have come. What has not come could be anything.
pub(super) fn look_at_text(bytes: &[u8], is_whole: bool, backend: &mut Backend) {
    look_at_effect(effect::of_text(bytes), &mut backend.residue);
    backend.own_settings.read(bytes, is_whole);
    if !is_whole {
        taint(&mut backend.residue, Residue::Settings);
    }
}

/// Notes what a statement that is about to run may leave behind.
pub(super) fn look_at_effect(effect: Effect, residue: &mut Residue) {
    match effect {
        Effect::None => {}
        Effect::Settings => taint(residue, Residue::Settings),
        Effect::State => taint(residue, Residue::State),
    }
}

/// Looks at the command tag in the body of a CommandComplete. `prepared`: the client's statements, where the pooler
/// keeps them.
pub(super) fn look_at_tag(body: &[u8], backend: &mut Backend, prepared: Option<&mut Prepared>) {
    let tag = body.split(|byte| *byte == 0).next().unwrap_or_default();
    match tag {
        b"SET" | b"RESET" => {
            backend.own_settings.set();
            taint(&mut backend.residue, Residue::Settings);
        }
        b"DISCARD ALL" | b"DEALLOCATE ALL" => {
            taint(&mut backend.residue, Residue::Settings);
            backend.known.clear();
            if let Some(prepared) = prepared {
                prepared.names.clear();
            }
        }
        // What a DO block or a procedure does inside has no tag of its own.
        b"LISTEN" | b"PREPARE" | b"DECLARE CURSOR" | b"DO" | b"CALL" => {
            taint(&mut backend.residue, Residue::State)
        }
        _ => {}
    }
}

/// Looks at an error: one of them means that the statements a backend knows have grown stale. They are prepared anew
/// then, and the client need not reconnect.
pub(super) fn look_at_error(body: &[u8], residue: &mut Residue) {
    if memmem::find(body, b"cached plan must not change result type").is_some() {
        taint(residue, Residue::State);
    }
}

/// Takes a ParameterStatus: the server's view of a setting has changed.
pub(super) fn look_at_parameter(backend: &mut Backend, body: &[u8]) -> Result<(), End> {
    backend
        .connection
        .parameters
        .update(body)
        .ok_or(End::BackendMessage)?;
    let authorization = body.starts_with(b"session_authorization\0");
    let found = if authorization {
        Residue::State
    } else {
        Residue::Settings
    };
    taint(&mut backend.residue, found);
    Ok(())
}

fn taint(residue: &mut Residue, found: Residue) {
    *residue = (*residue).max(found);
}

/// Asks the server what is set and answers it as the client's settings. Of those the client began with, `initial`,
/// none is lost: RESET goes back to them, as it would on a connection of its own.
pub(super) async fn learn(backend: &mut Backend, initial: &Settings) -> Result<Rc<Settings>, End> {
    backend.unnamed = None;
    let own_settings = std::mem::take(&mut backend.own_settings);
    let question = format!("{LEARN}{}", own_settings.question(&backend.settings));
    let reply = backend.connection.query(&question, LEARN_MAX).await?;
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
    if own_settings.is_lost() {
        taint(&mut backend.residue, Residue::State);
    } else if backend.residue == Residue::Settings {
        backend.residue = Residue::None;
    }
    Ok(settings)
}

/// Gives the backend the client's settings, if it has others; equal ones, the usual case, cost nothing.
pub(super) async fn apply(backend: &mut Backend, settings: &Rc<Settings>) -> Result<(), End> {
    if Rc::ptr_eq(&backend.settings, settings) || backend.settings == *settings {
        return Ok(());
    }
    backend.unnamed = None;
    let sql = settings.statements_from(&backend.settings);
    let reply = backend.connection.query(&sql, LEARN_MAX).await?;
    if let Some(error) = reply.error {
        return Err(End::Settings(error));
    }
    backend.settings = Rc::clone(settings);
    Ok(())
}
