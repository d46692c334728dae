// node-postgres (the package `pg`): unnamed statements, named ones where a query has a name, and a pool of its own.
"use strict";

const assert = require("node:assert/strict");
const { Readable } = require("node:stream");
const { pipeline } = require("node:stream/promises");
const { Client, Pool } = require("pg");
const copy = require("pg-copy-streams");
const { CROWD, ROUNDS, BIG_TEXT, BIG_BYTES, LONG_QUERY, meanwhile, numbers, run, tls } = require("./cases.js");

const settings = (more) => (tls() ? { ssl: tls(), ...more } : { ...more });

async function connect(more) {
    const client = new Client(settings(more));
    await client.connect();
    return client;
}

async function value(client, text, values, name) {
    const { rows } = await client.query({ text, values, name, rowMode: "array" });
    return rows[0][0];
}

const close = (...clients) => Promise.all(clients.map((client) => client.end()));

async function values_come_back_as_they_were_sent() {
    const client = await connect();
    const now = new Date("2026-02-28T12:00:00Z");
    for (const [kind, sent] of [
        ["int", 1], ["float8", -0.5], ["text", "grüße 'quoted'"], ["bytea", Buffer.from([0, 255])], ["bool", true],
        ["text", null], ["timestamptz", now], ["int[]", [1, 2, 3]], ["text[]", ["a", null]], ["jsonb", { a: [1, null] }],
    ]) {
        assert.deepEqual(await value(client, `select $1::${kind}`, [sent]), sent);
    }
    const answers = await client.query("select 1 as one; select 2 as two");
    assert.deepEqual(answers.map((answer) => answer.rows), [[{ one: 1 }], [{ two: 2 }]]);
    await close(client);
}

async function a_megabyte_goes_both_ways() {
    const client = await connect();
    assert.equal(await value(client, "select $1::text", [BIG_TEXT]), BIG_TEXT);
    assert.deepEqual(await value(client, "select $1::bytea", [BIG_BYTES]), BIG_BYTES);
    await close(client);
}

async function prepared_statements_of_connections_interleave() {
    // Each client gives the same two names to texts of its own.
    const clients = await Promise.all(numbers(6).map(() => connect()));
    for (const turn of numbers(ROUNDS)) {
        const sums = clients.map((client, number) => value(client, `select $1::int + ${number}`, [turn], "sum"));
        assert.deepEqual(await Promise.all(sums), numbers(6).map((number) => turn + number));
        const texts = clients.map((client, number) => value(client, `select $1 || '${number}'`, ["client"], "text"));
        assert.deepEqual(await Promise.all(texts), numbers(6).map((number) => `client${number}`));
    }
    await close(...clients);
}

async function a_crowd_shares_the_backends() {
    const pool = new Pool(settings({ max: CROWD }));
    const clients = await Promise.all(numbers(CROWD).map(() => pool.connect()));
    await Promise.all(
        clients.map(async (client, number) => {
            for (const turn of numbers(ROUNDS)) {
                await client.query("begin");
                await client.query("insert into items values ($1, $2, 'crowd')", [number * ROUNDS + turn, String(number)]);
                const seen = await value(client, "select count(*)::int from items where owner = $1", [String(number)]);
                assert.equal(seen, turn + 1);
                await client.query("commit");
            }
            client.release();
        }),
    );
    assert.equal(await value(pool, "select count(*)::int from items where note = 'crowd'"), CROWD * ROUNDS);
    await pool.end();
}

async function an_error_in_a_transaction_undoes_it() {
    const [client, other] = [await connect(), await connect()];
    for (const name of [undefined, "divide"]) {
        await client.query("begin");
        await client.query("insert into items values (2000, 'undone', '')");
        await assert.rejects(value(client, "select 1 / $1::int", [0], name), { code: "22012" });
        await assert.rejects(client.query("select 1"), { code: "25P02" });
        await client.query("rollback");
        assert.equal(await value(other, "select count(*)::int from items where owner = 'undone'"), 0);
        assert.equal(await value(client, "select $1::int", [5]), 5);
    }
    await assert.rejects(client.query({ text: "select nonsense", name: "wrong" }), { code: "42703" });
    assert.equal(await value(client, "select 7", [], "wrong"), 7);
    await close(client, other);
}

async function a_savepoint_outlives_an_error() {
    const [client, other] = [await connect(), await connect()];
    await client.query("begin");
    await client.query("insert into items values (3000, 'kept', '')");
    for (const _ of numbers(3)) {
        await client.query("savepoint here");
        await assert.rejects(client.query("insert into items values ($1, 'kept', '')", [3000]), { code: "23505" });
        await client.query("rollback to here");
        await other.query("select 1");
    }
    await client.query("commit");
    assert.equal(await value(other, "select count(*)::int from items where owner = 'kept'"), 1);
    await close(client, other);
}

async function rows_are_copied_in_and_out() {
    const client = await connect();
    await client.query("delete from items");
    const lines = numbers(5000).map((number) => `${number}\tcopy\tnote ${number}\n`);
    const insert = () => pipeline(Readable.from(lines), client.query(copy.from("copy items from stdin")));
    await insert();
    let text = "";
    for await (const block of client.query(copy.to("copy (select * from items order by id) to stdout"))) {
        text += block;
    }
    assert.equal(text, lines.join(""));
    await assert.rejects(insert(), { code: "23505" });
    assert.equal(await value(client, "select count(*)::int from items"), lines.length);
    await close(client);
}

async function a_cancelled_query_leaves_the_connection_usable() {
    // node-postgres cancels by a new client that is given the connection's key and query.
    const [client, other] = [await connect(), await connect()];
    for (const _ of numbers(3)) {
        const running = client.query(LONG_QUERY);
        const query = client._activeQuery ?? client.activeQuery;
        const cancel = () => new Client(settings()).cancel(client, query);
        await assert.rejects(meanwhile(cancel, running), { code: "57014" });
        assert.equal(await value(client, "select 1"), 1);
        assert.equal(await value(other, "select 2"), 2);
    }
    await close(client, other);
}

async function settings_stay_with_their_client() {
    const clients = await Promise.all(
        numbers(6).map((number) => connect({ application_name: `app${number}`, statement_timeout: 50_000 + number })),
    );
    const fresh = await connect();
    const standard = await value(fresh, "show search_path");
    await Promise.all(clients.map((client, number) => client.query(`set search_path = s${number}, public`)));
    for (const _ of numbers(ROUNDS)) {
        await Promise.all(
            clients.map(async (client, number) => {
                assert.equal(await value(client, "show search_path"), `s${number}, public`);
                assert.equal(await value(client, "show statement_timeout"), number ? `${50_000 + number}ms` : "50s");
                assert.match(await value(client, "show application_name"), new RegExp(`app${number}$`));
            }),
        );
        assert.equal(await value(fresh, "show search_path"), standard);
        assert.equal(await value(fresh, "show statement_timeout"), "0");
    }
    await close(fresh, ...clients);
}

run(
    values_come_back_as_they_were_sent,
    a_megabyte_goes_both_ways,
    prepared_statements_of_connections_interleave,
    a_crowd_shares_the_backends,
    an_error_in_a_transaction_undoes_it,
    a_savepoint_outlives_an_error,
    rows_are_copied_in_and_out,
    a_cancelled_query_leaves_the_connection_usable,
    settings_stay_with_their_client,
);
