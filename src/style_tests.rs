//! Rules of the source that a machine can judge: which module may use which.
//!
//! The layers are those of docs/design.md section 2. A source file is read line by line and its comments are
//! left out; that is coarse, but nobody hides an import from it by accident.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// From the top down: a module may use what stands after it.
const LAYERS: &[&str] = &[
    "cli", "direct", "admin", "doctor", "listener", "session", "pool", "access", "catalog",
    "backend", "net", "protocol",
];

/// What any layer but `protocol` may use: values and services that know no layer.
const BASE: &[&str] = &[
    "names",
    "config",
    "memory",
    "metrics",
    "telemetry",
    "scheduling",
];

/// Values that lower layers share with the layer that keeps them.
const SHARED_VALUES: &[&str] = &["catalog::types"];

/// What has no place in a module that turns bytes into values and back: sockets, clocks, tasks, files.
const NOT_SANS_IO: &[&str] = &[
    "tokio",
    "rustls",
    "socket2",
    "std::net",
    "std::io",
    "std::fs",
    "std::time",
    "std::thread",
    "time::",
    "Instant",
    "async fn",
];

/// A line of a source file, without its comment.
struct Line {
    file: PathBuf,
    number: usize,
    text: String,
}

impl Line {
    /// The module of the crate that the line stands in: `net` in `net/stream.rs` and in `net.rs`.
    fn module(&self) -> String {
        let first = self.file.iter().next().unwrap().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    }

    fn place(&self) -> String {
        format!(
            "src/{}:{}: {}",
            self.file.display(),
            self.number,
            self.text.trim()
        )
    }
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn source() -> Vec<Line> {
    let root = source_folder();
    files(&root)
        .iter()
        .flat_map(|file| lines(&root, file))
        .collect()
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(root, &mut files);
    assert!(
        files.len() > LAYERS.len(),
        "the source is not where it should be"
    );
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn lines(root: &Path, file: &Path) -> Vec<Line> {
    let text = fs::read_to_string(file).unwrap();
    let numbered = text.lines().enumerate();
    let line = |(index, line): (usize, &str)| Line {
        file: file.strip_prefix(root).unwrap().to_owned(),
        number: index + 1,
        text: without_comment(line).to_owned(),
    };
    numbered.map(line).collect()
}

fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// The paths of our own crate that the source names, each with the line it begins in:
/// `use crate::{net::Stream, names}` names `net::Stream` and `names`.
fn own_paths(lines: &[Line]) -> Vec<(&Line, String)> {
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        for (start, _) in line.text.match_indices("crate::") {
            let here = &line.text[start + "crate::".len()..];
            let same_file = lines[index + 1..]
                .iter()
                .take_while(|next| next.file == line.file);
            let rest: String = std::iter::once(here)
                .chain(same_file.map(|next| next.text.as_str()))
                .collect();
            found.extend(heads(&rest).into_iter().map(|path| (line, path)));
        }
    }
    found
}

/// The paths that begin `text`: one, or the members of one outer pair of braces.
fn heads(text: &str) -> Vec<String> {
    let Some(list) = text.strip_prefix('{') else {
        return vec![path(text)];
    };
    let mut depth = 0;
    let mut heads = Vec::new();
    let mut member = String::new();
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => heads.push(std::mem::take(&mut member)),
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        member.push(character);
    }
    heads.push(member);
    let paths = heads
        .iter()
        .map(|head| path(head.trim_start_matches([',', ' '])));
    paths.filter(|path| !path.is_empty()).collect()
}

/// `a::b` at the beginning of `text`, up to what can be in no path.
fn path(text: &str) -> String {
    let in_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    text.chars().take_while(|c| in_path(*c)).collect()
}

/// Whether `module` may use `path` of the crate.
fn may_use(module: &str, path: &str) -> bool {
    let rank = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let used = path.split("::").next().unwrap_or(path);
    let Some(rank_used) = rank(used) else {
        return module != "protocol" || !BASE.contains(&used);
    };
    let shared = SHARED_VALUES.iter().any(|values| path.starts_with(values));
    match rank(module) {
        Some(rank) if module == "protocol" => rank == rank_used,
        Some(rank) => rank <= rank_used || shared,
        // The base knows no layer; main.rs and lib.rs stand above all of them.
        None => !BASE.contains(&module),
    }
}

#[test]
fn imports_point_down_only() {
    let source = source();
    let paths = own_paths(&source);
    assert!(
        paths.len() > LAYERS.len(),
        "too few imports were found: {}",
        paths.len()
    );
    let upward: Vec<_> = paths
        .iter()
        .filter(|(line, path)| !may_use(&line.module(), path))
        .map(|(line, path)| format!("{} (uses {path})", line.place()))
        .collect();
    assert!(
        upward.is_empty(),
        "against the layers:\n{}",
        upward.join("\n")
    );
}

#[test]
fn the_protocol_knows_no_socket_and_no_clock() {
    let source = source();
    let forbidden: Vec<_> = source
        .iter()
        .filter(|line| line.module() == "protocol")
        .filter(|line| NOT_SANS_IO.iter().any(|word| names_word(&line.text, word)))
        .map(Line::place)
        .collect();
    assert!(
        forbidden.is_empty(),
        "not sans-IO:\n{}",
        forbidden.join("\n")
    );
}

/// Whether `text` holds `word`, and not as the end or the beginning of a longer one.
fn names_word(text: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + word.len()..].chars().next();
        let ends = word.ends_with("::") || !after.is_some_and(in_word);
        ends && !before.is_some_and(in_word)
    })
}

#[test]
fn a_route_of_the_api_comes_with_its_description() {
    // Only `routes!` puts a function and its `#[utoipa::path]` in place together: in routes.rs. The listener has a router in its tests.
    let silent = [
        "Router::new",
        ".route(",
        ".route_service(",
        ".nest(",
        ".nest_service(",
        "axum::routing",
        "routing::",
    ];
    let source = source();
    let is_api = |line: &&Line| {
        let others = ["routes.rs", "server.rs"];
        line.module() == "admin" && !others.iter().any(|other| line.file.ends_with(other))
    };
    let lines = || source.iter().filter(is_api);
    let described = lines().filter(|line| line.text.contains("routes!("));
    assert!(described.count() > 15, "the routes are not where they were");
    let undescribed: Vec<_> = lines()
        .filter(|line| silent.iter().any(|way| line.text.contains(way)))
        .map(Line::place)
        .collect();
    assert!(
        undescribed.is_empty(),
        "write `routes!(…)`, as src/admin/routes.rs says:\n{}",
        undescribed.join("\n")
    );
}

#[test]
fn every_module_has_its_layer() {
    let source = source();
    let known = |module: &String| {
        let above = ["lib", "main", "style_tests"];
        [LAYERS, BASE, &above].concat().contains(&module.as_str())
    };
    let unknown: BTreeSet<_> = source
        .iter()
        .map(Line::module)
        .filter(|module| !known(module))
        .collect();
    assert!(
        unknown.is_empty(),
        "give them a place in the layers: {unknown:?}"
    );
}

#[test]
fn every_file_says_what_it_is() {
    // Tests beside a module are told by its head, and main.rs by lib.rs.
    let told_elsewhere = ["tests.rs", "main.rs"];
    let root = source_folder();
    for file in files(&root) {
        if told_elsewhere.iter().any(|name| file.ends_with(name)) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} has no head", file.display());
    }
}

#[test]
fn the_rules_catch_what_they_are_for() {
    assert!(may_use("session", "net::Stream"));
    assert!(may_use("net", "catalog::types::BackendTls"));
    assert!(!may_use("net", "catalog::Catalog"));
    assert!(!may_use("net", "session"));
    assert!(!may_use("protocol", "names::RoleName"));
    assert!(!may_use("config", "catalog::types"));
    assert!(may_use("main", "cli::Cli"));

    assert_eq!(
        heads("{access::{Access, Scope}, names::TenantRef};"),
        ["access::", "names::TenantRef"]
    );
    assert_eq!(heads("net::Stream;"), ["net::Stream"]);

    assert!(names_word("use tokio::io;", "tokio"));
    assert!(names_word("let at: time::Instant;", "time::"));
    assert!(!names_word("let runtime::Handle", "time::"));
    assert!(!names_word("tokio_like", "tokio"));
}
