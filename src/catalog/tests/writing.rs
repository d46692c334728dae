//! Many writers at once, writers that go away, and a file that somebody else holds.

use std::{future::Future, pin::pin, task::Poll, thread, time::Duration as StdDuration};

use super::{super::changes::Effect, *};

const PATIENCE: StdDuration = StdDuration::from_secs(30);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Polls a future `times` times and drops it, as a caller does that is cancelled.
async fn abandon<F: Future>(future: F, times: usize) {
    let mut future = pin!(future);
    for _ in 0..times {
        let done =
            std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready()));
        if done.await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn many_runtimes_write_at_once_and_nothing_is_lost() {
    const THREADS: usize = 4;
    const TASKS: usize = 8;
    const ROUNDS: usize = 5;
    let long_lived = runtime();
    let fixture = long_lived.block_on(Fixture::open());
    let demo = long_lived.block_on(fixture.tenant("demo"));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (catalog, demo) = (fixture.catalog.clone(), demo.clone());
            scope.spawn(move || {
                runtime().block_on(async move {
                    let tasks: Vec<_> = (0..TASKS)
                        .map(|task| tokio::spawn(work(catalog.clone(), demo.clone(), thread, task)))
                        .collect();
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            });
        }
    });

    async fn work(catalog: Catalog, demo: TenantRef, thread: usize, task: usize) {
        for round in 0..ROUNDS {
            let email = format!("person-{thread}-{task}-{round}@example.com");
            let person = catalog
                .create_person(&email, "Somebody", "test")
                .await
                .unwrap();
            let person = person.value.id;
            catalog.record(event("test.durable")).await.unwrap();
            catalog.record_later(event("test.later"));
            let kind = MemberKind::Member;
            let set = catalog
                .set_member(&demo, person, kind, "test")
                .await
                .unwrap();
            assert!(catalog.revision().await.unwrap() >= set.revision);
            assert_eq!(catalog.memberships(person).await.unwrap().len(), 1);
        }
    }

    long_lived.block_on(async {
        let rounds = (THREADS * TASKS * ROUNDS) as i64;
        fixture.catalog.flush().await.unwrap();
        let verdict = fixture.catalog.verify_audit(None).await.unwrap();
        assert_eq!((verdict.rows, verdict.fault), (rounds * 4 + 1, None));
        assert_eq!(
            fixture.catalog.revision().await.unwrap(),
            Revision(rounds * 2 + 1)
        );
    });
}

#[test]
fn a_runtime_that_dies_in_mid_call_harms_nobody() {
    let long_lived = runtime();
    let fixture = long_lived.block_on(Fixture::open());
    for round in 0..20 {
        let dying = runtime();
        let catalog = fixture.catalog.clone();
        dying.spawn(async move {
            let email = format!("person-{round}@example.com");
            let _ = catalog.create_person(&email, "Somebody", "test").await;
            loop {
                let _ = catalog.people().await;
                let _ = catalog.revision().await;
            }
        });
        dying.block_on(async {
            for _ in 0..round * 3 {
                tokio::task::yield_now().await;
            }
        });
        drop(dying);
    }
    long_lived.block_on(async {
        let after = async {
            fixture.tenant("demo").await;
            fixture.catalog.verify_audit(None).await.unwrap()
        };
        let verdict = tokio::time::timeout(PATIENCE, after).await.unwrap();
        assert!(verdict.is_intact());
    });
}

#[tokio::test]
async fn a_caller_that_goes_away_wedges_nothing() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let (record, _) = fixture.token(person).await;
    let app = role("app");
    for times in 0..60 {
        let catalog = &fixture.catalog;
        abandon(
            catalog.set_rule(&demo, person, new_rule("app"), "test"),
            times % 6,
        )
        .await;
        abandon(catalog.evidence(&record.id, &demo, &app), times).await;
        abandon(catalog.record(event("test.abandoned")), times % 6).await;
        abandon(catalog.remove_rule(&demo, person, &app, "test"), times % 6).await;
        abandon(catalog.verify_audit(None), times).await;
    }
    let after = async {
        let rule = fixture.rule(&demo, person, "app").await;
        // More often than there are readers, so that each of them answers.
        for _ in 0..20 {
            let evidence = fixture.catalog.evidence(&record.id, &demo, &app).await;
            let evidence = evidence.unwrap();
            assert_eq!(evidence.rules.as_slice(), std::slice::from_ref(&rule));
        }
        fixture.catalog.verify_audit(None).await.unwrap()
    };
    let verdict = tokio::time::timeout(PATIENCE, after).await.unwrap();
    assert!(verdict.is_intact());
}

#[tokio::test]
async fn a_change_that_was_accepted_is_made_though_nobody_waits() {
    let fixture = Fixture::open().await;
    abandon(fixture.catalog.create_tenant(tenant("demo"), "test"), 1).await;
    fixture.tenant("other").await;
    let names = fixture.catalog.tenants().await.unwrap();
    let names: Vec<_> = names.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["demo", "other"]);
}

#[tokio::test]
async fn a_failed_change_leaves_no_trace() {
    let fixture = Fixture::open().await;
    fixture.tenant("demo").await;
    let failing = fixture.catalog.shared.writer.change(async |connection| {
        sqlx::query("DELETE FROM tenants")
            .execute(connection)
            .await?;
        Err::<Effect<()>, _>(CatalogError::NotRecorded)
    });
    assert!(matches!(refusal(failing.await), CatalogError::NotRecorded));
    assert_eq!(fixture.catalog.tenants().await.unwrap().len(), 1);
    assert_eq!(fixture.catalog.revision().await.unwrap(), Revision(1));
    assert_eq!(fixture.kinds().await, ["tenant.created"]);
}

#[tokio::test]
async fn a_transaction_that_the_database_ended_by_itself_wedges_nothing() {
    let fixture = Fixture::open().await;
    let ended = fixture.catalog.shared.writer.change(async |connection| {
        // What SQLite does when the disk is full, unseen by sqlx.
        sqlx::query("ROLLBACK").execute(connection).await?;
        Err::<Effect<()>, _>(CatalogError::NotRecorded)
    });
    assert!(ended.await.is_err());
    fixture.tenant("demo").await;
    fixture
        .catalog
        .record(event("test.happened"))
        .await
        .unwrap();
    assert!(
        fixture
            .catalog
            .verify_audit(None)
            .await
            .unwrap()
            .is_intact()
    );
}

#[tokio::test]
async fn events_that_found_no_place_are_counted_in_the_trail() {
    const EVENTS: i64 = 6000;
    let fixture = Fixture::open().await;
    let mut raw = fixture.raw().await;
    // The writer waits for this transaction, so its queue fills.
    let held = sqlx::Connection::begin_with(&mut raw, "BEGIN IMMEDIATE")
        .await
        .unwrap();
    for _ in 0..EVENTS {
        fixture.catalog.record_later(event("test.later"));
    }
    held.rollback().await.unwrap();
    fixture.catalog.flush().await.unwrap();
    let filter = AuditFilter {
        kind: Some("audit.gap".to_owned()),
        ..AuditFilter::default()
    };
    let gaps = fixture.catalog.audit_rows(filter).await.unwrap();
    let dropped: i64 = gaps
        .iter()
        .map(|row| row.event.detail["dropped"].as_i64().unwrap())
        .sum();
    let verdict = fixture.catalog.verify_audit(None).await.unwrap();
    assert!(verdict.is_intact());
    assert!(dropped > 0);
    assert_eq!(verdict.rows - gaps.len() as i64 + dropped, EVENTS);
}

#[tokio::test]
async fn what_is_queued_is_written_when_the_last_handle_goes() {
    let fixture = Fixture::open().await;
    for _ in 0..1000 {
        fixture.catalog.record_later(event("test.later"));
    }
    let fixture = fixture.reopened(&[]).await;
    let verdict = fixture.catalog.verify_audit(None).await.unwrap();
    assert_eq!((verdict.rows, verdict.fault), (1000, None));
}
