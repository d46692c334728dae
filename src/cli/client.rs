//! The admin API as the command line uses it: where it is, the key, one call, its answer.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use reqwest::{
    IntoUrl, Method, RequestBuilder, StatusCode, Url,
    header::{self, HeaderValue},
    redirect::Policy,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{error::CliError, input, output::print};
use crate::admin::{ACTOR_HEADER, is_actor};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call that ends sessions returns when they are gone; this is far beyond the longest of those.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// For an answer that is as long as what was asked for.
const COPY_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

const ADDRESS_VARIABLE: &str = "SLUICE_ADMIN_URL";
const KEY_VARIABLE: &str = "SLUICE_ADMIN_KEY";
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:6544";

/// Where the admin API is and how its answers are shown. Without `Debug`: it may hold the key.
///
/// The environment is read here, not by clap: that would list what it found there among the arguments that an
/// error says are needed.
#[derive(Args, Default)]
#[command(next_help_heading = "Admin API")]
pub struct Connection {
    #[command(flatten)]
    address: Address,

    /// The admin key, or a lesser one (an owner's or administrator's own token will do for rules, members, invitations and the
    /// switch of their tenant); better in the environment or in a file than here, where `ps` shows it [env: SLUICE_ADMIN_KEY]
    #[arg(long, global = true, value_name = "KEY", value_parser = secret)]
    admin_key: Option<Zeroizing<String>>,

    /// File that holds the admin key; goes before --admin-key
    #[arg(long, global = true, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,

    /// Print the answer as JSON, for scripts
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Where the admin API is.
#[derive(Args, Default)]
pub(super) struct Address {
    /// Address of the admin API [env: SLUICE_ADMIN_URL] [default: http://127.0.0.1:6544]
    #[arg(long, global = true, value_name = "URL", value_parser = plain_http, help_heading = "Admin API")]
    admin_url: Option<Url>,
}

impl Address {
    /// What was typed last, else what the environment says, else the default.
    pub(super) fn or(self, earlier: Self) -> Self {
        Self {
            admin_url: self.admin_url.or(earlier.admin_url),
        }
    }

    pub(super) fn resolve(
        self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Url, CliError> {
        if let Some(url) = self.admin_url {
            return Ok(url);
        }
        let text = environment(ADDRESS_VARIABLE);
        plain_http(text.as_deref().unwrap_or(DEFAULT_ADDRESS)).map_err(CliError::Address)
    }
}

pub(super) fn plain_http(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    url.filter(|url| url.scheme() == "http" && url.has_host())
        .ok_or_else(|| {
            "it must look like http://127.0.0.1:6544 (the admin API speaks plain HTTP; reach a remote one \
             through a tunnel, e.g. ssh -L 6544:127.0.0.1:6544 HOST)"
                .to_owned()
        })
}

#[allow(clippy::unnecessary_wraps)] // clap asks for a Result
fn secret(text: &str) -> Result<Zeroizing<String>, std::convert::Infallible> {
    Ok(Zeroizing::new(text.to_owned()))
}

impl Connection {
    /// What is named here, and what `earlier` on the line names beside it.
    pub(super) fn or(self, earlier: Self) -> Self {
        Self {
            address: self.address.or(earlier.address),
            admin_key: self.admin_key.or(earlier.admin_key),
            admin_key_file: self.admin_key_file.or(earlier.admin_key_file),
            json: self.json || earlier.json,
        }
    }

    pub(super) fn address(self) -> Address {
        self.address
    }

    /// Whether the admin key was named, which has no meaning for a person's own calls.
    pub(super) fn has_key(&self) -> bool {
        self.admin_key.is_some() || self.admin_key_file.is_some()
    }

    /// Whether anything was typed.
    pub(super) fn is_empty(&self) -> bool {
        self.address.admin_url.is_none()
            && self.admin_key.is_none()
            && self.admin_key_file.is_none()
            && !self.json
    }

    pub(super) fn open(
        self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Client, CliError> {
        let key = match (self.admin_key_file, self.admin_key) {
            (Some(path), _) => input::secret_file(&path)?,
            (None, Some(key)) => key,
            (None, None) => environment(KEY_VARIABLE)
                .map(Zeroizing::new)
                .ok_or(CliError::NoKey)?,
        };
        Client::new(self.address.resolve(environment)?, &key)
    }

    /// For the calls that somebody makes who has no key.
    pub(super) fn open_without_key(
        self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Client, CliError> {
        Client::of(self.address.resolve(environment)?, None)
    }
}

/// The environment of this process; a value that is empty or not text counts as none.
pub(super) fn environment(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    /// `None`: for calls that need none.
    authorization: Option<HeaderValue>,
}

impl Client {
    /// The admin API at `base`, called with `key`.
    pub(super) fn new(base: impl IntoUrl, key: &str) -> Result<Self, CliError> {
        let bearer = Zeroizing::new(format!("Bearer {}", key.trim()));
        let mut authorization =
            HeaderValue::from_str(&bearer).map_err(|_| CliError::KeyCharacters)?;
        authorization.set_sensitive(true);
        Self::of(base, Some(authorization))
    }

    fn of(base: impl IntoUrl, authorization: Option<HeaderValue>) -> Result<Self, CliError> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            // The key goes to the address that was named and nowhere else.
            .no_proxy()
            .redirect(Policy::none())
            .build()
            .map_err(CliError::Setup)?;
        Ok(Self {
            http,
            base: base.into_url().map_err(CliError::Setup)?,
            authorization,
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
    ) -> Result<Received<T>, CliError> {
        self.call(self.request(Method::GET, path)).await
    }

    /// Asks with `query` in the address; fields that are `None` are left out.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &impl Serialize,
    ) -> Result<Received<T>, CliError> {
        self.call(self.request(Method::GET, path).query(query))
            .await
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<Received<T>, CliError> {
        self.call(self.request(method, path).json(body)).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(
        &self,
        path: &[&str],
    ) -> Result<Received<T>, CliError> {
        self.call(self.request(Method::DELETE, path)).await
    }

    /// Writes the body of an answer, which may be long, to standard output as it comes.
    pub(super) async fn copy(
        &self,
        path: &[&str],
        query: &impl Serialize,
    ) -> Result<Answer, CliError> {
        let unreachable = |source: reqwest::Error| CliError::Unreachable {
            url: self.base.to_string(),
            source: source.without_url(),
        };
        let request = self.request(Method::GET, path).query(query);
        let request = request.timeout(COPY_TIMEOUT);
        let mut answer = request.send().await.map_err(unreachable)?;
        let (status, url) = (answer.status(), answer.url().to_string());
        if !status.is_success() {
            let body = answer.bytes().await.map_err(unreachable)?;
            return Err(read::<Value>(status, &body)
                .err()
                .flatten()
                .unwrap_or(CliError::Unreadable { url, status }));
        }
        while let Some(part) = answer.chunk().await.map_err(unreachable)? {
            if !print(&part)? {
                break;
            }
        }
        Ok(Answer::nothing_more())
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // An http address can always be extended; `plain_http` has let nothing else through.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http.request(method, url);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(user) = operating_user() {
            request = request.header(ACTOR_HEADER, user);
        }
        request
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<Received<T>, CliError> {
        let unreachable = |source: reqwest::Error| CliError::Unreachable {
            url: self.base.to_string(),
            source: source.without_url(),
        };
        let answer = request.send().await.map_err(unreachable)?;
        let (status, url) = (answer.status(), answer.url().to_string());
        let body = answer.bytes().await.map_err(unreachable)?;
        read(status, &body)
            .map_err(|failure| failure.unwrap_or(CliError::Unreadable { url, status }))
    }
}

/// Who runs this command, for the audit trail: by name, or by number where the environment has no usable one.
fn operating_user() -> Option<HeaderValue> {
    let named = ["USER", "LOGNAME"]
        .iter()
        .filter_map(|variable| environment(variable))
        .find(|name| is_actor(name));
    let user = named.unwrap_or_else(|| format!("uid:{}", rustix::process::getuid().as_raw()));
    HeaderValue::from_str(&user).ok()
}

/// The answer's value, or what the API said against it; `Err(None)` if it is neither.
fn read<T: DeserializeOwned>(
    status: StatusCode,
    body: &[u8],
) -> Result<Received<T>, Option<CliError>> {
    if !status.is_success() {
        let Failure { error } = serde_json::from_slice(body).map_err(|_| None)?;
        return Err(Some(CliError::Refused {
            message: error.message,
            hint: error.hint,
        }));
    }
    let json: Value = serde_json::from_slice(body).map_err(|_| None)?;
    let value = T::deserialize(&json).map_err(|_| None)?;
    Ok(Received { json, value })
}

#[derive(Deserialize)]
struct Failure {
    error: FailureText,
}

#[derive(Deserialize)]
struct FailureText {
    message: String,
    hint: Option<String>,
}

/// What the API answered, as it came and as we read it.
pub(super) struct Received<T> {
    json: Value,
    pub(super) value: T,
}

impl<T> Received<T> {
    /// The answer with the `text` that people are shown for it.
    pub(super) fn shown(self, text: impl FnOnce(&T) -> String) -> Answer {
        Answer {
            text: text(&self.value),
            json: self.json,
            verdict: Verdict::Good,
        }
    }
}

/// What a command has to say, for people and for scripts.
pub(super) struct Answer {
    pub(super) json: Value,
    pub(super) text: String,
    pub(super) verdict: Verdict,
}

impl Answer {
    /// Everything has been said already.
    pub(super) fn nothing_more() -> Self {
        Self {
            json: Value::Null,
            text: String::new(),
            verdict: Verdict::Good,
        }
    }
}

/// Whether the command found what it was to find; `Bad` makes the exit status 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Bad,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_http_address_is_taken() {
        assert!(plain_http("http://127.0.0.1:6544").is_ok());
        assert!(
            plain_http("https://pooler.example.com")
                .unwrap_err()
                .contains("ssh -L")
        );
        assert!(plain_http("127.0.0.1:6544").is_err());
    }

    #[test]
    fn a_refusal_is_told_with_its_hint() {
        let body = br#"{"error": {"code": "not_found", "message": "no tenant demo", "hint": "see tenant list"}}"#;
        let refused = read::<Value>(StatusCode::NOT_FOUND, body)
            .err()
            .flatten()
            .unwrap();
        assert_eq!(refused.to_string(), "no tenant demo\nhint: see tenant list");
        assert!(matches!(
            read::<Value>(StatusCode::BAD_GATEWAY, b"<html>").err(),
            Some(None)
        ));
    }
}
