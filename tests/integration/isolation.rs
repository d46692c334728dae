//! People never meet: not on a backend, not in settings, not over the tenant's border.

use std::collections::{HashMap, HashSet};

use crate::support::{
    Fixture, Person, fixture::unique_name, postgres::TOKEN_ROLE, sluice::Settings,
};

/// Which backend serves a person's session now, and in whose name it was opened.
fn identity(fixture: &Fixture, person: &Person) -> (String, String) {
    let mut client = fixture.token_client(person).unwrap();
    let answer = client
        .query("select pg_backend_pid(), system_user")
        .unwrap();
    let mut row = answer.rows[0].clone().into_iter().map(Option::unwrap);
    (row.next().unwrap(), row.next().unwrap())
}

#[test]
fn two_people_on_one_role_never_meet_on_one_backend() {
    let fixture = Fixture::start();
    let people = ["first", "second"].map(|name| fixture.granted(name));
    let owner_of = std::sync::Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        for person in people.iter().cycle().take(8) {
            let (fixture, owner_of) = (&fixture, &owner_of);
            scope.spawn(move || {
                for _ in 0..25 {
                    let (pid, system_user) = identity(fixture, person);
                    assert!(
                        system_user.ends_with(&format!("UID={}", person.id)),
                        "{system_user}"
                    );
                    let owner = owner_of
                        .lock()
                        .unwrap()
                        .insert(pid.clone(), person.id.clone());
                    assert!(
                        owner.is_none_or(|owner| owner == person.id),
                        "backend {pid} has served two people"
                    );
                }
            });
        }
    });
    let owners: HashSet<String> = owner_of.into_inner().unwrap().into_values().collect();
    assert_eq!(owners.len(), 2);
}

#[test]
fn idle_backends_of_one_person_do_not_serve_another_or_a_password_user() {
    let settings = Settings::default()
        .set("pool.size", 1)
        .set("pool.tenant_budget", 3);
    let fixture = Fixture::with(settings);
    let (first, second) = (fixture.granted("first"), fixture.granted("second"));
    let first_pid = identity(&fixture, &first).0;
    let second_pid = identity(&fixture, &second).0;
    let mut password = fixture.password_client().unwrap();
    let password_pid = password.value("select pg_backend_pid()");
    let pids = HashSet::from([&first_pid, &second_pid, &password_pid]);
    assert_eq!(pids.len(), 3, "{pids:?}");
    // Each finds the backend of its own again.
    assert_eq!(identity(&fixture, &first).0, first_pid);
    assert_eq!(identity(&fixture, &second).0, second_pid);
    assert_eq!(password.value("select pg_backend_pid()"), password_pid);
}

#[test]
fn two_sessions_of_one_person_share_backends() {
    let fixture = Fixture::with_one_backend();
    let person = fixture.granted("first");
    let pids: HashSet<String> = (0..5).map(|_| identity(&fixture, &person).0).collect();
    assert_eq!(pids.len(), 1);
}

#[test]
fn one_persons_expired_token_does_not_spoil_anothers_login() {
    let fixture = Fixture::start();
    let (first, second) = (fixture.granted("first"), fixture.granted("second"));
    let _open = fixture.token_client(&first).unwrap();
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", first.token_id));
    assert!(fixture.token_client(&first).is_err());
    for _ in 0..3 {
        assert_eq!(
            fixture.token_client(&second).unwrap().value("select 1"),
            "1"
        );
    }
}

#[test]
fn tenants_on_one_server_keep_apart() {
    let fixture = Fixture::start();
    let other = unique_name() + "-other";
    fixture.add_tenant(&other, serde_json::json!({}));
    let person = fixture.granted("first");
    let elsewhere = fixture
        .token_login(&person)
        .user(&format!("{TOKEN_ROLE}.{other}"));
    assert_eq!(
        elsewhere.open().err().unwrap().code,
        "28000",
        "a rule holds in its own tenant"
    );

    let mut here = fixture.password_client().unwrap();
    let mut there = fixture
        .password_login()
        .user(&format!("app_user.{other}"))
        .open()
        .unwrap();
    let here_pid = here.value("select pg_backend_pid()");
    assert_ne!(there.value("select pg_backend_pid()"), here_pid);
    assert_eq!(here.value("select pg_backend_pid()"), here_pid);
}
