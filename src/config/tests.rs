//! The configuration as an operator meets it: text in, values or one clear line out.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

const CATALOG_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const ADMIN_KEY: &str = "an-administrators-key";
const EXAMPLE: &str = include_str!("../../pooler.toml.example");

fn keys(variable: &str) -> Option<String> {
    match variable {
        key::CATALOG_KEY_VARIABLE => Some(CATALOG_KEY.to_owned()),
        key::ADMIN_KEY_VARIABLE => Some(ADMIN_KEY.to_owned()),
        _ => None,
    }
}

fn nothing(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("pooler.toml"), &keys)
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn defaults() -> Config {
    let catalog_key = std::array::from_fn(|index| u8::try_from(index).unwrap());
    Config::new(Secret::new(catalog_key), Secret::new(ADMIN_KEY.to_owned()))
}

/// The example with its commented keys switched on (`#key = value`; prose is `# text`).
fn example_switched_on() -> String {
    let switch_on = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => key.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|line| switch_on(line) + "\n").collect()
}

#[test]
fn an_empty_file_gives_every_default() {
    assert_eq!(
        format!("{:?}", parse("").unwrap()),
        format!("{:?}", defaults())
    );
}

#[test]
fn the_example_changes_nothing_as_it_stands() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", defaults()));
}

#[test]
fn the_example_shows_every_default() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["server.crt", "server.key", "ca.crt", "ca.key"] {
        fs::write(folder.path().join(file), "PEM").unwrap();
    }
    fs::write(folder.path().join("catalog.key"), CATALOG_KEY).unwrap();
    fs::write(folder.path().join("admin.key"), ADMIN_KEY).unwrap();
    for rank in ["operator", "viewer"] {
        let key = format!("the-key-of-the-{rank}");
        fs::write(folder.path().join(format!("{rank}.key")), key).unwrap();
    }

    let path = folder.path().join("pooler.toml");
    let mut config = Config::parse(&example_switched_on(), &path, &nothing).unwrap();
    assert!(config.tls.take().is_some());
    assert!(config.token_access.ca_certificate.take().is_some());
    assert!(config.token_access.ca_key.take().is_some());
    assert!(config.admin.operator_key.take().is_some());
    assert!(config.admin.viewer_key.take().is_some());
    assert_eq!(config.catalog.path, folder.path().join("sluice.db"));
    config.catalog.path = "sluice.db".into();
    // As whoever runs the tests makes files.
    config.exposed_keys.clear();
    assert_eq!(format!("{config:?}"), format!("{:?}", defaults()));
}

#[test]
fn the_example_holds_every_key_there_is() {
    let example = example_switched_on();
    let written: toml::Table = example.parse().unwrap();
    for (section, keys) in file::SECTIONS {
        for key in *keys {
            assert!(
                written[*section].get(key).is_some(),
                "[{section}] {key} is missing"
            );
        }
    }
}

#[test]
fn what_is_written_is_what_holds() {
    let config = parse(
        r#"
        [listen]
        direct = "127.0.0.1:5432"
        workers = 3
        proxy_protocol_from = ["10.0.0.0/8", "192.0.2.7"]
        [timeouts]
        idle = "1h 30m"
        query = "off"
        [pool]
        size = 7
        [log]
        level = "warn,sluice::session=debug"
        format = "json"
        "#,
    )
    .unwrap();
    assert_eq!(
        config.listen.direct,
        Some("127.0.0.1:5432".parse().unwrap())
    );
    assert_eq!(config.listen.workers, 3);
    let networks = ["10.0.0.0/8", "192.0.2.7/32"].map(|network| network.parse().unwrap());
    assert_eq!(config.listen.proxy_protocol_from, networks);
    assert_eq!(config.timeouts.idle, Some(Duration::from_secs(5_400)));
    assert_eq!(config.timeouts.query, None);
    assert_eq!(config.pool.size, 7);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn workers_are_one_per_core_unless_told() {
    assert!(parse("").unwrap().listen.workers >= 1);
}

#[test]
fn an_unknown_key_is_told_with_line_and_nearest_key() {
    assert_eq!(
        error("[pool]\n\nszie = 3\n"),
        "pooler.toml:3: unknown key pool.szie; did you mean size in section [pool]?"
    );
    assert_eq!(
        error("[limits]\nqueue = \"3s\"\n"),
        "pooler.toml:2: unknown key limits.queue; did you mean queue in section [timeouts]?"
    );
    assert_eq!(
        error("[auth_query]\nzzz = 1\n"),
        "pooler.toml:2: unknown key auth_query.zzz; the section knows cache, connections"
    );
}

#[test]
fn an_unknown_section_is_told_with_line_and_nearest_section() {
    assert_eq!(
        error("[pol]\nsize = 3\n"),
        "pooler.toml:1: unknown key pol; did you mean section [pool]?"
    );
    assert_eq!(
        error("\nworkers = 3\n"),
        "pooler.toml:2: unknown key workers; did you mean workers in section [listen]?"
    );
    assert_eq!(
        error("zzz = 3\n"),
        "pooler.toml:1: unknown key zzz; the sections are listen, tls, net, limits, timeouts, pool, \
         token_access, authorities, auth_query, catalog, audit, admin, log"
    );
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let text = error("[pool]\nsize = \n");
    assert!(
        text.starts_with("pooler.toml:2: this is not TOML: "),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
    let text = error("[pool\n");
    assert!(
        text.starts_with("pooler.toml:1: this is not TOML: "),
        "{text}"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_told_with_key_and_what_fits() {
    let cases = [
        (
            "[timeouts]\nlogin = 15",
            "pooler.toml:2: timeouts.login: invalid type: integer `15`, expected a duration such as \"30s\", \"5m\" or \"1h\"",
        ),
        (
            "[timeouts]\nidle = \"5\"",
            "pooler.toml:2: timeouts.idle: invalid value: string \"5\", expected a duration such as \"30s\", \"5m\" or \"1h\", or \"off\"",
        ),
        (
            "[listen]\npooler = \"6543\"",
            "pooler.toml:2: listen.pooler: invalid value: string \"6543\", expected an address and port such as \"127.0.0.1:6543\" or \"[::]:6543\"",
        ),
        (
            "[listen]\nproxy_protocol_from = [\"10.0.0.0/33\"]",
            "pooler.toml:2: listen.proxy_protocol_from: invalid value: string \"10.0.0.0/33\", expected a network such as \"10.0.0.0/8\" or an address",
        ),
        (
            "[pool]\nsize = -1",
            "pooler.toml:2: pool.size: invalid value: integer `-1`, expected a whole number from 0 to 4294967295",
        ),
        (
            "pool = 3",
            "pooler.toml:1: pool: invalid type: integer `3`, expected a section",
        ),
        (
            "[log]\nformat = \"xml\"",
            "pooler.toml:2: log.format: unknown variant `xml`, expected `text` or `json`",
        ),
    ];
    for (text, told) in cases {
        assert_eq!(error(text), told);
    }
}

#[test]
fn a_value_out_of_range_is_told_with_key_and_remedy() {
    let cases = [
        (
            "[pool]\nsize = 0",
            "pooler.toml:2: pool.size must be more than 0",
        ),
        (
            "[timeouts]\nlogin = \"0s\"",
            "pooler.toml:2: timeouts.login must be more than 0",
        ),
        (
            "[timeouts]\nidle = \"0s\"",
            "pooler.toml:2: timeouts.idle must be more than 0; write \"off\" for no limit",
        ),
        (
            "[pool]\nsize = 100",
            "pooler.toml:2: pool.size (100) is more than pool.tenant_budget (60) lets it have: lower the one or raise the other",
        ),
        (
            "[pool]\noverall_budget = 50",
            "pooler.toml: pool.tenant_budget (60) is more than pool.overall_budget (50) lets it have: lower the one or raise the other",
        ),
        (
            "[listen]\nworkers = 5000",
            "pooler.toml:2: listen.workers is 5000; at most 1024 is allowed",
        ),
        (
            "[token_access]\ncertificate_lifetime = \"2d\"",
            "pooler.toml:2: token_access.certificate_lifetime is 2days; at most 1day is allowed",
        ),
        (
            "[admin]\nlisten = \"0.0.0.0:6543\"",
            "pooler.toml:2: admin.listen is the same address as listen.pooler: each listener needs one of its own",
        ),
        (
            "[tls]\ncertificate = \"server.crt\"",
            "pooler.toml:2: tls.certificate is set but tls.key is not: give both, or neither",
        ),
        (
            "[token_access]\nca_key = \"ca.key\"",
            "pooler.toml:2: token_access.ca_key is set but token_access.ca_certificate is not: give both, or neither",
        ),
    ];
    for (text, told) in cases {
        assert_eq!(error(text), told);
    }
    assert_eq!(
        error("[log]\nlevel = \"inof\""),
        "pooler.toml:2: log.level is no level: write off, error, warn, info, debug or trace"
    );
    for level in ["sluice=loud", "warn,[span{field=1}]=debug"] {
        let filter = error(&format!("[log]\nlevel = \"{level}\""));
        assert!(
            filter.starts_with("pooler.toml:2: log.level is no log filter: "),
            "{filter}"
        );
    }
}

#[test]
fn a_missing_certificate_is_told_with_path_and_remedy() {
    let text = error("[tls]\ncertificate = \"/nowhere/server.crt\"\nkey = \"/nowhere/server.key\"");
    assert_eq!(
        text,
        "pooler.toml:2: tls.certificate names /nowhere/server.crt, which cannot be read: No such file or \
         directory (os error 2); correct the path, or leave out both keys of [tls] to serve without TLS"
    );
    let text = error("[tls]\ncertificate = \"/\"\nkey = \"/\"");
    assert!(text.contains("is a directory"), "{text}");
}

#[test]
fn a_value_of_another_type_is_told_in_plain_words() {
    for (text, told) in [
        (
            "[pool]\nsize = \"20\"",
            "invalid type: string \"20\", expected a whole number from 0 to 4294967295",
        ),
        (
            "[limits]\nclients = -1",
            "invalid value: integer `-1`, expected a whole number, not negative",
        ),
        (
            "[listen]\nproxy_protocol_from = \"10.0.0.0/8\"",
            "invalid type: string \"10.0.0.0/8\", expected a list",
        ),
        (
            "[authorities]\nplain_http = true",
            "expected text in quotation marks",
        ),
    ] {
        let error = error(text);
        assert!(
            error.starts_with("pooler.toml:2: ") && error.ends_with(told),
            "{error}"
        );
    }
}

#[test]
fn who_may_not_read_a_key_is_not_told_to_make_another() {
    let denied = std::io::ErrorKind::PermissionDenied.into();
    let problem = Problem::unreadable(Path::new("catalog.key"), denied, "make a key");
    assert!(
        problem
            .to_string()
            .ends_with("; let the user that Sluice runs as read it"),
        "{problem}"
    );
}

#[test]
fn key_files_that_everybody_may_read_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let mode = |name: &str, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.path().join(name), permissions).unwrap();
    };
    let exposed = || {
        let config = keys_in(folder.path(), CATALOG_KEY.as_bytes(), ADMIN_KEY.as_bytes());
        config.unwrap().exposed_keys
    };
    exposed();
    mode("catalog.key", 0o644);
    mode("admin.key", 0o640);
    assert_eq!(exposed(), [folder.path().join("catalog.key")]);
    mode("catalog.key", 0o600);
    assert!(exposed().is_empty());
}

#[test]
fn what_waits_for_the_next_start_is_named() {
    let old = defaults();
    let waiting = |text: &str| old.waiting_for_restart(&parse(text).unwrap());
    assert!(waiting("").is_empty());
    assert!(
        waiting("[pool]\nsize = 3\n[timeouts]\nquery = \"5s\"\n[log]\nlevel = \"warn\"").is_empty()
    );
    assert_eq!(
        waiting("[listen]\nproxy_protocol_from = [\"10.0.0.0/8\"]\n[pool]\noverall_budget = 99"),
        ["listen.proxy_protocol_from", "pool.overall_budget"]
    );
}

#[test]
fn a_missing_file_is_told_with_what_to_do() {
    let text = Config::load(Path::new("/nowhere/pooler.toml"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "cannot read the configuration /nowhere/pooler.toml: No such file or directory (os error 2); \
         name another file with --config, or start from pooler.toml.example"
    );
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let config = Config::parse("", Path::new("/etc/sluice/pooler.toml"), &keys).unwrap();
    assert_eq!(config.catalog.path, Path::new("/etc/sluice/sluice.db"));
    let absolute = "[catalog]\npath = \"/var/lib/sluice.db\"";
    let config = Config::parse(absolute, Path::new("/etc/sluice/pooler.toml"), &keys).unwrap();
    assert_eq!(config.catalog.path, Path::new("/var/lib/sluice.db"));
}

fn keys_in(folder: &Path, catalog_key: &[u8], admin_key: &[u8]) -> Result<Config, ConfigError> {
    fs::write(folder.join("catalog.key"), catalog_key).unwrap();
    fs::write(folder.join("admin.key"), admin_key).unwrap();
    let text = "[catalog]\nkey_file = \"catalog.key\"\n[admin]\nkey_file = \"admin.key\"\n";
    Config::parse(text, &folder.join("pooler.toml"), &nothing)
}

#[test]
fn keys_come_from_files_in_either_form() {
    let folder = tempfile::tempdir().unwrap();
    let hexadecimal = format!("{CATALOG_KEY}\n");
    let config = keys_in(
        folder.path(),
        hexadecimal.as_bytes(),
        b"an-administrators-key\n",
    )
    .unwrap();
    assert_eq!(config.catalog.key.expose(), defaults().catalog.key.expose());
    assert_eq!(config.admin.key.expose(), ADMIN_KEY);

    let config = keys_in(folder.path(), &[b'\n'; 32], ADMIN_KEY.as_bytes()).unwrap();
    assert_eq!(config.catalog.key.expose(), &[b'\n'; 32]);
}

#[test]
fn the_environment_comes_before_the_key_file() {
    let text = "[catalog]\nkey_file = \"/nowhere\"\n[admin]\nkey_file = \"/nowhere\"\n";
    let config = parse(text).unwrap();
    assert_eq!(config.admin.key.expose(), ADMIN_KEY);
}

#[test]
fn a_missing_or_misshapen_key_is_told_and_never_shown() {
    let told = |text: &str, environment: &dyn Fn(&str) -> Option<String>| {
        Config::parse(text, Path::new("pooler.toml"), environment)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        told("", &nothing),
        "pooler.toml: catalog.key_file is not set, nor is the environment variable SLUICE_CATALOG_KEY: set one \
         of them; make a key with `openssl rand -hex 32`"
    );
    let text = told("[catalog]\nkey_file = \"/nowhere\"", &nothing);
    assert!(
        text.starts_with("pooler.toml:2: catalog.key_file names /nowhere, which cannot be read"),
        "{text}"
    );
    let text = told("", &|_| Some("hunter2".to_owned()));
    assert!(
        text.starts_with("the environment variable SLUICE_CATALOG_KEY holds no key"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let not_hexadecimal = "g".repeat(64);
    for (catalog_key, admin_key, key) in [
        (
            not_hexadecimal.as_bytes(),
            ADMIN_KEY.as_bytes(),
            "catalog.key_file",
        ),
        (b"".as_slice(), ADMIN_KEY.as_bytes(), "catalog.key_file"),
        (
            CATALOG_KEY.as_bytes(),
            b"too short".as_slice(),
            "admin.key_file",
        ),
        (
            CATALOG_KEY.as_bytes(),
            b"sixteen and more, spaced".as_slice(),
            "admin.key_file",
        ),
        (CATALOG_KEY.as_bytes(), &[b'a'; 5_000], "admin.key_file"),
    ] {
        let text = keys_in(folder.path(), catalog_key, admin_key)
            .unwrap_err()
            .to_string();
        assert!(text.contains(&format!("{key} holds no key")), "{text}");
    }
}

#[test]
fn a_lesser_key_is_another_one_and_of_the_same_shape() {
    let folder = tempfile::tempdir().unwrap();
    let told = |operator: &str, viewer: &str| {
        fs::write(folder.path().join("operator.key"), operator).unwrap();
        fs::write(folder.path().join("viewer.key"), viewer).unwrap();
        let text =
            "[admin]\noperator_key_file = \"operator.key\"\nviewer_key_file = \"viewer.key\"\n";
        Config::parse(text, &folder.path().join("pooler.toml"), &keys)
            .map_err(|error| error.to_string())
    };
    let config = told("the-key-of-operators\n", "the-key-of-viewers").unwrap();
    let operator = config.admin.operator_key.unwrap();
    assert_eq!(operator.expose(), "the-key-of-operators");
    let text = told("the-key-of-operators", "the-key-of-operators").unwrap_err();
    assert!(
        text.contains(":3: admin.viewer_key_file holds the same key as admin.operator_key_file"),
        "{text}"
    );
    let text = told(ADMIN_KEY, "the-key-of-viewers").unwrap_err();
    assert!(
        text.contains(":2: admin.operator_key_file holds the same key as admin.key_file"),
        "{text}"
    );
    let text = told("short", "the-key-of-viewers").unwrap_err();
    assert!(text.contains("holds no key that will do"), "{text}");
    assert!(!text.contains("short"), "{text}");
}

#[test]
fn no_key_is_in_the_debug_text() {
    let shown = format!("{:?}", defaults());
    assert!(!shown.contains(ADMIN_KEY), "{shown}");
}
