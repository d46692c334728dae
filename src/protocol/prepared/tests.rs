use super::*;

const USUAL: Meaning<'_> = Meaning::in_utf8(Reading::DEFAULT);
const LATIN1: Meaning<'_> = Meaning {
    encoding: "LATIN1",
    ..USUAL
};

const LIMITS: NameLimits = NameLimits {
    count: 2,
    bytes: 100,
};

#[test]
fn one_text_is_one_statement_whoever_prepares_it() {
    let mut statements = Statements::new(10);
    let first = statements.intern(b"select 1\0\0\0", USUAL);
    assert!(Rc::ptr_eq(
        &first,
        &statements.intern(b"select 1\0\0\0", USUAL)
    ));
    let other = statements.intern(b"select 2\0\0\0", USUAL);
    assert_ne!(first.name(), other.name());
}

#[test]
fn unused_statements_are_forgotten_and_their_names_never_come_again() {
    let mut statements = Statements::new(1);
    let name = statements.intern(b"a", USUAL).name().to_owned();
    let held = statements.intern(b"b", USUAL);
    statements.intern(b"c", USUAL);
    assert_ne!(statements.intern(b"a", USUAL).name(), name);
    assert!(Rc::ptr_eq(&held, &statements.intern(b"b", USUAL)));
}

#[test]
fn the_same_bytes_in_another_encoding_are_another_statement() {
    let mut statements = Statements::new(10);
    let body = "select 'ï'\0\0\0".as_bytes();
    let one = statements.intern(body, USUAL);
    let other = statements.intern(body, LATIN1);
    assert_ne!(one.name(), other.name());
    assert!(Rc::ptr_eq(
        &statements.renewed(&one, LATIN1, false).unwrap(),
        &other
    ));
    assert_eq!(statements.renewed(&one, LATIN1, true), None);
    assert_eq!(statements.renewed(&other, LATIN1, false), None);
    let ascii = statements.intern(b"select 1", LATIN1);
    assert!(Rc::ptr_eq(&ascii, &statements.intern(b"select 1", USUAL)));
}

#[test]
fn what_is_read_in_another_way_is_another_statement_unless_it_was_parsed_before() {
    let mut statements = Statements::new(10);
    let path = Reading::of_settings([("search_path", "a")].into_iter());
    let other = Meaning::in_utf8(path);
    let one = statements.intern(b"select 1", USUAL);
    assert_ne!(statements.intern(b"select 1", other), one);
    assert_eq!(
        statements.renewed(&one, other, false),
        Some(statements.intern(b"select 1", other))
    );
    assert_eq!(statements.renewed(&one, other, true), None);
}

#[test]
fn nobody_shares_a_statement_while_it_is_not_known_how_it_is_read() {
    let mut statements = Statements::new(10);
    let unknown = Meaning {
        reading: None,
        ..USUAL
    };
    let one = statements.intern(b"select 1", unknown);
    assert_ne!(statements.intern(b"select 1", unknown), one);
    let usual = statements.intern(b"select 1", USUAL);
    assert_eq!(statements.renewed(&one, USUAL, false), Some(usual));
}

#[test]
fn nobody_shares_a_statement_that_stands_for_the_moment() {
    let mut statements = Statements::new(10);
    let one = statements.intern(b"select 'now'::timestamptz", USUAL);
    assert_ne!(statements.intern(b"select 'now'::timestamptz", USUAL), one);
}

#[test]
fn a_renewed_statement_has_another_name_for_everybody() {
    let mut statements = Statements::new(10);
    let old = statements.intern(b"a", USUAL);
    assert_eq!(statements.renewed(&old, USUAL, true), None);
    statements.renew();
    let new = statements.renewed(&old, USUAL, true).unwrap();
    assert_ne!(new.name(), old.name());
    assert!(Rc::ptr_eq(&statements.intern(b"a", USUAL), &new));
    assert_eq!(statements.renewed(&new, USUAL, true), None);
}

#[test]
fn a_backend_forgets_what_it_used_longest_ago() {
    let mut statements = Statements::new(10);
    let all: Vec<_> = [b"a", b"b", b"c", b"d", b"e"]
        .map(|body| statements.intern(body, USUAL))
        .to_vec();
    let mut known = Known::default();
    for statement in &all {
        known.insert(statement);
    }
    assert_eq!(known.shrink(5), None);
    assert!(known.touch(&all[0]));
    assert_eq!(
        known.shrink(4).unwrap(),
        "DEALLOCATE sluice_2;DEALLOCATE sluice_3;"
    );
    assert!(known.touch(&all[0]) && !known.touch(&all[1]));
}

#[test]
fn a_client_may_prepare_only_so_much() {
    let mut statements = Statements::new(10);
    let mut names = Names::default();
    let statement = statements.intern(b"x", USUAL);
    names.insert(b"1", Rc::clone(&statement), LIMITS).unwrap();
    names.insert(b"2", Rc::clone(&statement), LIMITS).unwrap();
    assert!(names.insert(b"3", Rc::clone(&statement), LIMITS).is_err());
    names.remove(b"1");
    let long = statements.intern(&[b'y'; 100], USUAL);
    assert!(names.insert(b"3", long, LIMITS).is_err());
    names.insert(b"3", statement, LIMITS).unwrap();
    assert!(names.find(b"3").is_some() && names.find(b"1").is_none());
}
