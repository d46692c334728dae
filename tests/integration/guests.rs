//! Guests: people who are no members, let in for a while that begins when they accept an invitation.

use std::{
    process::Command,
    thread::{self, ScopedJoinHandle},
};

use reqwest::Method;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{
    Fixture, Person,
    admin::{Answer, Revocation},
    fixture::{text, unique_name},
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE},
    programs::succeeded,
    until,
};

const EMAIL: &str = "guest@example.com";

/// An invitation that was made.
struct Invitation {
    id: String,
    token: String,
}

fn invite(fixture: &Fixture, terms: Value) -> Invitation {
    let path = format!("/v1/tenants/{}/invites", fixture.tenant);
    let made = fixture.sluice.admin.post(&path, terms);
    let token = text(&made["token"]);
    fixture.sluice.keep_secret(&token);
    Invitation {
        id: text(&made["invite"]["id"]),
        token,
    }
}

/// For `TOKEN_ROLE` and two hours.
fn usual() -> Value {
    json!({ "email": EMAIL, "roles": [{ "role": TOKEN_ROLE, "lasts": "2h", "reason": "ticket 4711" }] })
}

/// Shows the token as somebody without any key.
fn accept(fixture: &Fixture, tenant: &str, email: &str, token: &str) -> Answer {
    let path = format!("/v1/tenants/{tenant}/invites/accept");
    let body = json!({ "email": email, "token": token });
    let nobody = fixture.sluice.admin.with_key(None);
    nobody.call(Method::POST, &path, Some(body))
}

/// A guest with nothing but what the acceptance has given them.
fn guest(fixture: &Fixture) -> (Invitation, Person) {
    let invitation = invite(fixture, usual());
    let accepted = accept(fixture, &fixture.tenant, EMAIL, &invitation.token).value();
    (invitation, welcomed(fixture, &accepted))
}

/// Whom an acceptance has let in.
fn welcomed(fixture: &Fixture, accepted: &Value) -> Person {
    let token = text(&accepted["secret"]);
    fixture.sluice.keep_secret(&token);
    Person {
        id: text(&accepted["person"]["id"]),
        email: EMAIL.to_owned(),
        token,
        token_id: text(&accepted["token"]["id"]),
    }
}

fn revoke(fixture: &Fixture, invitation: &Invitation) -> Value {
    let path = format!("/v1/tenants/{}/invites/{}", fixture.tenant, invitation.id);
    fixture.sluice.admin.delete(&path)
}

/// Kinds and reasons of the tenant's audit rows, oldest first.
fn trail(fixture: &Fixture) -> Vec<String> {
    let rows = fixture.sluice.admin.audit(&fixture.tenant);
    let word = |row: &Value| {
        let reason = row["reason"].as_str().map(|reason| format!(" {reason}"));
        text(&row["kind"]) + &reason.unwrap_or_default()
    };
    rows.iter().rev().map(word).collect()
}

#[test]
fn a_guest_is_let_in_for_as_long_as_was_promised_from_the_acceptance_on() {
    let fixture = Fixture::start();
    let invitation = invite(&fixture, usual());
    let before = OffsetDateTime::now_utc();
    let accepted = accept(
        &fixture,
        &fixture.tenant,
        "Guest@Example.com",
        &invitation.token,
    );
    assert_eq!(accepted.status, 201);
    let accepted = accepted.value();
    let rule = &accepted["rules"][0];
    let end = OffsetDateTime::parse(&text(&rule["expires_at"]), &Rfc3339).unwrap();
    let after = OffsetDateTime::now_utc();
    assert!(
        end >= before + Duration::hours(2) - Duration::SECOND,
        "{end}"
    );
    assert!(end <= after + Duration::hours(2), "{end}");
    assert_eq!(rule["reason"], "ticket 4711");

    let person = welcomed(&fixture, &accepted);
    let mut client = fixture.token_client(&person).unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    assert!(
        fixture
            .token_login_as(&person, OTHER_TOKEN_ROLE)
            .open()
            .is_err()
    );
    let members = format!("/v1/tenants/{}/members", fixture.tenant);
    assert_eq!(fixture.sluice.admin.get(&members)["members"], json!([]));
    let invites = format!("/v1/tenants/{}/invites", fixture.tenant);
    let listed = &fixture.sluice.admin.get(&invites)["invites"][0];
    assert_eq!(listed["status"], "accepted");
    assert_eq!(listed["person"], person.id);
    assert_eq!(listed["token_id"], person.token_id);
    // Whoever manages access may change what a guest has as they may a member's.
    let narrowed = fixture.grant(
        &person,
        TOKEN_ROLE,
        json!({ "expires": "1h", "networks": ["203.0.113.0/24"] }),
    );
    assert_eq!(Revocation::of(&narrowed).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
}

#[test]
fn an_invitation_is_good_for_its_address_and_tenant_only_and_once() {
    let fixture = Fixture::start();
    let other = unique_name();
    fixture.add_tenant(&other, json!({}));
    let invitation = invite(&fixture, usual());
    let tenant = &*fixture.tenant;
    let last = invitation.token.chars().last().unwrap();
    let wrong = invitation.token[..78].to_owned() + if last == 'a' { "b" } else { "a" };
    let nobodys = format!("sli_{}{}", "0".repeat(32), "a".repeat(43));
    let refused = [
        accept(&fixture, tenant, "other@example.com", &invitation.token),
        accept(&fixture, &other, EMAIL, &invitation.token),
        accept(&fixture, "no-such-tenant", EMAIL, &invitation.token),
        accept(&fixture, tenant, EMAIL, &wrong),
        accept(&fixture, tenant, EMAIL, &nobodys),
        accept(&fixture, tenant, EMAIL, "sli_"),
    ];
    for answer in &refused {
        assert_eq!((answer.status, &answer.text), (401, &refused[0].text));
    }
    assert_eq!(
        accept(&fixture, tenant, EMAIL, &invitation.token).status,
        201
    );
    let again = accept(&fixture, tenant, EMAIL, &invitation.token);
    assert_eq!(
        (again.status, again.error().0.as_str()),
        (410, "invite_used")
    );
    let rules = fixture
        .sluice
        .admin
        .get(&format!("/v1/tenants/{tenant}/rules"));
    assert_eq!(rules["rules"].as_array().unwrap().len(), 1);
    let trail = trail(&fixture);
    for kind in [
        "invite.created",
        "invite.accepted",
        "rule.created",
        "invite.refused invite_used",
    ] {
        assert_eq!(
            trail.iter().filter(|row| *row == kind).count(),
            1,
            "{kind}: {trail:?}"
        );
    }
}

#[test]
fn of_many_acceptances_at_once_one_is_good() {
    let fixture = Fixture::start();
    let invitation = invite(&fixture, usual());
    let statuses: Vec<u16> = thread::scope(|scope| {
        let accept = || accept(&fixture, &fixture.tenant, EMAIL, &invitation.token).status;
        let tries: Vec<_> = (0..8).map(|_| scope.spawn(accept)).collect();
        let tries = tries.into_iter().map(ScopedJoinHandle::join);
        tries.map(Result::unwrap).collect()
    });
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((count(201), count(410)), (1, 7), "{statuses:?}");
}

#[test]
fn an_invitation_that_nobody_took_up_in_time_is_refused() {
    let fixture = Fixture::start();
    let mut terms = usual();
    terms["expires"] = json!("3s");
    let invitation = invite(&fixture, terms);
    let invites = format!("/v1/tenants/{}/invites", fixture.tenant);
    until("it has expired", || {
        fixture.sluice.admin.get(&invites)["invites"][0]["status"] == "expired"
    });
    let late = accept(&fixture, &fixture.tenant, EMAIL, &invitation.token);
    assert_eq!(
        (late.status, late.error().0.as_str()),
        (410, "invite_expired")
    );
    assert!(trail(&fixture).contains(&"invite.refused invite_expired".to_owned()));
    let unknown = format!("/v1/people/{EMAIL}");
    let person = fixture.sluice.admin.call(Method::GET, &unknown, None);
    assert_eq!(person.status, 404, "nobody was made");
}

#[test]
fn revoking_an_invitation_ends_the_sessions_of_the_guest() {
    let fixture = Fixture::start();
    let (invitation, person) = guest(&fixture);
    let mut idle = fixture.token_client(&person).unwrap();
    let mut busy = fixture.token_client(&person).unwrap();
    busy.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    let report = Revocation::of(&revoke(&fixture, &invitation));
    assert_eq!((report.sessions_ended, report.unconfirmed), (2, 0));
    assert_eq!(idle.farewell().code, "57P01");
    assert_eq!(busy.farewell().code, "57P01");
    assert!(fixture.backends().is_empty());
    let trail = trail(&fixture);
    for kind in ["invite.revoked", "rule.removed"] {
        assert!(trail.contains(&kind.to_owned()), "{kind}: {trail:?}");
    }
    let again = accept(&fixture, &fixture.tenant, EMAIL, &invitation.token);
    assert_eq!(again.status, 401);
    // Invited anew, the same person has another token; whoever holds the first one gets nothing of it.
    let (_, anew) = guest(&fixture);
    assert_eq!(anew.id, person.id);
    assert_eq!(fixture.token_client(&person).err().unwrap().code, "28P01");
    fixture.token_client(&anew).unwrap();
}

#[test]
fn the_token_of_a_guest_opens_what_the_invitation_gave_and_nothing_else() {
    let fixture = Fixture::start();
    let other = unique_name();
    fixture.add_tenant(&other, json!({}));
    let invitation = invite(&fixture, usual());
    let accepted = accept(&fixture, &fixture.tenant, EMAIL, &invitation.token).value();
    let person = welcomed(&fixture, &accepted);
    let token = &accepted["token"];
    assert_eq!(token["scopes"], json!(["db:connect"]));
    assert_eq!(token["expires_at"], accepted["rules"][0]["expires_at"]);
    let own = fixture.sluice.admin.with_key(Some(&person.token));
    let found = own.get("/v1/me/access");
    assert_eq!(found["access"], accepted["access"]);
    assert_eq!(found["access"][0]["status"], "open");

    // What the person is granted otherwise is for a token that is made for it.
    fixture.join(&person, &other);
    let elsewhere = format!("/v1/tenants/{other}/rules/{}/{TOKEN_ROLE}", person.id);
    fixture
        .sluice
        .admin
        .put(&elsewhere, json!({ "expires": "1h" }));
    fixture.grant(&person, OTHER_TOKEN_ROLE, json!({ "expires": "1h" }));
    let elsewhere = fixture.token_login(&person);
    let elsewhere = elsewhere.user(&format!("{TOKEN_ROLE}.{other}")).open();
    assert_eq!(elsewhere.err().unwrap().code, "28000");
    let otherwise = fixture.token_login_as(&person, OTHER_TOKEN_ROLE).open();
    assert_eq!(otherwise.err().unwrap().code, "28000");
    assert_eq!(own.get("/v1/me/access"), found);
    assert_eq!(own.get("/v1/me")["memberships"], json!([]));
    fixture.token_client(&person).unwrap();
}

#[test]
fn removing_a_guest_ends_their_sessions_and_what_else_they_are_invited_to() {
    let fixture = Fixture::start();
    let (_, person) = guest(&fixture);
    let pending = invite(&fixture, usual());
    let mut client = fixture.token_client(&person).unwrap();
    let path = format!("/v1/tenants/{}/members/{}", fixture.tenant, person.id);
    let removed = fixture.sluice.admin.delete(&path);
    assert_eq!(Revocation::of(&removed).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
    let back = accept(&fixture, &fixture.tenant, EMAIL, &pending.token);
    assert_eq!(back.status, 401);
    assert!(fixture.token_client(&person).is_err());
}

#[test]
fn of_two_invitations_the_one_that_is_left_keeps_its_roles() {
    let fixture = Fixture::start();
    let (first, person) = guest(&fixture);
    let other = json!({ "email": EMAIL, "roles": [{ "role": OTHER_TOKEN_ROLE, "lasts": "1h" }] });
    let second = invite(&fixture, other);
    let accepted = accept(&fixture, &fixture.tenant, EMAIL, &second.token).value();
    assert_eq!(
        accepted["person"]["id"], person.id,
        "one person, however often invited"
    );
    let again = welcomed(&fixture, &accepted);
    let mut ended = fixture.token_client(&person).unwrap();
    let mut kept = fixture
        .token_login_as(&again, OTHER_TOKEN_ROLE)
        .open()
        .unwrap();
    revoke(&fixture, &first);
    assert_eq!(ended.farewell().code, "57P01");
    assert_eq!(kept.value("select 1"), "1");
    revoke(&fixture, &second);
    assert_eq!(kept.farewell().code, "57P01");
}

#[test]
fn what_cannot_be_promised_is_refused_when_it_is_asked_for() {
    let fixture = Fixture::start();
    let member = fixture.person("first");
    let path = format!("/v1/tenants/{}/invites", fixture.tenant);
    let role = |role: &str, lasts: Value| json!([{ "role": role, "lasts": lasts }]);
    let cases = [
        (json!({ "email": EMAIL, "roles": [] }), 422, "at least one"),
        (
            json!({ "email": "nobody", "roles": role(TOKEN_ROLE, json!("1h")) }),
            422,
            "e-mail",
        ),
        (
            json!({ "email": EMAIL, "roles": role(TOKEN_ROLE, json!("91d")) }),
            422,
            "90 days",
        ),
        (
            json!({ "email": EMAIL, "roles": role(TOKEN_ROLE, json!("never")) }),
            422,
            "unit",
        ),
        (
            json!({ "email": EMAIL, "roles": role(TOKEN_ROLE, json!("3600")) }),
            422,
            "unit",
        ),
        (
            json!({ "email": EMAIL, "roles": role(TOKEN_ROLE, json!(3600)) }),
            400,
            "text",
        ),
        (
            json!({ "email": EMAIL, "roles": role("postgres", json!("1h")) }),
            422,
            "privileged",
        ),
        (
            json!({ "email": EMAIL, "roles": role(TOKEN_ROLE, json!("1h")), "expires": "31d" }),
            422,
            "30 days",
        ),
        (
            json!({ "email": member.email, "roles": role(TOKEN_ROLE, json!("1h")) }),
            409,
            "member",
        ),
    ];
    for (body, status, word) in cases {
        let refused = fixture
            .sluice
            .admin
            .call(Method::POST, &path, Some(body.clone()));
        assert_eq!(refused.status, status, "{body}: {refused:?}");
        assert!(refused.error().1.contains(word), "{body}: {refused:?}");
    }
    assert_eq!(fixture.sluice.admin.get(&path)["invites"], json!([]));
}

#[test]
fn the_compatible_routes_invite_list_accept_and_revoke() {
    let fixture = Fixture::start();
    let admin = &fixture.sluice.admin;
    let jit = format!("/v1/projects/{}/database/jit", fixture.tenant);
    let in_an_hour = (OffsetDateTime::now_utc() + Duration::HOUR).unix_timestamp();
    let role = json!({
        "role": TOKEN_ROLE, "expires_at": in_an_hour,
        "allowed_networks": { "allowed_cidrs": [{ "cidr": "127.0.0.0/8" }] },
    });
    let body = json!({ "email": EMAIL, "roles": [role] });
    let made = admin.post(&format!("{jit}/invite"), body);
    let (id, token) = (text(&made["invite_id"]), text(&made["token"]));
    fixture.sluice.keep_secret(&token);
    assert_eq!(made["email"], EMAIL);
    assert_eq!(made["user_roles"][0]["role"], TOKEN_ROLE);

    let pending = admin.get(&format!("{jit}/list"))["items"][0].clone();
    assert_eq!(
        (&pending["invite_id"], &pending["primary_email"]),
        (&json!(id), &json!(EMAIL))
    );
    assert_eq!(pending["user_id"], Value::Null);
    assert!(!pending.to_string().contains(&token));

    let shown = json!({ "email": EMAIL, "token": token });
    let accepted = admin
        .with_key(None)
        .post(&format!("{jit}/invite/accept"), shown.clone());
    let left = accepted["user_roles"][0]["expires_at"].as_i64().unwrap() - in_an_hour;
    assert!(
        (-2..60).contains(&left),
        "an hour from the acceptance on: {left}"
    );
    let again =
        admin
            .with_key(None)
            .call(Method::POST, &format!("{jit}/invite/accept"), Some(shown));
    assert_eq!(again.status, 410);
    let token = text(&accepted["access_token"]);
    fixture.sluice.keep_secret(&token);
    let person = Person {
        id: text(&accepted["user_id"]),
        email: EMAIL.to_owned(),
        token_id: token[4..16].to_owned(),
        token,
    };
    let item = admin.get(&format!("{jit}/list"))["items"][0].clone();
    assert_eq!(
        (&item["user_id"], &item["invite_id"]),
        (&json!(person.id), &json!(id))
    );

    let mut client = fixture.token_client(&person).unwrap();
    let revoked = admin.delete(&format!("{jit}/invite/{id}"));
    assert_eq!(Revocation::of(&revoked).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
    assert_eq!(admin.get(&format!("{jit}/list"))["items"], json!([]));
}

#[test]
fn the_command_line_invites_and_the_guest_ends_up_in_psql() {
    let fixture = Fixture::start();
    let tenant = &*fixture.tenant;
    let shown = fixture.sluice.cli(&[
        "invite", "create", tenant, EMAIL, "--role", TOKEN_ROLE, "--lasts", "8h",
    ]);
    let token = shown.split_whitespace().next().unwrap().to_owned();
    assert!(token.starts_with("sli_"), "{shown}");
    fixture.sluice.keep_secret(&token);
    fixture.sluice.home().write("invitation", &token);
    let file = fixture
        .sluice
        .home()
        .path("invitation")
        .display()
        .to_string();
    let mut accept = fixture.sluice.command(&[
        "invite",
        "accept",
        tenant,
        "--email",
        EMAIL,
        "--token-file",
        &file,
    ]);
    // Whoever is invited has no key.
    let output = accept.env_remove("SLUICE_ADMIN_KEY").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.starts_with(&format!("{EMAIL} may use {TOKEN_ROLE} of {tenant} until ")),
        "{said}"
    );
    // The last line as it stands, and the token when psql asks for the password.
    let token = said.lines().find(|line| line.starts_with("slp_")).unwrap();
    fixture.sluice.keep_secret(token);
    let way = said.lines().last().unwrap();
    let psql = Command::new("sh")
        .args([
            "-c",
            &format!("{way} --no-psqlrc -tAc 'select current_user'"),
        ])
        .env("PGPASSWORD", token)
        .env("PGSSLROOTCERT", fixture.sluice.home().path("ca.crt"))
        .output();
    assert_eq!(succeeded(&psql.unwrap()).trim(), TOKEN_ROLE);
    let listed = fixture.sluice.cli(&["invite", "list", tenant]);
    assert!(
        listed.contains("accepted") && listed.contains("app_readwrite for 8h"),
        "{listed}"
    );
    let id = listed
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let revoked = fixture.sluice.cli(&["invite", "revoke", tenant, id]);
    assert!(
        revoked.starts_with("invitation revoked; no session ended"),
        "{revoked}"
    );
}
