//! One message of a client, as the generator makes it and a report prints it.

use bytes::{BufMut, BytesMut};
use postgres_protocol::{IsNull, message::frontend};

/// Stands in every text for the client's own table.
pub(super) const TABLE: &str = "{t}";

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Query(String),
    Parse {
        name: &'static str,
        sql: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    Execute {
        portal: &'static str,
        max_rows: i32,
    },
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    Flush,
    Sync,
    CopyData(&'static str),
    CopyDone,
    CopyFail,
    /// The fast path: `int4pl(2, x)`, the argument as text.
    FunctionCall(&'static str),
    /// A message that no client sends.
    Unknown,
    /// Nothing is sent: the client reads all that is due by now.
    Wait,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bind {
    pub(super) portal: &'static str,
    pub(super) statement: &'static str,
    pub(super) formats: Vec<i16>,
    pub(super) values: Vec<Option<Vec<u8>>>,
    pub(super) results: Vec<i16>,
}

impl Step {
    pub(super) fn query(sql: impl Into<String>) -> Self {
        Self::Query(sql.into())
    }

    /// Whether a server that takes data for a COPY puts up with it.
    pub(super) fn fits_copy(&self) -> bool {
        matches!(
            self,
            Self::CopyData(_)
                | Self::CopyDone
                | Self::CopyFail
                | Self::Flush
                | Self::Sync
                | Self::Wait
        )
    }

    /// Appends the message, as the client with `table` sends it.
    pub(super) fn write(&self, table: &str, out: &mut BytesMut) {
        let with_table = |sql: &str| sql.replace(TABLE, table);
        match self {
            Self::Query(sql) => frontend::query(&with_table(sql), out).unwrap(),
            Self::Parse { name, sql, types } => {
                frontend::parse(name, &with_table(sql), types.iter().copied(), out).unwrap();
            }
            Self::Bind(bind) => bind.write(out),
            Self::DescribeStatement(name) => frontend::describe(b'S', name, out).unwrap(),
            Self::DescribePortal(name) => frontend::describe(b'P', name, out).unwrap(),
            Self::Execute { portal, max_rows } => {
                frontend::execute(portal, *max_rows, out).unwrap();
            }
            Self::CloseStatement(name) => frontend::close(b'S', name, out).unwrap(),
            Self::ClosePortal(name) => frontend::close(b'P', name, out).unwrap(),
            Self::Flush => frontend::flush(out),
            Self::Sync => frontend::sync(out),
            Self::CopyData(rows) => {
                frontend::CopyData::new(rows.as_bytes()).unwrap().write(out);
            }
            Self::CopyDone => frontend::copy_done(out),
            Self::CopyFail => frontend::copy_fail("enough", out).unwrap(),
            Self::FunctionCall(argument) => function_call(argument, out),
            Self::Unknown => out.extend_from_slice(b"!\0\0\0\x04"),
            Self::Wait => {}
        }
    }
}

impl Bind {
    fn write(&self, out: &mut BytesMut) {
        let written = frontend::bind(
            self.portal,
            self.statement,
            self.formats.iter().copied(),
            &self.values,
            |value, out| {
                Ok(match value {
                    Some(value) => {
                        out.put_slice(value);
                        IsNull::No
                    }
                    None => IsNull::Yes,
                })
            },
            self.results.iter().copied(),
            out,
        );
        assert!(written.is_ok());
    }
}

fn function_call(argument: &str, out: &mut BytesMut) {
    let mut body = BytesMut::new();
    // The function's OID, text arguments, two of them, a text result.
    body.put_u32(177);
    body.put_u16(0);
    body.put_u16(2);
    for argument in ["2", argument] {
        body.put_u32(argument.len() as u32);
        body.put_slice(argument.as_bytes());
    }
    body.put_u16(0);
    out.put_u8(b'F');
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(&body);
}
