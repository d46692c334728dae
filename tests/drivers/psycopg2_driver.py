"""psycopg2: simple queries only, parameters put into the text by the driver.

The file is not called psycopg2.py, for Python would import it instead of the driver.
"""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg2
from psycopg2 import errors, extensions

from cases import BIG_BYTES, BIG_TEXT, CROWD, LONG_QUERY, ROUNDS, ROWS, meanwhile, run


def connect(**options):
    connection = psycopg2.connect("", **options)
    connection.autocommit = True
    return connection


def rows(connection, query, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall() if cursor.description else None


def value(connection, query, *parameters):
    return rows(connection, query, *parameters)[0][0]


def values_come_back_as_they_were_sent():
    connection = connect()
    for sent in (1, 2**40, "grüße 'quoted'", True, None, [1, 2, 3], ["a", None]):
        assert value(connection, "select %s", sent) == sent
    assert value(connection, "select 1; select 2") == 2
    connection.close()


def a_megabyte_goes_both_ways():
    connection = connect()
    assert value(connection, "select %s", BIG_TEXT) == BIG_TEXT
    assert bytes(value(connection, "select %s", psycopg2.Binary(BIG_BYTES))) == BIG_BYTES
    connection.close()


def a_crowd_shares_the_backends():
    everybody = threading.Barrier(CROWD)

    def client(number):
        connection = connect()
        connection.autocommit = False
        everybody.wait()
        for turn in range(ROUNDS):
            # As a context the connection is a transaction.
            with connection:
                key = 1_000 + number * ROUNDS + turn
                rows(connection, "insert into items values (%s, %s, 'crowd')", key, str(number))
                assert value(connection, "select count(*) from items where owner = %s", str(number)) == turn + 1
        connection.close()

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(client, range(CROWD)))
    connection = connect()
    assert value(connection, "select count(*) from items where note = 'crowd'") == CROWD * ROUNDS
    connection.close()


def an_error_in_a_transaction_undoes_it():
    connection, other = connect(), connect()
    connection.autocommit = False
    rows(connection, "insert into items values (2, 'undone', '')")
    try:
        rows(connection, "select 1 / 0")
        raise AssertionError("no error")
    except errors.DivisionByZero:
        pass
    try:
        rows(connection, "select 1")
        raise AssertionError("no error")
    except errors.InFailedSqlTransaction:
        pass
    assert connection.info.transaction_status == extensions.TRANSACTION_STATUS_INERROR
    assert value(other, "select 1") == 1
    connection.rollback()
    assert value(other, "select count(*) from items where owner = 'undone'") == 0
    connection.close()
    other.close()


def a_savepoint_outlives_an_error():
    connection, other = connect(), connect()
    connection.autocommit = False
    rows(connection, "insert into items values (3, 'kept', '')")
    for _ in range(3):
        rows(connection, "savepoint here")
        try:
            rows(connection, "insert into items values (3, 'kept', '')")
            raise AssertionError("no error")
        except errors.UniqueViolation:
            rows(connection, "rollback to here")
        assert value(other, "select 1") == 1
    connection.commit()
    assert value(other, "select count(*) from items where owner = 'kept'") == 1
    connection.close()
    other.close()


def rows_are_copied_in_and_out():
    connection = connect()
    rows(connection, "delete from items")
    with connection.cursor() as cursor:
        text = "".join(f"{key}\t{owner}\tnote\n" for key, owner, _ in ROWS)
        cursor.copy_expert("copy items from stdin", io.StringIO(text))
        assert cursor.rowcount == len(ROWS)
        out = io.StringIO()
        cursor.copy_expert("copy (select * from items order by id) to stdout", out)
        assert out.getvalue() == text
        try:
            cursor.copy_expert("copy items from stdin", io.StringIO(text))
            raise AssertionError("no error")
        except errors.UniqueViolation:
            pass
    assert value(connection, "select count(*) from items") == len(ROWS)
    connection.close()


def a_cancelled_query_leaves_the_connection_usable():
    connection, other = connect(), connect()
    for _ in range(3):
        try:
            with meanwhile(connection.cancel):
                rows(connection, LONG_QUERY)
            raise AssertionError("not cancelled")
        except errors.QueryCanceled:
            pass
        assert value(connection, "select 1") == 1
        assert value(other, "select 2") == 2
    connection.close()
    other.close()


def settings_stay_with_their_client():
    connections = [connect(application_name=f"app{number}") for number in range(6)]
    fresh = connect()
    default = value(fresh, "show search_path"), value(fresh, "show client_encoding")
    for number, connection in enumerate(connections):
        rows(connection, "set search_path = %s, public", f"s{number}")
        if number % 2:
            connection.set_client_encoding("LATIN1")
        connection.set_session(isolation_level="serializable", readonly=number == 0)
    for _ in range(ROUNDS):
        for number, connection in enumerate(connections):
            assert value(connection, "show search_path") == f"s{number}, public"
            assert value(connection, "show application_name").endswith(f"app{number}")
            assert value(connection, "select %s", "grün") == "grün"
            assert connection.encoding == ("LATIN1" if number % 2 else "UTF8")
            assert value(connection, "show transaction_isolation") == "serializable"
        assert (value(fresh, "show search_path"), value(fresh, "show client_encoding")) == default
        assert value(fresh, "show transaction_isolation") == "read committed"
    try:
        rows(connections[0], "insert into items values (99999, '', '')")
        raise AssertionError("no error")
    except errors.ReadOnlySqlTransaction:
        pass
    for connection in connections:
        # What psycopg2's own pool does with a connection that comes back.
        connection.reset()
        assert value(connection, "show search_path") == default[0]
        connection.close()
    fresh.close()


def a_cursor_of_the_server_reads_in_parts():
    connection = connect()
    connection.autocommit = False
    with connection, connection.cursor("parts") as cursor:
        cursor.itersize = 100
        cursor.execute("select generate_series(1, 1000)")
        assert sum(row[0] for row in cursor) == 500_500
    connection.close()


run(
    values_come_back_as_they_were_sent,
    a_megabyte_goes_both_ways,
    a_crowd_shares_the_backends,
    an_error_in_a_transaction_undoes_it,
    a_savepoint_outlives_an_error,
    rows_are_copied_in_and_out,
    a_cancelled_query_leaves_the_connection_usable,
    settings_stay_with_their_client,
    a_cursor_of_the_server_reads_in_parts,
)
