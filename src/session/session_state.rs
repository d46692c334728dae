//! Session state that outlives a transaction: noticed as it comes about, learnt before the backend is released.
//!
//! There is no SQL parser here. Command tags and ParameterStatus tell of nearly everything that is set; the text
//! of a statement is searched for the one function that sets without a tag. What exactly is set is then asked of
//! the server itself, so a rolled-back SET, a SET LOCAL or a SET inside a function need no special case.

use std::{borrow::Cow, collections::BTreeMap, rc::Rc, time::Duration};

use tokio::time::timeout;

use super::{error::End, statements::Own};
use crate::{
    backend::{ExchangeError, Notification, Reply},
    metrics::LeakKind,
    names::RoleName,
    pool::Backend,
    protocol::{
        error::{ErrorResponse, SqlState},
        parameters::Settings,
        prepared::{NameLimits, SqlStatements, Statement},
        reading::{self, Change},
        residue::{self, Residue},
        sql,
    },
};

/// How long the server may take to say what is set.
const LEARN_MAX: Duration = Duration::from_secs(5);

/// How many backends in a row may turn out dead before anything of a client's is sent to one.
pub(super) const ATTEMPTS: usize = 3;

/// Rows of kind, name and value. All names are qualified: the client's `search_path` must not decide what they mean.
const LEARN_SETTINGS: &str = "SELECT 'settings', name, setting FROM pg_catalog.pg_settings \
    WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) \
    ALL (ARRAY['seed', 'transaction_isolation', 'transaction_read_only', 'transaction_deferrable']) \
    UNION ALL SELECT 'role', 'role', pg_catalog.current_setting('role') \
    WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'";

const LEARN_AUTHORIZATION: &str = " UNION ALL SELECT 'settings', 'session_authorization', \
    pg_catalog.current_setting('session_authorization')";

/// The one setting that may keep the server from answering, and what goes ahead of a text to lift it for that text.
const TIMEOUT: &str = "statement_timeout";
const NO_TIMEOUT: &str = "SET LOCAL statement_timeout TO 0;";

/// How often it is asked again that did not answer for that.
const ASK_AGAIN: usize = 3;

/// What is asked besides, of what may have been left behind. Locks are dear to ask for, so each has its own question.
const QUESTIONS: [(Residue, &str); 5] = [
    (
        Residue::TEMPORARY,
        " UNION ALL SELECT 'temp_table', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
        WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
        AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())",
    ),
    (
        Residue::CURSOR,
        " UNION ALL SELECT 'hold_cursor', '', '' WHERE EXISTS \
        (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)",
    ),
    (
        Residue::LOCK,
        " UNION ALL SELECT 'advisory_lock', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
        WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    ),
    (
        Residue::LISTEN,
        " UNION ALL SELECT 'listen', channel, '' FROM pg_catalog.pg_listening_channels() AS channel",
    ),
    (
        Residue::PREPARED,
        " UNION ALL SELECT 'prepared_statement', name, statement \
        FROM pg_catalog.pg_prepared_statements WHERE from_sql",
    ),
];

/// Looks at a statement's text, as far as it has come. What has not come could be anything.
pub(super) fn look_at_text(text: &[u8], is_whole: bool, backend: &mut Backend) {
    let has_set = backend.residue.contains(Residue::SETTINGS);
    note_change(reading::may_change(text, has_set), text, backend);
    backend.residue |= residue::of_text(text);
    backend.may_forget |= residue::may_forget_statements(text);
    backend.own_settings.read(text, is_whole);
    if !is_whole {
        note_change(Change::all(), text, backend);
        backend.residue |= Residue::SETTINGS;
    }
}

/// Notes what a text that is about to run may change in how the server reads those behind it.
pub(super) fn note_change(change: Change, text: &[u8], backend: &mut Backend) {
    backend.may_reread |= change.contains(Change::REPORTED);
    backend.words.note(change, text);
}

/// Notes what a prepared statement that is about to run may leave behind or change.
pub(super) fn look_at_statement(statement: &Statement, backend: &mut Backend) {
    backend.residue |= statement.residue();
    backend.may_forget |= statement.may_forget();
    note_change(statement.change(), statement.text(), backend);
    backend.own_settings.extend(statement.own_settings());
}

/// Looks at the body of a FunctionCall, as far as it has come.
pub(super) fn look_at_call(body: &[u8], backend: &mut Backend) {
    let residue = residue::of_call(body);
    if !residue.is_empty() {
        note_change(Change::all(), &[], backend);
    }
    backend.residue |= residue;
}

/// Looks at the command tag in the body of a CommandComplete. `own`: what the client has, where the pooler keeps it.
pub(super) fn look_at_tag(body: &[u8], backend: &mut Backend, mut own: Option<&mut Own<'_>>) {
    let tag = body.split(|byte| *byte == 0).next().unwrap_or_default();
    if let Some(own) = &mut own {
        own.listening.tag(tag);
    }
    backend.was_reset |= matches!(tag, b"RESET" | b"DISCARD ALL");
    let of_sql = own
        .as_ref()
        .is_some_and(|own| own.prepared.of_sql.is_some());
    backend.residue |= match tag {
        b"SET" | b"RESET" => Residue::SETTINGS,
        b"DISCARD ALL" | b"DEALLOCATE ALL" => {
            backend.known.clear();
            if let Some(own) = own {
                own.prepared.names.clear();
            }
            let mut residue = Residue::SETTINGS;
            residue.set(Residue::PREPARED, of_sql);
            residue
        }
        b"DEALLOCATE" if of_sql => Residue::PREPARED,
        b"LISTEN" => Residue::LISTEN,
        b"PREPARE" => Residue::PREPARED,
        b"DECLARE CURSOR" => Residue::CURSOR,
        // What a DO block or a procedure does inside has no tag of its own.
        b"DO" | b"CALL" => Residue::all() - Residue::DIRTY,
        _ => return,
    };
}

/// Whether an error says that the plan of a prepared statement does not fit its table any more. By the name of the
/// function that reports it: the message is translated into the server's language.
pub(super) fn is_stale_plan(body: &[u8]) -> bool {
    body.split(|byte| *byte == 0)
        .any(|field| field == b"RRevalidateCachedQuery")
}

/// Takes a ParameterStatus: the server's view of a setting has changed.
pub(super) fn look_at_parameter(backend: &mut Backend, body: &[u8]) -> Result<(), End> {
    backend
        .connection
        .parameters
        .update(body)
        .ok_or(End::BackendMessage)?;
    backend.residue |= if body.starts_with(b"session_authorization\0") {
        Residue::DIRTY
    } else {
        Residue::SETTINGS
    };
    Ok(())
}

/// What the server says of a session between two transactions.
pub(super) struct Learnt {
    pub(super) settings: Rc<Settings>,
    /// What must not reach the next client.
    pub(super) leaks: Vec<LeakKind>,
    /// The client's statements of SQL's own PREPARE; `None`: they have not changed.
    pub(super) of_sql: Option<BTreeMap<String, String>>,
    /// The channels that the backend listens to.
    pub(super) channels: Vec<String>,
    /// What it has reported meanwhile.
    pub(super) notifications: Vec<Notification>,
}

/// Asks the server what is set, and what else the client has left that `backend.residue` suspects. Of the settings
/// that the client began with, `initial`, none is lost (`role` is the one that it logged in as): RESET goes back to them, as it would on a connection of
/// its own.
pub(super) async fn learn(
    backend: &mut Backend,
    role: &RoleName,
    initial: &Settings,
) -> Result<Learnt, End> {
    backend.unnamed = None;
    let suspected = std::mem::take(&mut backend.residue);
    let own_settings = std::mem::take(&mut backend.own_settings);
    let mut sql = questions(suspected);
    let of_own = own_settings.question(&backend.settings);
    if !of_own.is_empty() {
        sql.to_mut().push_str(&of_own);
    }
    if is_another(backend, role) {
        sql.to_mut().push_str(LEARN_AUTHORIZATION);
    }
    let encoding = foreign_encoding(backend);
    if encoding.is_some() {
        sql.to_mut()
            .insert_str(0, "SET LOCAL client_encoding TO 'UTF8';");
    }
    let (reply, limit) = ask(backend, &sql).await?;
    if own_settings.is_lost() {
        backend.residue = Residue::DIRTY;
    }
    let mut set = Vec::new();
    let mut leaks = Vec::new();
    let mut channels = Vec::new();
    let mut of_sql = suspected.contains(Residue::PREPARED).then(BTreeMap::new);
    for row in reply.rows {
        let Ok([Some(kind), Some(name), Some(value)]) = <[Option<String>; 3]>::try_from(row) else {
            return Err(End::Exchange(ExchangeError::Protocol));
        };
        match LeakKind::from_word(&kind) {
            Some(LeakKind::Settings) => set.push((name, value)),
            Some(LeakKind::Role) => {
                leaks.push(LeakKind::Role);
                set.push((name, value));
            }
            Some(LeakKind::Listen) => {
                leaks.push(LeakKind::Listen);
                channels.push(name);
            }
            Some(LeakKind::PreparedStatement) => {
                leaks.push(LeakKind::PreparedStatement);
                match (sql::prepare_of(&value, &name), &mut of_sql) {
                    (Some(text), Some(of_sql)) => {
                        of_sql.insert(name, text.to_owned());
                    }
                    _ => backend.residue = Residue::DIRTY,
                }
            }
            Some(kind) => leaks.push(kind),
            None => return Err(End::Exchange(ExchangeError::Protocol)),
        }
    }
    if !leaks.iter().all(|kind| kind.follows_client()) || suspected.contains(Residue::DIRTY) {
        backend.residue = Residue::DIRTY;
    }
    // What was set for the question alone.
    for (name, own) in [("client_encoding", encoding), (TIMEOUT, limit)] {
        let asked_with = set.iter_mut().find(|(known, _)| known == name);
        if let (Some((_, value)), Some(own)) = (asked_with, own) {
            *value = own;
        }
    }
    if set
        .iter()
        .any(|(name, value)| initial.get(name) != Some(value))
    {
        leaks.push(LeakKind::Settings);
    }
    let learnt: Settings = set.into_iter().collect();
    let begun_with = initial.iter();
    let all = begun_with.chain(learnt.iter());
    let settings = Rc::new(
        all.map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    );
    backend.settings = Rc::new(learnt);
    Ok(Learnt {
        settings,
        leaks,
        of_sql,
        channels,
        notifications: reply.notifications,
    })
}

/// The server's answer to `sql`. The client may have set a `statement_timeout` that is too short for it, or cancel late,
/// what would have been its own query: then it is asked again without that limit, which is answered as well.
async fn ask(backend: &mut Backend, sql: &str) -> Result<(Reply, Option<String>), End> {
    let mut reply = backend.connection.query(sql, LEARN_MAX).await?;
    let mut attempts = 0;
    while reply.error.as_deref().is_some_and(is_cancel) && attempts < ASK_AGAIN {
        attempts += 1;
        let sql = format!("SHOW {TIMEOUT};{NO_TIMEOUT}{sql}");
        reply = backend.connection.query(&sql, LEARN_MAX).await?;
    }
    if let Some(error) = reply.error.take() {
        return Err(End::Exchange(ExchangeError::Refused(error)));
    }
    let is_told = attempts > 0 && !reply.rows.is_empty();
    let limit = is_told.then(|| reply.rows.remove(0));
    Ok((reply, limit.into_iter().flatten().flatten().next()))
}

/// Whether a query was cancelled, by a limit of time or by the client.
pub(super) fn is_cancel(error: &ErrorResponse) -> bool {
    error.code == SqlState::QUERY_CANCELED
}

/// Whether the client has become another than the `role` that logged in. Some settings are not told to that one, so
/// nobody else gets this backend before it is reset.
fn is_another(backend: &Backend, role: &RoleName) -> bool {
    let now = backend.connection.parameters.get("session_authorization");
    now.is_some_and(|now| now != role.as_str())
}

/// What the server session's text is encoded in, if not in UTF-8.
fn foreign_encoding(backend: &Backend) -> Option<String> {
    let encoding = backend.connection.parameters.get("client_encoding")?;
    (encoding != "UTF8").then(|| encoding.to_owned())
}

/// What is to be asked of the server where `suspected` may have been left behind.
fn questions(suspected: Residue) -> Cow<'static, str> {
    let mut sql = Cow::Borrowed(LEARN_SETTINGS);
    for (residue, question) in QUESTIONS {
        if suspected.contains(residue) {
            sql.to_mut().push_str(question);
        }
    }
    sql
}

/// Whether the backend has the client's settings and statements already: the usual case, which costs nothing.
pub(super) fn fits(
    backend: &Backend,
    settings: &Rc<Settings>,
    of_sql: Option<&Rc<SqlStatements>>,
) -> bool {
    Rc::ptr_eq(&backend.settings, settings)
        && SqlStatements::same(backend.sql_statements.as_ref(), of_sql)
}

/// Makes `attempt` again if the backend that it was made on turns out dead.
pub(super) async fn with_a_living_backend<T>(
    attempt: impl AsyncFn() -> Result<T, End>,
) -> Result<T, End> {
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(end) if end.is_broken_exchange() => {}
            other => return other,
        }
    }
    attempt().await
}

/// Gives the backend the client's settings and its statements of SQL's own PREPARE, if it has others.
pub(super) async fn apply(
    backend: &mut Backend,
    settings: &Rc<Settings>,
    of_sql: Option<&Rc<SqlStatements>>,
) -> Result<(), End> {
    let has_others = !SqlStatements::same(backend.sql_statements.as_ref(), of_sql);
    if has_others && let Some(others) = backend.sql_statements.take() {
        let names = others.iter().map(|(name, _)| name);
        backend
            .connection
            .close_statements(names, LEARN_MAX)
            .await?;
    }
    backend.unnamed = None;
    let sql = settings.statements_from(&backend.settings);
    if !sql.is_empty() {
        change(backend, &sql).await?;
    }
    backend.settings = Rc::clone(settings);
    if settings.get("session_authorization").is_some() {
        backend.residue |= Residue::DIRTY;
    }
    if has_others && let Some(statements) = of_sql {
        prepare(backend, statements).await?;
    }
    if backend.connection.has_more() {
        // It listens on account of somebody before, and the relay would not see what has been read already.
        return Err(End::Exchange(ExchangeError::Protocol));
    }
    Ok(())
}

async fn change(backend: &mut Backend, sql: &str) -> Result<Reply, End> {
    let mut reply = backend.connection.query(sql, LEARN_MAX).await?;
    if reply.error.as_deref().is_some_and(is_cancel) {
        // By a `statement_timeout`, of this client or of the one before.
        let sql = format!("{NO_TIMEOUT}{sql}");
        reply = backend.connection.query(&sql, LEARN_MAX).await?;
    }
    match reply.error.take() {
        Some(error) => Err(End::Settings(error)),
        None => Ok(reply),
    }
}

/// Gives a backend that is its client's own back the settings that the client began with, `initial`, as far as a RESET or
/// DISCARD ALL has taken them away: for the server they are none that a session begins with. Answers what was notified
/// meanwhile.
pub(super) async fn begin_anew(
    backend: &mut Backend,
    role: &RoleName,
    initial: &Settings,
) -> Result<Vec<Notification>, End> {
    backend.residue = Residue::SETTINGS;
    let learnt = learn(backend, role, initial).await?;
    let mut notifications = learnt.notifications;
    let sql = learnt.settings.statements_from(&backend.settings);
    if !sql.is_empty() {
        notifications.extend(change(backend, &sql).await?.notifications);
        backend.settings = learnt.settings;
    }
    while backend.connection.has_more() {
        let heard = timeout(LEARN_MAX, backend.connection.hear()).await;
        notifications.extend(heard.map_err(|_| ExchangeError::TimedOut(LEARN_MAX))??);
    }
    Ok(notifications)
}

/// Prepares a client's statements anew. One that cannot be any more (its table is gone) is left out: the client is told
/// that it does not exist, and it is tried again on the next backend.
async fn prepare(backend: &mut Backend, statements: &Rc<SqlStatements>) -> Result<(), End> {
    let mut prepared = BTreeMap::new();
    let is_ascii = statements.iter().all(|(_, text)| text.is_ascii());
    let encoding = foreign_encoding(backend).filter(|_| !is_ascii);
    if encoding.is_some() {
        set_encoding(backend, "UTF8").await?;
    }
    for (name, text) in statements.iter() {
        // In the extended protocol, which takes one statement and no more.
        let reply = backend.connection.query_with(text, &[], LEARN_MAX).await?;
        if reply.error.is_none() {
            prepared.insert(name.to_owned(), text.to_owned());
        }
    }
    if let Some(encoding) = encoding {
        set_encoding(backend, &encoding).await?;
    }
    backend.sql_statements = if prepared.len() == statements.iter().count() {
        Some(Rc::clone(statements))
    } else {
        SqlStatements::new(prepared, NameLimits::NONE)?
    };
    Ok(())
}

async fn set_encoding(backend: &mut Backend, encoding: &str) -> Result<(), End> {
    let sql = format!("SET client_encoding TO '{encoding}'");
    let reply = backend.connection.query(&sql, LEARN_MAX).await?;
    reply
        .error
        .map_or(Ok(()), |error| Err(End::Settings(error)))
}
