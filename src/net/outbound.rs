//! HTTP calls to addresses that tenants name, made so that they reach nothing but what a tenant may name.
//!
//! ```text
//! URL ──▶ https only ──▶ address literal? ─ yes ─▶ allowed? ─▶ connect ─▶ one answer, of bounded size, no redirects
//!                              └─ no ─▶ resolve ─▶ those allowed ─▶ connect to one of these, not to the name again
//! ```
//! Allowed are public addresses, and the networks that the operator has named. So a name that resolves to a private
//! address now, or a moment later, leads nowhere.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::{
    Client, RequestBuilder, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::client_tls::{ClientTlsError, parse_authorities};
use crate::config::PlainHttp;

/// Where calls may go.
#[derive(Debug, Clone)]
pub struct OutboundPolicy {
    pub plain_http: PlainHttp,
    /// Networks beside the public ones.
    pub networks: Vec<IpNet>,
}

/// Why a call came to nothing. Tells nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error(
        "{0} is not an https address; [authorities] plain_http in the configuration can allow it"
    )]
    Plain(String),
    #[error(
        "{0} is not a public address; [authorities] networks in the configuration can allow it"
    )]
    Forbidden(String),
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
    #[error("no answer: {}", chain(.0))]
    Http(reqwest::Error),
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// What came back.
pub struct Response {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

/// A client for the calls of one tenant. Its connections are kept for further calls.
pub struct Outbound {
    client: Client,
    policy: Arc<OutboundPolicy>,
}

impl Outbound {
    /// `authorities`: PEM of those who may vouch for the other side; `None`: the public ones.
    pub fn new(
        policy: Arc<OutboundPolicy>,
        authorities: Option<&str>,
    ) -> Result<Self, OutboundError> {
        let client = Client::builder()
            .use_preconfigured_tls(tls(authorities)?)
            .dns_resolver(Arc::new(Resolver(Arc::clone(&policy))))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(OutboundError::Http)?;
        Ok(Self { client, policy })
    }

    /// Sends what `request` makes of a call to `url` and reads the whole answer. Has no deadline of its own.
    pub async fn call(
        &self,
        url: &Url,
        request: impl FnOnce(&Client) -> RequestBuilder,
        answer_max_bytes: usize,
    ) -> Result<Response, OutboundError> {
        self.policy.check(url)?;
        let mut response = request(&self.client).send().await.map_err(http)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(http)? {
            if body.len() + chunk.len() > answer_max_bytes {
                return Err(OutboundError::TooLong(answer_max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response {
            status: response.status(),
            body,
        })
    }
}

impl OutboundPolicy {
    /// Whether `url` may be called, as far as that can be told without resolving its name.
    pub fn check(&self, url: &Url) -> Result<(), OutboundError> {
        if url.scheme() != "https" && self.plain_http == PlainHttp::Refuse {
            return Err(OutboundError::Plain(url.to_string()));
        }
        match literal(url) {
            Some(address) if !self.allows(address) => {
                Err(OutboundError::Forbidden(address.to_string()))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.networks.iter().any(|net| net.contains(&address))
    }
}

/// The address that stands in place of a name: those never come before the resolver.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

fn http(error: reqwest::Error) -> OutboundError {
    OutboundError::Http(error.without_url())
}

/// reqwest says where it failed; why, its sources say.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn tls(authorities: Option<&str>) -> Result<ClientConfig, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(pem) => {
            for authority in parse_authorities(pem)? {
                roots.add(authority)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Resolves a name and keeps what may be connected to: the connection is made to that, so nobody can answer
/// differently in between.
struct Resolver(Arc<OutboundPolicy>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| policy.allows(address.ip()))
                .collect();
            if allowed.is_empty() {
                let forbidden = OutboundError::Forbidden(name.as_str().to_owned());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, forbidden).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether `address` can be anybody's on the internet. From IANA's registries of special-purpose addresses; of IPv6 only
/// what is handed out (2000::/3) without what carries IPv4 addresses (Teredo, 6to4) or is for documentation.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(matches!(a, 0 | 10 | 127 | 224..)
                || (a == 100 && (64..128).contains(&b))
                || (a == 169 && b == 254)
                || (a == 172 && (16..32).contains(&b))
                || (a == 192 && matches!((b, c), (0, 0 | 2) | (88, 99) | (168, _)))
                || (a == 198 && (matches!(b, 18 | 19) || (b, c) == (51, 100)))
                || (a, b, c) == (203, 0, 113))
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            first & 0xe000 == 0x2000
                && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
                && first != 0x2002
                && first & 0xfff0 != 0x3ff0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(networks: &[&str]) -> OutboundPolicy {
        OutboundPolicy {
            plain_http: PlainHttp::Refuse,
            networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn what_is_not_on_the_internet_cannot_be_called_in_any_spelling() {
        for text in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://0.0.0.0/",
            "https://10.1.2.3/",
            "https://100.64.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://172.16.0.1/",
            "https://172.31.255.255/",
            "https://192.0.0.192/",
            "https://192.0.2.1/",
            "https://192.168.0.1/",
            "https://198.18.0.1/",
            "https://198.51.100.1/",
            "https://203.0.113.1/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::]/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://[2001::1]/",
            "https://[2001:db8::1]/",
            "https://[3fff::1]/",
            "https://[fc00::1]/",
            "https://[fd00:ec2::254]/",
            "https://[fe80::1]/",
            "https://[ff02::1]/",
        ] {
            let refused = policy(&[]).check(&url(text));
            assert!(
                matches!(refused, Err(OutboundError::Forbidden(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn public_addresses_and_names_can_be_called() {
        for text in [
            "https://1.1.1.1/",
            "https://172.32.0.1/",
            "https://192.0.1.1/",
            "https://[2606:4700::1111]/",
            "https://auth.example.com/",
        ] {
            assert!(policy(&[]).check(&url(text)).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_operator_can_allow_networks_and_plain_http() {
        let local = policy(&["127.0.0.0/8"]);
        assert!(local.check(&url("https://[::ffff:127.0.0.1]/")).is_ok());
        assert!(local.check(&url("https://10.0.0.1/")).is_err());
        let refused = local.check(&url("http://127.0.0.1/"));
        assert!(matches!(refused, Err(OutboundError::Plain(_))));
        let plain = OutboundPolicy {
            plain_http: PlainHttp::Allow,
            ..local
        };
        assert!(plain.check(&url("http://127.0.0.1/")).is_ok());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_leads_nowhere() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let outbound = Outbound::new(Arc::new(policy(&[])), None).unwrap();
        let url = url(&format!("https://localhost:{port}/"));
        let called = outbound.call(&url, |client| client.post(url.clone()), 100);
        let error = called.await.err().unwrap();
        assert!(
            error.to_string().contains("not a public address"),
            "{error}"
        );
    }
}
