//! The two keys that are not written in the file: from a key file, or from the environment.
//!
//! The environment comes before the file, so that a container can be given its keys without a new file.
//! What is read on the way is wiped.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use data_encoding::HEXLOWER_PERMISSIVE;
use zeroize::Zeroizing;

use super::{
    Secret,
    document::Places,
    error::{ConfigError, Problem},
};

pub(super) const CATALOG_KEY_VARIABLE: &str = "SLUICE_CATALOG_KEY";
pub(super) const ADMIN_KEY_VARIABLE: &str = "SLUICE_ADMIN_KEY";
pub(super) const OPERATOR_KEY_FILE: &str = "admin.operator_key_file";
pub(super) const VIEWER_KEY_FILE: &str = "admin.viewer_key_file";

/// A key file is read this far; none needs as much.
const FILE_MAX_BYTES: usize = 4_096;
/// Less could be guessed.
const ADMIN_KEY_MIN_BYTES: usize = 16;
/// More would not fit the header of a request everywhere.
const ADMIN_KEY_MAX_BYTES: usize = 1_024;

const REMEDY: &str = "make a key with `openssl rand -hex 32`";

/// Looks up one environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn catalog_key(
    file: Option<&Path>,
    environment: Environment<'_>,
    places: &Places<'_>,
) -> Result<Secret<[u8; 32]>, ConfigError> {
    const KEY: &str = "catalog.key_file";
    if let Some(text) = variable(environment, CATALOG_KEY_VARIABLE) {
        return hexadecimal(text.as_bytes()).ok_or(ConfigError::Environment {
            variable: CATALOG_KEY_VARIABLE,
            problem: Problem::CatalogKeyShape,
        });
    }
    let content = content(file, KEY, CATALOG_KEY_VARIABLE, places)?;
    let raw = <[u8; 32]>::try_from(content.as_slice())
        .ok()
        .map(Secret::new);
    raw.or_else(|| hexadecimal(&content))
        .ok_or_else(|| places.error(KEY, Problem::CatalogKeyShape))
}

pub(super) fn admin_key(
    file: Option<&Path>,
    environment: Environment<'_>,
    places: &Places<'_>,
) -> Result<Secret<String>, ConfigError> {
    const KEY: &str = "admin.key_file";
    let problem = Problem::AdminKeyShape {
        min: ADMIN_KEY_MIN_BYTES,
        max: ADMIN_KEY_MAX_BYTES,
    };
    if let Some(text) = variable(environment, ADMIN_KEY_VARIABLE) {
        return bearer(text.as_bytes()).ok_or(ConfigError::Environment {
            variable: ADMIN_KEY_VARIABLE,
            problem,
        });
    }
    let content = content(file, KEY, ADMIN_KEY_VARIABLE, places)?;
    bearer(&content).ok_or_else(|| places.error(KEY, problem))
}

/// Whether every user of the machine may read the file. (A group that may is often Sluice's own.)
pub(super) fn is_exposed(file: &Path) -> bool {
    const READABLE_BY_OTHERS: u32 = 0o004;
    fs::metadata(file).is_ok_and(|metadata| metadata.mode() & READABLE_BY_OTHERS != 0)
}

/// A key with fewer rights than the admin key: from its file only, and none unless that is named.
pub(super) fn lesser_key(
    file: &Path,
    key: &'static str,
    places: &Places<'_>,
) -> Result<Secret<String>, ConfigError> {
    let content = read_start(file)
        .map_err(|cause| places.error(key, Problem::unreadable(file, cause, REMEDY)))?;
    bearer(&content).ok_or_else(|| {
        places.error(
            key,
            Problem::AdminKeyShape {
                min: ADMIN_KEY_MIN_BYTES,
                max: ADMIN_KEY_MAX_BYTES,
            },
        )
    })
}

/// An empty variable counts as none: that is how a container runtime often unsets one.
fn variable(environment: Environment<'_>, name: &str) -> Option<Zeroizing<String>> {
    environment(name)
        .filter(|text| !text.is_empty())
        .map(Zeroizing::new)
}

fn content(
    file: Option<&Path>,
    key: &'static str,
    variable: &'static str,
    places: &Places<'_>,
) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let problem = match file {
        None => Problem::NoKey {
            variable,
            remedy: REMEDY,
        },
        Some(path) => match read_start(path) {
            Ok(content) => return Ok(content),
            Err(cause) => Problem::unreadable(path, cause, REMEDY),
        },
    };
    Err(places.error(key, problem))
}

fn read_start(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it from the start: a vector that grows would leave copies behind.
    let mut content = Zeroizing::new(vec![0; FILE_MAX_BYTES]);
    let mut file = File::open(path)?;
    let mut filled = 0;
    while let Some(room) = content.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read(room)? {
            0 => break,
            read => filled += read,
        }
    }
    content.truncate(filled);
    Ok(content)
}

/// 64 hexadecimal digits, white space around them allowed.
fn hexadecimal(text: &[u8]) -> Option<Secret<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let digits = text.trim_ascii();
    // Decoding into a buffer of another length would panic.
    if digits.len() != 2 * key.len() {
        return None;
    }
    HEXLOWER_PERMISSIVE
        .decode_mut(digits, key.as_mut_slice())
        .ok()?;
    Some(Secret::new(*key))
}

/// What can stand in an `Authorization` header as it is.
fn bearer(content: &[u8]) -> Option<Secret<String>> {
    let key = content.trim_ascii();
    let fits = (ADMIN_KEY_MIN_BYTES..=ADMIN_KEY_MAX_BYTES).contains(&key.len());
    if !fits || !key.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    str::from_utf8(key)
        .ok()
        .map(|key| Secret::new(key.to_owned()))
}
