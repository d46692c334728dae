use proptest::prelude::*;

use super::*;

fn settings(options: &str) -> Vec<(String, String)> {
    parse(options).unwrap()
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn argument(text: &str) -> OptionsError {
    OptionsError::Argument {
        argument: text.to_owned(),
    }
}

#[test]
fn every_spelling_of_a_setting_is_read() {
    for spelling in [
        "-c jit=true",
        "-cjit=true",
        "--jit=true",
        "  -c\t\n jit=true  ",
    ] {
        assert_eq!(settings(spelling), [pair("jit", "true")], "{spelling:?}");
    }
    assert_eq!(settings(""), []);
    assert_eq!(settings(" \t\r\n\x0b\x0c "), []);
}

#[test]
fn settings_keep_their_order_and_repetitions() {
    assert_eq!(
        settings("-c a=1 --b=2 -ca=3 -c search_path=x,y"),
        [
            pair("a", "1"),
            pair("b", "2"),
            pair("a", "3"),
            pair("search_path", "x,y")
        ]
    );
}

#[test]
fn dashes_in_names_are_underscores_and_values_are_left_alone() {
    for spelling in ["--work-mem=4-5", "-c work-mem=4-5", "-cwork-mem=4-5"] {
        assert_eq!(
            settings(spelling),
            [pair("work_mem", "4-5")],
            "{spelling:?}"
        );
    }
    assert_eq!(settings("--a=b=c"), [pair("a", "b=c")]);
    assert_eq!(settings("--a="), [pair("a", "")]);
    assert_eq!(settings("--My.Setting=x"), [pair("My.Setting", "x")]);
}

#[test]
fn a_backslash_keeps_the_next_character() {
    assert_eq!(
        settings(r"-c application_name=my\ app\\1 -c a=\-c\	b"),
        [pair("application_name", r"my app\1"), pair("a", "-c\tb")]
    );
    assert_eq!(
        settings("--a=b\\"),
        [pair("a", "b")],
        "a last backslash is dropped"
    );
    assert_eq!(settings(r"--a=\ü"), [pair("a", "ü")]);
    assert_eq!(
        settings(r"-\c a=1"),
        [pair("a", "1")],
        "as PostgreSQL: words first, switches then"
    );
    assert_eq!(parse("\\"), Err(argument("")));
}

#[test]
fn a_no_break_space_is_no_space() {
    assert_eq!(settings("--a=b\u{a0}c"), [pair("a", "b\u{a0}c")]);
}

#[test]
fn the_tenant_may_be_named_by_a_bare_word() {
    assert_eq!(settings("reference=demo"), [pair("reference", "demo")]);
    assert_eq!(settings("-c reference=demo"), [pair("reference", "demo")]);
    assert_eq!(
        settings("-c jit=on reference=demo"),
        [pair("jit", "on"), pair("reference", "demo")]
    );
    assert_eq!(settings("-- reference=demo"), [pair("reference", "demo")]);
    assert_eq!(parse("project=demo"), Err(argument("project=demo")));
}

#[test]
fn what_is_no_setting_is_named_in_the_error() {
    for word in ["-x", "-F", "demo", "-", "-e", "a=b", "-Xc"] {
        let error = parse(&format!("-c a=1 {word} -c b=2")).unwrap_err();
        assert_eq!(error, argument(word));
        assert_eq!(
            error.to_string(),
            format!("invalid command-line argument for server process: {word}")
        );
        assert_eq!(error.code(), SqlState::SYNTAX_ERROR);
    }
    assert_eq!(parse("-- -c a=1"), Err(argument("-c")));
    assert_eq!(parse("-c"), Err(argument("-c")));
}

#[test]
fn a_setting_without_a_value_is_an_error() {
    let told = |options| parse(options).unwrap_err().to_string();
    assert_eq!(told("-c work-mem"), "-c work-mem requires a value");
    assert_eq!(told("-cjit"), "-c jit requires a value");
    assert_eq!(told("--jit -c a=1"), "--jit requires a value");
    assert_eq!(told("-c --"), "-c -- requires a value");
    assert_eq!(settings("--"), []);
}

#[test]
fn a_setting_never_passes_for_what_steers_the_connection() {
    for name in ["", "user", "database", "replication", "options", "_pq_.x"] {
        for spelling in [
            format!("-c {name}=x"),
            format!("-c{name}=x"),
            format!("--{name}=x"),
        ] {
            let error = parse(&spelling).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("unrecognized configuration parameter \"{name}\"")
            );
            assert_eq!(error.code(), SqlState::UNDEFINED_OBJECT);
        }
    }
    assert!(
        parse("---pq-.x=1").is_err(),
        "a dash is an underscore here as well"
    );
}

#[test]
fn booleans_are_read_as_postgresql_reads_them() {
    for yes in ["1", "on", "ON", "t", "tr", "true", "True", "y", "ye", "YES"] {
        assert_eq!(boolean(yes), Some(true), "{yes:?}");
    }
    for no in ["0", "of", "off", "OFF", "f", "false", "n", "No"] {
        assert_eq!(boolean(no), Some(false), "{no:?}");
    }
    for neither in ["", "o", "2", "10", "truex", "enable", " on", "onn", "ｏｎ"] {
        assert_eq!(boolean(neither), None, "{neither:?}");
    }
}

/// What a careful client does to a value.
fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for character in value.chars() {
        if is_space(character) || character == '\\' {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(options in any::<String>()) {
        let _ = parse(&options);
    }

    #[test]
    fn any_words_are_read_or_refused(options in r"[-c=\\ \tab_]{0,40}") {
        if let Ok(settings) = parse(&options) {
            for (name, _) in settings {
                prop_assert!(is_setting(&name) && !name.contains('-'));
            }
        }
    }

    #[test]
    fn escaped_values_come_back(
        values in proptest::collection::vec(any::<String>(), 0..6),
        separator in "[ \t\n]{1,3}",
    ) {
        let words: Vec<_> = values.iter().map(|value| format!("-c a={}", escaped(value))).collect();
        let expected: Vec<_> = values.iter().map(|value| pair("a", value)).collect();
        prop_assert_eq!(settings(&words.join(&separator)), expected);
    }
}
