// postgres.js (the package `postgres`): every query prepared under a name of its own making, and sent in a pipeline.
"use strict";

const assert = require("node:assert/strict");
const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const postgres = require("postgres");
const { CROWD, ROUNDS, BIG_TEXT, BIG_BYTES, LONG_QUERY, numbers, run, tls } = require("./cases.js");

// A pool of `max` connections; `connection` are startup parameters.
function connect(max, connection = {}) {
    const { PGOPTIONS } = process.env;
    const startup = PGOPTIONS ? { options: PGOPTIONS, ...connection } : connection;
    return postgres({ max, connection: startup, ...(tls() && { ssl: tls() }) });
}

async function values_come_back_as_they_were_sent() {
    const sql = connect(1);
    const now = new Date("2026-02-28T12:00:00Z");
    const [row] = await sql`select ${1}::int as a, ${"grüße"} as b, ${now}::timestamptz as c, ${null}::text as d,
        ${sql.json({ a: [1, null] })}::jsonb as e, ${Buffer.from([0, 255])}::bytea as f`;
    assert.deepEqual({ ...row }, {
        a: 1, b: "grüße", c: now, d: null, e: { a: [1, null] }, f: Buffer.from([0, 255]),
    });
    await sql.end();
}

async function answers_come_in_order() {
    const sql = connect(1);
    const answers = await Promise.all(numbers(500).map((number) => sql`select ${number}::int as n`));
    assert.deepEqual(answers.map(([row]) => row.n), numbers(500));
    const mixed = await Promise.allSettled(numbers(60).map((number) => sql`select 1 / ${number % 3}::int as n`));
    mixed.forEach((outcome, number) => assert.equal(outcome.status, number % 3 ? "fulfilled" : "rejected"));
    await sql.end();
}

async function a_megabyte_goes_both_ways() {
    const sql = connect(1);
    const [row] = await sql`select ${BIG_TEXT}::text as text, ${BIG_BYTES}::bytea as bytes`;
    assert.equal(row.text, BIG_TEXT);
    assert.deepEqual(row.bytes, BIG_BYTES);
    await sql.end();
}

async function prepared_statements_of_connections_interleave() {
    const clients = numbers(6).map(() => connect(1));
    for (const turn of numbers(ROUNDS)) {
        const own = clients.map((sql, number) => sql.unsafe(`select $1::int + ${number} as n`, [turn], { prepare: true }));
        assert.deepEqual((await Promise.all(own)).map(([row]) => row.n), numbers(6).map((number) => turn + number));
        const shared = clients.map((sql, number) => sql`select ${number}::int as n`);
        assert.deepEqual((await Promise.all(shared)).map(([row]) => row.n), numbers(6));
    }
    await Promise.all(clients.map((sql) => sql.end()));
}

async function a_crowd_shares_the_backends() {
    const sql = connect(CROWD);
    await Promise.all(
        numbers(CROWD).map(async (number) => {
            for (const turn of numbers(ROUNDS)) {
                await sql.begin(async (sql) => {
                    await sql`insert into items values (${number * ROUNDS + turn}, ${String(number)}, 'crowd')`;
                    const [row] = await sql`select count(*)::int as n from items where owner = ${String(number)}`;
                    assert.equal(row.n, turn + 1);
                });
            }
        }),
    );
    const [row] = await sql`select count(*)::int as n from items where note = 'crowd'`;
    assert.equal(row.n, CROWD * ROUNDS);
    await sql.end();
}

async function an_error_in_a_transaction_undoes_it() {
    const sql = connect(2);
    for (const _ of numbers(3)) {
        const failing = sql.begin(async (sql) => {
            await sql`insert into items values (2000, 'undone', '')`;
            await sql`select 1 / ${0}::int`;
        });
        await assert.rejects(failing, { code: "22012" });
        const [row] = await sql`select count(*)::int as n from items where owner = 'undone'`;
        assert.equal(row.n, 0);
    }
    await sql.end();
}

async function a_savepoint_outlives_an_error() {
    const sql = connect(1);
    await sql.begin(async (sql) => {
        await sql`insert into items values (3000, 'kept', '')`;
        const failing = sql.savepoint((sql) => sql`insert into items values (${3000}, 'kept', '')`);
        await assert.rejects(failing, { code: "23505" });
    });
    const [row] = await sql`select count(*)::int as n from items where owner = 'kept'`;
    assert.equal(row.n, 1);
    await sql.end();
}

async function rows_are_copied_in_and_out() {
    const sql = connect(1);
    await sql`delete from items`;
    const lines = numbers(5000).map((number) => `${number}\tcopy\tnote ${number}\n`);
    await pipeline(Readable.from(lines), await sql`copy items from stdin`.writable());
    let text = "";
    for await (const block of await sql`copy (select * from items order by id) to stdout`.readable()) {
        text += block;
    }
    assert.equal(text, lines.join(""));
    await sql.end();
}

async function a_cancelled_query_leaves_the_connection_usable() {
    const [sql, other] = [connect(1), connect(1)];
    for (const number of numbers(3)) {
        // Connected beforehand: a query that has no connection yet is cancelled without one.
        await Promise.all([sql`select 1`, other`select 1`]);
        const running = sql.unsafe(LONG_QUERY).execute();
        setTimeout(() => running.cancel(), 500);
        await assert.rejects(running, { code: "57014" });
        assert.equal((await sql`select ${number}::int as n`)[0].n, number);
        assert.equal((await other`select ${number}::int as n`)[0].n, number);
    }
    await Promise.all([sql.end(), other.end()]);
}

async function settings_stay_with_their_client() {
    const clients = numbers(6).map((number) => connect(1, { application_name: `app${number}`, work_mem: `${5 + number}MB` }));
    const fresh = connect(1);
    const [standard] = await fresh`show search_path`;
    await Promise.all(clients.map((sql, number) => sql.unsafe(`set search_path = s${number}, public`)));
    for (const _ of numbers(ROUNDS)) {
        await Promise.all(
            clients.map(async (sql, number) => {
                assert.equal((await sql`show search_path`)[0].search_path, `s${number}, public`);
                assert.equal((await sql`show work_mem`)[0].work_mem, `${5 + number}MB`);
                assert.match((await sql`show application_name`)[0].application_name, new RegExp(`app${number}$`));
            }),
        );
        assert.deepEqual((await fresh`show search_path`)[0], standard);
    }
    await Promise.all([fresh, ...clients].map((sql) => sql.end()));
}

async function a_cursor_of_the_server_reads_in_parts() {
    // Outside a transaction: each part is an Execute with a limit and a Flush, and the Sync comes at the end.
    const sql = connect(1);
    let total = 0;
    await sql`select generate_series(1, 1000) as n`.cursor(100, (rows) => {
        total += rows.reduce((sum, row) => sum + row.n, 0);
    });
    assert.equal(total, 500_500);
    await sql.end();
}

run(
    values_come_back_as_they_were_sent,
    answers_come_in_order,
    a_megabyte_goes_both_ways,
    prepared_statements_of_connections_interleave,
    a_crowd_shares_the_backends,
    an_error_in_a_transaction_undoes_it,
    a_savepoint_outlives_an_error,
    rows_are_copied_in_and_out,
    a_cancelled_query_leaves_the_connection_usable,
    settings_stay_with_their_client,
    a_cursor_of_the_server_reads_in_parts,
);
