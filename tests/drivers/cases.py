"""What the Python programs share: how many do how much, and how cases are run.

A program finds its server where libpq looks for it: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGOPTIONS, PGSSLMODE
and PGSSLROOTCERT. The table `items (id int primary key, owner text, note text)` is there and empty when it starts.
"""

import asyncio
import contextlib
import inspect
import os
import ssl
import threading

CROWD = 24
"""Connections at once, over three backends."""

ROUNDS = 8
"""How often each of several connections has its turn: more than the drivers need before they prepare."""

MEGABYTE = 1024 * 1024

BIG_TEXT = "megabyte " * (MEGABYTE // 9)
BIG_BYTES = bytes(range(256)) * (MEGABYTE // 256)

ROWS = [(number, f"copy {number}", f"tab\tquote\"\\ {number}") for number in range(5000)]
"""Rows of `items` for COPY, with what its text format must escape."""

LONG_QUERY = "select pg_sleep(600)"


def run(*cases):
    """Runs the cases in order; the last name printed is the one that failed or hangs."""
    for case in cases:
        print(case.__name__, flush=True)
        outcome = case()
        if inspect.isawaitable(outcome):
            asyncio.run(outcome)


@contextlib.contextmanager
def meanwhile(action):
    """Does it now and then until the body is over: a cancel may come before what it is to cancel."""
    over = threading.Event()

    def act():
        while not over.wait(0.2):
            action()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def server():
    """The server for the drivers that do not look for it themselves."""
    environment = os.environ
    return {
        "host": environment["PGHOST"],
        "port": int(environment["PGPORT"]),
        "user": environment["PGUSER"],
        "password": environment["PGPASSWORD"],
        "database": environment["PGDATABASE"],
    }


def tls():
    """A context that verifies the server where the environment asks for it; None: whatever the driver does by default."""
    if os.environ.get("PGSSLMODE") != "verify-full":
        return None
    return ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])
