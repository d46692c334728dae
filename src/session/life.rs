//! The life of a client that was let in: from one transaction to the next, until something ends it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::atomic::Ordering,
    task::Poll,
};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    LetIn, Session, Sharing,
    client::Client,
    error::End,
    finish::{self, Farewell},
    idle,
    listening::Subscriber,
    login::unless_ended,
    relay::{Boundary, Held, Left, READY, Relay},
    session_state,
    statements::Own,
};
use crate::{
    access::{Activity, EndCause, SessionHandle},
    net::buffer::Buffer,
    pool::{Backend, Checkout},
    protocol::{message, prepared::SqlStatements, residue::Residue},
};

/// What a stretch of relaying has come to.
struct Relayed {
    outcome: Result<(), End>,
    boundary: Boundary,
    held: Held,
    left: Left,
}

/// From the greeting to the end.
#[allow(clippy::manual_async_fn)] // Which would have room for the argument twice.
pub(super) fn live(mut let_in: LetIn) -> impl Future<Output = ()> {
    async move {
        let farewell = let_in.session.run(&mut let_in.client).await;
        Box::pin(finish::finish(let_in, farewell)).await;
    }
}

impl Session {
    pub(super) fn handle(&self) -> &SessionHandle {
        self.registration.handle()
    }

    pub(super) fn enter(&self, activity: Activity) {
        self.enrolled.local.enter(activity, self.worker.now());
    }

    /// Serves the client until something ends it.
    async fn run(&mut self, client: &mut Client) -> Farewell {
        loop {
            self.enter(Activity::Idle);
            if let Err(end) = idle::wait(client, &self.enrolled.local, &self.listening).await {
                return Farewell::without_backend(end);
            }
            // Boxed: of thousands of clients few are in a transaction, and only those are to have the memory for it.
            if let Err(farewell) = Box::pin(self.work(client)).await {
                return *farewell;
            }
        }
    }

    /// From a client that needs a backend to one that does not.
    async fn work(&mut self, client: &mut Client) -> Result<(), Box<Farewell>> {
        match self.checkout(client).await? {
            Some(checkout) => self.transaction(client, checkout).await,
            None => Ok(()),
        }
    }

    /// A backend with the client's settings; `None`: the client cancelled while it waited and has been answered.
    async fn checkout(&mut self, client: &mut Client) -> Result<Option<Checkout>, Box<Farewell>> {
        let without_backend = |end| Box::new(Farewell::without_backend(end));
        self.confirm_grant().await.map_err(without_backend)?;
        for _ in 1..session_state::ATTEMPTS {
            match self.ready_backend(client).await {
                Err(farewell) if farewell.end.is_broken_exchange() => drop(farewell),
                other => return other,
            }
        }
        self.ready_backend(client).await
    }

    /// One attempt to get a backend with the client's settings. Nothing of the client's has been sent to it.
    async fn ready_backend(
        &mut self,
        client: &mut Client,
    ) -> Result<Option<Checkout>, Box<Farewell>> {
        let without_backend = |end| Box::new(Farewell::without_backend(end));
        let mut checkout = match self.pool.try_checkout() {
            Some(checkout) => checkout,
            None => match Box::pin(self.queue(client))
                .await
                .map_err(without_backend)?
            {
                Some(checkout) => checkout,
                None => return Ok(None),
            },
        };
        let of_sql = self.prepared.of_sql.as_ref();
        if session_state::fits(checkout.backend(), &self.settings, of_sql) {
            return Ok(Some(checkout));
        }
        let applying = session_state::apply(checkout.backend(), &self.settings, of_sql);
        let applying = Box::pin(applying);
        match unless_ended(self.handle(), applying).await {
            Ok(()) => Ok(Some(checkout)),
            Err(end @ End::Settings(_)) => {
                checkout.release();
                Err(without_backend(end))
            }
            Err(end) => Err(Box::new(Farewell {
                end,
                boundary: Boundary::Whole,
                checkout: Some(checkout),
            })),
        }
    }

    /// A session whose grant was decided before the tenant's last revocation is decided again.
    pub(super) async fn confirm_grant(&self) -> Result<(), End> {
        let handle = self.handle();
        if handle.grant().is_some() && handle.decided_at().0 < self.floor.load(Ordering::Acquire) {
            Box::pin(self.worker.process.access.recheck(handle))
                .await
                .map_err(End::Signalled)?;
        }
        match handle.end_cause() {
            Some(EndCause::Drain) | None => Ok(()),
            Some(cause) => Err(End::Signalled(cause)),
        }
    }

    /// Waits for a backend; meanwhile the client may leave, cancel, or be ended.
    async fn queue(&self, client: &mut Client) -> Result<Option<Checkout>, End> {
        self.enter(Activity::Waiting);
        let since = Instant::now();
        let local = &self.enrolled.local;
        let configured = &self.worker.process.config.load().timeouts;
        let patience = self.enrolled.local.timeouts(configured).queue;
        let mut waiting = pin!(self.pool.checkout(patience));
        let result = poll_fn(|context| {
            if let Poll::Ready(result) = waiting.as_mut().poll(context) {
                return Poll::Ready(result.map(Some).map_err(End::from));
            }
            if let Poll::Ready(cause) = local.poll_end(context) {
                // Why there is no backend, where that is known.
                let outage = (cause == EndCause::QueueTimeout).then(|| self.pool.outage());
                let end = outage
                    .flatten()
                    .map_or(End::Signalled(cause), End::Checkout);
                return Poll::Ready(Err(end));
            }
            if local.take_cancel() {
                if idle::answer_cancelled(client) {
                    return Poll::Ready(Ok(None));
                }
                local.put_off_cancel();
            }
            if !client.outbox.is_drained()
                && let Poll::Ready(Err(end)) = client.poll_drain(context)
            {
                return Poll::Ready(Err(end));
            }
            while !client.inbox.is_full() {
                match client.poll_fill(context) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await;
        self.worker.process.traffic.queue_wait(since.elapsed());
        result
    }

    /// Relays one transaction (in session mode: all of them) and gives the backend back.
    async fn transaction(
        &mut self,
        client: &mut Client,
        mut checkout: Checkout,
    ) -> Result<(), Box<Farewell>> {
        let local = Rc::clone(&self.enrolled.local);
        local.attach(checkout.backend(), self.worker.now());
        let (held, left) = loop {
            let relayed = self.relay(client, &mut checkout).await;
            if let Err(end) = relayed.outcome {
                return Err(Box::new(self.part(
                    end,
                    relayed.boundary,
                    relayed.left,
                    checkout,
                )));
            }
            if self.sharing == Sharing::Transaction {
                break (relayed.held, relayed.left);
            }
            if !self.pool.key.service.is_shared() {
                // What it began with was in its startup packet.
                continue;
            }
            let role = &self.pool.key.role;
            let anew = session_state::begin_anew(checkout.backend(), role, &self.initial);
            match unless_ended(self.handle(), Box::pin(anew)).await {
                Ok(notifications) => notifications
                    .iter()
                    .for_each(|one| client.outbox.put(&one.message)),
                Err(end) => {
                    return Err(Box::new(Farewell {
                        end,
                        boundary: Boundary::Whole,
                        checkout: Some(checkout),
                    }));
                }
            }
        };
        // A cancel request that comes now is late: it is not to hit the pooler's own questions.
        local.detach();
        if let Err(end) = self.settle(&mut checkout, held, &mut client.outbox).await {
            let farewell = Farewell {
                end,
                boundary: Boundary::Whole,
                checkout: Some(checkout),
            };
            return Err(Box::new(farewell));
        }
        match left {
            Left::Broken => drop(checkout),
            Left::Nothing | Left::InHand(_) => checkout.release(),
        }
        Ok(())
    }

    /// One stretch of relaying, and what it leaves.
    async fn relay(&mut self, client: &mut Client, checkout: &mut Checkout) -> Relayed {
        self.tell_parameters(checkout.backend(), &mut client.outbox);
        let local = Rc::clone(&self.enrolled.local);
        let before = self.traffic();
        let clock = || self.worker.now();
        let shared = self.sharing == Sharing::Transaction;
        let own = shared.then(|| Own {
            prepared: &mut self.prepared,
            statements: self.pool.statements(),
            listening: &mut self.listening,
        });
        let buffers = &self.worker.buffers;
        let mut relay = Relay::new(client, checkout.backend(), &local, buffers, &clock, own);
        let relayed = Relayed {
            outcome: relay.run(self.sharing).await,
            boundary: relay.cut(),
            held: relay.held(),
            left: relay.into_left(),
        };
        self.prepared.unnamed.rest();
        // The relay has passed on what has changed.
        let told = checkout.backend().connection.parameters.told();
        if self.told != *told {
            self.told = told.clone();
        }
        self.count_transaction(before);
        relayed
    }

    /// Tells the client what its parameters are now that it has `backend`, where it was told something else: the server has
    /// read its configuration anew, or a RESET has been made good that went behind the client's first settings.
    fn tell_parameters(&mut self, backend: &Backend, out: &mut Buffer) {
        let parameters = &backend.connection.parameters;
        if *parameters.told() == self.told {
            return;
        }
        let mut messages = BytesMut::new();
        for (name, value) in parameters.changed_since(&self.told) {
            message::parameter_status(name, value, &mut messages);
        }
        out.put(&messages);
        self.told = parameters.told().clone();
    }

    /// Bytes from and to the client so far.
    fn traffic(&self) -> (u64, u64) {
        let handle = self.handle();
        (
            handle.bytes_in.load(Ordering::Relaxed),
            handle.bytes_out.load(Ordering::Relaxed),
        )
    }

    fn count_transaction(&self, before: (u64, u64)) {
        SessionHandle::count(&self.handle().transactions, 1);
        self.metrics.transaction();
        let (received, sent) = self.traffic();
        self.worker
            .count_bytes(received - before.0, sent - before.1);
    }

    /// Learns what the client has set, so that it finds it again elsewhere, and what it listens to. Puts into `out`
    /// what it is told when that is settled.
    async fn settle(
        &mut self,
        checkout: &mut Checkout,
        held: Held,
        out: &mut Buffer,
    ) -> Result<(), End> {
        let backend = checkout.backend();
        let handle = self.registration.handle();
        let (mut channels, mut notifications) = (Vec::new(), Vec::new());
        if !backend.residue.is_empty() {
            let learning = Box::pin(session_state::learn(
                backend,
                &self.pool.key.role,
                &self.initial,
            ));
            let learnt = unless_ended(handle, learning).await?;
            self.settings = self.pool.shared_settings(learnt.settings);
            if let Some(of_sql) = learnt.of_sql {
                self.prepared.of_sql = SqlStatements::new(of_sql, self.prepared.limits)?;
                backend.sql_statements.clone_from(&self.prepared.of_sql);
            }
            self.leaks.note(&learnt.leaks, handle);
            (channels, notifications) = (learnt.channels, learnt.notifications);
        }
        if self.listening.is_changing() || !channels.is_empty() {
            let subscriber = Subscriber {
                pool: &self.pool,
                handle,
                settings: &self.initial,
                limits: self.listen_limits,
            };
            let settling =
                self.listening
                    .settle(backend, channels, notifications, &subscriber, out);
            unless_ended(handle, Box::pin(settling)).await?;
        }
        if backend.connection.has_more() {
            backend.residue |= Residue::DIRTY;
        }
        if held == Held::Ready {
            out.put(READY);
        }
        Ok(())
    }

    /// The session is ending. A backend that has nothing to do with that goes on to others: at once if it is clean,
    /// else after the work it has in hand is undone. Any other is closed.
    fn part(&self, end: End, boundary: Boundary, left: Left, mut checkout: Checkout) -> Farewell {
        let is_shared = self.pool.key.service.is_shared();
        let checkout = if !is_shared || !end.spares_backend() || matches!(left, Left::Broken) {
            Some(checkout)
        } else {
            self.enrolled.local.detach();
            if self.sharing == Sharing::Session {
                checkout.backend().residue = Residue::DIRTY;
            }
            match left {
                Left::InHand(remains) => checkout.reclaim(remains),
                Left::Nothing | Left::Broken => checkout.release(),
            }
            None
        };
        Farewell {
            end,
            boundary,
            checkout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of_future<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of them are held while their clients do nothing.
    #[test]
    fn what_serves_a_client_is_small() {
        let bytes = bytes_of_future(live);
        assert!(bytes <= 800, "{bytes}");
    }
}
