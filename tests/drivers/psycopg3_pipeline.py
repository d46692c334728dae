"""psycopg 3 in pipeline mode: many statements on their way before the first answer is read."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import errors

from cases import BIG_TEXT, CROWD, LONG_QUERY, ROUNDS, meanwhile, run


def connect(**options):
    return psycopg.connect("", autocommit=True, **options)


def value(connection, query, *parameters):
    return connection.execute(query, parameters).fetchone()[0]


def answers_come_in_order():
    with connect() as connection:
        with connection.pipeline():
            cursors = [connection.execute("select %s::int", [number]) for number in range(500)]
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(500))
        with connection.pipeline() as pipeline, connection.cursor() as cursor:
            cursor.executemany("insert into items values (%s, 'many', '')", [(number,) for number in range(200)])
            pipeline.sync()
            assert value(connection, "select count(*) from items where owner = 'many'") == 200


def a_megabyte_goes_both_ways():
    with connect() as connection, connection.pipeline():
        cursors = [connection.execute("select %s::text", [BIG_TEXT]) for _ in range(4)]
        assert all(cursor.fetchone()[0] == BIG_TEXT for cursor in cursors)


def prepared_statements_of_connections_interleave():
    connections = [connect(prepare_threshold=number % 3) for number in range(6)]
    for turn in range(ROUNDS):
        cursors = []
        pipelines = [connection.pipeline() for connection in connections]
        for number, (connection, pipeline) in enumerate(zip(connections, pipelines)):
            pipeline.__enter__()
            cursors.append([connection.execute(f"select %s::int + {number}", [turn]) for _ in range(3)])
        for number, (pipeline, own) in enumerate(zip(pipelines, cursors)):
            assert [cursor.fetchone()[0] for cursor in own] == [turn + number] * 3
            pipeline.__exit__(None, None, None)
    for connection in connections:
        connection.close()


def a_crowd_shares_the_backends():
    everybody = threading.Barrier(CROWD)

    def client(number):
        with connect(prepare_threshold=0) as connection:
            everybody.wait()
            for turn in range(ROUNDS):
                with connection.pipeline(), connection.transaction():
                    key = 1_000 + number * ROUNDS + turn
                    connection.execute("insert into items values (%s, %s, 'crowd')", [key, str(number)])
                    cursor = connection.execute("select count(*) from items where owner = %s", [str(number)])
                assert cursor.fetchone()[0] == turn + 1

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(client, range(CROWD)))


def an_error_skips_to_the_sync_and_no_further():
    with connect(prepare_threshold=0) as connection, connect() as other:
        for turn in range(ROUNDS):
            before = None
            try:
                with connection.pipeline() as pipeline:
                    before = connection.execute("select %s::int", [turn])
                    pipeline.sync()
                    connection.execute("select 1 / %s::int", [0])
                    # The server skips this one: its Parse must be sent once more later.
                    connection.execute(f"select {turn}, %s::text", ["skipped"])
                raise AssertionError("no error")
            except errors.DivisionByZero:
                pass
            assert before.fetchone()[0] == turn
            with connection.pipeline():
                again = connection.execute(f"select {turn}, %s::text", ["again"])
                assert again.fetchone() == (turn, "again")
            assert value(other, "select %s::int", turn) == turn


def an_error_in_a_transaction_undoes_it():
    with connect() as connection, connect() as other:
        try:
            with connection.pipeline(), connection.transaction():
                connection.execute("insert into items values (900, 'undone', %s)", ["x"])
                connection.execute("select 1 / %s::int", [0])
                connection.execute("insert into items values (901, 'undone', %s)", ["x"])
            raise AssertionError("no error")
        except errors.DivisionByZero:
            pass
        assert value(other, "select count(*) from items where owner = 'undone'") == 0
        assert value(connection, "select 1") == 1


def a_cancelled_query_leaves_the_connection_usable():
    with connect() as connection, connect() as other:
        for _ in range(3):
            try:
                with meanwhile(connection.cancel_safe), connection.pipeline():
                    connection.execute(LONG_QUERY).fetchone()
                raise AssertionError("not cancelled")
            except errors.QueryCanceled:
                pass
            assert value(connection, "select 1") == 1
            assert value(other, "select 2") == 2


def settings_stay_with_their_client():
    connections = [connect() for _ in range(6)]
    for number, connection in enumerate(connections):
        with connection.pipeline():
            connection.execute(f"set work_mem = '{number + 5}MB'")
            connection.execute("select set_config('statement_timeout', %s, false)", [f"{number + 100}s"])
    for _ in range(ROUNDS):
        for number, connection in enumerate(connections):
            with connection.pipeline():
                memory, timeout = connection.execute("show work_mem"), connection.execute("show statement_timeout")
                assert memory.fetchone()[0] == f"{number + 5}MB"
                assert timeout.fetchone()[0] in (f"{number + 100}s", f"{(number + 100) // 60}min")
    for connection in connections:
        connection.close()


run(
    answers_come_in_order,
    a_megabyte_goes_both_ways,
    prepared_statements_of_connections_interleave,
    a_crowd_shares_the_backends,
    an_error_skips_to_the_sync_and_no_further,
    an_error_in_a_transaction_undoes_it,
    a_cancelled_query_leaves_the_connection_usable,
    settings_stay_with_their_client,
)
