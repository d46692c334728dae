//! Messages that take several calls to put together.

use bytes::BytesMut;
use postgres_protocol::{IsNull, message::frontend};

/// Parse, Bind, Describe and Execute of an unnamed statement without parameters; no Sync.
pub(crate) fn unnamed(sql: &str, out: &mut BytesMut) {
    frontend::parse("", sql, [], out).unwrap();
    bind(out);
    frontend::describe(b'P', "", out).unwrap();
    frontend::execute("", 0, out).unwrap();
}

/// Binds the unnamed statement, which has no parameters, to the unnamed portal.
pub(crate) fn bind(out: &mut BytesMut) {
    let no_values: [&str; 0] = [];
    let bound = frontend::bind("", "", [], no_values, |_, _| Ok(IsNull::Yes), [], out);
    assert!(bound.is_ok());
}
