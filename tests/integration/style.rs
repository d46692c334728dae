//! What a machine can judge of the source's shape: imports point down, the protocol does no IO, files say what they are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::support::sluice::source;

/// From the bottom up; modules of one line may use each other.
const LAYERS: &[&[&str]] = &[
    &["protocol"],
    &["net"],
    &["backend"],
    &["access", "catalog", "pool"],
    &["session"],
    &["admin"],
    &["cli"],
];

/// Plain values and means that every module may use, whichever layer they are kept in.
const EVERYWHERE: &[&str] = &["names", "config", "metrics", "catalog::types"];

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The source without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// What a file names of this crate, as the first two segments behind `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(members(group));
        } else {
            found.insert(first_two(rest));
        }
    }
    found
}

/// The outermost paths of a `use crate::{…}` group.
fn members(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut paths = vec![String::new()];
    for character in group.chars() {
        match character {
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '{' => depth += 1,
            ',' if depth == 0 => paths.push(String::new()),
            other if depth == 0 && !other.is_whitespace() => paths.last_mut().unwrap().push(other),
            _ => {}
        }
    }
    paths
        .iter()
        .filter(|path| !path.is_empty())
        .map(|path| first_two(path))
        .collect()
}

fn first_two(path: &str) -> String {
    let word = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    let mut segments = path
        .split("::")
        .map(|segment| segment.split(|c| !word(c)).next().unwrap_or_default());
    let first = segments.next().unwrap_or_default();
    match segments.next() {
        Some(second) if !second.is_empty() => format!("{first}::{second}"),
        _ => first.to_owned(),
    }
}

fn layer(module: &str) -> Option<usize> {
    let name = module.split("::").next()?;
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[test]
fn imports_point_down() {
    let root = source("src");
    let mut looked_at = 0;
    for path in files(&root) {
        let relative = path.strip_prefix(&root).unwrap().with_extension("");
        let module = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let Some(own) = layer(module) else {
            continue;
        };
        for import in imports(&code(&path)) {
            looked_at += 1;
            let free = EVERYWHERE
                .iter()
                .any(|free| import == *free || import.starts_with(&format!("{free}::")));
            let allowed = free || layer(&import).is_none_or(|imported| imported <= own);
            assert!(
                allowed,
                "{} uses {import}, which lies above it",
                path.display()
            );
        }
    }
    assert!(looked_at > 50, "the search found only {looked_at} imports");
}

#[test]
fn the_protocol_knows_no_socket_no_clock_and_no_runtime() {
    for path in files(&source("src/protocol")) {
        let code = code(&path);
        for word in [
            "tokio",
            "std::net",
            "Instant",
            "SystemTime",
            "std::io",
            "async fn",
        ] {
            assert!(!code.contains(word), "{} speaks of {word}", path.display());
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is() {
    for path in files(&source("src"))
        .into_iter()
        .chain(files(&source("tests")))
    {
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//! "),
            "{} does not say what it is",
            path.display()
        );
    }
}

#[test]
fn every_test_that_the_documents_name_exists() {
    for page in ["docs/compatibility.md", "docs/security.md"] {
        let page = fs::read_to_string(source(page)).unwrap();
        let named: BTreeSet<&str> = page
            .split('`')
            .filter(|text| {
                let name =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
                text.contains("::") && !text.ends_with("::") && text.chars().all(name)
            })
            .collect();
        assert!(named.len() > 30, "the search found only {}", named.len());
        for test in named {
            assert!(exists(test), "there is no test {test}");
        }
    }
}

/// Whether a file that the path of `test` may mean has a function of that name.
fn exists(test: &str) -> bool {
    let (module, name) = test.rsplit_once("::").unwrap();
    let path = module.replace("::", "/");
    let beside = path.trim_end_matches("/tests");
    [
        format!("tests/integration/{path}.rs"),
        format!("src/{path}.rs"),
        format!("src/{beside}.rs"),
        format!("src/{beside}/mod.rs"),
    ]
    .iter()
    .filter_map(|file| fs::read_to_string(source(file)).ok())
    .any(|text| text.contains(&format!("fn {name}(")))
}
