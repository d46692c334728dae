//! tokio-postgres: queries of one connection are pipelined, statements prepared under names of its own making.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _, future::try_join_all};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio_postgres::{Client, Config, Error, NoTls, config::SslMode, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{CROWD, MEGABYTE, ROUNDS, each_way};
use crate::support::{Login, login::Encryption};

/// A server, and how to encrypt where that is asked for.
#[derive(Clone)]
struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

impl Server {
    fn of(login: &Login, authority: &Path) -> Self {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(login.port)
            .password(&login.password);
        for (name, value) in &login.parameters {
            match name.as_str() {
                "user" => config.user(value),
                "database" => config.dbname(value),
                "options" => config.options(value),
                other => panic!("no place for {other}"),
            };
        }
        let tls = (login.encryption != Encryption::None).then(|| {
            config.ssl_mode(SslMode::Require);
            encryption(authority)
        });
        Self { config, tls }
    }

    async fn connect(&self) -> Client {
        match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await.unwrap();
                tokio::spawn(connection);
                client
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await.unwrap();
                tokio::spawn(connection);
                client
            }
        }
    }

    async fn crowd(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(self.connect().await);
        }
        clients
    }
}

fn encryption(authority: &Path) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    let pem = fs::read(authority).unwrap();
    roots
        .add(CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    MakeRustlsConnect::new(config)
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[track_caller]
fn assert_fails<T: std::fmt::Debug>(outcome: Result<T, Error>, code: &SqlState) {
    assert_eq!(outcome.unwrap_err().code(), Some(code));
}

async fn a_megabyte_goes_both_ways(server: &Server) {
    let client = server.connect().await;
    let long = "m".repeat(MEGABYTE);
    let bytes = vec![7_u8; MEGABYTE];
    let row = client
        .query_one("select $1::text, $2::bytea", &[&long, &bytes])
        .await
        .unwrap();
    assert!(row.get::<_, String>(0) == long);
    assert!(row.get::<_, Vec<u8>>(1) == bytes);
}

async fn prepared_statements_of_connections_interleave(server: &Server) {
    // It names them s0, s1, … on each connection, from one counter of the process.
    let clients = server.crowd(6).await;
    let mut statements = Vec::new();
    for (offset, client) in clients.iter().enumerate() {
        let sql = format!("select $1::int8 + {offset}");
        statements.push(client.prepare(&sql).await.unwrap());
    }
    for turn in 0..ROUNDS as i64 {
        for (offset, client) in clients.iter().enumerate() {
            let row = client.query_one(&statements[offset], &[&turn]).await;
            assert_eq!(row.unwrap().get::<_, i64>(0), turn + offset as i64);
            let row = client.query_one("select $1::text", &[&"shared"]).await;
            assert_eq!(row.unwrap().get::<_, &str>(0), "shared");
        }
    }
}

async fn a_crowd_shares_the_backends(server: &Server) {
    let mut clients = server.crowd(CROWD).await;
    let work = clients
        .iter_mut()
        .enumerate()
        .map(|(index, client)| async move {
            let owner = index.to_string();
            for turn in 0..ROUNDS {
                let key = (index * ROUNDS + turn) as i32;
                let transaction = client.transaction().await?;
                transaction
                    .execute(
                        "insert into items values ($1, $2, 'crowd')",
                        &[&key, &owner],
                    )
                    .await?;
                let row = transaction
                    .query_one("select count(*) from items where owner = $1", &[&owner])
                    .await?;
                assert_eq!(row.get::<_, i64>(0), turn as i64 + 1);
                transaction.commit().await?;
            }
            Ok::<_, Error>(())
        });
    try_join_all(work).await.unwrap();
    let count = number(
        &clients[0],
        "select count(*) from items where note = 'crowd'",
    )
    .await;
    assert_eq!(count, (CROWD * ROUNDS) as i64);
}

async fn answers_come_in_order(server: &Server) {
    let client = server.connect().await;
    let statement = client.prepare("select 60 / $1::int").await.unwrap();
    let asked = (0..60).map(|n| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&(n % 3)]).await }
    });
    for (n, outcome) in futures_util::future::join_all(asked)
        .await
        .iter()
        .enumerate()
    {
        match (n as i32 % 3, outcome) {
            (0, Err(error)) => assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO)),
            (divisor, Ok(row)) => assert_eq!(row.get::<_, i32>(0), 60 / divisor),
            other => panic!("{other:?}"),
        }
    }
}

async fn an_error_in_a_transaction_undoes_it(server: &Server) {
    let (mut client, other) = (server.connect().await, server.connect().await);
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("insert into items values (20000, 'undone', '')", &[])
        .await
        .unwrap();
    assert_fails(
        transaction.query("select 1 / $1::int", &[&0]).await,
        &SqlState::DIVISION_BY_ZERO,
    );
    assert_fails(
        transaction.query("select 1", &[]).await,
        &SqlState::IN_FAILED_SQL_TRANSACTION,
    );
    transaction.rollback().await.unwrap();
    let undone = "select count(*) from items where owner = 'undone'";
    assert_eq!(number(&other, undone).await, 0);
    assert_eq!(number(&client, "select 5::int8").await, 5);
}

async fn a_savepoint_outlives_an_error(server: &Server) {
    let (mut client, other) = (server.connect().await, server.connect().await);
    let insert = "insert into items values (30000, 'kept', '')";
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute(insert, &[]).await.unwrap();
    for _ in 0..3 {
        let nested = transaction.savepoint("here").await.unwrap();
        assert_fails(
            nested.execute(insert, &[]).await,
            &SqlState::UNIQUE_VIOLATION,
        );
        nested.rollback().await.unwrap();
        assert_eq!(number(&other, "select 1::int8").await, 1);
    }
    transaction.commit().await.unwrap();
    let kept = "select count(*) from items where owner = 'kept'";
    assert_eq!(number(&other, kept).await, 1);
}

async fn rows_are_copied_in_and_out(server: &Server) {
    let client = server.connect().await;
    client.execute("delete from items", &[]).await.unwrap();
    let lines: String = (0..5000)
        .map(|key| format!("{key}\tcopy\tnote\n"))
        .collect();
    for is_first in [true, false] {
        let sink = client.copy_in("copy items from stdin").await.unwrap();
        let mut sink = Box::pin(sink);
        let sent = sink.send(Bytes::from(lines.clone())).await;
        let outcome = match sent {
            Ok(()) => sink.as_mut().finish().await,
            Err(error) => Err(error),
        };
        if is_first {
            assert_eq!(outcome.unwrap(), 5000);
        } else {
            assert_fails(outcome, &SqlState::UNIQUE_VIOLATION);
        }
    }
    let rows = client
        .copy_out("copy (select * from items order by id) to stdout")
        .await
        .unwrap();
    let blocks: Vec<Bytes> = rows.try_collect().await.unwrap();
    assert!(blocks.concat() == lines.as_bytes());
}

async fn a_cancelled_query_leaves_the_connection_usable(server: &Server) {
    let (client, other) = (server.connect().await, server.connect().await);
    for _ in 0..3 {
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            match &server.tls {
                Some(tls) => client.cancel_token().cancel_query(tls.clone()).await,
                None => client.cancel_token().cancel_query(NoTls).await,
            }
        };
        let (asked, cancelled) = tokio::join!(client.query("select pg_sleep(600)", &[]), cancel);
        cancelled.unwrap();
        assert_fails(asked, &SqlState::QUERY_CANCELED);
        assert_eq!(number(&client, "select 1::int8").await, 1);
        assert_eq!(number(&other, "select 2::int8").await, 2);
    }
}

async fn settings_stay_with_their_client(server: &Server) {
    let clients = server.crowd(6).await;
    let fresh = server.connect().await;
    let default = text(&fresh, "show work_mem").await;
    for (index, client) in clients.iter().enumerate() {
        let set = format!("set work_mem = '{}MB'", index + 5);
        client.batch_execute(&set).await.unwrap();
    }
    for _ in 0..ROUNDS {
        for (index, client) in clients.iter().enumerate() {
            assert_eq!(
                text(client, "show work_mem").await,
                format!("{}MB", index + 5)
            );
        }
        assert_eq!(text(&fresh, "show work_mem").await, default);
    }
}

#[test]
fn tokio_postgres() {
    each_way(|login, authority| {
        let server = Server::of(login, authority);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            a_megabyte_goes_both_ways(&server).await;
            prepared_statements_of_connections_interleave(&server).await;
            a_crowd_shares_the_backends(&server).await;
            answers_come_in_order(&server).await;
            an_error_in_a_transaction_undoes_it(&server).await;
            a_savepoint_outlives_an_error(&server).await;
            rows_are_copied_in_and_out(&server).await;
            a_cancelled_query_leaves_the_connection_usable(&server).await;
            settings_stay_with_their_client(&server).await;
        });
    });
}
