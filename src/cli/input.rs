//! Files that a command is told to read; `-` is standard input.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

use super::error::CliError;

/// The text of `path` as it is.
pub(super) fn text_file(path: &Path) -> Result<String, CliError> {
    let text = read(path).map_err(|source| CliError::File {
        path: path.to_owned(),
        source,
    })?;
    if text.trim().is_empty() {
        return Err(CliError::EmptyFile {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// The secret in `path`, without the line end that editors put after it.
pub(super) fn secret_file(path: &Path) -> Result<Zeroizing<String>, CliError> {
    let text = Zeroizing::new(text_file(path)?);
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    Ok(Zeroizing::new(secret.to_owned()))
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_loses_its_line_end_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, " with spaces \r\n").unwrap();
        assert_eq!(secret_file(&path).unwrap().as_str(), " with spaces ");
    }

    #[test]
    fn a_missing_or_empty_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = text_file(&folder.path().join("gone")).unwrap_err();
        assert!(missing.to_string().contains("gone"));
        let path = folder.path().join("empty");
        fs::write(&path, "\n").unwrap();
        assert!(
            text_file(&path)
                .unwrap_err()
                .to_string()
                .ends_with("is empty")
        );
    }
}
