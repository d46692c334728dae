"""pg8000: PostgreSQL's protocol in Python alone; unnamed statements, and named ones where a program prepares them."""

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pg8000.native
from pg8000.exceptions import DatabaseError

from cases import BIG_BYTES, BIG_TEXT, CROWD, LONG_QUERY, ROUNDS, ROWS, run, server, tls


def connect(**options):
    startup = {"options": os.environ["PGOPTIONS"]} if "PGOPTIONS" in os.environ else None
    return pg8000.native.Connection(ssl_context=tls(), startup_params=startup, **server(), **options)


def value(connection, query, **parameters):
    return connection.run(query, **parameters)[0][0]


def fails(code, connection, query, **parameters):
    try:
        connection.run(query, **parameters)
    except DatabaseError as error:
        assert error.args[0]["C"] == code, error
    else:
        raise AssertionError(f"no error {code}")


def values_come_back_as_they_were_sent():
    connection = connect()
    for kind, sent in [
        ("int", 1), ("bigint", 2**40), ("text", "grüße 'quoted'"), ("bytea", b"\0\xff"), ("bool", True),
        ("text", None), ("int[]", [1, 2, 3]), ("text[]", ["a", None]),
    ]:
        assert value(connection, f"select cast(:sent as {kind})", sent=sent) == sent
    connection.close()


def a_megabyte_goes_both_ways():
    connection = connect()
    assert value(connection, "select cast(:text as text)", text=BIG_TEXT) == BIG_TEXT
    assert value(connection, "select cast(:bytes as bytea)", bytes=BIG_BYTES) == BIG_BYTES
    connection.close()


def prepared_statements_of_connections_interleave():
    # pg8000 names them pg8000_statement_0, … on each connection.
    connections = [connect() for _ in range(6)]
    statements = [connection.prepare(f"select cast(:turn as int) + {n}") for n, connection in enumerate(connections)]
    for turn in range(ROUNDS):
        for number, statement in enumerate(statements):
            assert statement.run(turn=turn) == [[turn + number]]
            assert value(connections[number], f"select {number}, cast(:turn as int)", turn=turn) == number
    for statement, connection in zip(statements, connections):
        statement.close()
        connection.close()


def a_crowd_shares_the_backends():
    everybody = threading.Barrier(CROWD)

    def client(number):
        connection = connect()
        everybody.wait()
        for turn in range(ROUNDS):
            connection.run("start transaction")
            key = 1_000 + number * ROUNDS + turn
            connection.run("insert into items values (:key, :owner, 'crowd')", key=key, owner=str(number))
            seen = value(connection, "select count(*) from items where owner = :owner", owner=str(number))
            assert seen == turn + 1
            connection.run("commit")
        connection.close()

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(client, range(CROWD)))
    connection = connect()
    assert value(connection, "select count(*) from items where note = 'crowd'") == CROWD * ROUNDS
    connection.close()


def an_error_in_a_transaction_undoes_it():
    connection, other = connect(), connect()
    connection.run("start transaction")
    connection.run("insert into items values (2, 'undone', '')")
    fails("22012", connection, "select 1 / cast(:zero as int)", zero=0)
    fails("25P02", connection, "select 1")
    connection.run("rollback")
    assert value(other, "select count(*) from items where owner = 'undone'") == 0
    assert value(connection, "select cast(:five as int)", five=5) == 5
    connection.close()
    other.close()


def a_savepoint_outlives_an_error():
    connection, other = connect(), connect()
    connection.run("start transaction")
    connection.run("insert into items values (3, 'kept', '')")
    for _ in range(3):
        connection.run("savepoint here")
        fails("23505", connection, "insert into items values (:key, 'kept', '')", key=3)
        connection.run("rollback to here")
        assert value(other, "select 1") == 1
    connection.run("commit")
    assert value(other, "select count(*) from items where owner = 'kept'") == 1
    connection.close()
    other.close()


def rows_are_copied_in_and_out():
    connection = connect()
    connection.run("delete from items")
    text = "".join(f"{key}\t{owner}\tnote\n" for key, owner, _ in ROWS)
    connection.run("copy items from stdin", stream=io.StringIO(text))
    assert connection.row_count == len(ROWS)
    out = io.StringIO()
    connection.run("copy (select * from items order by id) to stdout", stream=out)
    assert out.getvalue() == text
    fails("23505", connection, "copy items from stdin", stream=io.StringIO(text))
    assert value(connection, "select count(*) from items") == len(ROWS)
    connection.close()


def a_cancelled_query_leaves_the_connection_usable():
    # pg8000 has no cancel of its own; what remains is a limit of the server.
    connection, other = connect(), connect()
    connection.run("set statement_timeout = '100ms'")
    for _ in range(3):
        fails("57014", connection, LONG_QUERY)
        assert value(connection, "select 1") == 1
        assert value(other, "show statement_timeout") == "0"
    connection.close()
    other.close()


def settings_stay_with_their_client():
    connections = [connect(application_name=f"app{number}") for number in range(6)]
    fresh = connect()
    default = value(fresh, "show search_path")
    for number, connection in enumerate(connections):
        connection.run(f"set search_path = s{number}, public")
    for _ in range(ROUNDS):
        for number, connection in enumerate(connections):
            assert value(connection, "show search_path") == f"s{number}, public"
            assert value(connection, "show application_name").endswith(f"app{number}")
        assert value(fresh, "show search_path") == default
    for connection in connections:
        connection.run("discard all")
        assert value(connection, "show search_path") == default
        connection.close()
    fresh.close()


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
)
