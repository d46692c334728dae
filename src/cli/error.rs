//! Why a command did not work, in words that say what to do.

use std::{error::Error as _, io, path::PathBuf};

use reqwest::StatusCode;

use crate::names::NameError;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(
        "no admin key given\nhint: set SLUICE_ADMIN_KEY, or name the file that holds the key with --admin-key-file"
    )]
    NoKey,
    #[error(
        "no token given\nhint: set SLUICE_TOKEN, or name the file that holds your token with --token-file"
    )]
    NoToken,
    #[error(
        "this is not a token\nhint: it begins with slp_ and has 65 characters; check that all of it was copied"
    )]
    NotAToken,
    #[error(
        "none of your rules is about {0} at the moment\nhint: `sluice connect` lists what you may reach"
    )]
    NoWay(String),
    #[error(
        "you may use several roles of {tenant}: {roles}\nhint: name one of them after the tenant"
    )]
    SeveralRoles { tenant: String, roles: String },
    #[error("you may not use {place} at the moment: {message}")]
    WayClosed { place: String, message: String },
    #[error("cannot start {program}: {source}")]
    Program { program: String, source: io::Error },
    #[error("SLUICE_ADMIN_URL: {0}")]
    Address(String),
    #[error(
        "the admin key may hold visible ASCII characters only\nhint: check that the right file was named"
    )]
    KeyCharacters,
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is empty", path.display())]
    EmptyFile { path: PathBuf },
    #[error(
        "{} is no JSON Web Key Set\nhint: it looks like {{\"keys\": [{{\"kty\": …}}]}}",
        path.display()
    )]
    NotAKeySet { path: PathBuf },
    #[error(
        "this is not the id of a token\nhint: give the 12 characters after slp_; `sluice token list PERSON` shows them"
    )]
    NotATokenId,
    #[error("nothing to change\nhint: name at least one option; --help lists them")]
    NothingToChange,
    #[error(
        "cannot reach the admin API at {url}: {}\nhint: is `sluice serve` running there? Another address is named with --admin-url",
        root_cause(source)
    )]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{message}{}", hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
    Refused {
        message: String,
        hint: Option<String>,
    },
    #[error(
        "{url} answered {status}, but not as the admin API of this version does\nhint: check --admin-url, and that both sides are the same version of sluice"
    )]
    Unreadable { url: String, status: StatusCode },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0}")]
    Guard(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    #[error("cannot set up the HTTP client: {0}")]
    Setup(#[source] reqwest::Error),
}

/// The innermost cause: `Connection refused` rather than three layers of "error sending request".
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause = error.source();
    let mut text = error.to_string();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text
}
