"""asyncpg: binary results, every query prepared and kept; RESET ALL and more when its pool takes a connection back."""

import asyncio
import datetime
import decimal
import os

import asyncpg

from cases import BIG_BYTES, BIG_TEXT, CROWD, LONG_QUERY, ROUNDS, ROWS, run

# The one variable of libpq that asyncpg does not look at.
STARTUP = {"options": os.environ["PGOPTIONS"]} if "PGOPTIONS" in os.environ else {}


def connect(**settings):
    return asyncpg.connect(server_settings={**STARTUP, **settings})


def create_pool(**options):
    return asyncpg.create_pool(server_settings=STARTUP, **options)


async def values_come_back_as_they_were_sent():
    connection = await connect()
    noon = datetime.datetime(2026, 2, 28, 12, 0, tzinfo=datetime.timezone.utc)
    for kind, sent in [
        ("int", 1), ("bigint", 2**40), ("float8", -0.5), ("text", "grüße 'quoted'"), ("bytea", b"\0\xff"),
        ("bool", True), ("text", None), ("timestamptz", noon), ("int[]", [1, 2, 3]), ("text[]", ["a", None]),
        ("numeric", decimal.Decimal("1.50")), ("jsonb", '{"a": 1}'),
    ]:
        assert await connection.fetchval(f"select $1::{kind}", sent) == sent
    # For a type it does not know it asks the catalogue, by statements of its own.
    assert await connection.fetchval("select row(1, 'a')::record") == (1, "a")
    await connection.execute("create type mood as enum ('sad', 'happy')")
    assert await connection.fetchval("select array['happy'::mood]") == ["happy"]
    await connection.execute("drop type mood")
    await connection.close()


async def a_megabyte_goes_both_ways():
    connection = await connect()
    assert await connection.fetchval("select $1::text", BIG_TEXT) == BIG_TEXT
    assert await connection.fetchval("select $1::bytea", BIG_BYTES) == BIG_BYTES
    await connection.close()


async def prepared_statements_of_connections_interleave():
    # asyncpg names them __asyncpg_stmt_1__, … on each connection.
    connections = await asyncio.gather(*(connect() for _ in range(6)))
    statements = []
    for number, connection in enumerate(connections):
        statements.append(await connection.prepare(f"select $1::int + {number}"))
        # asyncpg prepares with a Flush; the Sync, which ends the batch, comes with the first use.
        assert await statements[number].fetchval(0) == number
    for turn in range(ROUNDS):
        answers = await asyncio.gather(*(statement.fetchval(turn) for statement in statements))
        assert answers == [turn + number for number in range(6)]
        answers = await asyncio.gather(
            *(connection.fetchval(f"select {number}, $1::int", turn) for number, connection in enumerate(connections))
        )
        assert answers == list(range(6))
    await asyncio.gather(*(connection.close() for connection in connections))


async def a_plan_that_no_longer_fits_is_made_again():
    connection, other = await connect(), await connect()
    await other.execute("create table changing as select 1 as a")
    assert await connection.fetchrow("select * from changing") == (1,)
    await other.execute("alter table changing add b int")
    assert await connection.fetchrow("select * from changing") == (1, None)
    await other.execute("drop table changing")
    await connection.close()
    await other.close()


async def a_crowd_shares_the_backends():
    async with create_pool(min_size=CROWD, max_size=CROWD) as pool:

        async def client(number):
            async with pool.acquire() as connection:
                for turn in range(ROUNDS):
                    async with connection.transaction():
                        key = 1_000 + number * ROUNDS + turn
                        await connection.execute("insert into items values ($1, $2, 'crowd')", key, str(number))
                        seen = await connection.fetchval("select count(*) from items where owner = $1", str(number))
                        assert seen == turn + 1, (number, seen)

        await asyncio.gather(*(client(number) for number in range(CROWD)))
        assert await pool.fetchval("select count(*) from items where note = 'crowd'") == CROWD * ROUNDS


async def an_error_in_a_transaction_undoes_it():
    connection, other = await connect(), await connect()
    try:
        async with connection.transaction():
            await connection.execute("insert into items values ($1, 'undone', '')", 2)
            await connection.fetchval("select 1 / $1::int", 0)
        raise AssertionError("no error")
    except asyncpg.DivisionByZeroError:
        pass
    assert await other.fetchval("select count(*) from items where owner = 'undone'") == 0
    assert await connection.fetchval("select $1::int", 5) == 5
    await connection.close()
    await other.close()


async def a_savepoint_outlives_an_error():
    connection, other = await connect(), await connect()
    async with connection.transaction():
        await connection.execute("insert into items values (3, 'kept', '')")
        for _ in range(3):
            try:
                async with connection.transaction():
                    await connection.execute("insert into items values ($1, 'kept', '')", 3)
                raise AssertionError("no error")
            except asyncpg.UniqueViolationError:
                pass
            assert await other.fetchval("select 1") == 1
    assert await other.fetchval("select count(*) from items where owner = 'kept'") == 1
    await connection.close()
    await other.close()


async def rows_are_copied_in_and_out():
    connection = await connect()
    await connection.execute("delete from items")
    # Binary, as asyncpg always copies records.
    assert await connection.copy_records_to_table("items", records=ROWS) == f"COPY {len(ROWS)}"
    lines = []

    async def write(block):
        lines.append(block)

    await connection.copy_from_query("select id from items order by id", output=write)
    assert b"".join(lines) == b"".join(b"%d\n" % row[0] for row in ROWS)
    try:
        await connection.copy_records_to_table("items", records=ROWS)
        raise AssertionError("no error")
    except asyncpg.UniqueViolationError:
        pass
    assert await connection.fetchval("select count(*) from items") == len(ROWS)
    await connection.close()


async def a_cancelled_query_leaves_the_connection_usable():
    connection, other = await connect(), await connect()
    for _ in range(3):
        try:
            await connection.execute(LONG_QUERY, timeout=0.5)
            raise AssertionError("not cancelled")
        except asyncio.TimeoutError:
            pass
        assert await connection.fetchval("select 1") == 1
        assert await other.fetchval("select 2") == 2
    await connection.close()
    await other.close()


async def settings_stay_with_their_client():
    connections = [await connect(application_name=f"app{number}", work_mem=f"{number + 5}MB") for number in range(6)]
    fresh = await connect()
    default = await fresh.fetchval("show search_path")
    for number, connection in enumerate(connections):
        await connection.execute(f"set search_path = s{number}, public")
    for _ in range(ROUNDS):
        for number, connection in enumerate(connections):
            assert await connection.fetchval("show search_path") == f"s{number}, public"
            assert await connection.fetchval("show work_mem") == f"{number + 5}MB"
            assert (await connection.fetchval("show application_name")).endswith(f"app{number}")
            assert connection.get_settings().application_name.endswith(f"app{number}")
        assert await fresh.fetchval("show search_path") == default
    for number, connection in enumerate(connections):
        # What asyncpg's pool does with a connection that comes back: RESET ALL, CLOSE ALL, UNLISTEN *, …
        await connection.reset()
        assert await connection.fetchval("show search_path") == default
        assert await connection.fetchval("show work_mem") == f"{number + 5}MB"
        await connection.close()
    await fresh.close()


async def a_cursor_of_the_server_reads_in_parts():
    connection, other = await connect(), await connect()
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("select generate_series(1, 1000)", prefetch=100):
            total += row[0]
            if row[0] % 100 == 0:
                assert await other.fetchval("select 1") == 1
        assert total == 500_500
    await connection.close()
    await other.close()


run(
    values_come_back_as_they_were_sent,
    a_megabyte_goes_both_ways,
    prepared_statements_of_connections_interleave,
    a_plan_that_no_longer_fits_is_made_again,
    a_crowd_shares_the_backends,
    an_error_in_a_transaction_undoes_it,
    a_savepoint_outlives_an_error,
    rows_are_copied_in_and_out,
    a_cancelled_query_leaves_the_connection_usable,
    settings_stay_with_their_client,
    a_cursor_of_the_server_reads_in_parts,
)
