//! What the client sends, message by message.

use super::{Ending, Needs, PROBE, Relay, take_back_skipped};
use crate::{
    access::SessionHandle,
    net::buffer::BUFFER_BYTES,
    pool::Backend,
    protocol::{
        frame::{HEADER_BYTES, Header, frontend},
        pipeline::{Awaited, Doubt, InvalidMessage, is_request},
    },
    session::{
        error::End,
        session_state,
        statements::{Own, Step, Translator, may_name_statement},
        unnamed::{KEPT_MAX_BYTES, Use},
    },
};

/// PostgreSQL takes no larger message (`PQ_LARGE_MESSAGE_LIMIT`, two bytes less than 1 GiB, the length word included).
const CLIENT_BODY_MAX_BYTES: usize = 0x3fff_fffe - 4;

const FLUSH: &[u8] = b"H\0\0\0\x04";

impl Relay<'_> {
    /// Takes what the client has sent, message by message, and lines it up for the backend.
    pub(super) fn take_from_client(&mut self) -> Result<(), End> {
        let Self {
            client,
            backend,
            own,
            to_backend,
            ..
        } = self;
        let bytes = client.inbox.bytes();
        let mut taken = self.client_body.min(bytes.len());
        self.client_body -= taken;
        // Bytes up to here are lined up; those behind, up to `taken`, go on as they are.
        let mut lined_up = 0;
        let was_held = self.needs == Needs::Answers;
        self.needs = Needs::Nothing;
        while self.client_body == 0 && self.ending == Ending::No {
            let message = &bytes[taken..];
            let header = match next_from_client(message) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                // What came before it is answered first.
                Err(_) if backend.pipeline.owes_answers() => {
                    self.needs = Needs::Answers;
                    break;
                }
                Err(end) => return Err(end),
            };
            if header.tag == frontend::TERMINATE {
                self.ending = Ending::Terminated;
                break;
            }
            let doubt = backend.pipeline.doubt();
            let mut used = Use::Nothing;
            if let Some(own) = own.as_mut() {
                used = Use::of(header, message);
                match look_at_unnamed(used, header, message, own, backend) {
                    Before::Nothing => {}
                    Before::Needs(needs) => {
                        self.needs = needs;
                        break;
                    }
                    Before::Bring => {
                        to_backend.put(&bytes[lined_up..taken]);
                        lined_up = taken;
                        own.prepared.unnamed.bring(backend, to_backend)?;
                    }
                }
            }
            if let Some(own) = own.as_mut()
                && may_name_statement(header, message)
            {
                to_backend.put(&bytes[lined_up..taken]);
                lined_up = taken;
                let mut translator = Translator {
                    own,
                    backend,
                    out: to_backend,
                };
                match translator.translate(header, message)? {
                    Step::AsIs => {}
                    Step::Wait(count) => {
                        self.needs = Needs::Bytes(count);
                        break;
                    }
                    Step::Hold => {
                        self.needs = Needs::Answers;
                        break;
                    }
                    Step::Written(count) => {
                        own.prepared.unnamed.translated(used, backend);
                        take_back_skipped(Some(own), backend);
                        self.client_body = header.message_bytes() - count;
                        self.client_tag = header.tag;
                        taken += count;
                        lined_up = taken;
                        continue;
                    }
                }
            }
            note_passing(used, header, message, own.as_mut(), backend)?;
            let here = header.message_bytes().min(message.len());
            self.client_body = header.message_bytes() - here;
            self.client_tag = header.tag;
            taken += here;
            take_back_skipped(own.as_mut(), backend);
            if doubt == Doubt::AskAfterSync && header.tag == frontend::SYNC {
                to_backend.put(&bytes[lined_up..taken]);
                lined_up = taken;
                backend.pipeline.probe_to_server();
                to_backend.put(PROBE);
            }
        }
        client.inbox.consume(lined_up);
        to_backend.take(&mut client.inbox, taken - lined_up);
        // The server says at the end of a batch what it is asked to say now; once is enough for what has been sent.
        if self.needs == Needs::Answers
            && (!was_held || !to_backend.is_drained())
            && backend.pipeline.awaited() == Awaited::Sync
        {
            to_backend.put(FLUSH);
        }
        if taken > 0 {
            SessionHandle::count(&self.local.handle.bytes_in, taken as u64);
            self.local.work((self.clock)());
        }
        Ok(())
    }
}

/// What has to be done before a message goes on.
enum Before {
    Nothing,
    /// The backend must get the client's unnamed statement.
    Bring,
    Needs(Needs),
}

/// Looks at what a message does with the unnamed statement.
fn look_at_unnamed(
    used: Use,
    header: Header,
    message: &[u8],
    own: &mut Own<'_>,
    backend: &mut Backend,
) -> Before {
    let unnamed = &mut own.prepared.unnamed;
    if used == Use::Read && header.tag == frontend::BIND {
        unnamed.bind();
    }
    match used {
        Use::Nothing | Use::Drop => Before::Nothing,
        Use::Replace => {
            let enough = match header.message_bytes() {
                whole @ ..=KEPT_MAX_BYTES => whole,
                _ => BUFFER_BYTES,
            };
            if message.len() < enough {
                Before::Needs(Needs::Bytes(enough))
            } else {
                Before::Nothing
            }
        }
        Use::Read if backend.pipeline.is_unnamed_undecided() => Before::Needs(Needs::Answers),
        Use::Read if unnamed.is_on(backend) => {
            unnamed.look(backend);
            Before::Nothing
        }
        Use::Read => Before::Bring,
    }
}

/// Notes of a message that goes on as it is what will be answered, and what it may do to the session.
fn note_passing(
    used: Use,
    header: Header,
    message: &[u8],
    mut own: Option<&mut Own<'_>>,
    backend: &mut Backend,
) -> Result<(), End> {
    match (used, own.as_mut()) {
        (Use::Replace, Some(own)) => {
            own.prepared.unnamed.replace(header, message, backend);
        }
        (Use::Drop, Some(own)) => {
            own.prepared.unnamed.drop(backend);
            backend.pipeline.to_server(header.tag)?;
        }
        _ => backend.pipeline.to_server(header.tag)?,
    }
    let here = header.message_bytes().min(message.len());
    match header.tag {
        frontend::QUERY | frontend::PARSE => {
            let is_whole = here == header.message_bytes();
            let text = text_of(header, message);
            session_state::look_at_text(text, is_whole, backend);
            if let Some(own) = own
                && own.listening.is_subscribed()
            {
                own.listening.read(text);
            }
        }
        frontend::FUNCTION_CALL => {
            let body = message.get(HEADER_BYTES..here).unwrap_or_default();
            session_state::look_at_call(body, backend);
        }
        _ => {}
    }
    Ok(())
}

/// The header of the client's next message.
fn next_from_client(bytes: &[u8]) -> Result<Option<Header>, End> {
    let header = Header::parse(bytes).map_err(|_| End::ClientLength)?;
    header.map_or(Ok(None), |header| match header.tag {
        _ if header.body_bytes > CLIENT_BODY_MAX_BYTES => Err(End::ClientLength),
        frontend::TERMINATE => Ok(Some(header)),
        tag if !is_request(tag) => Err(InvalidMessage(tag).into()),
        _ => Ok(Some(header)),
    })
}

/// The text of a Query or Parse, as far as it has come.
fn text_of(header: Header, message: &[u8]) -> &[u8] {
    let body = message.get(HEADER_BYTES..).unwrap_or_default();
    let mut parts = body.split(|byte| *byte == 0);
    if header.tag == frontend::PARSE {
        parts.next();
    }
    parts.next().unwrap_or_default()
}
