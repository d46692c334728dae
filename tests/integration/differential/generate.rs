//! Random sequences: blocks of messages as drivers send them, then a few messages dropped, doubled or swapped.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::step::{Bind, Step};

pub(super) const STATEMENTS: [&str; 4] = ["", "s1", "s2", "s \"3"];
const PORTALS: [&str; 3] = ["", "p1", "p2"];

const INT4: u32 = 23;
const TEXT: u32 = 25;

/// Runs first: the table as every sequence finds it.
const PREPARATION: &str = "drop table if exists {t}; create table {t}(a int primary key, b text); \
    insert into {t} values (1, 'one'), (2, 'two'), (3, null), (4, E'four\\n')";

/// Runs last: what the sequence has left behind.
const INSPECTION: &str = "select * from {t} order by a; \
    select current_setting(name) from unnest('{DateStyle,IntervalStyle,TimeZone,\
    search_path,work_mem,extra_float_digits,bytea_output,standard_conforming_strings,\
    default_transaction_isolation,default_transaction_read_only,statement_timeout,\
    client_min_messages,role}'::text[]) name; select nullif(current_setting('my.own', true), '')";

/// Statements without parameters, for simple queries and extended ones alike.
const STATEMENTS_SQL: &[&str] = &[
    "select 1",
    "select 1",
    "select a, b from {t} order by a",
    "select a, b from {t} order by a",
    "select a from {t}, generate_series(1, 3) order by 1",
    "select generate_series(1, 5)",
    "insert into {t} values (5, 'five') returning a",
    "insert into {t} select generate_series(20, 25)",
    "update {t} set b = b || '+' where a < 3",
    "delete from {t} where a = 2",
    "select 1/0",
    "select nonsense",
    "selec 1",
    "select * from nowhere",
    "",
    "begin",
    "begin",
    "begin",
    "start transaction isolation level serializable read only",
    "commit",
    "commit",
    "end",
    "rollback",
    "rollback",
    "rollback and chain",
    "savepoint one",
    "savepoint two",
    "rollback to savepoint one",
    "release savepoint one",
    "declare c1 cursor for select a, b from {t} order by a",
    "declare c2 scroll cursor for select generate_series(1, 9)",
    "fetch 2 from c1",
    "fetch backward 1 from c2",
    "fetch all from c2",
    "move 1 in c1",
    "close c1",
    "close all",
    "create temp table gone(x int) on commit drop",
    "truncate {t}",
    "do $$ begin raise notice 'hello'; end $$",
    "do $$ begin raise exception 'no' using errcode = '12345', hint = 'a hint'; end $$",
    "select 'a\\b', '02/01/2020'::date, '2020-01-01 00:00'::timestamptz at time zone 'UTC'",
    "select now() is not null, interval '1 month 2 days', 'x'::bytea, 1.5::float4",
    "explain (costs off) select 1",
    "values (1, 'x'), (2, 'y')",
    "lock table {t}",
];

const SETTINGS: &[&str] = &[
    "set application_name = 'differential'",
    "set application_name to default",
    "set datestyle = 'German, DMY'",
    "set datestyle = 'ISO, MDY'",
    "set local datestyle = 'SQL, DMY'",
    "set timezone = 'Asia/Tokyo'",
    "set time zone 'utc'",
    "set local timezone = 'America/New_York'",
    "set intervalstyle = 'iso_8601'",
    "set search_path = pg_catalog, public",
    "set search_path = public",
    "set search_path to nobody, public",
    "set local search_path = public, pg_catalog",
    "set work_mem = '8MB'",
    "set local work_mem = '9MB'",
    "set extra_float_digits = 0",
    "set bytea_output = 'escape'",
    "set standard_conforming_strings = off",
    "set standard_conforming_strings = on",
    "set statement_timeout = '1h'",
    "set client_min_messages = warning",
    "set client_encoding = 'LATIN1'",
    "set client_encoding = 'UTF8'",
    "set my.own = 'value'",
    "set my.own = 'it''s'",
    "set local my.own = 'other'",
    "set no_such_setting = 1",
    "set datestyle = 'nonsense'",
    "set role none",
    "set session characteristics as transaction isolation level repeatable read",
    "set session characteristics as transaction read only",
    "set session characteristics as transaction read write",
    "set transaction isolation level repeatable read",
    "set default_transaction_isolation = serializable",
    "select set_config('my.own', 'by function', false)",
    "select set_config('work_mem', '10MB', true)",
    "select set_config('TimeZone', 'Europe/Paris', false)",
    "select set_config('application_name', 'n' || 1, false), 1/0",
    "reset my.own",
    "reset datestyle",
    "reset timezone",
    "reset search_path",
    "reset role",
    "reset all",
    "show datestyle",
    "select nullif(current_setting('my.own', true), '')",
    "select current_setting('search_path'), current_setting('work_mem')",
    "discard plans",
    "discard all",
    "deallocate all",
];

/// With parameters: text, declared types, and what to send for each parameter.
const WITH_PARAMETERS: &[(&str, &[u32], &[Parameter])] = &[
    ("select $1::int4 + 1", &[INT4], &[Parameter::Integer]),
    ("select $1 + 1", &[], &[Parameter::Integer]),
    (
        "select $1::text, $2::text",
        &[TEXT, TEXT],
        &[Parameter::Text, Parameter::Text],
    ),
    (
        "select a, b from {t} where a > $1 order by a",
        &[],
        &[Parameter::Integer],
    ),
    (
        "insert into {t} values ($1, $2) returning a, b",
        &[INT4, TEXT],
        &[Parameter::Integer, Parameter::Text],
    ),
    (
        "update {t} set b = $2 where a = $1",
        &[0, 0],
        &[Parameter::Integer, Parameter::Text],
    ),
    (
        "delete from {t} where a = any(array[$1, 3])",
        &[],
        &[Parameter::Integer],
    ),
    (
        "select generate_series(1, $1)",
        &[INT4],
        &[Parameter::Integer],
    ),
    ("select 10 / $1", &[INT4], &[Parameter::Integer]),
    (
        "select set_config('my.own', $1, false)",
        &[],
        &[Parameter::Text],
    ),
    (
        "select $1::numeric, array[$1::int8, null], ($1 || ' days')::interval, row($1::int2)",
        &[TEXT],
        &[Parameter::TextNumber],
    ),
    (
        "select $1::bool, '{\"a\": 1}'::jsonb, 'c0ffee00-0000-0000-0000-000000000000'::uuid, \
         null::date, 2.5::float8, '\\x00ff'::bytea, '10.0.0.1'::inet",
        &[],
        &[Parameter::Boolean],
    ),
];

#[derive(Debug, Clone, Copy)]
enum Parameter {
    Integer,
    Text,
    TextNumber,
    Boolean,
}

const ROWS: &[&str] = &[
    "10\tten\n",
    "11\t\\N\n12\ttwelve\n",
    "13\tsplit",
    " row\n",
    "x\tbad\n",
    "1\tdup\n",
];

/// The sequence that belongs to `seed`.
pub(super) fn sequence(seed: u64) -> Vec<Step> {
    let mut generator = Generator {
        random: StdRng::seed_from_u64(seed),
        steps: Vec::new(),
    };
    for _ in 0..generator.random.random_range(1..=10) {
        generator.block();
    }
    generator.spoil();
    settle_unnamed(&mut generator.steps);
    generator.steps
}

/// Sees to it that the unnamed statement is used only where it is certain what it is.
///
/// A server that skips the Parse of one, because of an error before it in the same batch, still has the one before.
/// Sluice has lost that one if the next batch runs on another backend, and so the answer would depend on chance.
fn settle_unnamed(steps: &mut [Step]) {
    let mut is_certain = true;
    let mut parsed_in_batch = false;
    let mut batch_is_open = false;
    for step in steps {
        match step {
            Step::Parse { name: "", .. } => {
                is_certain = !batch_is_open;
                parsed_in_batch = true;
            }
            Step::Query(_) => is_certain = !batch_is_open,
            Step::Sync => {
                (parsed_in_batch, batch_is_open) = (false, false);
                continue;
            }
            Step::Bind(Bind { statement, .. })
            | Step::DescribeStatement(statement)
            | Step::CloseStatement(statement)
                if statement.is_empty() && !is_certain && !parsed_in_batch =>
            {
                *statement = "s1";
            }
            _ => {}
        }
        batch_is_open |= !matches!(step, Step::Query(_) | Step::Wait);
    }
}

/// The sequence between what makes every one begin and end alike.
pub(super) fn framed(steps: &[Step]) -> Vec<Step> {
    let mut framed = vec![Step::query(PREPARATION), Step::Wait];
    framed.extend_from_slice(steps);
    framed.extend([Step::CopyFail, Step::Sync, Step::Wait]);
    for sql in [
        "rollback",
        "set standard_conforming_strings = on",
        INSPECTION,
    ] {
        framed.extend([Step::query(sql), Step::Wait]);
    }
    framed
}

struct Generator {
    random: StdRng,
    steps: Vec<Step>,
}

impl Generator {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("not empty")
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    fn push(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.steps.extend(steps);
    }

    fn maybe_wait(&mut self) {
        if self.chance(70) {
            self.steps.push(Step::Wait);
        }
    }

    fn block(&mut self) {
        match self.random.random_range(0..100) {
            0..22 => self.simple(),
            22..36 => self.setting(),
            36..44 => self.prepare(),
            44..58 => self.batch(),
            58..68 => self.pipeline(),
            68..74 => self.copy_in(),
            74..77 => self.copy_out(),
            77..83 => self.transaction(),
            83..87 => self.deallocate(),
            87..91 => self.with_row_limit(),
            91..94 => self.conversation(),
            94..96 => self.push([Step::FunctionCall("40"), Step::Wait]),
            96..97 => self.push([Step::FunctionCall("x"), Step::Wait]),
            97..99 => self.push([Step::Sync, Step::Wait]),
            _ => self.stray(),
        }
    }

    /// Any statement that takes no parameters.
    fn sql(&mut self) -> String {
        let list = if self.chance(75) {
            STATEMENTS_SQL
        } else {
            SETTINGS
        };
        self.pick(list).to_owned()
    }

    fn simple(&mut self) {
        let mut sql = self.sql();
        while self.chance(25) {
            sql = format!("{sql}; {}", self.sql());
        }
        self.push([Step::Query(sql)]);
        self.maybe_wait();
    }

    fn setting(&mut self) {
        let sql = self.pick(SETTINGS);
        if self.chance(70) {
            self.push([Step::query(sql)]);
        } else {
            self.run("", sql.to_owned(), &[], &[]);
            self.push([Step::Sync]);
        }
        self.maybe_wait();
    }

    fn parse(&mut self, name: &'static str) -> &'static [Parameter] {
        if self.chance(60) {
            let (sql, types, parameters) = self.pick(WITH_PARAMETERS);
            self.push([Step::Parse {
                name,
                sql: sql.to_owned(),
                types: types.to_vec(),
            }]);
            parameters
        } else {
            let sql = self.sql();
            self.push([Step::Parse {
                name,
                sql,
                types: Vec::new(),
            }]);
            &[]
        }
    }

    fn prepare(&mut self) {
        let name = self.pick(&STATEMENTS);
        self.parse(name);
        if self.chance(50) {
            self.push([Step::DescribeStatement(name)]);
        }
        self.push([Step::Sync]);
        self.maybe_wait();
    }

    fn bind(&mut self, portal: &'static str, statement: &'static str, parameters: &[Parameter]) {
        let mut formats = Vec::new();
        let mut values = Vec::new();
        for parameter in parameters {
            let (format, value) = self.value(*parameter);
            formats.push(format);
            values.push(value);
        }
        let results = match self.random.random_range(0..10) {
            0..7 => vec![],
            7..9 => vec![1],
            _ => vec![0, 1],
        };
        self.push([Step::Bind(Bind {
            portal,
            statement,
            formats,
            values,
            results,
        })]);
    }

    fn value(&mut self, parameter: Parameter) -> (i16, Option<Vec<u8>>) {
        if self.chance(5) {
            return (0, None);
        }
        let number: i32 = self.pick(&[0, 1, 2, 3, 7, -5]);
        match parameter {
            Parameter::Integer if self.chance(40) => (1, Some(number.to_be_bytes().to_vec())),
            Parameter::Integer | Parameter::TextNumber => {
                (0, Some(number.to_string().into_bytes()))
            }
            Parameter::Text => {
                let text = self.pick(&["", "x", "naïve", "it's \\ \"quoted\""]);
                (self.pick(&[0, 1]), Some(text.as_bytes().to_vec()))
            }
            Parameter::Boolean => (
                0,
                Some(self.pick(&["t", "off", "maybe"]).as_bytes().to_vec()),
            ),
        }
    }

    /// Parse, Bind, perhaps Describe, Execute.
    fn run(&mut self, name: &'static str, sql: String, types: &[u32], parameters: &[Parameter]) {
        self.push([Step::Parse {
            name,
            sql,
            types: types.to_vec(),
        }]);
        self.execute(name, parameters);
    }

    fn execute(&mut self, name: &'static str, parameters: &[Parameter]) {
        let portal = if self.chance(80) {
            ""
        } else {
            self.pick(&PORTALS)
        };
        self.bind(portal, name, parameters);
        if self.chance(40) {
            self.push([Step::DescribePortal(portal)]);
        }
        let max_rows = if self.chance(80) {
            0
        } else {
            self.random.random_range(1..4)
        };
        self.push([Step::Execute { portal, max_rows }]);
    }

    /// One statement as drivers run it.
    fn one(&mut self) {
        match self.random.random_range(0..10) {
            0..4 => {
                let (sql, types, parameters) = self.pick(WITH_PARAMETERS);
                self.run("", sql.to_owned(), types, parameters);
            }
            4..6 => {
                let sql = self.sql();
                self.run("", sql, &[], &[]);
            }
            6..7 => {
                let name = self.pick(&STATEMENTS);
                let parameters = self.parse(name);
                self.execute(name, parameters);
            }
            7..9 => {
                // It may be one without parameters, or there may be none of the name.
                let name = self.pick(&STATEMENTS);
                let count = self.random.random_range(0..3);
                self.execute(name, &[Parameter::Integer, Parameter::Text][..count]);
            }
            _ => {
                let name = self.pick(&STATEMENTS);
                let portal = self.pick(&PORTALS);
                let steps = [
                    Step::DescribeStatement(name),
                    Step::DescribePortal(portal),
                    Step::CloseStatement(name),
                    Step::ClosePortal(portal),
                ];
                let step = steps.choose(&mut self.random).expect("four").clone();
                self.push([step]);
            }
        }
    }

    fn batch(&mut self) {
        self.one();
        self.push([Step::Sync]);
        self.maybe_wait();
    }

    /// Several batches in one go, some of them with several statements.
    fn pipeline(&mut self) {
        for _ in 0..self.random.random_range(2..6) {
            self.one();
            match self.random.random_range(0..10) {
                0..5 => self.push([Step::Sync]),
                5..6 => self.push([Step::Flush]),
                6..7 => self.push([Step::Flush, Step::Wait]),
                7..8 => self.simple(),
                _ => {}
            }
        }
        self.push([Step::Sync, Step::Wait]);
    }

    /// One message at a time, each answer awaited by way of Flush.
    fn conversation(&mut self) {
        let name = self.pick(&STATEMENTS);
        let parameters = self.parse(name);
        self.push([
            Step::Flush,
            Step::Wait,
            Step::DescribeStatement(name),
            Step::Flush,
            Step::Wait,
        ]);
        if self.chance(30) {
            self.push([Step::Sync, Step::Wait]);
        }
        self.execute(name, parameters);
        self.push([Step::Flush, Step::Wait, Step::Sync, Step::Wait]);
    }

    fn with_row_limit(&mut self) {
        let portal = self.pick(&PORTALS);
        let sql = "select a, b from {t} order by a";
        let in_block = self.chance(60);
        if in_block {
            self.push([Step::query("begin"), Step::Wait]);
        }
        self.push([Step::Parse {
            name: "",
            sql: sql.to_owned(),
            types: Vec::new(),
        }]);
        self.bind(portal, "", &[]);
        for _ in 0..self.random.random_range(1..5) {
            self.push([Step::Execute {
                portal,
                max_rows: 2,
            }]);
            if self.chance(40) {
                self.push([Step::Sync, Step::Wait]);
            }
        }
        self.push([Step::Sync, Step::Wait]);
        if in_block {
            self.push([Step::query("commit"), Step::Wait]);
        }
    }

    fn transaction(&mut self) {
        self.push([Step::query("begin"), Step::Wait]);
        for _ in 0..self.random.random_range(1..5) {
            match self.random.random_range(0..6) {
                0..2 => self.simple(),
                2..4 => self.batch(),
                4..5 => self.setting(),
                _ => self.prepare(),
            }
        }
        let end = self.pick(&["commit", "rollback", "end"]);
        self.push([Step::query(end), Step::Wait]);
    }

    fn deallocate(&mut self) {
        let sql = self.pick(&[
            "deallocate s1",
            "DEALLOCATE PREPARE s2;",
            "deallocate \"s \"\"3\"",
            "deallocate all",
            "deallocate nobody",
            "discard all",
        ]);
        if self.chance(80) {
            self.push([Step::query(sql)]);
        } else {
            self.run("", sql.to_owned(), &[], &[]);
            self.push([Step::Sync]);
        }
        self.maybe_wait();
    }

    fn copy_in(&mut self) {
        let sql = self.pick(&[
            "copy {t} from stdin",
            "copy {t} from stdin",
            "copy nowhere from stdin",
            "copy {t} from stdin; select count(*) from {t}",
        ]);
        let extended = self.chance(40);
        let synced = extended && self.chance(50);
        let at_once = self.chance(50);
        if extended {
            self.run("", sql.to_owned(), &[], &[]);
            self.push([if synced { Step::Sync } else { Step::Flush }]);
        } else {
            self.push([Step::query(sql)]);
        }
        if !at_once {
            self.push([Step::Wait]);
        }
        for _ in 0..self.random.random_range(0..4) {
            let rows = self.pick(ROWS);
            self.push([Step::CopyData(rows)]);
        }
        let end = if self.chance(75) {
            Step::CopyDone
        } else {
            Step::CopyFail
        };
        self.push([end]);
        if extended {
            self.push([Step::Sync]);
        }
        self.push([Step::Wait]);
    }

    fn copy_out(&mut self) {
        let sql = self.pick(&[
            "copy {t} to stdout",
            "copy (select 1/(a-3) from {t}) to stdout",
        ]);
        if self.chance(50) {
            self.push([Step::query(sql)]);
        } else {
            self.run("", sql.to_owned(), &[], &[]);
            self.push([Step::Sync]);
        }
        self.maybe_wait();
    }

    /// What nobody should send.
    fn stray(&mut self) {
        let stray = [
            Step::CopyData("1\tx\n"),
            Step::CopyDone,
            Step::CopyFail,
            Step::Flush,
            Step::Unknown,
        ];
        let step = stray.choose(&mut self.random).expect("five").clone();
        self.push([step, Step::Wait]);
    }

    /// Makes one sequence in three illegal in places, or oddly paced.
    fn spoil(&mut self) {
        if !self.chance(33) {
            return;
        }
        for _ in 0..self.random.random_range(1..4) {
            let count = self.steps.len();
            if count < 2 {
                return;
            }
            let place = self.random.random_range(0..count);
            match self.random.random_range(0..4) {
                0 => {
                    self.steps.remove(place);
                }
                1 => self.steps.insert(place, self.steps[place].clone()),
                2 => self.steps.swap(place, self.random.random_range(0..count)),
                _ => self.steps.insert(place, Step::Wait),
            }
        }
        self.calm();
    }

    /// Waits after a Sync amid the data of a COPY: PostgreSQL ignores it, or answers it if the data before it fails, and
    /// only the answers tell which; what is sent blindly behind it nobody can account for.
    fn calm(&mut self) {
        let mut amid = false;
        for step in std::mem::take(&mut self.steps) {
            let is_sync = matches!(step, Step::Sync | Step::Query(_));
            amid = matches!(step, Step::CopyData(_))
                || amid && matches!(step, Step::Wait | Step::Sync);
            self.steps.push(step);
            if amid && is_sync {
                self.steps.push(Step::Wait);
            }
        }
    }
}
