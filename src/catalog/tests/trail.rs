//! The audit trail tells of every change, and of whoever meddled with it.

use super::{
    super::{AuditFault, AuditVerdict, Checkpoint},
    *,
};
use crate::names::SessionId;

/// A closed trail of ten rows, meddled with and opened again.
async fn meddled(statements: &[&str]) -> Fixture {
    let fixture = Fixture::open().await;
    for number in 1..=10 {
        let event = AuditEvent {
            detail: serde_json::json!({ "number": number }),
            ..event("test.happened")
        };
        fixture.catalog.record(event).await.unwrap();
    }
    fixture.reopened(statements).await
}

async fn verdict(fixture: &Fixture) -> AuditVerdict {
    fixture.catalog.verify_audit(None).await.unwrap()
}

#[tokio::test]
async fn an_untouched_trail_is_intact() {
    let fixture = meddled(&[]).await;
    let verdict = verdict(&fixture).await;
    assert_eq!((verdict.rows, verdict.fault), (10, None));
    let last = &fixture
        .catalog
        .audit_rows(AuditFilter::default())
        .await
        .unwrap()[0];
    assert_eq!(verdict.hash, last.hash);
}

#[tokio::test]
async fn an_empty_trail_is_intact() {
    let fixture = Fixture::open().await;
    assert!(verdict(&fixture).await.is_intact());
}

#[tokio::test]
async fn an_edit_of_any_field_is_found() {
    for edit in [
        "id = '00000000-0000-0000-0000-000000000000'",
        "time = time + 1",
        "kind = 'test.happenee'",
        "outcome = 'failure'",
        "reason = ''",
        "actor = 'somebody else'",
        "tenant = 'demo'",
        "person = id",
        "email = ''",
        "email = 'other@example.com'",
        "role = 'app'",
        "session = id",
        "token = 'abcdefghijkl'",
        "peer = '192.0.2.1'",
        "detail = '{\"number\":44}'",
        "detail = x'00'",
        "prev_hash = hash",
        "prev_hash = 'nonsense'",
        "hash = prev_hash",
        "hash = ''",
    ] {
        let fixture = meddled(&[&format!("UPDATE audit SET {edit} WHERE seq = 4")]).await;
        let verdict = verdict(&fixture).await;
        let expected = Some(AuditFault::RowAltered { seq: 4 });
        assert_eq!((verdict.rows, verdict.fault), (3, expected), "{edit}");
    }
}

#[tokio::test]
async fn a_deleted_row_is_found() {
    let missing = |seq| Some(AuditFault::RowMissing { seq });
    let fixture = meddled(&["DELETE FROM audit WHERE seq = 4"]).await;
    assert_eq!(verdict(&fixture).await.fault, missing(4));
    let fixture = meddled(&["DELETE FROM audit WHERE seq < 4"]).await;
    assert_eq!(verdict(&fixture).await.fault, missing(1));
}

#[tokio::test]
async fn a_deletion_that_closes_the_ranks_is_found() {
    let fixture = meddled(&[
        "DELETE FROM audit WHERE seq = 4",
        "UPDATE audit SET seq = -seq WHERE seq > 4",
        "UPDATE audit SET seq = -seq - 1 WHERE seq < 0",
    ])
    .await;
    let altered = Some(AuditFault::RowAltered { seq: 4 });
    assert_eq!(verdict(&fixture).await.fault, altered);
}

#[tokio::test]
async fn swapped_rows_are_found() {
    let fixture = meddled(&[
        "UPDATE audit SET seq = -4 WHERE seq = 4",
        "UPDATE audit SET seq = 4 WHERE seq = 5",
        "UPDATE audit SET seq = 5 WHERE seq = -4",
    ])
    .await;
    let altered = Some(AuditFault::RowAltered { seq: 4 });
    assert_eq!(verdict(&fixture).await.fault, altered);
}

#[tokio::test]
async fn a_tail_cut_off_is_found_and_stays_found() {
    let fixture = meddled(&["DELETE FROM audit WHERE seq > 7"]).await;
    let cut = Some(AuditFault::TailMissing { from: 8, to: 10 });
    assert_eq!(verdict(&fixture).await.fault, cut);
    fixture.catalog.record(event("test.later")).await.unwrap();
    let missing = Some(AuditFault::RowMissing { seq: 8 });
    assert_eq!(verdict(&fixture).await.fault, missing);
}

#[tokio::test]
async fn a_trail_wiped_out_is_found() {
    let fixture = meddled(&["DELETE FROM audit"]).await;
    let wiped = Some(AuditFault::TailMissing { from: 1, to: 10 });
    assert_eq!(verdict(&fixture).await.fault, wiped);
}

#[tokio::test]
async fn a_head_put_back_by_hand_is_found_and_writing_on_does_not_mend_it() {
    for statements in [
        &[
            "DELETE FROM audit WHERE seq > 7",
            "UPDATE audit_head SET seq = 7, hash = (SELECT hash FROM audit WHERE seq = 7)",
        ][..],
        &["DELETE FROM audit WHERE seq > 7", "DELETE FROM audit_head"],
        &[
            "DELETE FROM audit WHERE seq > 7",
            "UPDATE audit_head SET mac = 'x'",
        ],
        &[
            "DELETE FROM audit WHERE seq > 7",
            "UPDATE audit_head SET mac = x'ff'",
        ],
    ] {
        let fixture = meddled(statements).await;
        let forged = Some(AuditFault::HeadForged);
        assert_eq!(verdict(&fixture).await.fault, forged, "{statements:?}");
        fixture.catalog.record(event("test.later")).await.unwrap();
        fixture.tenant("demo").await;
        let missing = Some(AuditFault::RowMissing { seq: 8 });
        assert_eq!(verdict(&fixture).await.fault, missing, "{statements:?}");
    }
}

#[tokio::test]
async fn a_row_added_by_hand_is_found_and_does_not_stop_the_trail() {
    let fixture = meddled(&[
        "INSERT INTO audit SELECT 11, id, time, kind, outcome, reason, actor, tenant, person, role, session, \
         token, peer, detail, hash, hash, email, fingerprint FROM audit WHERE seq = 10",
    ])
    .await;
    assert!(!verdict(&fixture).await.is_intact());
    fixture.tenant("demo").await;
    assert!(!verdict(&fixture).await.is_intact());
}

#[tokio::test]
async fn rows_come_newest_first_filtered_and_in_pages() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let other = fixture.tenant("other").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let session = SessionId::generate();
    let login = AuditEvent {
        outcome: Outcome::Failure,
        reason: Some("no_rule".to_owned()),
        tenant: Some(demo.clone()),
        person: Some(person),
        role: Some(role("app")),
        session: Some(session),
        peer: Some("192.0.2.1:4711".to_owned()),
        detail: serde_json::json!({ "application_name": "psql" }),
        ..event("auth.denied")
    };
    fixture.catalog.record(login.clone()).await.unwrap();
    let rows = async |filter| fixture.catalog.audit_rows(filter).await.unwrap();
    let all = rows(AuditFilter::default()).await;
    assert!(all.is_sorted_by(|newer, older| newer.seq > older.seq));
    assert_eq!(all[0].event, login);
    assert_eq!(all[0].prev_hash, all[1].hash);

    let kinds = |rows: Vec<AuditRow>| -> Vec<String> {
        rows.into_iter().map(|row| row.event.kind).collect()
    };
    let filter = AuditFilter {
        tenant: Some(other),
        ..AuditFilter::default()
    };
    assert_eq!(kinds(rows(filter).await), ["tenant.created"]);
    let filter = AuditFilter {
        person: Some(person),
        ..AuditFilter::default()
    };
    assert_eq!(
        kinds(rows(filter).await),
        ["auth.denied", "member.set", "person.created"]
    );
    let filter = AuditFilter {
        kind: Some("tenant.created".to_owned()),
        before: Some(2),
        ..AuditFilter::default()
    };
    assert_eq!(rows(filter).await[0].event.tenant, Some(demo));
    let filter = AuditFilter {
        session: Some(session),
        limit: Some(u32::MAX),
        ..AuditFilter::default()
    };
    assert_eq!(kinds(rows(filter).await), ["auth.denied"]);
    let filter = AuditFilter {
        limit: Some(2),
        ..AuditFilter::default()
    };
    assert_eq!(rows(filter).await.len(), 2);
}

#[tokio::test]
async fn an_endless_detail_is_not_stored() {
    let fixture = Fixture::open().await;
    let long = AuditEvent {
        detail: serde_json::json!("x".repeat(1_000_000)),
        ..event("test.happened")
    };
    fixture.catalog.record(long).await.unwrap();
    let rows = fixture
        .catalog
        .audit_rows(AuditFilter::default())
        .await
        .unwrap();
    assert_eq!(rows[0].event.detail["omitted_bytes"], 1_000_002);
    assert!(verdict(&fixture).await.is_intact());
}

#[tokio::test]
async fn the_trail_still_says_who_it_was_when_the_person_is_gone() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let old = fixture.member(&demo, "first@example.com").await;
    fixture.catalog.remove_person(old, "test").await.unwrap();
    let late = AuditEvent {
        person: Some(old),
        ..event("session.ended")
    };
    fixture.catalog.record(late).await.unwrap();
    fixture.person("first@example.com").await;
    let filter = AuditFilter {
        email: Some("first@example.com".to_owned()),
        ..AuditFilter::default()
    };
    let rows = fixture.catalog.audit_rows(filter).await.unwrap();
    let kinds: Vec<_> = rows.iter().map(|row| row.event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "person.created",
            "session.ended",
            "person.removed",
            "member.set",
            "person.created"
        ]
    );
    let known = |row: &AuditRow| row.email.as_deref() == Some("first@example.com");
    assert!(rows.iter().all(known));
    assert!(verdict(&fixture).await.is_intact());
}

#[tokio::test]
async fn a_row_from_before_addresses_were_kept_is_found_by_the_one_that_the_person_has() {
    let fixture = Fixture::open().await;
    let person = fixture.person("first@example.com").await;
    let event = |kind| AuditEvent {
        person: Some(person),
        ..event(kind)
    };
    fixture
        .catalog
        .record(event("test.happened"))
        .await
        .unwrap();
    let line = "UPDATE audit SET email = NULL WHERE kind = 'test.happened'";
    let fixture = fixture.reopened(&[line]).await;
    let filter = AuditFilter {
        email: Some("first@example.com".to_owned()),
        ..AuditFilter::default()
    };
    let rows = fixture.catalog.audit_rows(filter).await.unwrap();
    assert_eq!(rows[0].event.kind, "test.happened");
    assert_eq!(rows[0].email.as_deref(), Some("first@example.com"));
}

/// A login and, some time later, perhaps its end.
async fn stay(fixture: &Fixture, tenant: &TenantRef, end: Option<&str>) -> SessionId {
    let session = SessionId::generate();
    let login = AuditEvent {
        tenant: Some(tenant.clone()),
        session: Some(session),
        role: Some(role("app")),
        ..event("auth.succeeded")
    };
    fixture.catalog.record(login.clone()).await.unwrap();
    if let Some(reason) = end {
        pause().await;
        let end = AuditEvent {
            kind: "session.ended".to_owned(),
            reason: Some(reason.to_owned()),
            ..login
        };
        fixture.catalog.record(end).await.unwrap();
    }
    session
}

/// Lets the clock move on, so that what comes next has another time.
async fn pause() -> OffsetDateTime {
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    let now = OffsetDateTime::now_utc();
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    now
}

#[tokio::test]
async fn who_was_in_is_known_from_starts_ends_and_restarts() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let other = fixture.tenant("other").await;
    let before = pause().await;
    let left = stay(&fixture, &demo, Some("client_closed")).await;
    let cut_off = stay(&fixture, &demo, None).await;
    let elsewhere = stay(&fixture, &other, None).await;
    let first_run = pause().await;
    fixture.catalog.record(event("node.started")).await.unwrap();
    let restarted = pause().await;
    let open = stay(&fixture, &demo, None).await;
    let second_run = pause().await;

    let present = async |tenant, at| {
        let is_live = |row: &AuditRow| row.event.session == Some(open);
        let found = fixture.catalog.present(tenant, at, is_live).await.unwrap();
        let session = |presence: Presence| (presence.start.event.session.unwrap(), presence.end);
        found.into_iter().map(session).collect::<Vec<_>>()
    };
    let sessions =
        |found: Vec<(SessionId, PresenceEnd)>| found.iter().map(|one| one.0).collect::<Vec<_>>();
    assert_eq!(present(Some(&demo), before).await, []);
    assert_eq!(
        sessions(present(Some(&demo), first_run).await),
        [cut_off],
        "the one who left is not in any more"
    );
    let ends = present(Some(&demo), first_run).await;
    let PresenceEnd::NotRecorded { before: Some(end) } = ends[0].1 else {
        panic!("{ends:?}");
    };
    assert!(first_run < end && end < restarted);
    assert_eq!(
        sessions(present(None, first_run).await),
        [cut_off, elsewhere]
    );
    assert_eq!(present(Some(&demo), restarted).await, []);
    assert_eq!(
        present(Some(&demo), second_run).await,
        [(open, PresenceEnd::Open)]
    );

    let rows = fixture.catalog.audit_rows(AuditFilter::default()).await;
    let start = rows.unwrap();
    let start = start.iter().rfind(|row| row.event.session == Some(left));
    let at_start = present(Some(&demo), start.unwrap().time).await;
    assert!(
        matches!(&at_start[0], (session, PresenceEnd::Ended { reason: Some(reason), .. })
            if *session == left && reason == "client_closed"),
        "{at_start:?}"
    );
}

#[tokio::test]
async fn rows_are_found_by_when_they_were_written() {
    let fixture = Fixture::open().await;
    fixture.catalog.record(event("test.first")).await.unwrap();
    let between = pause().await;
    fixture.catalog.record(event("test.second")).await.unwrap();
    let rows = async |filter: AuditFilter| {
        let rows = fixture.catalog.audit_rows(filter).await.unwrap();
        rows.into_iter()
            .map(|row| row.event.kind)
            .collect::<Vec<_>>()
    };
    let filter = AuditFilter {
        since: Some(between),
        ..AuditFilter::default()
    };
    assert_eq!(rows(filter).await, ["test.second"]);
    let filter = AuditFilter {
        until: Some(between),
        ..AuditFilter::default()
    };
    assert_eq!(rows(filter).await, ["test.first"]);
    let filter = AuditFilter {
        order: AuditOrder::OldestFirst,
        ..AuditFilter::default()
    };
    assert_eq!(rows(filter).await, ["test.first", "test.second"]);
    let filter = AuditFilter {
        after: Some(1),
        ..AuditFilter::default()
    };
    assert_eq!(rows(filter).await, ["test.second"]);
}

#[tokio::test]
async fn what_retention_leaves_can_still_be_checked() {
    let fixture = meddled(&[]).await;
    let kept = pause().await;
    for _ in 0..3 {
        fixture.catalog.record(event("test.later")).await.unwrap();
    }
    assert_eq!(fixture.catalog.prune_audit(kept).await.unwrap(), 10);
    assert_eq!(fixture.catalog.prune_audit(kept).await.unwrap(), 0);
    let found = verdict(&fixture).await;
    // The row that tells of it has come on top.
    assert_eq!((found.rows, found.seq, found.fault), (4, 14, None));
    let now = pause().await;
    assert_eq!(fixture.catalog.prune_audit(now).await.unwrap(), 3);
    assert!(verdict(&fixture).await.is_intact());
}

#[tokio::test]
async fn a_forged_start_of_the_trail_is_found() {
    let head = "(SELECT mac FROM audit_head)";
    for (statement, fault) in [
        ("DELETE FROM audit_start", AuditFault::RowMissing { seq: 1 }),
        (
            "UPDATE audit_start SET seq = seq + 1",
            AuditFault::StartForged,
        ),
        (
            &*format!(
                "UPDATE audit_start SET seq = (SELECT seq FROM audit_head), hash = (SELECT hash FROM audit_head), mac = {head}"
            ),
            AuditFault::StartForged,
        ),
    ] {
        let fixture = meddled(&[]).await;
        let kept = pause().await;
        fixture.catalog.record(event("test.later")).await.unwrap();
        fixture.catalog.prune_audit(kept).await.unwrap();
        let fixture = fixture.reopened(&[statement]).await;
        assert_eq!(verdict(&fixture).await.fault, Some(fault), "{statement}");
    }
}

#[tokio::test]
async fn rows_that_were_tampered_with_are_not_let_go() {
    let fixture = meddled(&["UPDATE audit SET actor = 'nobody' WHERE seq = 4"]).await;
    let refused = fixture.catalog.prune_audit(pause().await).await;
    assert!(
        matches!(refused, Err(CatalogError::TrailDamaged)),
        "{refused:?}"
    );
    let altered = Some(AuditFault::RowAltered { seq: 4 });
    assert_eq!(verdict(&fixture).await.fault, altered);
}

#[tokio::test]
async fn a_trail_put_back_as_a_whole_is_found_by_a_checkpoint() {
    let fixture = meddled(&[]).await;
    let earlier = fixture.copied().await;
    fixture.catalog.record(event("test.later")).await.unwrap();
    let found = verdict(&fixture).await;
    let checkpoint: Checkpoint = format!("{}:{}", found.seq, found.hash).parse().unwrap();
    let check = async |fixture: &Fixture| {
        let verdict = fixture.catalog.verify_audit(Some(checkpoint)).await;
        verdict.unwrap().fault
    };
    assert_eq!(check(&fixture).await, None);
    let missed = Some(AuditFault::CheckpointMissed { seq: 11 });
    let fixture = earlier;
    assert!(verdict(&fixture).await.is_intact());
    assert_eq!(check(&fixture).await, missed);
    fixture.catalog.record(event("test.other")).await.unwrap();
    assert_eq!(check(&fixture).await, missed);
}

#[tokio::test]
async fn a_checkpoint_that_somebody_else_has_signed_says_nothing_of_the_trail() {
    let fixture = meddled(&[]).await;
    let signed = fixture.catalog.checkpoint().await.unwrap().checkpoint;
    let check = async |text: &str| {
        let checkpoint = text.parse().unwrap();
        let verdict = fixture.catalog.verify_audit(Some(checkpoint)).await;
        verdict.unwrap().fault
    };
    assert_eq!(check(&signed).await, None);
    // Of a row that the trail never had: without the signature it would look as if the trail had been put back.
    let (seq, rest) = signed.split_once(':').unwrap();
    let seq: i64 = seq.parse::<i64>().unwrap() + 1;
    let alleged = format!("{seq}:{rest}");
    let forged = Some(AuditFault::CheckpointForged { seq });
    assert_eq!(check(&alleged).await, forged);
    let (unsigned, _) = alleged.rsplit_once(':').unwrap();
    let missed = Some(AuditFault::CheckpointMissed { seq });
    assert_eq!(check(unsigned).await, missed);
}
