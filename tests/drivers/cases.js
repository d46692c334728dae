// What the Node programs share: how many do how much, and how cases are run.
//
// A program finds its server where libpq looks for it: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGOPTIONS, PGSSLMODE
// and PGSSLROOTCERT. The table `items (id int primary key, owner text, note text)` is there and empty when it starts.
"use strict";

const fs = require("node:fs");

// Connections at once, over three backends.
const CROWD = 24;
// How often each of several connections has its turn.
const ROUNDS = 8;
const BIG_TEXT = "megabyte ".repeat(Math.floor((1024 * 1024) / 9));
const BIG_BYTES = Buffer.alloc(1024 * 1024, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
const LONG_QUERY = "select pg_sleep(600)";

const numbers = (count) => Array.from({ length: count }, (_, number) => number);

// TLS that verifies the server where the environment asks for it; undefined: whatever the driver does by default.
const tls = () =>
    process.env.PGSSLMODE === "verify-full"
        ? { ca: fs.readFileSync(process.env.PGSSLROOTCERT), rejectUnauthorized: true }
        : undefined;

// Awaits `outcome` and does `action` now and then meanwhile: a cancel may come before what it is to cancel.
async function meanwhile(action, outcome) {
    const timer = setInterval(action, 200);
    try {
        return await outcome;
    } finally {
        clearInterval(timer);
    }
}

// Runs the cases in order; the last name printed is the one that failed or hangs.
async function run(...cases) {
    for (const named of cases) {
        console.log(named.name);
        await named();
    }
}

module.exports = { CROWD, ROUNDS, BIG_TEXT, BIG_BYTES, LONG_QUERY, meanwhile, numbers, run, tls };
