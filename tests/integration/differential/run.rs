//! A sequence on one server: everything the server says, in a form that two servers can be compared by.

use std::{fmt, time::Duration};

use bytes::{Buf, Bytes, BytesMut};

use super::{due::Due, generate::STATEMENTS, step::Step};
use crate::support::{Login, wire::Heard};

/// One message of the server.
#[derive(Clone, PartialEq)]
pub(super) enum Said {
    Message(u8, Bytes),
    Closed,
    /// Nothing, although something was due.
    Silence,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(tag, body) => {
                write!(f, "{} {}", char::from(*tag), body.escape_ascii())
            }
            Self::Closed => f.write_str("(closed)"),
            Self::Silence => f.write_str("(silence)"),
        }
    }
}

/// Plays `steps` as the client with `table` and answers all that it heard.
pub(super) fn play(login: &Login, table: &str, steps: &[Step], patience: Duration) -> Vec<Said> {
    let mut client = login
        .open()
        .unwrap_or_else(|fault| panic!("login: {fault:?}"));
    let mut due = Due::default();
    let mut said = Vec::new();
    let mut is_failed = false;
    let mut unsent = BytesMut::new();
    for step in steps {
        step.write(table, &mut unsent);
        due.send(step);
        if *step != Step::Wait {
            continue;
        }
        client.send(unsent.split());
        while due.is_due() {
            let heard = match client.hear(patience) {
                Heard::Message(tag, body) => {
                    due.receive(tag);
                    Said::Message(tag, comparable(tag, body, &mut is_failed))
                }
                Heard::End => Said::Closed,
                Heard::Silence => Said::Silence,
            };
            let over = !matches!(heard, Said::Message(..));
            said.push(heard);
            if over {
                return in_order(said);
            }
        }
    }
    in_order(said)
}

/// What is said of any statement in a failed transaction.
const REFUSED: &[u8] =
    b"SERROR\0VERROR\0C25P02\0Mcurrent transaction is aborted, commands ignored until end of \
    transaction block\0\0";

/// The body without what differs by design. `is_failed`: it comes in a failed transaction.
fn comparable(tag: u8, body: Bytes, is_failed: &mut bool) -> Bytes {
    match tag {
        b'Z' => {
            *is_failed = &body[..] == b"E";
            body
        }
        b'T' => without_tables(body),
        b'S' if &body[..] == b"application_name\0sluice\0" => {
            Bytes::from_static(b"application_name\0\0")
        }
        b'E' if body.starts_with(b"SFATAL\0") => without_source(&body),
        // Where a statement has to be prepared first, it is that which a failed transaction refuses.
        b'E' if memchr::memmem::find(&body, b"\0C25P02\0").is_some() => without_source(&body),
        b'E' if *is_failed
            && memchr::memmem::find(&body, b"\0Mbind message supplies ").is_some() =>
        {
            Bytes::from_static(REFUSED)
        }
        b'E' => without_own_name(without_message_type(body)),
        _ => body,
    }
}

/// An error without the place in PostgreSQL's source that it comes from.
fn without_source(body: &[u8]) -> Bytes {
    let fields = body.split_inclusive(|byte| *byte == 0);
    let told = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
    told.flatten().copied().collect()
}

/// What a client sends amid the data of a COPY without being asked may reach the server in other words: another type.
fn without_message_type(body: Bytes) -> Bytes {
    let unexpected = b"Munexpected message type 0x";
    let Some(start) = memchr::memmem::find(&body, unexpected) else {
        return body;
    };
    let (before, rest) = body.split_at(start + unexpected.len());
    [before, b"??", &rest[2..]].concat().into()
}

/// Of two names that a client has for one text, an error about its parameters, or about having it already, may say either.
/// A name that is none of the client's stays, for all to see.
fn without_own_name(body: Bytes) -> Bytes {
    for name in STATEMENTS.iter().filter(|name| !name.is_empty()) {
        let quoted = format!("prepared statement \"{name}\"");
        for rest in [" requires ", " already exists"] {
            let told = format!("{quoted}{rest}");
            if let Some(start) = memchr::memmem::find(&body, told.as_bytes()) {
                return [&body[..start], &body[start + quoted.len()..]]
                    .concat()
                    .into();
            }
        }
    }
    body
}

/// A RowDescription without the OIDs of tables.
fn without_tables(mut rest: Bytes) -> Bytes {
    let mut out = BytesMut::new();
    let count = rest.get_u16();
    out.extend_from_slice(&count.to_be_bytes());
    for _ in 0..count {
        let name = rest.iter().position(|byte| *byte == 0).unwrap() + 1;
        out.extend_from_slice(&rest.split_to(name));
        let _table = rest.get_u32();
        out.extend_from_slice(&rest.split_to(14));
    }
    out.freeze()
}

/// ParameterStatus messages that come together come in no order.
fn in_order(mut said: Vec<Said>) -> Vec<Said> {
    let is_status = |said: &Said| matches!(said, Said::Message(b'S', _));
    for together in said.chunk_by_mut(|one, other| is_status(one) && is_status(other)) {
        if together.len() > 1 {
            together.sort_by_key(|said| format!("{said:?}"));
        }
    }
    said
}
