//! The pipeline and what backends are thought to know, held against a small server.
//!
//! The server (`Server`) does with messages what PostgreSQL does, as far as counting goes; what fails is drawn at
//! random. Its replies reach the pipeline with any delay. What must hold after every event is in `Play::check`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use proptest::prelude::*;

use super::{
    pipeline::{Answer, Doubt, Pipeline, TransactionStatus},
    prepared::{Known, Meaning, NameLimits, Names, Statement, Statements, Undo},
    reading::Reading,
};

const USUAL: Meaning<'_> = Meaning::in_utf8(Reading::DEFAULT);

/// A message of the client's, and how the server will take it if it looks at it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Frame {
    /// Of one of a few names; what becomes of it depends on what the backend is thought to know.
    Parse(usize, Outcome),
    Bind(Outcome),
    Describe(Outcome),
    Execute(Outcome),
    Query(Outcome),
    Function(Outcome),
    ClosePortal,
    Flush,
    Sync,
    CopyData(Outcome),
    CopyDone,
    CopyFail,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Done,
    Fails,
    /// A transaction block begins.
    Begins,
    /// It ends.
    Ends,
    CopiesIn,
    CopiesOut,
}

/// A message as it goes to the server.
#[derive(Debug, Clone, Copy)]
enum Sent {
    Frame(Frame, Answer),
    Parse(usize, Outcome, Answer),
    CloseStatement(usize, Answer),
    /// Of a statement that does not exist.
    CloseNothing(Answer),
}

/// A reply, and what the client is to be told of it.
#[derive(Debug, Clone, Copy)]
struct Reply {
    tag: u8,
    status: u8,
    told: Answer,
}

#[derive(Debug)]
struct Server {
    status: u8,
    prepared: BTreeSet<usize>,
    /// An error was reported: everything up to Sync is ignored.
    ignoring: bool,
    /// Extended messages came, and no Sync.
    batch_open: bool,
    copying: Option<Protocol>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Protocol {
    Simple,
    Extended,
}

impl Server {
    fn take(&mut self, sent: Sent) -> Vec<Reply> {
        if let (Some(protocol), Sent::Frame(frame, _)) = (self.copying, sent) {
            return self.take_copy(protocol, frame);
        }
        if let Sent::Frame(Frame::Sync, told) = sent {
            (self.ignoring, self.batch_open) = (false, false);
            return vec![Reply {
                told,
                ..self.ready()
            }];
        }
        if self.ignoring {
            return vec![];
        }
        match sent {
            Sent::Frame(Frame::Query(outcome) | Frame::Function(outcome), _) => self.query(outcome),
            Sent::Frame(
                Frame::Flush | Frame::CopyData(_) | Frame::CopyDone | Frame::CopyFail,
                _,
            ) => vec![],
            extended => {
                self.batch_open = true;
                self.extended(extended)
            }
        }
    }

    fn take_copy(&mut self, protocol: Protocol, frame: Frame) -> Vec<Reply> {
        let mut replies = match frame {
            Frame::Flush | Frame::Sync | Frame::CopyData(Outcome::Done) => return vec![],
            Frame::CopyData(_) | Frame::CopyFail => vec![self.error(protocol)],
            Frame::CopyDone => vec![reply(b'C')],
            other => panic!("{other:?} within a COPY"),
        };
        self.copying = None;
        if protocol == Protocol::Simple {
            replies.push(self.ready());
        }
        replies
    }

    fn query(&mut self, outcome: Outcome) -> Vec<Reply> {
        self.batch_open = false;
        let failed = self.status == b'E' && outcome != Outcome::Ends;
        let mut replies = match outcome {
            _ if failed => vec![self.error(Protocol::Simple)],
            Outcome::Fails => vec![reply(b'C'), self.error(Protocol::Simple)],
            Outcome::CopiesIn => {
                self.copying = Some(Protocol::Simple);
                return vec![reply(b'G')];
            }
            Outcome::CopiesOut => [b'H', b'd', b'c', b'C'].map(reply).to_vec(),
            Outcome::Done => vec![reply(b'T'), reply(b'D'), reply(b'C')],
            Outcome::Begins | Outcome::Ends => vec![self.transact(outcome)],
        };
        replies.push(self.ready());
        replies
    }

    fn transact(&mut self, outcome: Outcome) -> Reply {
        self.status = if outcome == Outcome::Begins {
            b'T'
        } else {
            b'I'
        };
        reply(b'C')
    }

    fn extended(&mut self, sent: Sent) -> Vec<Reply> {
        let failed = self.status == b'E';
        let (told, tags): (Answer, &[u8]) = match sent {
            Sent::CloseNothing(told) => (told, b"3"),
            Sent::CloseStatement(name, told) => {
                self.prepared.remove(&name);
                (told, b"3")
            }
            Sent::Parse(name, outcome, told) => {
                if failed || outcome == Outcome::Fails || !self.prepared.insert(name) {
                    return vec![self.error(Protocol::Extended)];
                }
                (told, b"1")
            }
            Sent::Frame(frame, told) => match frame {
                Frame::Execute(outcome @ (Outcome::Begins | Outcome::Ends))
                    if !failed || outcome == Outcome::Ends =>
                {
                    return vec![self.transact(outcome)];
                }
                Frame::ClosePortal => (told, b"3"),
                Frame::Bind(Outcome::Fails)
                | Frame::Describe(Outcome::Fails)
                | Frame::Execute(Outcome::Fails) => return vec![self.error(Protocol::Extended)],
                _ if failed => return vec![self.error(Protocol::Extended)],
                Frame::Bind(_) => (told, b"2"),
                Frame::Describe(Outcome::Done) => (told, b"tT"),
                Frame::Describe(_) => (told, b"n"),
                Frame::Execute(Outcome::CopiesIn) => {
                    self.copying = Some(Protocol::Extended);
                    (told, b"G")
                }
                Frame::Execute(Outcome::CopiesOut) => (told, b"HdcC"),
                Frame::Execute(_) => (told, b"Ds"),
                other => panic!("{other:?} is no extended message"),
            },
        };
        let replies = tags.iter().map(|tag| Reply {
            told,
            ..reply(*tag)
        });
        replies.collect()
    }

    fn error(&mut self, protocol: Protocol) -> Reply {
        if self.status == b'T' {
            self.status = b'E';
        }
        self.ignoring = protocol == Protocol::Extended;
        reply(b'E')
    }

    fn ready(&self) -> Reply {
        reply(b'Z').with(self.status)
    }

    fn is_at_rest(&self) -> bool {
        self.status == b'I' && !self.ignoring && !self.batch_open && self.copying.is_none()
    }
}

fn reply(tag: u8) -> Reply {
    Reply {
        tag,
        status: 0,
        told: Answer::Pass,
    }
}

impl Reply {
    fn with(self, status: u8) -> Self {
        Self { status, ..self }
    }
}

/// Both sides and what is on its way between them.
struct Play {
    pipeline: Pipeline,
    known: Known,
    statements: Vec<Rc<Statement>>,
    to_server: VecDeque<Sent>,
    server: Server,
    to_client: VecDeque<Reply>,
}

impl Play {
    fn new() -> Self {
        let mut statements = Statements::new(10);
        Self {
            pipeline: Pipeline::default(),
            known: Known::default(),
            statements: (0..4u8)
                .map(|name| statements.intern(&[name], USUAL))
                .collect(),
            to_server: VecDeque::new(),
            server: Server {
                status: b'I',
                prepared: BTreeSet::new(),
                ignoring: false,
                batch_open: false,
                copying: None,
            },
            to_client: VecDeque::new(),
        }
    }

    fn send(&mut self, frame: Frame) {
        match frame {
            Frame::Parse(name, outcome) => self.parse(name, outcome),
            frame => {
                let tag = match frame {
                    Frame::Bind(_) => b'B',
                    Frame::Describe(_) => b'D',
                    Frame::Execute(_) => b'E',
                    Frame::Query(_) => b'Q',
                    Frame::Function(_) => b'F',
                    Frame::ClosePortal => b'C',
                    Frame::Flush => b'H',
                    Frame::Sync => b'S',
                    Frame::CopyData(_) => b'd',
                    Frame::CopyDone => b'c',
                    Frame::CopyFail => b'f',
                    Frame::Parse(..) => unreachable!(),
                };
                let doubt = self.pipeline.doubt();
                self.pipeline.to_server(tag).unwrap();
                self.to_server.push_back(Sent::Frame(frame, Answer::Pass));
                if doubt == Doubt::AskAfterSync && matches!(frame, Frame::Sync) {
                    self.probe();
                }
            }
        }
        self.take_back();
    }

    /// As the relay asks which Syncs the server has ignored.
    fn probe(&mut self) {
        self.pipeline.probe_to_server();
        self.to_server
            .push_back(Sent::CloseNothing(Answer::Swallow));
        self.to_server
            .push_back(Sent::Frame(Frame::Sync, Answer::Swallow));
    }

    /// As the relay sends a Parse of a statement that the backend may know.
    fn parse(&mut self, name: usize, outcome: Outcome) {
        let statement = Rc::clone(&self.statements[name]);
        while self.pipeline.is_undecided(b"", Some(&statement)) {
            self.serve();
            self.deliver();
        }
        let pipeline = &mut self.pipeline;
        let known = self.known.touch(&statement);
        let may_fail =
            pipeline.status() == TransactionStatus::Failed || !pipeline.is_status_certain();
        if known && !may_fail {
            pipeline
                .to_server_with(b'C', Answer::ParseComplete, None)
                .unwrap();
            self.to_server
                .push_back(Sent::CloseNothing(Answer::ParseComplete));
            return;
        }
        if known {
            let undo = Some(Undo::Dropped(Rc::clone(&statement)));
            pipeline
                .to_server_with(b'C', Answer::Swallow, undo)
                .unwrap();
            self.to_server
                .push_back(Sent::CloseStatement(name, Answer::Swallow));
        }
        let undo = Undo::Parse {
            name: None,
            statement: Rc::clone(&statement),
        };
        self.pipeline
            .to_server_with(b'P', Answer::Pass, Some(undo))
            .unwrap();
        self.known.insert(&statement);
        self.to_server
            .push_back(Sent::Parse(name, outcome, Answer::Pass));
    }

    fn serve(&mut self) {
        if let Some(sent) = self.to_server.pop_front() {
            self.to_client.extend(self.server.take(sent));
        }
    }

    fn deliver(&mut self) {
        if let Some(reply) = self.to_client.pop_front() {
            let told = self
                .pipeline
                .from_server(reply.tag, Some(reply.status))
                .unwrap();
            assert_eq!(told, reply.told, "of {reply:?}");
            self.take_back();
            if self.pipeline.doubt() == Doubt::Ask {
                self.probe();
            }
        }
    }

    fn take_back(&mut self) {
        for undo in self.pipeline.take_skipped() {
            match undo {
                Undo::Parse { statement, .. } => self.known.remove(&statement),
                Undo::Dropped(statement) => self.known.insert(&statement),
                other => panic!("nobody asked for {other:?}"),
            }
        }
    }

    fn check(&mut self) {
        let is_idle = self.to_client.is_empty() && self.server.is_at_rest();
        // What the server ignores between transactions may still be on its way: so does the pooler.
        let only_strays = self.to_server.iter().all(|sent| {
            matches!(
                sent,
                Sent::Frame(
                    Frame::CopyData(_) | Frame::CopyDone | Frame::CopyFail | Frame::Flush,
                    _
                )
            )
        });
        if self.pipeline.is_releasable() {
            assert!(
                is_idle && only_strays,
                "released too early: {:?}",
                self.pipeline
            );
            assert!(!self.pipeline.is_busy());
        }
        if is_idle && self.to_server.is_empty() {
            assert!(
                self.pipeline.is_releasable(),
                "not released: {:?}",
                self.pipeline
            );
        }
        if self.to_client.is_empty() && self.to_server.is_empty() {
            for (name, statement) in self.statements.iter().enumerate() {
                let is_prepared = self.server.prepared.contains(&name);
                assert_eq!(self.known.touch(statement), is_prepared, "statement {name}");
            }
        }
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Done),
        2 => Just(Outcome::Fails),
        1 => Just(Outcome::Begins),
        2 => Just(Outcome::Ends),
        1 => Just(Outcome::CopiesOut),
    ]
}

/// One message, or a COPY with its data.
fn frames() -> impl Strategy<Value = Vec<Frame>> {
    prop_oneof![
        4 => (0..4usize, outcome()).prop_map(|(name, outcome)| vec![Frame::Parse(name, outcome)]),
        2 => outcome().prop_map(|outcome| vec![Frame::Bind(outcome)]),
        1 => outcome().prop_map(|outcome| vec![Frame::Describe(outcome)]),
        3 => outcome().prop_map(|outcome| vec![Frame::Execute(outcome)]),
        3 => outcome().prop_map(|outcome| vec![Frame::Query(outcome)]),
        1 => outcome().prop_map(|outcome| vec![Frame::Function(outcome)]),
        1 => Just(vec![Frame::ClosePortal]),
        1 => Just(vec![Frame::Flush]),
        4 => Just(vec![Frame::Sync]),
        1 => copy(),
    ]
}

/// A COPY FROM STDIN. A Sync may come ahead of the data, as drivers send it; nobody sends one among them.
fn copy() -> impl Strategy<Value = Vec<Frame>> {
    let data = prop_oneof![4 => Just(Outcome::Done), 1 => Just(Outcome::Fails)];
    let data = prop::collection::vec(data.prop_map(Frame::CopyData), 0..3);
    let end = prop_oneof![Just(Frame::CopyDone), Just(Frame::CopyFail)];
    (any::<bool>(), any::<bool>(), data, end).prop_map(|(extended, synced, data, end)| {
        let mut frames = Vec::new();
        if extended {
            frames.push(Frame::Execute(Outcome::CopiesIn));
            frames.extend(synced.then_some(Frame::Sync));
        } else {
            frames.push(Frame::Query(Outcome::CopiesIn));
        }
        frames.extend(data);
        frames.push(end);
        frames.extend(extended.then_some(Frame::Sync));
        frames
    })
}

/// `PROPTEST_CASES`, else more than other properties have.
fn cases() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(2_000),
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_pipeline_knows_what_the_server_owes_and_has(
        frames in prop::collection::vec(frames(), 0..30),
        pace in prop::collection::vec((0..4usize, 0..4usize), 0..60),
    ) {
        let mut play = Play::new();
        let mut pace = pace.into_iter().chain(std::iter::repeat((1, 1)));
        let last = [Frame::Sync, Frame::Query(Outcome::Ends)];
        for frame in frames.into_iter().flatten().chain(last) {
            play.send(frame);
            play.check();
            let (served, delivered) = pace.next().unwrap();
            (0..served).for_each(|_| play.serve());
            for _ in 0..delivered {
                play.deliver();
                play.check();
            }
        }
        while !play.to_server.is_empty() || !play.to_client.is_empty() {
            play.serve();
            play.deliver();
            play.check();
        }
        prop_assert!(play.pipeline.is_releasable());
    }

    #[test]
    fn a_clients_names_keep_to_their_limits(
        steps in prop::collection::vec((0..6u8, 0..20usize, any::<bool>()), 0..60),
    ) {
        let limits = NameLimits { count: 4, bytes: 60 };
        let mut statements = Statements::new(10);
        let mut names = Names::default();
        let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for (name, length, is_removed) in steps {
            let size = |model: &BTreeMap<u8, Vec<u8>>| -> usize {
                model.values().map(|body| 1 + body.len()).sum()
            };
            if is_removed {
                let removed = names.remove(&[name]).map(|statement| statement.body().to_vec());
                prop_assert_eq!(removed, model.remove(&name));
            } else if !model.contains_key(&name) {
                // The relay never takes a name that the client has: the server reports the duplicate.
                let body = vec![b'x'; length];
                let fits = model.len() < limits.count && size(&model) + 1 + length <= limits.bytes;
                let inserted = names.insert(&[name], statements.intern(&body, USUAL), limits);
                prop_assert_eq!(inserted.is_ok(), fits);
                if fits {
                    model.insert(name, body);
                }
            }
            for name in 0..6u8 {
                let found = names.find(&[name]).map(|statement| statement.body().to_vec());
                prop_assert_eq!(found.as_ref(), model.get(&name));
            }
        }
    }

    #[test]
    fn a_backend_forgets_down_to_three_quarters_and_what_it_used_last_never(
        uses in prop::collection::vec(0..30u8, 1..100), max in 4..20usize,
    ) {
        let mut statements = Statements::new(100);
        let mut known = Known::default();
        let mut used = BTreeSet::new();
        for name in &uses {
            let statement = statements.intern(&[*name], USUAL);
            if !known.touch(&statement) {
                known.insert(&statement);
            }
            used.insert(*name);
            prop_assert_eq!(known.len(), used.len());
        }
        let before = known.len();
        let forgotten = known.shrink(max).map_or(0, |sql| sql.matches("DEALLOCATE").count());
        prop_assert_eq!(known.len(), before - forgotten);
        prop_assert!(known.len() <= max);
        prop_assert!(forgotten == 0 || known.len() == max * 3 / 4);
        let last = statements.intern(&[*uses.last().unwrap()], USUAL);
        prop_assert!(known.touch(&last));
    }
}
