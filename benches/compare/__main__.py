#!/usr/bin/env python3
"""Compares Sluice with PgBouncer, with Odyssey and pg_doorman if they are installed, and with any other pooler that runs already.

    benches/compare/__main__.py                        all tables, as in docs/performance.md
    … --only transactions --modes prepared             some of them
    … --peer PgDog=127.0.0.1:6433:4711                 one more pooler: its address and process id
    … --sluice before=/tmp/before --sluice after=…     several builds of Sluice against each other

PostgreSQL and all poolers but the last are started on free ports and stopped at the end. The targets are run in turn, round after
round (A B C A B C), and ratios are medians of the ratios round by round: a machine that is busy with something else hits all
alike. CPU is the pooler's own, from /proc, over a window without logins. A peer that runs already must let the role `bench`
in to the database `bench` of the PostgreSQL on --server-port.
"""

import argparse
import contextlib
import os
import platform
import resource
import signal
import sys

import measures
import peers
from processes import Processes
from programs import REPOSITORY, PgBouncer, PostgreSql, Sluice, Target


class World:
    """Everything that runs."""

    def __init__(self, options, stack):
        self.server = self._start(stack, PostgreSql, options.server_port)
        self.sluice, self.people = None, []
        bouncer = self._start(stack, PgBouncer, self.server)
        self.version = bouncer.version
        self.poolers = [bouncer.target]
        for name, binary in options.sluice:
            sluice = self._start(stack, Sluice, self.server, binary, name)
            self.poolers.append(sluice.target)
            if {"logins", "tokens"} & set(options.only):
                self.people.append(sluice.person())
            # What only Sluice can do is measured with the last one.
            self.sluice, options.binary = sluice, binary
        installed = peers.installed(self.server)
        self.poolers += [self._start(stack, start).target for start in installed] + options.peer
        self.targets = ([self.server.target] if options.direct else []) + self.poolers
        self.fresh = measures.fresh_programs(self.server, options.sluice) + installed

    @staticmethod
    def _start(stack, program, *arguments):
        started = program(*arguments)
        stack.callback(started.stop)
        return started


def named_binary(argument):
    name, _, path = argument.partition("=")
    return name, os.path.abspath(path)


def peer(argument):
    name, _, rest = argument.partition("=")
    host, port, pid = rest.split(":")
    return Target(name, host, int(port), Processes(int(pid)))


def words(argument):
    return argument.split(",")


def numbers(argument):
    return [int(word) for word in argument.split(",")]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=words, default=list(measures.ALL), help=", ".join(measures.ALL))
    parser.add_argument("--sluice", type=named_binary, action="append", metavar="NAME=BINARY",
                        help="a build of Sluice, instead of target/release/sluice")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=HOST:PORT:PID",
                        help="a pooler that runs already")
    parser.add_argument("--server-port", type=int, help="PostgreSQL's, for peers that run already; else any free one")
    parser.add_argument("--direct", action="store_true", help="PostgreSQL itself, too")
    parser.add_argument("--base", default="PgBouncer", help="what ratios refer to")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--modes", type=words, default=["simple", "prepared"])
    parser.add_argument("--sslmodes", type=words, default=["disable"])
    parser.add_argument("--clients", type=numbers, default=[1, 32, 200])
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--copy-megabytes", type=int, default=500)
    parser.add_argument("--tenants", type=int, default=10_000)
    options = parser.parse_args()
    options.sluice = options.sluice or [("Sluice", REPOSITORY / "target/release/sluice")]
    return options


def main():
    options = parse()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Told to stop, it stops what it has started as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as stack:
        world = World(options, stack)
        print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores; {world.version}; "
              f"{options.rounds} rounds of {options.seconds} s, interleaved; ratios to {options.base}")
        for name in options.only:
            measures.ALL[name](world, options)


if __name__ == "__main__":
    main()
