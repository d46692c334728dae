//! The command line as it is typed, against a real admin listener.

use clap::{CommandFactory as _, Parser as _};

use super::{
    Cli, Command,
    client::{Connection, Verdict},
    error::CliError,
    remote::Outcome,
};
use crate::admin::tests::{ADMIN_KEY, World};

const EMAIL: &str = "first@example.com";

/// Runs `sluice` with these words, and gives what it would print.
async fn typed(world: &World, words: &[&str]) -> Result<String, CliError> {
    let url = world.url();
    let words = ["sluice"].iter().chain(words);
    let words = words
        .copied()
        .chain(["--admin-url", &url, "--admin-key", ADMIN_KEY]);
    let outcome = call(words).await?;
    assert_eq!(outcome.verdict, Verdict::Good);
    Ok(outcome.text)
}

async fn call<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Outcome, CliError> {
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let Command::Remote(remote) = cli.command else {
        panic!("not a command of the admin API");
    };
    remote.outcome(cli.connection).await
}

/// What is said to words that cannot be taken.
fn mistyped(words: &[&str]) -> String {
    match Cli::try_parse_from(["sluice"].iter().chain(words)) {
        Ok(_) => panic!("{words:?} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_an_example_that_parses() {
    fn check(command: &clap::Command) {
        let mut subcommands = command.get_subcommands().peekable();
        if subcommands.peek().is_some() {
            subcommands.for_each(check);
            return;
        }
        let name = command.get_name();
        let help = command
            .get_after_help()
            .unwrap_or_else(|| panic!("{name} has no example"))
            .to_string();
        let help = help.replace("\\\n", " ");
        let examples = help
            .lines()
            .filter_map(|line| line.trim().strip_prefix("sluice "));
        let mut found = 0;
        for example in examples {
            let words = example
                .split_whitespace()
                .map(|word| word.trim_matches('\''));
            let words = std::iter::once("sluice").chain(words);
            if let Err(error) = Cli::try_parse_from(words) {
                // Splitting at spaces tears quoted words apart; only those may fail.
                assert!(example.contains('\''), "{example}: {error}");
            }
            found += 1;
        }
        assert!(found > 0, "{name} has no example");
    }
    check(&Cli::command());
}

#[test]
fn a_tenant_needs_a_host_only_when_it_is_added() {
    assert!(Cli::try_parse_from(["sluice", "tenant", "add", "demo"]).is_err());
    assert!(Cli::try_parse_from(["sluice", "tenant", "set", "demo", "--name", "Demo"]).is_ok());
}

#[test]
fn serve_and_demo_have_their_defaults() {
    let Command::Serve(serve) = Cli::try_parse_from(["sluice", "serve"]).unwrap().command else {
        panic!("not serve");
    };
    assert_eq!(serve.config.to_str(), Some("pooler.toml"));
    let Command::Demo(demo) = Cli::try_parse_from(["sluice", "demo", "--port", "0"])
        .unwrap()
        .command
    else {
        panic!("not demo");
    };
    assert_eq!(
        (demo.port, demo.direct_port, demo.admin_port),
        (0, 5432, 6544)
    );
    assert_eq!((demo.pool_size, demo.tenants), (10, 0));
}

#[tokio::test]
async fn the_admin_api_is_named_before_or_after_the_noun() {
    let world = World::start().await;
    let (url, key) = (world.url(), ["--admin-key", ADMIN_KEY]);
    let (noun, url) = (["person", "list"], ["--admin-url", url.as_str()]);
    let elsewhere = ["--admin-url", "http://127.0.0.1:1"];
    for words in [
        [url, key, noun].concat(),
        [noun, url, key].concat(),
        [url, noun, key].concat(),
        [key, ["person", url[0]], [url[1], "list"]].concat(),
        [elsewhere, key, noun, url].concat(),
    ] {
        let words = ["sluice"].into_iter().chain(words);
        let outcome = call(words).await.unwrap();
        assert!(outcome.text.starts_with("no people yet"));
    }
}

#[test]
fn what_the_environment_can_say_is_never_asked_for() {
    let said = mistyped(&["rule", "remove"]);
    assert!(
        said.contains("Usage: sluice rule remove <TENANT> <PERSON> <ROLE>"),
        "{said}"
    );
    let with = |variables: &'static [(&str, &str)]| {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Connection::default().open(move |name| find(name).map(|(_, value)| (*value).to_owned()))
    };
    assert!(with(&[("SLUICE_ADMIN_KEY", "k")]).is_ok());
    assert!(matches!(with(&[]).err(), Some(CliError::NoKey)));
    let wrong = with(&[("SLUICE_ADMIN_KEY", "k"), ("SLUICE_ADMIN_URL", "pooler")]);
    let said = wrong.err().unwrap().to_string();
    assert!(said.starts_with("SLUICE_ADMIN_URL: "), "{said}");
}

#[test]
fn an_expiry_that_cannot_be_is_refused_before_anything_is_sent() {
    let rule = ["rule", "add", "demo", EMAIL, "app", "--expires"];
    let token = ["token", "create", EMAIL, "--name", "laptop", "--expires"];
    for start in [rule, token] {
        for (when, said) in [
            ("-1h", "would be over already"),
            ("24", "has no unit"),
            ("soon", "neither a while"),
            ("", "neither a while"),
            ("--network", "neither a while"),
        ] {
            let refused = mistyped(&[&start[..], &[when]].concat());
            assert!(refused.contains(said), "{refused}");
        }
    }
}

#[tokio::test]
async fn an_administrator_sets_up_a_tenant_and_grants_a_role() {
    let world = World::start().await;
    let said = typed(
        &world,
        &[
            "tenant",
            "add",
            "demo",
            "--host",
            "::1",
            "--port",
            "54321",
            "--token-access",
        ],
    )
    .await;
    assert!(said.unwrap().contains("server            [::1]:54321"));
    let said = typed(&world, &["person", "add", EMAIL]).await.unwrap();
    assert!(said.starts_with("person added: first@example.com ("));
    let said = typed(&world, &["member", "add", "demo", EMAIL, "--kind", "owner"])
        .await
        .unwrap();
    assert_eq!(said, "first@example.com belongs to demo as owner");
    let said = typed(
        &world,
        &[
            "rule",
            "add",
            "demo",
            EMAIL,
            "app",
            "--expires",
            "24h",
            "--network",
            "192.0.2.1",
        ],
    );
    let said = said.await.unwrap();
    assert!(
        said.starts_with("rule added: first@example.com may use app of demo until 2"),
        "{said}"
    );
    assert!(said.ends_with("(in 24 h)"), "{said}");
    let table = typed(&world, &["rule", "list", "demo"]).await.unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert!(
        lines[0].starts_with("PERSON             ROLE  STATUS  EXPIRES"),
        "{table}"
    );
    assert!(lines[1].contains("192.0.2.1/32  everywhere"), "{table}");
    let said = typed(&world, &["tenant", "set", "demo", "--pool-size", "7"])
        .await
        .unwrap();
    assert!(said.contains("pool size         7"), "{said}");
    let said = typed(&world, &["access", "status", "demo"]).await.unwrap();
    assert!(
        said.starts_with("token access of demo is enabled, but not available: cannot connect"),
        "{said}"
    );
}

#[tokio::test]
async fn removing_a_rule_says_what_it_did_to_sessions() {
    let world = World::start().await;
    let token = world.settle().await;
    let path = [
        "rule",
        "add",
        "demo",
        EMAIL,
        "app_readwrite",
        "--expires",
        "1h",
    ];
    typed(&world, &path).await.unwrap();
    let session = world.log_in(&token).await;
    let table = typed(&world, &["session", "list", "--person", EMAIL])
        .await
        .unwrap();
    assert!(table.contains("app_readwrite  demo    app"), "{table}");
    let said = typed(&world, &["rule", "remove", "demo", EMAIL, "app_readwrite"])
        .await
        .unwrap();
    assert!(
        said.starts_with("rule removed; 1 session ended in ") && said.ends_with(" ms"),
        "{said}"
    );
    session.await.unwrap();
    assert_eq!(
        typed(&world, &["session", "list"]).await.unwrap(),
        "no open sessions"
    );
}

#[tokio::test]
async fn a_new_token_is_the_first_line_of_the_answer() {
    let world = World::start().await;
    typed(&world, &["person", "add", EMAIL]).await.unwrap();
    let said = typed(&world, &["token", "create", EMAIL, "--name", "laptop"])
        .await
        .unwrap();
    let token = said.lines().next().unwrap();
    assert!(crate::catalog::Token::parse(token).is_some(), "{said}");
    let table = typed(&world, &["token", "list", EMAIL]).await.unwrap();
    assert!(
        table.contains("laptop  active  ") && !table.contains(token),
        "{table}"
    );
    for wrong in ["slp_hush", "slp_é", "hush", &token[4..]] {
        let refused = typed(&world, &["token", "revoke", wrong]).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("12 characters after slp_"), "{refused}");
        assert!(!refused.contains(wrong), "{refused}");
    }
    let said = typed(&world, &["token", "revoke", &token[4..16]])
        .await
        .unwrap();
    assert_eq!(said, "token revoked; no session ended");
    let said = typed(&world, &["token", "revoke", token]).await.unwrap();
    assert_eq!(said, "token revoked; no session ended");
}

#[tokio::test]
async fn the_audit_list_says_who_when_and_as_which_role() {
    let world = World::start().await;
    world.settle().await;
    typed(
        &world,
        &["rule", "add", "demo", EMAIL, "app", "--expires", "1h"],
    )
    .await
    .unwrap();
    let table = typed(
        &world,
        &["audit", "list", "--tenant", "demo", "--limit", "1"],
    )
    .await
    .unwrap();
    let (head, row) = table.split_once('\n').unwrap();
    assert!(
        head.starts_with("SEQ  TIME                  WHO                ROLE  TENANT  EVENT"),
        "{table}"
    );
    assert!(
        row.contains("Z  first@example.com  app   demo    rule."),
        "{table}"
    );
    let said = typed(&world, &["audit", "verify"]).await.unwrap();
    assert!(said.starts_with("the trail is whole: "), "{said}");
}

#[tokio::test]
async fn json_is_the_answer_of_the_api() {
    let world = World::start().await;
    world.settle().await;
    let text = typed(&world, &["tenant", "show", "demo", "--json"])
        .await
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["tenant"]["ref"], "demo");
}

#[tokio::test]
async fn a_refusal_is_told_with_what_to_do() {
    let world = World::start().await;
    let refused = typed(&world, &["tenant", "show", "nowhere"])
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "there is no tenant `nowhere`\nhint: `sluice tenant list` shows the tenants"
    );
}

#[tokio::test]
async fn an_admin_api_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let words = [
        "sluice",
        "person",
        "list",
        "--admin-key",
        "k",
        "--admin-url",
        &url,
    ];
    let refused = call(words).await.err().unwrap().to_string();
    assert!(
        refused.contains(&url) && refused.contains("Connection refused"),
        "{refused}"
    );
}
