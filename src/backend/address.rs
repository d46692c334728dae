//! Where a server is reached.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a server was reached: its name may stand for another place by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// A Unix socket.
    File(Arc<Path>),
}

/// The Unix socket of a server whose `host` is the folder that it is in, as libpq has it; `None`: `host` is a host.
pub(super) fn socket_file(host: &str, port: u16) -> Option<Arc<Path>> {
    let folder = Path::new(host);
    let file = || PathBuf::from(folder).join(format!(".s.PGSQL.{port}"));
    folder.is_absolute().then(|| file().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_where_the_socket_is_and_anything_else_a_host() {
        for (host, file) in [
            ("/run/postgresql", Some("/run/postgresql/.s.PGSQL.5433")),
            ("/", Some("/.s.PGSQL.5433")),
            ("db.example.com", None),
            ("::1", None),
        ] {
            assert_eq!(socket_file(host, 5433).as_deref(), file.map(Path::new));
        }
    }
}
