//! The PostgreSQL behind the demo, whoever runs it: where it is, who its superuser is, and how it is made ready.

use reqwest::Url;
use zeroize::Zeroizing;

use super::{
    folder::Secrets,
    psql::{self, Login, PsqlError},
};
use crate::catalog::types::{BackendLogin, BackendTls};

/// The database that everything happens in.
pub(super) const DATABASE: &str = "app";
/// Logs in with a password and may make tables.
pub(super) const PASSWORD_ROLE: &str = "app_user";
/// What people use with their tokens.
pub(super) const TOKEN_ROLE: &str = "app_readwrite";
/// Looks up password verifiers for the pooler.
pub(super) const AUTH_USER: &str = "sluice_auth";

const SETUP: &str = include_str!("setup.sql");
const DEFAULT_PORT: u16 = 5432;
const OLDEST_MAJOR_VERSION: u32 = 17;

#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error(
        "`{text}` is no address of a PostgreSQL server\nhint: it looks like postgresql://postgres:password@host:5432"
    )]
    Address { text: String },
    #[error(
        "the server runs PostgreSQL {version}, which is too old\nhint: token access needs 17 or newer"
    )]
    TooOld { version: String },
    #[error(transparent)]
    Psql(#[from] PsqlError),
}

#[derive(Clone)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    /// The superuser.
    pub(super) user: String,
    pub(super) password: Zeroizing<String>,
    pub(super) tls: BackendTls,
    /// PEM of the authority that vouches for the server.
    pub(super) ca: Option<String>,
    /// How token sessions log in.
    pub(super) login: BackendLogin,
    /// Connection parameters of the superuser's logins: empty, or `?` and what follows it in an address.
    parameters: String,
}

impl Server {
    /// A server of our own on this machine: it trusts our authority, so that token sessions come with certificates.
    pub(super) fn own(port: u16, password: Zeroizing<String>, ca: String) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            user: "postgres".to_owned(),
            password,
            tls: BackendTls::VerifyFull,
            ca: Some(ca),
            login: BackendLogin::Certificate,
            parameters: "?sslmode=require".to_owned(),
        }
    }

    /// The server at `address`, which knows nothing of our authority: token sessions use the role's password.
    pub(super) async fn running(address: &str) -> Result<Self, ServerError> {
        let malformed = || ServerError::Address {
            text: address.to_owned(),
        };
        let url = Url::parse(address).map_err(|_| malformed())?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(malformed());
        }
        let (url, password) = psql::part_password(url);
        let user = psql::decoded(url.username());
        let mut server = Self {
            host: url
                .host_str()
                .filter(|host| !host.is_empty())
                .ok_or_else(malformed)?
                .to_owned(),
            port: url.port().unwrap_or(DEFAULT_PORT),
            user: if user.is_empty() {
                "postgres".to_owned()
            } else {
                user
            },
            password,
            tls: BackendTls::Disable,
            ca: None,
            login: BackendLogin::RoleSecret,
            parameters: url
                .query()
                .map(|query| format!("?{query}"))
                .unwrap_or_default(),
        };
        server.look().await?;
        Ok(server)
    }

    /// Asks the server what it is.
    async fn look(&mut self) -> Result<(), ServerError> {
        let answer = self
            .superuser("postgres")
            .run("select current_setting('server_version_num')::int / 10000, current_setting('server_version'), current_setting('ssl')")
            .await?;
        let mut columns = answer.split('|');
        let major = columns
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        if major < OLDEST_MAJOR_VERSION {
            return Err(ServerError::TooOld {
                version: columns.next().unwrap_or("unknown").to_owned(),
            });
        }
        if columns.nth(1) == Some("on") {
            self.tls = BackendTls::Require;
        }
        Ok(())
    }

    /// Makes the database, roles and rights; what is there already stays.
    pub(super) async fn prepare(&self, secrets: &Secrets) -> Result<(), ServerError> {
        let token_password = match self.login {
            BackendLogin::Certificate | BackendLogin::PassThrough => "",
            BackendLogin::RoleSecret => &secrets.token_role,
        };
        let mut script = Zeroizing::new(String::new());
        for (name, value) in [
            ("database", DATABASE),
            ("password_role", PASSWORD_ROLE),
            ("password", &secrets.password_role),
            ("auth_user", AUTH_USER),
            ("auth_password", &secrets.auth_user),
            ("token_role", TOKEN_ROLE),
            ("token_password", token_password),
        ] {
            script.push_str(&format!("\\set {name} '{value}'\n"));
        }
        script.push_str(SETUP);
        self.superuser("postgres").run(&script).await?;
        Ok(())
    }

    /// The superuser's login to `database`, past the pooler.
    pub(super) fn superuser(&self, database: &str) -> Login {
        let url = format!(
            "postgresql://{}@{}:{}/{database}{}",
            psql::encoded(&self.user),
            self.host,
            self.port,
            self.parameters
        );
        Login::new(url, self.password.clone())
    }
}
