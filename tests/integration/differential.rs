//! What a client hears through Sluice is what PostgreSQL itself would have said.
//!
//! Random sequences of messages, legal and not (`generate`), are played on PostgreSQL directly and through Sluice,
//! there by four clients at once over two backends. Every client has a table of its own, so that the answers are
//! determined, and there are two databases with the same tables. What is said must be equal message by message, byte
//! by byte, apart from:
//!
//! - process ids and cancel keys, which no sequence asks for;
//! - the OIDs of tables in RowDescription;
//! - the `application_name` of a client that gives none, which is Sluice's own;
//! - a setting of the client's own (`my.own`) that was never set: on a backend where another client had it, it is
//!   empty, as it is after RESET;
//! - the lines of PostgreSQL's source in a FATAL, which Sluice says itself where it ends the session, and in the refusal
//!   of a failed transaction, which may meet what Sluice sends ahead (before a wrong number of parameters is noticed);
//! - which of its names for one text an error about a duplicate, or about the number of parameters, says;
//! - the order of ParameterStatus messages that come together: the server keeps them in no order.
//!
//! What a transaction pooler cannot give, and Sluice documents, is not generated: session state without a setting
//! (temporary tables and WITH HOLD cursors that outlive their transaction, session advisory locks).
//!
//! A fixed seed runs with the other tests. By hand, `SLUICE_DIFFERENTIAL_SEED` and `SLUICE_DIFFERENTIAL_COUNT`
//! choose others; a failure names the seed of its sequence, which is shrunk and printed with both replies.

mod due;
mod generate;
mod run;
mod step;

use std::{
    env,
    fmt::{Debug, Write},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use self::{
    run::{Said, play},
    step::Step,
};
use crate::support::{
    Fixture, Login,
    postgres::{PASSWORD, SWARM_ROLE},
    sluice::Settings,
};

const CLIENTS: usize = 4;
const DEFAULT_SEED: u64 = 3_000_000;
const DEFAULT_COUNT: u64 = 2_000;
/// Sequences that end PostgreSQL 17.10 itself with a segmentation fault, without any pooler.
const CRASHES_POSTGRESQL: [u64; 1] = [3_002_005];

/// How long a due reply may take: in the test, and while a sequence is being shrunk.
const PATIENCE: Duration = Duration::from_secs(15);
const SHRINK_PATIENCE: Duration = Duration::from_secs(2);

struct Servers {
    direct: Login,
    pooled: Login,
    fixture: Fixture,
}

/// A sequence that two servers answer differently.
struct Difference {
    direct: Vec<Said>,
    pooled: Vec<Said>,
}

impl Servers {
    fn start() -> Self {
        let fixture = Fixture::with(Settings::default().set("pool.size", 2));
        let direct = format!("{}_direct", fixture.database);
        fixture.cluster.create_database(&direct);
        Self {
            direct: Login::new(fixture.cluster.port, SWARM_ROLE, PASSWORD).database(&direct),
            pooled: fixture.role_login(SWARM_ROLE),
            fixture,
        }
    }

    fn compare(&self, client: usize, steps: &[Step], patience: Duration) -> Option<Difference> {
        let table = format!("t{client}");
        let steps = generate::framed(steps);
        let direct = play(&self.direct, &table, &steps, patience);
        let pooled = play(&self.pooled, &table, &steps, patience);
        (direct != pooled).then_some(Difference { direct, pooled })
    }

    /// Plays `steps` as all clients at once, so that they change backends and meet each other's traces.
    fn compare_crowded(&self, steps: &[Step]) -> Option<Difference> {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    scope.spawn(move || {
                        (0..3).find_map(|_| self.compare(client, steps, SHRINK_PATIENCE))
                    })
                })
                .collect();
            let found = clients.into_iter().map(|client| client.join().unwrap());
            found.fold(None, Option::or)
        })
    }

    /// The same difference, or another, with fewer messages.
    fn shrink(&self, mut steps: Vec<Step>) -> Vec<Step> {
        let mut size = steps.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(start..(start + size).min(steps.len()));
                if self.compare_crowded(&fewer).is_some() {
                    steps = fewer;
                } else {
                    start += size;
                }
            }
            size /= 2;
        }
        steps
    }

    /// Says all that is known of a difference.
    fn report(&self, seed: u64, steps: Vec<Step>, difference: Difference) -> String {
        let (steps, difference, shrunk) = match self.compare_crowded(&steps) {
            Some(_) => {
                let steps = self.shrink(steps);
                let again = (0..5).find_map(|_| self.compare_crowded(&steps));
                (steps, again.unwrap_or(difference), "shrunk")
            }
            None => (steps, difference, "not seen again, so not shrunk"),
        };
        let Difference { direct, pooled } = &difference;
        let differs = direct
            .iter()
            .zip(pooled)
            .position(|(one, other)| one != other);
        let place = differs.unwrap_or(direct.len().min(pooled.len()));
        format!(
            "SLUICE_DIFFERENTIAL_SEED={seed} SLUICE_DIFFERENTIAL_COUNT=1 ({shrunk})\n\
             client:\n{}PostgreSQL:\n{}Sluice:\n{}first difference, message {place}:\n    {:?}\n    {:?}",
            lines(&steps),
            lines(direct),
            lines(pooled),
            direct.get(place),
            pooled.get(place),
        )
    }
}

fn lines(items: &[impl Debug]) -> String {
    items.iter().fold(String::new(), |mut text, item| {
        let _ = writeln!(text, "    {item:?}");
        text
    })
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn clients_cannot_tell_sluice_from_postgresql() {
    let servers = Servers::start();
    let first = number("SLUICE_DIFFERENTIAL_SEED", DEFAULT_SEED);
    let end = first + number("SLUICE_DIFFERENTIAL_COUNT", DEFAULT_COUNT);
    let next = AtomicU64::new(first);
    let found = Mutex::new(None);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (servers, next, found) = (&servers, &next, &found);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if CRASHES_POSTGRESQL.contains(&seed) {
                        continue;
                    }
                    let steps = generate::sequence(seed);
                    if let Some(difference) = servers.compare(client, &steps, PATIENCE) {
                        next.store(end, Ordering::Relaxed);
                        found
                            .lock()
                            .unwrap()
                            .get_or_insert((seed, steps, difference));
                        return;
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    if let Some((seed, steps, difference)) = found {
        let report = servers.report(seed, steps, difference);
        panic!("{report}\n{}", servers.fixture.sluice.log());
    }
}
