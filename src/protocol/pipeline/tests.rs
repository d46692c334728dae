use super::*;
use crate::protocol::{
    prepared::{Meaning, Statements},
    reading::Reading,
};

/// Plays a script: `>` before what goes to the server, `<` before what comes from it (`I`, `T`, `E` after Z).
fn play(script: &str) -> Pipeline {
    let mut pipeline = Pipeline::default();
    for step in script.split_whitespace() {
        let bytes = step.as_bytes();
        match bytes[0] {
            b'>' => pipeline.to_server(bytes[1]).unwrap(),
            _ => {
                pipeline
                    .from_server(bytes[1], bytes.get(2).copied())
                    .unwrap();
            }
        }
    }
    pipeline
}

fn assert_released_only_at_the_end(script: &str) {
    let steps: Vec<&str> = script.split_whitespace().collect();
    for end in 1..steps.len() {
        let part = steps[..end].join(" ");
        assert!(
            !play(&part).is_releasable(),
            "released too early after {part}"
        );
    }
    assert!(play(script).is_releasable(), "not released after {script}");
}

#[test]
fn a_backend_is_released_after_the_last_answer_and_not_before() {
    for script in [
        ">Q <T <D <C <ZI",
        ">Q >Q <C <ZI <C <ZI",
        ">P >B >D >E >S <1 <2 <n <C <ZI",
        ">P >B >E >S >P >B >E >S <1 <2 <C <ZI <1 <2 <C <ZI",
        ">P >D >S <1 <t <T <ZI",
        ">P >B >E >H <1 <2 <C >S <ZI",
        ">P >H <1 >Q <C <ZI",
        ">F <V <ZI",
        ">Q <C <ZT >Q <C <ZI",
        ">Q <E <ZI",
        ">S <ZI",
        ">C >S <3 <ZI",
    ] {
        assert_released_only_at_the_end(script);
    }
}

#[test]
fn an_open_or_failed_transaction_keeps_its_backend() {
    assert!(!play(">Q <C <ZT").is_releasable());
    assert!(!play(">Q <E <ZE").is_releasable());
    assert_eq!(play(">Q <E <ZE").status(), TransactionStatus::Failed);
}

#[test]
fn an_error_takes_everything_up_to_the_next_sync_with_it() {
    for script in [
        ">P >B >E >S <E <ZI",
        ">P >B >E >S <1 <E <ZI",
        ">P >B <E >E >Q >S <ZI",
        ">P >B >E >H <1 <E >P >B >E >S <ZI",
        ">P >B >E >S >P >B >E >S <1 <E <ZI <1 <2 <C <ZI",
    ] {
        assert_released_only_at_the_end(script);
    }
}

#[test]
fn copy_in_holds_the_backend_until_its_own_end() {
    for script in [
        ">Q <G >d >d >c <C <ZI",
        ">Q <G >d >f <E <ZI",
        ">P >B >E <1 <2 <G >d >c >S <C <ZI",
        ">P >B >E >S >d >c <1 <2 <G <C >S <ZI",
        ">Q >d >c <G <C <ZI",
    ] {
        assert_released_only_at_the_end(script);
    }
}

#[test]
fn a_sync_sent_with_the_copy_is_ignored_by_the_server_and_not_owed() {
    assert_released_only_at_the_end(">P >B >E >S <1 <2 <G >d >c >S <C <ZI");
    assert_released_only_at_the_end(">P >B >E >S <1 <2 <G >d >S >c >S <C <ZI");
}

#[test]
fn a_sync_sent_with_a_copy_that_fails_keeps_the_backend_until_it_is_answered_or_asked_about() {
    assert_released_only_at_the_end(">P >B >E >S <1 <2 <G >d <E <ZI");
    assert_released_only_at_the_end(">P >B >E <1 <2 <G >d >S <E <ZI");
    assert!(play(">Q <G >d >S <E <ZI <ZI").is_releasable());
    for zs in ["<ZI", "<ZI <ZI"] {
        let mut pipeline = play(">P >B >E >S <1 <2 <G >d <E");
        assert_eq!(pipeline.doubt(), Doubt::AskAfterSync);
        pipeline.to_server(b'S').unwrap();
        pipeline.probe_to_server();
        for _ in zs.split(' ') {
            assert_eq!(pipeline.from_server(b'Z', Some(b'I')), Ok(Answer::Pass));
            assert!(!pipeline.is_releasable());
        }
        assert_eq!(pipeline.from_server(b'3', None), Ok(Answer::Swallow));
        assert_eq!(pipeline.from_server(b'Z', Some(b'I')), Ok(Answer::Swallow));
        assert!(pipeline.is_releasable());
    }
    assert_eq!(play(">Q <G >d >S <E <ZI").doubt(), Doubt::Ask);
}

#[test]
fn a_copy_that_the_server_refuses_half_way_leaves_nothing_owed() {
    assert!(play(">Q <G >d <E <ZI").is_releasable());
    assert!(play(">Q <G >d <E <ZI >d >c").is_releasable());
    assert!(play(">P >B >E >H <1 <2 <G >d <E >c >S <ZI").is_releasable());
}

#[test]
fn copy_out_is_part_of_its_query() {
    assert_released_only_at_the_end(">Q <H <d <d <c <C <ZI");
}

fn forget(name: &[u8]) -> Undo {
    let statement = Statements::new(1).intern(name, Meaning::in_utf8(Reading::DEFAULT));
    Undo::Parse {
        name: Some(name.into()),
        statement,
    }
}

#[test]
fn what_the_server_skipped_is_taken_back_latest_first() {
    let mut pipeline = Pipeline::default();
    for name in [b"a", b"b", b"c"] {
        pipeline
            .to_server_with(b'P', Answer::Pass, Some(forget(name)))
            .unwrap();
    }
    pipeline.from_server(b'1', None).unwrap();
    pipeline.from_server(b'E', None).unwrap();
    pipeline
        .to_server_with(b'P', Answer::Pass, Some(forget(b"d")))
        .unwrap();
    assert_eq!(
        pipeline.take_skipped(),
        [forget(b"d"), forget(b"c"), forget(b"b")]
    );
    pipeline.to_server(b'S').unwrap();
    pipeline.from_server(b'Z', Some(b'I')).unwrap();
    assert!(pipeline.is_releasable());
    assert_eq!(pipeline.take_skipped(), []);
}

#[test]
fn each_answer_goes_to_whom_it_is_for() {
    let mut pipeline = Pipeline::default();
    pipeline
        .to_server_with(b'P', Answer::Swallow, None)
        .unwrap();
    pipeline.to_server(b'B').unwrap();
    pipeline
        .to_server_with(b'C', Answer::ParseComplete, None)
        .unwrap();
    assert_eq!(pipeline.from_server(b'1', None), Ok(Answer::Swallow));
    assert_eq!(pipeline.from_server(b'2', None), Ok(Answer::Pass));
    assert_eq!(pipeline.from_server(b'3', None), Ok(Answer::ParseComplete));
}

#[test]
fn a_notice_about_what_the_client_has_not_asked_for_is_not_passed_on() {
    let mut pipeline = Pipeline::default();
    pipeline
        .to_server_with(b'P', Answer::Swallow, None)
        .unwrap();
    pipeline.to_server(b'P').unwrap();
    assert_eq!(pipeline.from_server(b'N', None), Ok(Answer::Swallow));
    assert_eq!(pipeline.from_server(b'1', None), Ok(Answer::Swallow));
    assert_eq!(pipeline.from_server(b'N', None), Ok(Answer::Pass));
}

#[test]
fn a_ready_that_nobody_asked_for_is_an_error() {
    let mut pipeline = Pipeline::default();
    assert_eq!(
        pipeline.from_server(b'Z', Some(b'I')),
        Err(PipelineError::UnexpectedReady)
    );
    assert_eq!(
        pipeline.from_server(b'D', Some(0)),
        Err(PipelineError::Unasked(b'D'))
    );
    pipeline.to_server(b'Q').unwrap();
    assert_eq!(
        pipeline.from_server(b'Z', Some(b'?')),
        Err(PipelineError::UnknownStatus)
    );
    assert_eq!(
        pipeline.from_server(b'!', None),
        Err(PipelineError::UnknownMessage(b'!'))
    );
    assert_eq!(pipeline.to_server(b'p'), Err(InvalidMessage(b'p')));
}
