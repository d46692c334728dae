//! The ports of the demo: those asked for if they are free, else a clear word; 0 is replaced by a free one.

use std::net::{Ipv4Addr, TcpListener};

use crate::cli::DemoArgs;

#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    #[error("port {port} is taken\nhint: choose another with {flag} (0 takes a free one)")]
    Taken { port: u16, flag: &'static str },
    #[error(
        "cannot listen on port {port}: {source}\nhint: choose another with {flag} (0 takes a free one)"
    )]
    Unusable {
        port: u16,
        flag: &'static str,
        source: std::io::Error,
    },
}

/// Ports on 127.0.0.1, all different.
pub(super) struct Ports {
    pub(super) pooler: u16,
    pub(super) direct: u16,
    pub(super) admin: u16,
    /// For a PostgreSQL of our own.
    pub(super) postgres: u16,
}

impl Ports {
    /// Holds all of them at once while choosing, so that no two are the same.
    pub(super) fn choose(args: &DemoArgs) -> Result<Self, PortError> {
        let pooler = hold(args.port, "--port")?;
        let direct = hold(args.direct_port, "--direct-port")?;
        let admin = hold(args.admin_port, "--admin-port")?;
        let postgres = hold(0, "--postgres")?;
        Ok(Self {
            pooler: pooler.1,
            direct: direct.1,
            admin: admin.1,
            postgres: postgres.1,
        })
    }

    pub(super) fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }
}

fn hold(port: u16, flag: &'static str) -> Result<(TcpListener, u16), PortError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| {
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    });
    listener.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => PortError::Taken { port, flag },
        _ => PortError::Unusable { port, flag, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let (_listener, port) = hold(0, "--port").unwrap();
        let refused = hold(port, "--admin-port").unwrap_err().to_string();
        assert!(
            refused.contains(&format!("port {port} is taken")),
            "{refused}"
        );
        assert!(refused.contains("--admin-port"), "{refused}");
    }
}
