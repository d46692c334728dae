#!/usr/bin/env python3
"""How long a session outlives its revocation, by what it is doing and how many others are open.

    benches/revocation/__main__.py                 all of it, as in docs/performance.md
    … --open 100 --only idle,running               some of it
    … --open 10000 --only "" --everybody           the end of a whole tenant's sessions

PostgreSQL and Sluice are started on free ports and stopped at the end. A crowd of people holds so many idle sessions in
one tenant. In each round one more person has a few sessions in the same state and loses the rule that allows them.
Measured from before the API is called: FATAL read at the client, the last byte of a result read, the server process gone
from pg_stat_activity, the locks it held taken by the next, and the call answered. The sessions are encrypted and opened
with tokens; the way to PostgreSQL is encrypted, too. At last the tenant's access is switched off for the whole crowd.
Ends with an error if anything was left behind.
"""

import argparse
import contextlib
import gc
import os
import platform
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "compare"))

import states
from load import say
from programs import REPOSITORY
from tables import table, text
from watch import Times, answered, revoke
from world import ROLE, TENANT, Call, Crowd, World


def words(argument):
    return [word for word in argument.split(",") if word]


def numbers(argument):
    return [int(word) for word in argument.split(",")]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", type=numbers, default=[100, 1_000, 10_000], help="how many sessions others hold")
    parser.add_argument("--only", type=words, default=list(states.ALL), help=", ".join(states.ALL))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--people", type=int, default=50, help="whose the crowd's sessions are")
    parser.add_argument("--everybody", action=argparse.BooleanOptionalAction, default=True,
                        help="end all sessions of the crowd as well")
    parser.add_argument("--sluice", default=REPOSITORY / "target/release/sluice", help="the program")
    return parser.parse_args()


def one_person(world, state, rounds):
    """The times of all rounds in which one person's sessions in this state were revoked."""
    person, times = world.guest[0], Times()
    for _ in range(rounds):
        world.grant(person, ROLE)
        scene = states.ALL[state](world)
        times.add(revoke(world, scene, Call(world, "DELETE", world.rule(person, ROLE))))
        for client in scene.measured + scene.others + scene.contenders:
            client.sock.close()
    return times


def everybody(world, crowd):
    """Switches the tenant's access off: the times of all its sessions."""
    call = Call(world, "PUT", f"/v1/tenants/{TENANT}/access", {"state": "disabled"})
    start = time.monotonic()
    call.send()
    report = call.answer()
    took = (time.monotonic() - start) * 1000
    told, untold = crowd.ends()
    times = Times(told=[(at - start) * 1000 for at in told], missing=untold)
    answered(times, took, report)
    return times


def at(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def three(values):
    return " / ".join(text(at(values, share)) for share in (0.5, 0.99, 1)) if values else "–"


def row(name, times):
    told = three(times.told) + (f" ({times.cut} cut)" if times.cut else "")
    return [name, text(len(times.told), "{:,}"), told, three(times.last_byte), three(times.gone), three(times.unlocked),
            three(times.committed), three(times.answered)]


def measure(world, options):
    """Prints a table for each number of open sessions; answers how much was left behind."""
    missing, crowd = 0, Crowd(world, options.people)
    for count in options.open:
        since = time.monotonic()
        crowd.grow(count)
        say(f"{count:,} sessions are open, after {time.monotonic() - since:.0f} s")
        rows = []
        for state in options.only:
            times = one_person(world, state, options.rounds)
            rows.append(row(state, times))
            say(" | ".join(rows[-1]) + f" | {times.missing} missing")
            missing += times.missing
        if options.everybody and count == options.open[-1]:
            times = everybody(world, crowd)
            rows.append(row("all of the tenant", times))
            missing += times.missing
        table(f"{count:,} other sessions open: ms, p50 / p99 / max",
              ["", "sessions", "FATAL at the client", "last byte", "gone from the server", "lock taken over", "change stored",
               "call answered"],
              rows)
    crowd.stop()
    return missing


def main():
    options = parse()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A collection would stop the clock that everybody is measured with.
    gc.disable()
    # Told to stop, it stops what it has started as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as stack:
        world = World(options.sluice, stack)
        print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores; {options.rounds} rounds")
        if missing := measure(world, options):
            raise SystemExit(f"{missing} sessions, processes or locks were left behind")


if __name__ == "__main__":
    main()
