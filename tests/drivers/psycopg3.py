"""psycopg 3 with blocking connections."""

import datetime
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

from cases import BIG_BYTES, BIG_TEXT, CROWD, LONG_QUERY, ROUNDS, ROWS, meanwhile, run


def connect(**options):
    return psycopg.connect("", autocommit=True, **options)


def value(connection, query, *parameters, **options):
    return connection.execute(query, parameters, **options).fetchone()[0]


def values_come_back_as_they_were_sent():
    noon = datetime.datetime(2026, 2, 28, 12, 0, tzinfo=datetime.timezone.utc)
    for sent in (1, 2**40, -0.5, "grüße 'quoted'", b"\0\xff", True, None, noon, [1, 2, 3]):
        for binary in (False, True):
            with connect() as connection, connection.cursor(binary=binary) as cursor:
                assert cursor.execute("select %s", [sent]).fetchone()[0] == sent, sent
    with connect() as connection:
        assert value(connection, "select %s", Jsonb({"a": [1, None]})) == {"a": [1, None]}
        assert connection.execute("select where false").fetchall() == []
        assert connection.info.server_version >= 150000


def a_megabyte_goes_both_ways():
    with connect() as connection:
        assert value(connection, "select %s::text", BIG_TEXT) == BIG_TEXT
        assert value(connection, "select %b::bytea", BIG_BYTES) == BIG_BYTES
        connection.execute("insert into items values (1, 'big', %s)", [BIG_TEXT])
        assert value(connection, "select note from items where owner = 'big'") == BIG_TEXT


def prepared_statements_of_connections_interleave():
    # psycopg names them _pg3_0, _pg3_1, … on each connection: the same names for other texts.
    connections = [connect(prepare_threshold=number % 3) for number in range(6)]
    for turn in range(ROUNDS):
        for number, connection in enumerate(connections):
            assert value(connection, f"select %s::int + {number}", turn) == turn + number
            assert value(connection, "select %s || %s", "shared", str(turn)) == f"shared{turn}"
            assert value(connection, f"select {number}, %s::text", "x", prepare=True) == number
    for connection in connections:
        connection.execute("deallocate all")
        assert value(connection, "select %s::int", 7, prepare=False) == 7
        connection.close()


def more_statements_than_a_connection_keeps_are_deallocated():
    with connect(prepare_threshold=0) as connection:
        connection.prepared_max = 5
        for number in range(20):
            assert value(connection, f"select {number} + %s::int", 1) == number + 1


def a_crowd_shares_the_backends():
    everybody = threading.Barrier(CROWD)

    def client(number):
        with connect() as connection:
            everybody.wait()
            for turn in range(ROUNDS):
                with connection.transaction():
                    key = 1_000 + number * ROUNDS + turn
                    connection.execute("insert into items values (%s, %s, 'crowd')", [key, str(number)])
                    seen = value(connection, "select count(*) from items where owner = %s", str(number))
                    assert seen == turn + 1, (number, seen)

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(client, range(CROWD)))
    with connect() as connection:
        assert value(connection, "select count(*) from items where note = 'crowd'") == CROWD * ROUNDS


def an_error_in_a_transaction_undoes_it():
    with connect() as connection, connect() as other:
        for prepare in (False, True):
            try:
                with connection.transaction():
                    connection.execute("insert into items values (%s, 'undone', '')", [2], prepare=prepare)
                    connection.execute("select 1 / %s::int", [0], prepare=prepare)
                raise AssertionError("no error")
            except errors.DivisionByZero:
                pass
            assert value(other, "select count(*) from items where owner = 'undone'", prepare=prepare) == 0
            assert value(connection, "select %s::int", 5, prepare=prepare) == 5

        connection.execute("begin")
        for _ in range(2):
            try:
                connection.execute("select nonsense")
            except (errors.UndefinedColumn, errors.InFailedSqlTransaction) as error:
                last = error
        assert isinstance(last, errors.InFailedSqlTransaction), last
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        connection.execute("rollback")


def a_savepoint_outlives_an_error():
    with connect() as connection, connect() as other:
        with connection.transaction():
            connection.execute("insert into items values (3, 'kept', '')")
            for _ in range(3):
                try:
                    with connection.transaction():
                        connection.execute("insert into items values (4, 'kept', '')")
                        connection.execute("insert into items values (%s, 'kept', '')", [3], prepare=True)
                    raise AssertionError("no error")
                except errors.UniqueViolation:
                    pass
                other.execute("select 1")
        assert value(other, "select count(*) from items where owner = 'kept'") == 1


def rows_are_copied_in_and_out():
    with connect() as connection:
        connection.execute("delete from items")
        with connection.cursor() as cursor:
            with cursor.copy("copy items from stdin") as copy:
                for row in ROWS:
                    copy.write_row(row)
            assert cursor.rowcount == len(ROWS)
            with cursor.copy("copy (select * from items order by id) to stdout") as copy:
                copy.set_types(["int4", "text", "text"])
                assert list(copy.rows()) == ROWS
            with cursor.copy("copy items to stdout (format binary)") as copy:
                assert sum(len(block) for block in copy) > len(ROWS)


def a_copy_that_fails_leaves_the_connection_usable():
    with connect() as connection, connection.cursor() as cursor:
        connection.execute("delete from items")
        try:
            with cursor.copy("copy items from stdin") as copy:
                for row in ROWS:
                    copy.write_row(row)
                copy.write_row(ROWS[0])
            raise AssertionError("no error")
        except errors.UniqueViolation:
            pass
        try:
            with cursor.copy("copy items from stdin") as copy:
                copy.write_row(ROWS[0])
                raise KeyError("the client changes its mind")
        except KeyError:
            pass
        assert value(connection, "select count(*) from items") == 0


def a_cancelled_query_leaves_the_connection_usable():
    with connect() as connection, connect() as other:
        for _ in range(3):
            try:
                with meanwhile(connection.cancel_safe):
                    connection.execute(LONG_QUERY)
                raise AssertionError("not cancelled")
            except errors.QueryCanceled:
                pass
            assert value(connection, "select 1") == 1
            assert value(other, "select 2") == 2


def settings_stay_with_their_client():
    zones = ["Asia/Tokyo", "Europe/Berlin", "UTC", "America/Lima", "Africa/Cairo", "Asia/Kathmandu"]
    connections = [connect(application_name=f"app{number}") for number in range(len(zones))]
    with connect() as fresh:
        default = value(fresh, "show search_path")
        for connection, zone in zip(connections, zones):
            connection.execute(f"set timezone = '{zone}'")
            connection.execute("select set_config('search_path', %s, false)", [f"s{zone.lower()[:3]}, public"])
        for _ in range(ROUNDS):
            for number, (connection, zone) in enumerate(zip(connections, zones)):
                assert value(connection, "show timezone") == zone
                assert connection.info.parameter_status("TimeZone") == zone
                assert value(connection, "show search_path") == f"s{zone.lower()[:3]}, public"
                assert value(connection, "show application_name").endswith(f"app{number}")
            assert value(fresh, "show search_path") == default
    for connection in connections:
        with connection.transaction():
            connection.execute("set local work_mem = '9MB'")
        with connection.transaction(force_rollback=True):
            connection.execute("set work_mem = '9MB'")
        assert value(connection, "show work_mem") != "9MB"
        connection.execute("reset search_path")
        assert value(connection, "show search_path") == default
        connection.close()


def a_cursor_of_the_server_reads_in_parts():
    with connect() as connection, connection.transaction():
        with connection.cursor("parts") as cursor:
            cursor.itersize = 100
            rows = cursor.execute("select generate_series(1, 1000)")
            assert sum(row[0] for row in rows) == 500_500


run(
    values_come_back_as_they_were_sent,
    a_megabyte_goes_both_ways,
    prepared_statements_of_connections_interleave,
    more_statements_than_a_connection_keeps_are_deallocated,
    a_crowd_shares_the_backends,
    an_error_in_a_transaction_undoes_it,
    a_savepoint_outlives_an_error,
    rows_are_copied_in_and_out,
    a_copy_that_fails_leaves_the_connection_usable,
    a_cancelled_query_leaves_the_connection_usable,
    settings_stay_with_their_client,
    a_cursor_of_the_server_reads_in_parts,
)
