//! sqlx: every query prepared and kept, a pool of its own, and a rollback of what was dropped unfinished.

use std::{path::Path, time::Duration};

use futures_util::{TryStreamExt as _, future::try_join_all};
use sqlx::{
    Connection as _, Error, Executor as _, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};

use super::{CROWD, MEGABYTE, ROUNDS, each_way};
use crate::support::{Login, login::Encryption};

fn options(login: &Login, authority: &Path) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(login.port)
        .password(&login.password);
    for (name, value) in &login.parameters {
        options = match name.as_str() {
            "user" => options.username(value),
            "database" => options.database(value),
            "options" => {
                let (name, value) = value.strip_prefix("-c ").unwrap().split_once('=').unwrap();
                options.options([(name, value)])
            }
            other => panic!("no place for {other}"),
        };
    }
    match login.encryption {
        Encryption::None => options,
        Encryption::Requested | Encryption::Direct => options
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert(authority),
    }
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    PgConnection::connect_with(options).await.unwrap()
}

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

async fn text(connection: &mut PgConnection, sql: &'static str) -> String {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[track_caller]
fn assert_fails<T: std::fmt::Debug>(outcome: Result<T, Error>, code: &str) {
    let error = outcome.unwrap_err();
    let found = error.as_database_error().and_then(|error| error.code());
    assert_eq!(found.as_deref(), Some(code), "{error}");
}

async fn a_megabyte_goes_both_ways(options: &PgConnectOptions) {
    let mut connection = connect(options).await;
    let long = "m".repeat(MEGABYTE);
    let bytes = vec![7_u8; MEGABYTE];
    let (found_long, found_bytes): (String, Vec<u8>) = sqlx::query_as("select $1::text, $2::bytea")
        .bind(&long)
        .bind(&bytes)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(found_long == long && found_bytes == bytes);
}

async fn prepared_statements_of_connections_interleave(options: &PgConnectOptions) {
    // It names them sqlx_s_1, sqlx_s_2, … on each connection.
    let mut connections = Vec::new();
    for _ in 0..6 {
        connections.push(connect(&options.clone().statement_cache_capacity(2)).await);
    }
    for turn in 0..ROUNDS as i64 {
        for (index, connection) in connections.iter_mut().enumerate() {
            // More texts than the connection keeps: the oldest is closed each time.
            for offset in [index, index + 1, index + 2] {
                let sql = format!("select $1::int8 + {offset}");
                let sum: i64 = sqlx::query_scalar(&sql)
                    .bind(turn)
                    .fetch_one(&mut *connection)
                    .await
                    .unwrap();
                assert_eq!(sum, turn + offset as i64);
            }
        }
    }
}

async fn a_crowd_shares_the_backends(options: &PgConnectOptions) {
    let pool = PgPoolOptions::new()
        .min_connections(CROWD as u32)
        .max_connections(CROWD as u32)
        .acquire_timeout(Duration::from_secs(60))
        .connect_with(options.clone())
        .await
        .unwrap();
    let work = (0..CROWD).map(|index| {
        let pool = pool.clone();
        async move {
            let mut connection = pool.acquire().await?;
            for turn in 0..ROUNDS {
                let mut transaction = connection.begin().await?;
                sqlx::query("insert into items values ($1, $2, 'crowd')")
                    .bind((index * ROUNDS + turn) as i32)
                    .bind(index.to_string())
                    .execute(&mut *transaction)
                    .await?;
                let count: i64 = sqlx::query_scalar("select count(*) from items where owner = $1")
                    .bind(index.to_string())
                    .fetch_one(&mut *transaction)
                    .await?;
                assert_eq!(count, turn as i64 + 1);
                transaction.commit().await?;
            }
            Ok::<_, Error>(())
        }
    });
    try_join_all(work).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let crowd = number(
        &mut connection,
        "select count(*) from items where note = 'crowd'",
    )
    .await;
    assert_eq!(crowd, (CROWD * ROUNDS) as i64);
    drop(connection);
    pool.close().await;
}

async fn an_error_in_a_transaction_undoes_it(options: &PgConnectOptions) {
    let (mut connection, mut other) = (connect(options).await, connect(options).await);
    for _ in 0..3 {
        // Dropped, it is rolled back before the connection's next query.
        let mut transaction = connection.begin().await.unwrap();
        transaction
            .execute("insert into items values (20000, 'undone', '')")
            .await
            .unwrap();
        let divided = sqlx::query("select 1 / $1::int").bind(0);
        assert_fails(divided.execute(&mut *transaction).await, "22012");
        assert_fails(transaction.execute("select 1").await, "25P02");
        drop(transaction);
        assert_eq!(number(&mut connection, "select 5::int8").await, 5);
        let undone = "select count(*) from items where owner = 'undone'";
        assert_eq!(number(&mut other, undone).await, 0);
    }
}

async fn a_savepoint_outlives_an_error(options: &PgConnectOptions) {
    let (mut connection, mut other) = (connect(options).await, connect(options).await);
    let insert = "insert into items values (30000, 'kept', '')";
    let mut transaction = connection.begin().await.unwrap();
    transaction.execute(insert).await.unwrap();
    for _ in 0..3 {
        let mut nested = transaction.begin().await.unwrap();
        assert_fails(nested.execute(insert).await, "23505");
        nested.rollback().await.unwrap();
        assert_eq!(number(&mut other, "select 1::int8").await, 1);
    }
    transaction.commit().await.unwrap();
    let kept = "select count(*) from items where owner = 'kept'";
    assert_eq!(number(&mut other, kept).await, 1);
}

async fn rows_are_copied_in_and_out(options: &PgConnectOptions) {
    let mut connection = connect(options).await;
    connection.execute("delete from items").await.unwrap();
    let lines: String = (0..5000)
        .map(|key| format!("{key}\tcopy\tnote\n"))
        .collect();
    for is_first in [true, false] {
        let mut sink = connection
            .copy_in_raw("copy items from stdin")
            .await
            .unwrap();
        sink.send(lines.as_bytes()).await.unwrap();
        let outcome = sink.finish().await;
        if is_first {
            assert_eq!(outcome.unwrap(), 5000);
        } else {
            assert_fails(outcome, "23505");
        }
    }
    let rows = connection
        .copy_out_raw("copy (select * from items order by id) to stdout")
        .await
        .unwrap();
    let blocks: Vec<_> = rows.try_collect().await.unwrap();
    assert!(blocks.concat() == lines.as_bytes());
}

/// sqlx has no cancel of its own; what remains is a limit of the server.
async fn a_cancelled_query_leaves_the_connection_usable(options: &PgConnectOptions) {
    let (mut connection, mut other) = (connect(options).await, connect(options).await);
    connection
        .execute("set statement_timeout = '100ms'")
        .await
        .unwrap();
    for _ in 0..3 {
        assert_fails(connection.execute("select pg_sleep(600)").await, "57014");
        assert_eq!(number(&mut connection, "select 1::int8").await, 1);
        assert_eq!(text(&mut other, "show statement_timeout").await, "0");
    }
}

async fn settings_stay_with_their_client(options: &PgConnectOptions) {
    let mut fresh = connect(options).await;
    let default = text(&mut fresh, "show work_mem").await;
    let mut connections = Vec::new();
    for index in 0..6 {
        let named = options.clone().application_name(&format!("app{index}"));
        let mut connection = connect(&named).await;
        let set = format!("set work_mem = '{}MB'", index + 5);
        connection.execute(set.as_str()).await.unwrap();
        connections.push(connection);
    }
    for _ in 0..ROUNDS {
        for (index, connection) in connections.iter_mut().enumerate() {
            assert_eq!(
                text(connection, "show work_mem").await,
                format!("{}MB", index + 5)
            );
            let name = text(connection, "show application_name").await;
            assert!(name.ends_with(&format!("app{index}")), "{name}");
        }
        assert_eq!(text(&mut fresh, "show work_mem").await, default);
    }
}

#[test]
fn sqlx() {
    each_way(|login, authority| {
        let options = options(login, authority);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            a_megabyte_goes_both_ways(&options).await;
            prepared_statements_of_connections_interleave(&options).await;
            a_crowd_shares_the_backends(&options).await;
            an_error_in_a_transaction_undoes_it(&options).await;
            a_savepoint_outlives_an_error(&options).await;
            rows_are_copied_in_and_out(&options).await;
            a_cancelled_query_leaves_the_connection_usable(&options).await;
            settings_stay_with_their_client(&options).await;
        });
    });
}
