//! Opening the SQLite file: is it there, is it ours, is it of this version, and is this its key?

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::catalog::{audit, columns, error::CatalogError, keys::Keys, lock::Lock};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections that only read; a read takes well under a millisecond.
const READERS_MAX: u32 = 4;
/// Somebody may write to the file by hand.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const READER_WAIT_MAX: Duration = Duration::from_secs(5);

/// The low byte of SQLite's result code for "file is not a database".
const SQLITE_NOTADB: i32 = 26;

pub(super) struct Opened {
    pub(super) readers: SqlitePool,
    pub(super) writer: WriterConnection,
}

/// The one connection that writes, and how to open it again should its thread die.
pub(super) struct WriterConnection {
    pub(super) connection: SqliteConnection,
    options: SqliteConnectOptions,
    _lock: Lock,
}

pub(super) async fn open(path: &Path, keys: &Keys) -> Result<Opened, CatalogError> {
    ensure_file(path)?;
    refuse_foreign(path).await?;
    // Before anything is written: another version may be serving from it.
    let lock = Lock::take(path)?;
    let options = writer_options(path);
    let mut connection = options
        .connect()
        .await
        .map_err(|error| unusable(path, error))?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|error| migration_failed(path, error))?;
    ensure_key(&mut connection, path, keys).await?;
    Ok(Opened {
        readers: readers(path),
        writer: WriterConnection {
            connection,
            options,
            _lock: lock,
        },
    })
}

impl WriterConnection {
    /// Connects again if the connection no longer answers, or if a transaction is left on it: SQLite ends one
    /// by itself when the disk fails, and sqlx then goes on counting it.
    pub(super) async fn ensure_usable(&mut self) -> Result<(), CatalogError> {
        let answers = self.connection.ping().await.is_ok();
        if !answers || self.connection.is_in_transaction() {
            tracing::warn!("the catalogue's writing connection is unusable; opening another");
            self.connection = self.options.connect().await?;
        }
        Ok(())
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        // In KiB. By default each connection keeps 2 MiB of pages, which the system has as well.
        .pragma("cache_size", "-512")
        .disable_statement_logging()
}

fn writer_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        .journal_mode(SqliteJournalMode::Wal)
        // What an insert of many rows could have to undo is small; by default it is a file, made and removed each time.
        .pragma("temp_store", "memory")
        // A revocation or an audit row that was confirmed must survive a power cut.
        .synchronous(SqliteSynchronous::Full)
}

/// Nothing in this pool may depend on the runtime that opened it: no idle timeout, lifetime or minimum, for
/// which sqlx would spawn a task there.
fn readers(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .min_connections(0)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(true)
        // A transaction left open would go on showing the past, revoked rules included.
        .before_acquire(|connection, _| {
            let clean = !connection.is_in_transaction();
            Box::pin(async move { Ok(clean) })
        })
        .acquire_timeout(READER_WAIT_MAX)
        .connect_lazy_with(options(path).pragma("query_only", "on"))
}

/// Makes the file before SQLite does, so that nobody but its owner can read it (SQLite gives the files
/// beside it the same mode), and so that trouble is told in terms of the file.
fn ensure_file(path: &Path) -> Result<(), CatalogError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(CatalogError::FolderMissing {
            folder: folder.to_owned(),
        });
    }
    if path.is_dir() {
        return Err(CatalogError::NotACatalogue {
            path: path.to_owned(),
        });
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| inaccessible(path, source))
}

/// A database that has tables, but not ours, belongs to someone else. Looked at over a connection of its own,
/// which leaves the file as it is.
async fn refuse_foreign(path: &Path) -> Result<(), CatalogError> {
    let (tables, ours) = count_tables(path)
        .await
        .map_err(|error| unusable(path, error))?;
    if tables > 0 && ours == 0 {
        return Err(CatalogError::NotACatalogue {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// How many tables there are, and whether one of them is the list of migrations.
async fn count_tables(path: &Path) -> Result<(i64, i64), sqlx::Error> {
    let mut connection = options(path).connect().await?;
    let counts = sqlx::query_as(
        "SELECT COUNT(*), COUNT(CASE name WHEN '_sqlx_migrations' THEN 1 END) \
         FROM sqlite_master WHERE type = 'table'",
    )
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    Ok(counts)
}

/// Compares the stored key check with ours; a catalogue that is new gets one, and the start of its trail.
async fn ensure_key(
    connection: &mut SqliteConnection,
    path: &Path,
    keys: &Keys,
) -> Result<(), CatalogError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let row = sqlx::query("SELECT key_check FROM catalogue WHERE id = 1")
        .fetch_optional(&mut *transaction)
        .await?;
    match row {
        Some(row) => {
            if !keys.is_check(&columns::digest(&row, "key_check")?) {
                return Err(CatalogError::WrongMasterKey {
                    path: path.to_owned(),
                });
            }
        }
        None => {
            refuse_headless(&mut transaction).await?;
            sqlx::query("INSERT INTO catalogue (id, revision, key_check) VALUES (1, 0, $1)")
                .bind(columns::hex(keys.check()))
                .execute(&mut *transaction)
                .await?;
            audit::begin_trail(&mut transaction, keys).await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Without its key check, a catalogue with content is damaged, not new.
async fn refuse_headless(connection: &mut SqliteConnection) -> Result<(), CatalogError> {
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM tenants) + (SELECT COUNT(*) FROM people) \
         + (SELECT COUNT(*) FROM audit) AS content",
    )
    .fetch_one(connection)
    .await?;
    match row.try_get::<i64, _>("content")? {
        0 => Ok(()),
        _ => Err(CatalogError::Corrupt {
            column: "key_check",
        }),
    }
}

fn unusable(path: &Path, error: sqlx::Error) -> CatalogError {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok());
    match code.map(|code| code & 0xff) {
        Some(SQLITE_NOTADB) => CatalogError::NotACatalogue {
            path: path.to_owned(),
        },
        Some(_) => inaccessible(path, io::Error::other(error)),
        None => CatalogError::Storage(error),
    }
}

fn inaccessible(path: &Path, source: io::Error) -> CatalogError {
    CatalogError::Inaccessible {
        path: path.to_owned(),
        source,
    }
}

fn migration_failed(path: &Path, error: MigrateError) -> CatalogError {
    let path: PathBuf = path.to_owned();
    match error {
        MigrateError::VersionMissing(_) => CatalogError::NewerSchema { path },
        error => CatalogError::Migration {
            path,
            source: Box::new(error),
        },
    }
}
