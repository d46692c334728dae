"""SQLAlchemy with its pool in front of ours, over psycopg (blocking) and over asyncpg (asyncio)."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy
from sqlalchemy import URL, column, exc, func, insert, literal, select, table, text
from sqlalchemy.ext.asyncio import create_async_engine

from cases import BIG_TEXT, CROWD, ROUNDS, run, server

items = table("items", column("id", sqlalchemy.Integer), column("owner", sqlalchemy.Text), column("note", sqlalchemy.Text))

STARTUP = {"options": os.environ["PGOPTIONS"]} if "PGOPTIONS" in os.environ else {}


def engine(**options):
    return sqlalchemy.create_engine("postgresql+psycopg://", pool_size=CROWD, **options)


def async_engine(**options):
    place = server()
    url = URL.create("postgresql+asyncpg", place["user"], place["password"], place["host"], place["port"], place["database"])
    return create_async_engine(url, pool_size=CROWD, connect_args={"server_settings": STARTUP}, **options)


def add(number, turn, note):
    return insert(items).values(id=number * ROUNDS + turn, owner=f"{note}{number}", note=note)


def count(note, number=None):
    query = select(func.count()).select_from(items).where(items.c.note == note)
    return query if number is None else query.where(items.c.owner == f"{note}{number}")


def a_crowd_shares_the_backends():
    pool = engine()
    connections = [pool.connect() for _ in range(CROWD)]

    def client(number):
        connection = connections[number]
        for turn in range(ROUNDS):
            with connection.begin():
                connection.execute(add(number, turn, "crowd"))
                assert connection.scalar(count("crowd", number)) == turn + 1
        connection.close()

    with ThreadPoolExecutor(CROWD) as threads:
        list(threads.map(client, range(CROWD)))
    with pool.connect() as connection:
        assert connection.scalar(count("crowd")) == CROWD * ROUNDS
    pool.dispose()


def a_megabyte_goes_both_ways():
    pool = engine()
    with pool.connect() as connection:
        assert connection.scalar(select(literal(BIG_TEXT))) == BIG_TEXT
    pool.dispose()


def an_error_in_a_transaction_undoes_it():
    pool = engine(pool_pre_ping=True)
    with pool.connect() as other:
        try:
            with pool.begin() as connection:
                connection.execute(add(500, 0, "undone"))
                connection.execute(text("select 1 / :zero"), {"zero": 0})
            raise AssertionError("no error")
        except exc.DataError as error:
            assert error.orig.sqlstate == "22012"
        assert other.scalar(count("undone")) == 0
    pool.dispose()


def a_savepoint_outlives_an_error():
    pool = engine()
    with pool.begin() as connection:
        connection.execute(add(600, 0, "kept"))
        for _ in range(3):
            try:
                with connection.begin_nested():
                    connection.execute(add(600, 0, "kept"))
                raise AssertionError("no error")
            except exc.IntegrityError:
                pass
    with pool.connect() as connection:
        assert connection.scalar(count("kept")) == 1
    pool.dispose()


def settings_stay_with_their_client():
    pool = engine()
    serializable = pool.execution_options(isolation_level="SERIALIZABLE")
    automatic = pool.execution_options(isolation_level="AUTOCOMMIT")
    with serializable.connect() as one, automatic.connect() as two, pool.connect() as three:
        two.execute(text("set work_mem = '7MB'"))
        for _ in range(ROUNDS):
            assert one.scalar(text("show transaction_isolation")) == "serializable"
            one.commit()
            assert two.scalar(text("show work_mem")) == "7MB"
            assert three.scalar(text("show transaction_isolation")) == "read committed"
            assert three.scalar(text("show work_mem")) != "7MB"
            three.commit()
    pool.dispose()


async def asyncpg_a_crowd_shares_the_backends():
    pool = async_engine(pool_pre_ping=True)

    async def client(number):
        async with pool.connect() as connection:
            for turn in range(ROUNDS):
                async with connection.begin():
                    await connection.execute(add(100 + number, turn, "async"))
                    assert await connection.scalar(count("async", 100 + number)) == turn + 1

    await asyncio.gather(*(client(number) for number in range(CROWD)))
    async with pool.connect() as connection:
        assert await connection.scalar(count("async")) == CROWD * ROUNDS
    await pool.dispose()


async def asyncpg_an_error_in_a_transaction_undoes_it():
    pool = async_engine()
    try:
        async with pool.begin() as connection:
            await connection.execute(add(700, 0, "undone"))
            try:
                async with connection.begin_nested():
                    await connection.execute(add(700, 0, "undone"))
                raise AssertionError("no error")
            except exc.IntegrityError:
                pass
            await connection.execute(text("select 1 / :zero"), {"zero": 0})
        raise AssertionError("no error")
    except exc.DBAPIError as error:
        assert error.orig.sqlstate == "22012"
    async with pool.connect() as connection:
        assert await connection.scalar(count("undone")) == 0
    await pool.dispose()


run(
    a_crowd_shares_the_backends,
    a_megabyte_goes_both_ways,
    an_error_in_a_transaction_undoes_it,
    a_savepoint_outlives_an_error,
    settings_stay_with_their_client,
    asyncpg_a_crowd_shares_the_backends,
    asyncpg_an_error_in_a_transaction_undoes_it,
)
