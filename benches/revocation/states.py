"""What sessions may be doing when they are revoked, and how to bring them there."""

import time
from dataclasses import dataclass, field
from typing import Callable

from world import POOL_SIZE, ROLE

PATIENCE_SECONDS = 20
# The series is not in the FROM clause, where the server would first write it down whole.
STREAM = "copy (select repeat('x', 8000) from (select generate_series(1, 100000000)) as rows) to stdout"


@dataclass
class Scene:
    """The sessions of one round."""

    # Those that are measured, and others that only make them what they are.
    measured: list
    others: list = field(default_factory=list)
    # Sessions of a superuser, each of which waits for a lock that one of the measured holds.
    contenders: list = field(default_factory=list)
    # Whether the clients take in what they are sent.
    reads: bool = True


def idle(world):
    clients = world.guests(8)
    for client in clients:
        client.query("select 1")
    return Scene(clients)


def in_transaction(world):
    clients, contenders = world.guests(8), [world.superuser() for _ in range(8)]
    for number, client in enumerate(clients, 1):
        client.query(f"begin; select from held where id = {number} for update")
    for number, contender in enumerate(contenders, 1):
        contender.ask(f"select from held where id = {number} for update")
    until(world, "wait_event_type = 'Lock'", 8)
    return Scene(clients, contenders=contenders)


def running(world):
    clients = world.guests(8)
    for client in clients:
        client.ask("select pg_sleep(600)")
    until(world, f"usename = '{ROLE}' and wait_event = 'PgSleep'", 8)
    return Scene(clients)


def streaming(world):
    clients = world.guests(2)
    for client in clients:
        client.ask(STREAM)
        while client.receive()[0] != b"d":
            pass
    return Scene(clients)


def copy_in(world):
    clients = world.guests(8)
    for client in clients:
        client.ask("copy inlet from stdin")
        while client.receive()[0] != b"G":
            pass
        client.send(b"d", b"a line\n")
    until(world, f"usename = '{ROLE}' and query like 'copy inlet%' and state = 'active'", 8)
    return Scene(clients)


def waiting(world):
    holders, clients = world.guests(POOL_SIZE), world.guests(8)
    for holder in holders:
        holder.query("begin")
    for client in clients:
        client.ask("select 1")
    path = f"/v1/sessions?tenant=revoked&person={world.guest[0]}"
    eventually(lambda: sum(session["state"] == "waiting" for session in world.sluice.call("GET", path)["sessions"]) == 8)
    return Scene(clients, holders)


def listening(world):
    clients = world.guests(8)
    for client in clients:
        client.query("listen news")
    return Scene(clients)


def not_reading(world):
    clients = world.guests(2)
    for client in clients:
        client.ask(STREAM)
    # Full are the buffers only if that stays so.
    for _ in range(5):
        until(world, f"usename = '{ROLE}' and wait_event = 'ClientWrite'", 2)
        time.sleep(0.05)
    return Scene(clients, reads=False)


ALL: dict[str, Callable] = {
    "idle": idle, "in-transaction": in_transaction, "running": running, "streaming": streaming, "copy-in": copy_in,
    "waiting": waiting, "listening": listening, "not-reading": not_reading,
}


def until(world, condition, count):
    """Returns when so many rows of pg_stat_activity meet the condition."""
    eventually(lambda: len(world.rows(f"select pid::text from pg_stat_activity where {condition}")) == count)


def eventually(is_so):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("the sessions do not come to be as they are to be revoked")
        time.sleep(0.01)
