//! A client's messages, in any bytes: nothing that reads them panics, and the pipeline owes what they ask for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{
    messages,
    protocol::{
        frame::frontend,
        message::{read_password, read_sasl_initial, read_sasl_response},
        pipeline::{Answer, Pipeline},
        prepared::{Meaning, NameLimits, Names, Statements, Undo},
        reading::{self, Reading},
        residue,
    },
};

const LIMITS: NameLimits = NameLimits {
    count: 4,
    bytes: 256,
};

fuzz_target!(|stream: &[u8]| {
    let mut pipeline = Pipeline::default();
    let mut statements = Statements::new(8);
    let mut names = Names::default();
    let mut asked = false;
    for (tag, body) in messages(stream) {
        let _ = (
            read_password(body),
            read_sasl_initial(body),
            read_sasl_response(body),
        );
        let _ = (residue::of_text(body), residue::may_forget_statements(body));
        let _ = reading::may_change(body, true);
        let undo = (tag == frontend::PARSE)
            .then(|| parse(body, &mut statements, &mut names))
            .flatten();
        if pipeline.to_server_with(tag, Answer::Pass, undo).is_err() {
            continue;
        }
        asked |= !matches!(
            tag,
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL | frontend::FLUSH
        );
        // Nothing has been answered.
        assert_eq!(pipeline.is_releasable(), !asked);
    }
    assert!(pipeline.take_skipped().is_empty(), "nothing has failed");
});

/// What the relay does with a Parse.
fn parse(body: &[u8], statements: &mut Statements, names: &mut Names) -> Option<Undo> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (name, rest) = body.split_at(end);
    let meaning = Meaning::in_utf8(Reading::DEFAULT);
    let statement = statements.intern(rest, meaning);
    let again = statements.intern(rest, meaning);
    assert!(std::rc::Rc::ptr_eq(&statement, &again) || reading::is_momentary(rest));
    if names.find(name).is_some() {
        names.remove(name)?;
    }
    names.insert(name, statement.clone(), LIMITS).ok()?;
    assert_eq!(names.find(name).map(|found| found.body()), Some(rest));
    Some(Undo::Parse {
        name: Some(name.into()),
        statement,
    })
}
