//! Tenants whose tokens an HTTP service decides about: what is asked, what each answer comes to, and how access ends.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Client, Fault, Fixture, Login,
    admin::Revocation,
    authority::{Authority, Reaction, USER, yes},
    fixture::text,
    ports::free_port,
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE, current},
    sluice::Settings,
    until,
};

/// Some token of somebody else's making.
const TOKEN: &str = "sbp_0123456789abcdef0123456789abcdef01234567";

/// Authorities may be on this machine, answers are good for `recheck`, and sessions outlast an outage of `outage`.
fn settings(recheck: &str, outage: &str) -> Settings {
    Settings::default()
        .set("authorities.networks", vec!["127.0.0.0/8"])
        .set("authorities.deadline", "2s")
        .set("authorities.answer_max_bytes", 4096)
        .set("authorities.recheck", recheck)
        .set("authorities.outage", outage)
}

fn fixture_with(settings: Settings, authority: Value) -> Fixture {
    let fixture = Fixture::on(current(), settings, json!({ "authority": authority }));
    fixture.sluice.keep_secret(TOKEN);
    fixture
}

/// Answers are good for long: a test that revokes must not be helped by a recheck.
fn fixture(authority: &Authority) -> Fixture {
    fixture_with(settings("1h", "1h"), authority.field())
}

fn login(fixture: &Fixture) -> Login {
    fixture
        .role_login(TOKEN_ROLE)
        .password(TOKEN)
        .options("-c jit=true")
        .encrypted()
}

fn open(fixture: &Fixture) -> Result<Client, Fault> {
    login(fixture).open()
}

#[track_caller]
fn refused(fixture: &Fixture) -> Fault {
    open(fixture).err().expect("a refusal")
}

#[track_caller]
fn assert_outage(fault: &Fault) {
    assert_eq!(fault.code, "57P03", "{fault:?}");
    assert_eq!(
        fault.message,
        "cannot verify temporary access at the moment"
    );
}

fn revoke(fixture: &Fixture, body: Value) -> Revocation {
    let path = format!("/v1/tenants/{}/authority/revocations", fixture.tenant);
    Revocation::of(&fixture.sluice.admin.post(&path, body))
}

fn in_seconds(seconds: i64) -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp() + seconds
}

#[test]
fn the_authority_is_asked_by_contract_and_names_the_person() {
    let authority = Authority::allowing(TOKEN_ROLE);
    // Everything is logged: the token, which the fixture looks for in the end, is not.
    let settings = settings("1h", "1h").set("log.level", "trace");
    let fixture = fixture_with(settings, authority.field());
    let mut client = open(&fixture).unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    let who = client.value("select system_user");
    assert!(who.contains(&format!("UID={USER}")), "{who}");

    let asked = authority.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].line,
        "POST /v1/projects/demo/database/jit HTTP/1.1"
    );
    for header in [
        format!("authorization: Bearer {TOKEN}"),
        "content-type: application/json".to_owned(),
        "accept: application/json".to_owned(),
    ] {
        assert!(asked[0].headers.contains(&header), "{:?}", asked[0].headers);
    }
    assert_eq!(
        asked[0].body,
        json!({ "role": TOKEN_ROLE, "rhost": "127.0.0.1" })
    );

    let session = &fixture.sluice.admin.sessions(&fixture.tenant)[0];
    assert_eq!(session["person"], USER);
    assert_eq!(session["rule"], Value::Null);
    let token_id = text(&session["token"]);
    assert!(!TOKEN.contains(&token_id));
    until("the login is in the trail", || {
        let audit = fixture.sluice.admin.audit(&fixture.tenant);
        audit.iter().any(|row| {
            row["kind"] == "auth.succeeded"
                && row["person"] == USER
                && row["token"] == token_id.as_str()
        })
    });
}

#[test]
fn each_no_of_the_authority_is_told_as_what_it_is() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture(&authority);
    // What cannot be a token is not even asked about.
    let wrong = login(&fixture)
        .password("not a token")
        .open()
        .err()
        .unwrap();
    assert_eq!(authority.asked().len(), 0);
    let denied = |reason: &str| {
        let fault = refused(&fixture);
        assert_eq!(fault.code, "28000", "{fault:?}");
        assert_eq!(
            fault.message,
            format!("temporary access denied for role \"{TOKEN_ROLE}\"")
        );
        let detail = fault.detail.unwrap();
        assert!(detail.contains(reason), "{detail}");
    };

    for status in [401, 200] {
        authority.react(match status {
            200 => yes(json!({ "role": OTHER_TOKEN_ROLE })),
            _ => Reaction::Json(status, json!({ "message": "no" })),
        });
        assert_eq!(refused(&fixture), wrong, "after {status}");
    }
    authority.react(Reaction::Json(406, json!({ "message": "nothing" })));
    denied("No rule grants this role");
    authority.react(Reaction::Json(403, json!({ "message": "hush" })));
    denied("The project's authority does not allow this");
    authority.react(Reaction::Json(
        403,
        json!({ "error": { "code": "rule_expired" } }),
    ));
    denied("has expired");
    authority.react(yes(
        json!({ "role": TOKEN_ROLE, "expires_at": in_seconds(-1) }),
    ));
    denied("has expired");
    let elsewhere =
        json!({ "allowed_cidrs": [{ "cidr": "192.0.2.0/24" }], "allowed_cidrs_v6": [] });
    authority.react(yes(
        json!({ "role": TOKEN_ROLE, "allowed_networks": elsewhere }),
    ));
    denied("network address");
    authority.react(yes(json!({ "role": TOKEN_ROLE, "branches_only": true })));
    denied("branches only");

    let here = json!({ "allowed_cidrs": [{ "cidr": "127.0.0.0/8" }] });
    authority.react(yes(
        json!({ "role": TOKEN_ROLE, "allowed_networks": here, "branches_only": false }),
    ));
    assert!(open(&fixture).is_ok());
}

#[test]
fn no_answer_is_an_outage_that_locks_nobody_out() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture(&authority);
    let allowed = json!({ "user_id": USER, "user_role": { "role": TOKEN_ROLE } });
    let huge = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}",
        " ".repeat(100_000)
    );
    let endless = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "400\r\n".to_owned() + &" ".repeat(1024) + "\r\n"
    )
    .repeat(1)
        + &("400\r\n".to_owned() + &" ".repeat(1024) + "\r\n").repeat(20);
    let elsewhere = Authority::allowing(TOKEN_ROLE);
    let redirect = |status: u16| {
        format!(
            "HTTP/1.1 {status} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            elsewhere.url()
        )
    };
    let mut reactions: Vec<Reaction> = [404, 429, 500, 502, 503, 204, 400]
        .map(|status| Reaction::Json(status, allowed.clone()))
        .into();
    reactions.extend([
        Reaction::Json(200, json!({ "user_id": USER, "user_role": {} })),
        Reaction::Json(200, json!("yes")),
        Reaction::Json(200, json!({ "user_id": USER, "user_role": { "role": TOKEN_ROLE, "expires_at": 1_780_000_000_000_i64 } })),
        Reaction::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec()),
        Reaction::Raw(b"this is not HTTP\r\n\r\n".to_vec()),
        Reaction::Raw(huge.into_bytes()),
        Reaction::Raw(endless.into_bytes()),
        Reaction::Raw(redirect(302).into_bytes()),
        Reaction::Raw(redirect(307).into_bytes()),
        Reaction::Hangup,
    ]);
    for reaction in reactions {
        authority.react(reaction);
        assert_outage(&refused(&fixture));
    }
    assert_eq!(elsewhere.asked().len(), 0, "a redirect was followed");
    authority.react(Reaction::Silent);
    let began = Instant::now();
    assert_outage(&refused(&fixture));
    assert!(
        began.elapsed() >= Duration::from_millis(1900),
        "gave up before the deadline"
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );

    // Nobody is shut out for it: neither passwords meanwhile, nor tokens afterwards.
    assert!(fixture.password_client().is_ok());
    authority.react(Reaction::Json(200, allowed));
    assert!(open(&fixture).is_ok());
    let metrics = fixture
        .sluice
        .admin
        .call(reqwest::Method::GET, "/metrics", None)
        .text;
    let tenant = &fixture.tenant;
    let counted = format!(
        "sluice_logins_total{{tenant=\"{tenant}\",method=\"token\",outcome=\"refused\"}} 0"
    );
    assert!(metrics.contains(&counted), "{metrics}");
    assert!(
        metrics.contains("sluice_authority_calls_total{outcome=\"unavailable\"} 18"),
        "{metrics}"
    );
}

#[test]
fn an_absent_authority_and_one_with_a_strange_certificate_are_outages() {
    let nobody = json!({ "kind": "http", "url": format!("https://localhost:{}/", free_port()) });
    let fixture = fixture_with(settings("1h", "1h"), nobody);
    assert_outage(&refused(&fixture));
    let stranger = Authority::allowing(TOKEN_ROLE);
    let path = format!("/v1/tenants/{}", fixture.tenant);
    // Without its CA: nobody known vouches for it.
    fixture.sluice.admin.patch(
        &path,
        json!({ "authority": { "kind": "http", "url": stranger.url() } }),
    );
    assert_outage(&refused(&fixture));
    assert_eq!(stranger.asked().len(), 0, "the token went to a stranger");
    fixture
        .sluice
        .admin
        .patch(&path, json!({ "authority": stranger.field() }));
    assert!(open(&fixture).is_ok());
}

#[test]
fn where_an_authority_may_be_is_the_operators_to_say() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture_with(Settings::default(), json!({ "kind": "catalogue" }));
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let set = |url: &str| {
        let authority = json!({ "authority": { "kind": "http", "url": url } });
        fixture
            .sluice
            .admin
            .call(reqwest::Method::PATCH, &path, Some(authority))
    };
    for url in [
        "https://127.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:169.254.169.254]/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://2130706433/",
        "http://auth.example.com/",
        "https://user:secret@auth.example.com/",
        "ftp://auth.example.com/",
    ] {
        let refused = set(url);
        assert!(matches!(refused.status, 400 | 422), "{url}: {refused:?}");
    }
    // Where a name leads is seen only when it is asked for; then it leads nowhere.
    assert_eq!(set(&authority.url()).status, 200);
    assert_outage(&refused(&fixture));
    assert_eq!(authority.asked().len(), 0);
}

#[test]
fn an_answer_is_good_for_further_logins_but_not_beyond_its_time() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture(&authority);
    let mut first = open(&fixture).unwrap();
    authority.react(Reaction::Json(401, Value::Null));
    assert!(open(&fixture).is_ok());
    assert_eq!(authority.asked().len(), 1, "the answer was not remembered");
    // It was about this token and role only.
    assert_eq!(
        login(&fixture)
            .password("sbp_another")
            .open()
            .err()
            .unwrap()
            .code,
        "28P01"
    );
    let other_role = login(&fixture).user(&format!("{OTHER_TOKEN_ROLE}.{}", fixture.tenant));
    assert_eq!(other_role.open().err().unwrap().code, "28P01");
    assert_eq!(first.value("select 1"), "1");

    // What is remembered ends when the access does, and so do its sessions.
    revoke(&fixture, json!({}));
    authority.react(yes(
        json!({ "role": TOKEN_ROLE, "expires_at": in_seconds(4) }),
    ));
    let mut short = open(&fixture).unwrap();
    assert_eq!(
        short.farewell().message,
        "terminating connection due to access expiry"
    );
    // It is asked anew: the access may have been prolonged.
    let fault = refused(&fixture);
    assert_eq!(
        (fault.code.as_str(), authority.asked().len()),
        ("28000", 5),
        "{fault:?}"
    );
}

#[test]
fn live_sessions_end_when_the_authority_says_no() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture_with(settings("1s", "1h"), authority.field());
    let mut idle = open(&fixture).unwrap();
    let mut busy = open(&fixture).unwrap();
    busy.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    authority.wait_for_questions(3);
    assert_eq!(idle.value("select 1"), "1", "a further yes ends nothing");
    authority.react(Reaction::Json(401, Value::Null));
    for client in [&mut idle, &mut busy] {
        let fault = client.farewell();
        assert_eq!(
            (fault.code.as_str(), fault.message.as_str()),
            ("57P01", "terminating connection due to access revocation")
        );
    }
    until("no backend is left", || fixture.backends().is_empty());
    until("it is in the trail", || {
        let audit = fixture.sluice.admin.audit(&fixture.tenant);
        audit.iter().any(|row| {
            row["kind"] == "access.revoked" && row["actor"] == "authority" && row["person"] == USER
        })
    });
}

#[test]
fn what_the_authority_limits_meanwhile_holds_for_live_sessions() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture_with(settings("1s", "1h"), authority.field());
    let mut client = open(&fixture).unwrap();
    authority.react(yes(
        json!({ "role": TOKEN_ROLE, "expires_at": in_seconds(4) }),
    ));
    assert_eq!(
        client.farewell().message,
        "terminating connection due to access expiry"
    );

    authority.react(yes(json!({ "role": TOKEN_ROLE })));
    let mut client = eventually_open(&fixture);
    let elsewhere = json!({ "allowed_cidrs": [{ "cidr": "192.0.2.0/24" }] });
    authority.react(yes(
        json!({ "role": TOKEN_ROLE, "allowed_networks": elsewhere }),
    ));
    assert_eq!(
        client.farewell().message,
        "terminating connection due to access revocation"
    );

    authority.react(yes(json!({ "role": TOKEN_ROLE })));
    let mut client = eventually_open(&fixture);
    let somebody_else = "5f0c0d1e-0000-4000-8000-000000000002";
    authority.react(Reaction::Json(
        200,
        json!({ "user_id": somebody_else, "user_role": { "role": TOKEN_ROLE } }),
    ));
    assert_eq!(
        client.farewell().message,
        "terminating connection due to access revocation"
    );
}

/// A round that is under way may still bring the last answer.
fn eventually_open(fixture: &Fixture) -> Client {
    crate::support::eventually("a login", || open(fixture).ok())
}

#[test]
fn live_sessions_outlast_a_short_outage_but_not_a_long_one() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture_with(settings("1s", "8s"), authority.field());
    let mut client = open(&fixture).unwrap();
    authority.react(Reaction::Json(503, Value::Null));
    let before = authority.asked().len();
    authority.wait_for_questions(before + 2);
    assert_eq!(client.value("select 1"), "1");
    authority.react(yes(json!({ "role": TOKEN_ROLE })));
    let before = authority.asked().len();
    authority.wait_for_questions(before + 2);
    assert_eq!(client.value("select 1"), "1");

    authority.react(Reaction::Hangup);
    let fault = client.farewell();
    assert_eq!(fault.code, "57P01");
    assert_eq!(
        fault.message,
        "terminating connection due to loss of authorization service"
    );
    authority.react(yes(json!({ "role": TOKEN_ROLE })));
    assert!(open(&fixture).is_ok());
}

#[test]
fn the_authority_revokes_at_once_with_a_key_of_its_own() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture(&authority);
    let admin = &fixture.sluice.admin;
    let base = format!("/v1/tenants/{}/authority", fixture.tenant);
    let key = text(&admin.post(&format!("{base}/webhook-key"), json!({}))["key"]);
    fixture.sluice.keep_secret(&key);
    let webhook = admin.with_key(Some(&key));
    let path = format!("{base}/revocations");
    let post = |body: Value| Revocation::of(&webhook.post(&path, body));

    for body in [
        json!({ "token": TOKEN }),
        json!({ "person": USER }),
        json!({ "role": TOKEN_ROLE }),
        json!({ "person": USER, "token": TOKEN, "role": TOKEN_ROLE }),
        json!({}),
    ] {
        let mut client = open(&fixture).unwrap();
        client.start("select pg_sleep(600)");
        fixture.running("pg_sleep");
        for other in [
            json!({ "token": "sbp_other" }),
            json!({ "role": OTHER_TOKEN_ROLE }),
            json!({ "person": USER, "role": OTHER_TOKEN_ROLE }),
        ] {
            assert_eq!(post(other).sessions_ended, 0);
        }
        let report = post(body.clone());
        assert_eq!(
            (report.sessions_ended, report.unconfirmed),
            (1, 0),
            "{body}: {report:?}"
        );
        assert!(report.elapsed_ms > 0.0 && report.revision > 0, "{report:?}");
        assert!(fixture.backends().is_empty(), "{body}");
        assert_eq!(
            client.farewell().message,
            "terminating connection due to access revocation"
        );
    }
    // What was remembered of the token went with it.
    authority.react(Reaction::Json(401, Value::Null));
    assert_eq!(refused(&fixture).code, "28P01");

    let wrong = admin.with_key(Some("slw_wrong"));
    assert_eq!(
        wrong
            .call(reqwest::Method::POST, &path, Some(json!({})))
            .status,
        401
    );
    let nobody = admin.with_key(None);
    assert_eq!(
        nobody
            .call(reqwest::Method::POST, &path, Some(json!({})))
            .status,
        401
    );
    let elsewhere = webhook.call(reqwest::Method::GET, "/v1/sessions", None);
    assert_eq!(elsewhere.status, 401, "the key opens nothing else");
    until("the trail has who revoked", || {
        let actor = format!("authority:{}", fixture.tenant);
        admin
            .audit(&fixture.tenant)
            .iter()
            .any(|row| row["kind"] == "access.revoked" && row["actor"] == actor.as_str())
    });
}

#[test]
fn a_yes_that_comes_after_the_revocation_is_not_believed() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture(&authority);
    // The tenant's authority has been asked before: of an unknown one nothing needs to be remembered.
    drop(open(&fixture).unwrap());
    for revoked in [
        json!({ "person": USER }),
        json!({ "token": TOKEN }),
        json!({ "role": TOKEN_ROLE }),
        json!({}),
    ] {
        revoke(&fixture, json!({}));
        authority.hold();
        let before = authority.asked().len();
        let waiting = std::thread::spawn({
            let login = login(&fixture);
            move || login.open().err()
        });
        authority.wait_for_questions(before + 1);
        revoke(&fixture, revoked.clone());
        authority.release();
        let fault = waiting
            .join()
            .unwrap()
            .unwrap_or_else(|| panic!("let in after {revoked}"));
        assert!(
            ["28000", "57P01"].contains(&fault.code.as_str()),
            "{fault:?}"
        );
        assert!(fixture.backends().is_empty());
        assert!(fixture.sluice.admin.sessions(&fixture.tenant).is_empty());
        drop(open(&fixture).unwrap());
    }
}

/// Logins begin and end all the time while the authority changes its mind: whoever it has allowed before a revocation
/// is gone after it, however far their login had come.
#[test]
fn no_login_slips_past_a_revocation() {
    const ROUNDS: usize = 15;
    const PEOPLE: usize = 6;
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture(&authority);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..PEOPLE {
            let login = login(&fixture).password(&format!("{TOKEN}{number}"));
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(mut client) = login.open() {
                        let _ = client.query("select pg_sleep(0.01)");
                    }
                }
            });
        }
        // Also when an assertion fails: the scope waits for those who log in.
        let _over = Over(&over);
        let asked_more = |count: usize| {
            let before = authority.asked().len();
            authority.wait_for_questions(before + count);
        };
        for round in 0..ROUNDS {
            authority.hold();
            // Nothing is remembered of anybody, so everybody has to be asked about.
            revoke(&fixture, json!({}));
            asked_more(PEOPLE / 2);
            authority.react(Reaction::Json(401, Value::Null));
            // The authority has said yes to some whose answers arrive during and after the revocation.
            let released = scope.spawn(|| authority.release());
            let report = revoke(&fixture, json!({ "person": USER }));
            assert_eq!(report.unconfirmed, 0, "{report:?}");
            released.join().unwrap();
            asked_more(PEOPLE);
            let sessions = fixture.sluice.admin.sessions(&fixture.tenant);
            let let_in = |session: &&Value| !session["person"].is_null();
            let left: Vec<_> = sessions.iter().filter(let_in).collect();
            assert!(left.is_empty(), "round {round}: {left:?}");
            authority.react(yes(json!({ "role": TOKEN_ROLE })));
        }
    });
}

/// Says that it is over when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_tenants_own_limits_hold_whatever_its_authority_says() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture(&authority);
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let admin = &fixture.sluice.admin;
    let ends = |change: Value, back: Value, reason: &str| {
        let mut client = open(&fixture).unwrap();
        let answer = admin.patch(&path, change);
        assert_eq!(Revocation::of(&answer).sessions_ended, 1, "{reason}");
        assert_eq!(
            client.farewell().message,
            "terminating connection due to access revocation"
        );
        let fault = refused(&fixture);
        assert!(
            fault
                .detail
                .as_ref()
                .is_some_and(|detail| detail.contains(reason)),
            "{fault:?}"
        );
        admin.patch(&path, back);
    };
    ends(
        json!({ "token_access": "disabled" }),
        json!({ "token_access": "enabled" }),
        "not enabled",
    );
    ends(
        json!({ "networks": ["192.0.2.0/24"] }),
        json!({ "networks": [] }),
        "network address",
    );

    // Another authority has not let anybody in yet, and a token of the catalogue is nothing to this one.
    let mut client = open(&fixture).unwrap();
    let other = Authority::start();
    other.react(Reaction::Json(401, Value::Null));
    let answer = admin.patch(&path, json!({ "authority": other.field() }));
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
    let person = fixture.granted("first");
    assert_eq!(fixture.token_client(&person).err().unwrap().code, "28P01");
    let answer = admin.patch(&path, json!({ "authority": { "kind": "catalogue" } }));
    assert_eq!(
        answer["tenant"]["authority"],
        json!({ "kind": "catalogue" })
    );
    assert_eq!(refused(&fixture).code, "28P01");
    assert!(fixture.token_client(&person).is_ok());
}

#[test]
fn many_logins_wait_for_their_turn_and_other_tenants_for_none_of_them() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let settings = settings("1h", "1h").set("authorities.calls_per_tenant", 2);
    let fixture = fixture_with(settings, authority.field());
    let neighbour = Authority::allowing(TOKEN_ROLE);
    let other = format!("{}-other", fixture.tenant);
    fixture.add_tenant(&other, json!({ "authority": neighbour.field() }));
    authority.hold();
    let waiting: Vec<_> = (0..6)
        .map(|number| {
            let login = login(&fixture).password(&format!("sbp_{number}"));
            std::thread::spawn(move || login.open().map(drop))
        })
        .collect();
    authority.wait_for_questions(2);
    let login = login(&fixture).user(&format!("{TOKEN_ROLE}.{other}"));
    assert!(
        login.open().is_ok(),
        "a neighbour's authority was waited for"
    );
    assert_eq!(authority.asked().len(), 2);
    authority.release();
    for login in waiting {
        assert_eq!(login.join().unwrap(), Ok(()));
    }
}

#[test]
fn a_reload_changes_how_many_calls_may_be_under_way() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let settings = settings("1h", "1h").set("authorities.deadline", "1m");
    let fixture = fixture_with(
        settings.set("authorities.calls_per_tenant", 1),
        authority.field(),
    );
    let ask = || {
        let login = login(&fixture);
        std::thread::spawn(move || login.open().map(drop))
    };
    authority.hold();
    let first = ask();
    authority.wait_for_questions(1);
    fixture
        .sluice
        .rewrite(|settings| settings.set("authorities.calls_per_tenant", 2));
    fixture.sluice.admin.post("/v1/reload", json!(null));
    let others = [ask(), ask()];
    authority.wait_for_questions(3);
    authority.release();
    for login in others.into_iter().chain([first]) {
        assert_eq!(login.join().unwrap(), Ok(()));
    }
}

#[test]
fn a_silent_authority_makes_few_wait_until_it_answers_again() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let settings = settings("1h", "1h").set("authorities.calls_per_tenant", 4);
    let fixture = fixture_with(settings, authority.field());
    let ask = |count: usize| -> Vec<_> {
        let logins = (0..count).map(|_| login(&fixture));
        logins
            .map(|login| std::thread::spawn(move || login.open().map(drop)))
            .collect()
    };
    authority.hold();
    for login in ask(3) {
        assert_outage(&login.join().unwrap().expect_err("an outage"));
    }
    // Half of the calls try anew, and nobody else is made to wait for them.
    let trials = ask(2);
    authority.wait_for_questions(5);
    assert_outage(&refused(&fixture));
    assert_eq!(authority.asked().len(), 5);
    authority.release();
    for login in trials {
        assert_eq!(login.join().unwrap(), Ok(()));
    }
    assert!(open(&fixture).is_ok());
}

#[test]
fn the_command_line_sets_the_authority() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let fixture = fixture_with(settings("1h", "1h"), json!({ "kind": "catalogue" }));
    let home = fixture.sluice.home();
    let ca = home.path("ca.crt");
    let said = fixture.sluice.cli(&[
        "authority",
        "http",
        &fixture.tenant,
        "--url",
        &authority.url(),
        "--ca",
        ca.to_str().unwrap(),
        "--deadline",
        "3s",
    ]);
    assert!(said.contains(&authority.url()), "{said}");
    assert!(open(&fixture).is_ok());
    let shown = fixture.sluice.cli(&["tenant", "show", &fixture.tenant]);
    assert!(shown.contains(&authority.url()), "{shown}");
    let key = fixture
        .sluice
        .cli(&["authority", "webhook-key", &fixture.tenant]);
    assert!(key.starts_with("slw_"), "{key}");
    fixture.sluice.keep_secret(key.trim());
    fixture
        .sluice
        .cli(&["authority", "catalogue", &fixture.tenant]);
    assert_eq!(refused(&fixture).code, "28P01");
}
