//! Reclaiming a backend whose client has left in the middle of its work: what it runs is cancelled, what it has open
//! is rolled back, and the backend serves the next client. Only what takes too long is closed: an application that
//! is restarted must not cost a login for each of its connections.
//!
//! ```text
//! half a message      ── filled up so that it fails ──┐
//! COPY FROM STDIN     ── CopyFail ────────────────────┤
//! batch without Sync  ── what must fail, then Sync ───┼─▶ nothing is owed ─▶ ROLLBACK ─▶ DISCARD ALL ─▶ next client
//! a query that runs   ── cancelled ───────────────────┘
//! ```
//! Nothing that the client had begun and not committed may take effect: a server that notices by itself that its
//! client is gone rolls back as well. Source: <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, interval_at, timeout};

use super::{Backend, Pool, Residue};
use crate::{
    net::buffer::{BUFFER_BYTES, Buffer},
    protocol::{
        frame::{HEADER_BYTES, Header, backend as tag, frontend},
        pipeline::{Awaited, Pipeline},
    },
};

/// Most queries end by themselves sooner, and a cancel costs the server a connection and a process.
const CANCEL_AFTER: Duration = Duration::from_millis(20);

/// A cancel ends one query; the next one of those that the client had sent ahead needs another.
const CANCEL_AGAIN: Duration = Duration::from_millis(200);

/// Half a message of which more than this is missing is not worth filling up.
const MISSING_MAX_BYTES: usize = 256 * 1024;

/// Not zero: that would end a text.
const FILLER: u8 = 0xff;

/// CopyFail without a reason.
const COPY_FAIL: &[u8] = b"f\0\0\0\x05\0";

/// Describe of a portal that does not exist: an error wherever the server looks at it.
const FAILING: &[u8] = b"D\0\0\0\x11Psluice_none\0";

const SYNC: &[u8] = b"S\0\0\0\x04";

/// What was on its way when the client left.
pub struct Remains {
    /// What the client has sent and the server has not got yet.
    pub to_backend: Buffer,
    /// The client's message that ends in the middle.
    pub half: Option<Half>,
    /// What the server has sent and nobody has looked at.
    pub from_backend: Buffer,
    /// Bytes that are still to come of a message of the server.
    pub backend_body: usize,
}

/// A message of which the server has, or is about to get, a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    pub tag: u8,
    pub missing_bytes: usize,
}

/// The server left, or what it said does not follow the protocol.
struct Unusable;

impl Pool {
    /// Takes back a backend whose client has left in the middle of its work.
    pub(super) fn reclaim(self: &Rc<Self>, mut backend: Box<Backend>, remains: Remains) {
        let pool = Rc::clone(self);
        let epoch = Rc::clone(&backend.epoch);
        let transit = epoch.transit();
        let limit = self.tenant.shared.settings.cleanup;
        self.tenant.shared.tasks.spawn_local(async move {
            let cleaning = timeout(limit, pool.clean_up(&mut backend, remains, limit));
            // Access that has ended does not wait for that.
            match epoch.over.run_until_cancelled(cleaning).await {
                Some(Ok(true)) => pool.take_back(backend),
                _ => pool.discard(backend),
            }
            drop(transit);
        });
    }

    async fn clean_up(&self, backend: &mut Backend, remains: Remains, limit: Duration) -> bool {
        if self.interrupt(backend, remains).await.is_err() || !backend.absorb_cancels(limit).await {
            return false;
        }
        if !backend.pipeline.is_releasable() && !backend.run("ROLLBACK", limit).await {
            return false;
        }
        backend.pipeline = Pipeline::default();
        backend.residue = Residue::State;
        backend.cleanse(self.statements_per_backend(), limit).await
    }

    /// Has the server end all that the client has asked for.
    async fn interrupt(&self, backend: &mut Backend, remains: Remains) -> Result<(), Unusable> {
        let (target, cancels) = (backend.cancel_target(), Rc::clone(backend.cancels()));
        let mut ending = pin!(end_work(backend, remains)?);
        let mut due = interval_at(Instant::now() + CANCEL_AFTER, CANCEL_AGAIN);
        loop {
            tokio::select! {
                biased;
                ended = &mut ending => return ended,
                _ = due.tick() => {}
            }
            if let Some(target) = target.clone()
                && cancels.is_clear()
            {
                let barrier = cancels.announce();
                self.tenant.shared.tasks.spawn_local(async move {
                    match target.cancel().await {
                        Ok(()) => barrier.delivered(),
                        Err(error) => {
                            tracing::debug!(%error, "cannot cancel what a vanished client ran")
                        }
                    }
                });
            }
        }
    }
}

/// Says what is needed to have nothing owed any more, and waits for that.
fn end_work(
    backend: &mut Backend,
    remains: Remains,
) -> Result<impl Future<Output = Result<(), Unusable>>, Unusable> {
    let mut work = Work { backend, remains };
    if let Some(half) = work.remains.half {
        let filling = half.filling().ok_or(Unusable)?;
        work.remains.to_backend.put(&filling);
    }
    Ok(async move { poll_fn(|context| work.poll(context)).await })
}

impl Half {
    /// What makes the message whole without any chance that it does something; `None`: there is nothing such.
    ///
    /// The server reads a text up to its zero byte and then insists that the message ends there: a Query that is filled
    /// up is an error before it is even parsed. The messages of a batch do nothing that lasts without their Sync, ahead
    /// of which something fails. Rows of a COPY are undone by its CopyFail. But an Execute could commit, and a function
    /// call could do anything.
    fn filling(self) -> Option<Vec<u8>> {
        let is_harmless = matches!(
            self.tag,
            frontend::QUERY
                | frontend::PARSE
                | frontend::BIND
                | frontend::DESCRIBE
                | frontend::CLOSE
                | frontend::COPY_DATA
                | frontend::COPY_FAIL
        );
        (is_harmless && self.missing_bytes <= MISSING_MAX_BYTES)
            .then(|| vec![FILLER; self.missing_bytes])
    }
}

/// A backend on its way from the middle of a client's work to the end of it.
struct Work<'a> {
    backend: &'a mut Backend,
    remains: Remains,
}

impl Work<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Unusable>> {
        self.take()?;
        loop {
            self.answer()?;
            let stream = self.backend.connection.stream_mut();
            if let Poll::Ready(Err(_)) = self.remains.to_backend.poll_drain(stream, context) {
                return Poll::Ready(Err(Unusable));
            }
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            let stream = self.backend.connection.stream_mut();
            match self.remains.from_backend.poll_fill(stream, context) {
                Poll::Ready(Ok(1..)) => self.take()?,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Unusable)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_over(&self) -> bool {
        let Remains {
            to_backend,
            from_backend,
            backend_body,
            ..
        } = &self.remains;
        to_backend.is_drained()
            && from_backend.is_empty()
            && *backend_body == 0
            && !self.backend.pipeline.is_busy()
    }

    /// Gives the server what it waits for, in a form that fails.
    fn answer(&mut self) -> Result<(), Unusable> {
        let messages: &[&[u8]] = match self.backend.pipeline.awaited() {
            Awaited::Nothing => &[],
            Awaited::CopyData => &[COPY_FAIL],
            // Nobody can say yet whether the batch runs a COPY; where there is none, the server ignores its end. A
            // Sync alone would commit what the batch has done.
            Awaited::Sync => &[COPY_FAIL, FAILING, SYNC],
            Awaited::SyncAfterError => &[SYNC],
        };
        for message in messages {
            self.remains.to_backend.put(message);
            let sent = self.backend.pipeline.to_server(message[0]);
            sent.map_err(|_| Unusable)?;
        }
        Ok(())
    }

    /// Takes what the server has sent; only what changes its state is looked at.
    fn take(&mut self) -> Result<(), Unusable> {
        let Self { backend, remains } = self;
        let bytes = remains.from_backend.bytes();
        let mut taken = remains.backend_body.min(bytes.len());
        remains.backend_body -= taken;
        while remains.backend_body == 0 {
            let message = &bytes[taken..];
            let Some(header) = Header::parse(message).map_err(|_| Unusable)? else {
                break;
            };
            let here = header.message_bytes().min(message.len());
            let is_looked_at = matches!(header.tag, tag::READY_FOR_QUERY | tag::PARAMETER_STATUS);
            if is_looked_at && here < header.message_bytes() {
                if header.message_bytes() > BUFFER_BYTES {
                    return Err(Unusable);
                }
                break;
            }
            let body = &message[HEADER_BYTES.min(here)..here];
            let answer = backend
                .pipeline
                .from_server(header.tag, body.first().copied());
            answer.map_err(|_| Unusable)?;
            if header.tag == tag::PARAMETER_STATUS {
                let parameters = &mut backend.connection.parameters;
                parameters.update(body).ok_or(Unusable)?;
            }
            remains.backend_body = header.message_bytes() - here;
            taken += here;
        }
        remains.from_backend.consume(taken);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_that_cannot_take_effect_are_filled_up() {
        let filled = |tag, missing_bytes| Half { tag, missing_bytes }.filling();
        for tag in [frontend::QUERY, frontend::BIND, frontend::COPY_DATA] {
            assert_eq!(filled(tag, 2), Some(vec![FILLER; 2]));
            assert_eq!(filled(tag, MISSING_MAX_BYTES + 1), None);
        }
        for tag in [frontend::EXECUTE, frontend::FUNCTION_CALL] {
            assert_eq!(filled(tag, 1), None);
        }
    }
}
