//! Between transactions: no backend, no buffer, waiting for the client's next message.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;

use super::{client::Client, error::End, listening::Listening, local::Local};
use crate::protocol::{
    error::{ErrorResponse, Severity, SqlState},
    frame::{Header, frontend},
    message,
};

/// Waits until the client has sent something that needs a backend, or the session ends.
pub(super) async fn wait(
    client: &mut Client,
    local: &Local,
    listening: &Listening,
) -> Result<(), End> {
    let mut skip = 0;
    poll_fn(|context| poll(client, local, listening, &mut skip, context)).await
}

fn poll(
    client: &mut Client,
    local: &Local,
    listening: &Listening,
    skip: &mut usize,
    context: &mut Context<'_>,
) -> Poll<Result<(), End>> {
    if let Poll::Ready(cause) = local.poll_end_or_drain(context) {
        return Poll::Ready(Err(End::Signalled(cause)));
    }
    if let Some(left) = local.take_notice() {
        client.outbox.put(&expiry_notice(left));
    }
    loop {
        // Not only what fits: a client that reads nothing has to be found out. And again once all is sent, for then there
        // is room for more.
        listening.deliver(&mut client.outbox)?;
        if client.outbox.is_drained() {
            break;
        }
        match client.poll_drain(context) {
            Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
            Poll::Ready(Ok(())) => {}
            Poll::Pending => break,
        }
    }
    loop {
        if needs_backend(client, skip)? {
            return Poll::Ready(Ok(()));
        }
        if ready!(client.stream.poll_readable(context)).is_err() {
            return Poll::Ready(Err(End::ClientLost));
        }
        ready!(client.poll_fill(context))?;
    }
}

/// Whether what the client has sent needs a backend. What belongs to a COPY that is over is dropped, as the
/// server would (the client cannot have known); a body that is still to come is skipped by way of `skip`.
fn needs_backend(client: &mut Client, skip: &mut usize) -> Result<bool, End> {
    loop {
        let skipped = (*skip).min(client.inbox.bytes().len());
        client.inbox.consume(skipped);
        *skip -= skipped;
        if *skip > 0 {
            return Ok(false);
        }
        let header = Header::parse(client.inbox.bytes()).map_err(|_| End::ClientLength)?;
        match header {
            None => return Ok(false),
            Some(Header {
                tag: frontend::TERMINATE,
                ..
            }) => return Err(End::Terminated),
            Some(header) if is_late_copy(header.tag) => *skip = header.message_bytes(),
            Some(_) => return Ok(true),
        }
    }
}

fn is_late_copy(tag: u8) -> bool {
    matches!(
        tag,
        frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL
    )
}

/// Answers a client that cancelled while it waited in the queue, as the server would have: its query is not run.
/// `false`: the query has not come whole, so it cannot be told where the next one begins.
pub(super) fn answer_cancelled(client: &mut Client) -> bool {
    let mut end = 0;
    loop {
        let bytes = &client.inbox.bytes()[end..];
        let Ok(Some(header)) = Header::parse(bytes) else {
            return false;
        };
        if bytes.len() < header.message_bytes() {
            return false;
        }
        end += header.message_bytes();
        if matches!(
            header.tag,
            frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL
        ) {
            break;
        }
    }
    client.inbox.consume(end);
    let mut out = BytesMut::new();
    let text = "canceling statement due to user request";
    ErrorResponse::new(Severity::Error, SqlState::QUERY_CANCELED, text).write(&mut out);
    message::ready_for_query(b'I', &mut out);
    client.outbox.put(&out);
    true
}

pub(super) fn expiry_notice(left: Duration) -> BytesMut {
    let text = format!(
        "temporary access ends in {}",
        humantime::format_duration(left)
    );
    let notice = ErrorResponse::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, text)
        .with_hint(
            "It ends with your rule or your token, whichever is first: have the rule extended, or log in with a newer token.",
        );
    let mut out = BytesMut::new();
    notice.write_notice(&mut out);
    out
}
