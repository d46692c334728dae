//! What a server says, as values: read here independently of the product's own reader.

use bytes::{Buf, Bytes};

/// One message from the server, or the end of what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    AuthenticationOk,
    CleartextPassword,
    Sasl(Vec<String>),
    SaslContinue(Bytes),
    SaslFinal(Bytes),
    ParameterStatus(String, String),
    BackendKeyData {
        pid: u32,
        secret: Bytes,
    },
    NegotiateProtocolVersion {
        newest: u32,
        options: Vec<String>,
    },
    ReadyForQuery(Status),
    RowDescription(Vec<String>),
    DataRow(Vec<Option<String>>),
    CommandComplete(String),
    EmptyQuery,
    ParseComplete,
    BindComplete,
    CloseComplete,
    NoData,
    ParameterDescription,
    PortalSuspended,
    CopyIn,
    CopyOut,
    CopyBoth,
    CopyData(Bytes),
    CopyDone,
    FunctionCallResponse,
    Notification {
        pid: u32,
        channel: String,
        payload: String,
    },
    Notice(Fault),
    Error(Fault),
    /// The server has closed its side in good order.
    Closed,
    /// The connection was reset: what the server said before may be lost.
    Reset,
}

/// The transaction status in a `ReadyForQuery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Idle,
    InTransaction,
    Failed,
}

/// The fields of an `ErrorResponse` or `NoticeResponse`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Fault {
    fn read(mut body: Bytes) -> Self {
        let mut fault = Self::default();
        let mut verbatim_severity = None;
        while body.has_remaining() {
            let field = body.get_u8();
            if field == 0 {
                break;
            }
            let value = text(&mut body);
            match field {
                b'S' => fault.severity = value,
                b'V' => verbatim_severity = Some(value),
                b'C' => fault.code = value,
                b'M' => fault.message = value,
                b'D' => fault.detail = Some(value),
                b'H' => fault.hint = Some(value),
                _ => {}
            }
        }
        let complete = !fault.severity.is_empty() && !fault.code.is_empty();
        assert!(
            complete && verbatim_severity.is_some(),
            "incomplete error: {fault:?}"
        );
        fault
    }
}

impl Reply {
    /// Reads the message with this tag and body.
    pub(crate) fn read(tag: u8, mut body: Bytes) -> Self {
        match tag {
            b'R' => Self::authentication(body),
            b'S' => Self::ParameterStatus(text(&mut body), text(&mut body)),
            b'K' => Self::BackendKeyData {
                pid: body.get_u32(),
                secret: body,
            },
            b'v' => Self::NegotiateProtocolVersion {
                newest: body.get_u32(),
                options: (0..body.get_u32()).map(|_| text(&mut body)).collect(),
            },
            b'Z' => Self::ReadyForQuery(match body.get_u8() {
                b'I' => Status::Idle,
                b'T' => Status::InTransaction,
                b'E' => Status::Failed,
                other => panic!("unknown transaction status {other}"),
            }),
            b'T' => Self::RowDescription(columns(body)),
            b'D' => Self::DataRow(values(body)),
            b'C' => Self::CommandComplete(text(&mut body)),
            b'I' => Self::EmptyQuery,
            b'1' => Self::ParseComplete,
            b'2' => Self::BindComplete,
            b'3' => Self::CloseComplete,
            b'n' => Self::NoData,
            b't' => Self::ParameterDescription,
            b's' => Self::PortalSuspended,
            b'G' => Self::CopyIn,
            b'H' => Self::CopyOut,
            b'W' => Self::CopyBoth,
            b'd' => Self::CopyData(body),
            b'c' => Self::CopyDone,
            b'V' => Self::FunctionCallResponse,
            b'A' => Self::Notification {
                pid: body.get_u32(),
                channel: text(&mut body),
                payload: text(&mut body),
            },
            b'N' => Self::Notice(Fault::read(body)),
            b'E' => Self::Error(Fault::read(body)),
            other => panic!("unknown message {:?}", char::from(other)),
        }
    }

    fn authentication(mut body: Bytes) -> Self {
        match body.get_u32() {
            0 => Self::AuthenticationOk,
            3 => Self::CleartextPassword,
            10 => {
                let mut mechanisms = Vec::new();
                while body.remaining() > 1 {
                    mechanisms.push(text(&mut body));
                }
                Self::Sasl(mechanisms)
            }
            11 => Self::SaslContinue(body),
            12 => Self::SaslFinal(body),
            other => panic!("unknown authentication request {other}"),
        }
    }
}

/// A zero-terminated string.
fn text(body: &mut Bytes) -> String {
    let end = body
        .iter()
        .position(|byte| *byte == 0)
        .expect("a terminated string");
    let value = body.split_to(end);
    body.advance(1);
    String::from_utf8(value.to_vec()).expect("UTF-8")
}

fn columns(mut body: Bytes) -> Vec<String> {
    (0..body.get_u16())
        .map(|_| {
            let name = text(&mut body);
            body.advance(18);
            name
        })
        .collect()
}

fn values(mut body: Bytes) -> Vec<Option<String>> {
    (0..body.get_u16())
        .map(|_| {
            let length = usize::try_from(body.get_i32()).ok()?;
            Some(String::from_utf8_lossy(&body.split_to(length)).into_owned())
        })
        .collect()
}
