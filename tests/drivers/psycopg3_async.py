"""psycopg 3 with asyncio."""

import asyncio

import psycopg
from psycopg import errors

from cases import BIG_BYTES, BIG_TEXT, CROWD, LONG_QUERY, ROUNDS, ROWS, run


async def connect(**options):
    return await psycopg.AsyncConnection.connect("", autocommit=True, **options)


async def value(connection, query, *parameters, **options):
    cursor = await connection.execute(query, parameters, **options)
    return (await cursor.fetchone())[0]


async def a_megabyte_goes_both_ways():
    async with await connect() as connection:
        assert await value(connection, "select %s::text", BIG_TEXT) == BIG_TEXT
        assert await value(connection, "select %b::bytea", BIG_BYTES) == BIG_BYTES


async def prepared_statements_of_connections_interleave():
    connections = [await connect(prepare_threshold=number % 3) for number in range(6)]
    for turn in range(ROUNDS):
        answers = await asyncio.gather(
            *(value(connection, f"select %s::int + {number}", turn) for number, connection in enumerate(connections))
        )
        assert answers == [turn + number for number in range(6)]
        answers = await asyncio.gather(
            *(value(connection, "select %s::int", number) for number, connection in enumerate(connections))
        )
        assert answers == list(range(6))
    for connection in connections:
        await connection.close()


async def a_crowd_shares_the_backends():
    connections = await asyncio.gather(*(connect() for _ in range(CROWD)))

    async def client(number, connection):
        for turn in range(ROUNDS):
            async with connection.transaction():
                key = 1_000 + number * ROUNDS + turn
                await connection.execute("insert into items values (%s, %s, 'crowd')", [key, str(number)])
                seen = await value(connection, "select count(*) from items where owner = %s", str(number))
                assert seen == turn + 1, (number, seen)
        await connection.close()

    await asyncio.gather(*(client(number, connection) for number, connection in enumerate(connections)))
    async with await connect() as connection:
        assert await value(connection, "select count(*) from items where note = 'crowd'") == CROWD * ROUNDS


async def an_error_in_a_transaction_undoes_it():
    async with await connect() as connection, await connect() as other:
        try:
            async with connection.transaction():
                await connection.execute("insert into items values (%s, 'undone', '')", [2])
                await connection.execute("select 1 / %s::int", [0], prepare=True)
            raise AssertionError("no error")
        except errors.DivisionByZero:
            pass
        assert await value(other, "select count(*) from items where owner = 'undone'") == 0
        assert await value(connection, "select %s::int", 5) == 5


async def a_savepoint_outlives_an_error():
    async with await connect() as connection, await connect() as other:
        async with connection.transaction():
            await connection.execute("insert into items values (3, 'kept', '')")
            try:
                async with connection.transaction():
                    await connection.execute("insert into items values (3, 'kept', '')")
                raise AssertionError("no error")
            except errors.UniqueViolation:
                pass
        assert await value(other, "select count(*) from items where owner = 'kept'") == 1


async def rows_are_copied_in_and_out():
    async with await connect() as connection, connection.cursor() as cursor:
        await connection.execute("delete from items")
        async with cursor.copy("copy items from stdin") as copy:
            for row in ROWS:
                await copy.write_row(row)
        assert cursor.rowcount == len(ROWS)
        async with cursor.copy("copy (select * from items order by id) to stdout") as copy:
            copy.set_types(["int4", "text", "text"])
            assert [row async for row in copy.rows()] == ROWS


async def a_cancelled_query_leaves_the_connection_usable():
    async with await connect() as connection, await connect() as other:
        for _ in range(3):
            # A task that is cancelled makes psycopg cancel its query on the server.
            try:
                await asyncio.wait_for(connection.execute(LONG_QUERY), 0.5)
                raise AssertionError("not cancelled")
            except asyncio.TimeoutError:
                pass
            assert await value(connection, "select 1") == 1
            assert await value(other, "select 2") == 2


async def settings_stay_with_their_client():
    connections = [await connect(application_name=f"app{number}") for number in range(6)]
    for number, connection in enumerate(connections):
        await connection.execute(f"set work_mem = '{number + 5}MB'")
    for _ in range(ROUNDS):
        seen = await asyncio.gather(*(value(connection, "show work_mem") for connection in connections))
        assert seen == [f"{number + 5}MB" for number in range(6)], seen
    for connection in connections:
        await connection.close()


run(
    a_megabyte_goes_both_ways,
    prepared_statements_of_connections_interleave,
    a_crowd_shares_the_backends,
    an_error_in_a_transaction_undoes_it,
    a_savepoint_outlives_an_error,
    rows_are_copied_in_and_out,
    a_cancelled_query_leaves_the_connection_usable,
    settings_stay_with_their_client,
)
