//! Start, reload and end of the process.

use crate::support::Fixture;

#[test]
fn a_password_client_is_served() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    assert_eq!(client.value("select 40 + 2"), "42");
}
