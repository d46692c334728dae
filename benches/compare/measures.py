"""What is measured, one function per table of docs/performance.md."""

import collections
import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import protocol
from load import PROGRESS, pgbench, rounds, say
from programs import PgBouncer, Sluice, Target
from tables import middle, ratio, table, text

MEBIBYTE = 1024 * 1024
# Memory and CPU are read once this much later, when the last work is done.
SETTLE_SECONDS = 1.5


def transactions(world, options):
    """pgbench -S: cost, throughput and latency, per protocol and number of clients."""
    for mode in options.modes:
        for sslmode in options.sslmodes:
            for clients in options.clients:
                def measure(target):
                    # pgbench counts the logins into its time.
                    return pgbench(target, ["-M", mode], clients, options.seconds + clients // 100, sslmode)
                encryption = "TLS" if sslmode == "require" else "plain"
                label = f"{mode}, {clients} clients, {encryption}"
                _load_table(f"pgbench -S, {label}", options, rounds(options, world.targets, label, measure))


def _load_table(title, options, found, base=None):
    base = found[base or options.base]
    rows = []
    for name, figures in found.items():
        against = lambda figure: text(ratio(figures[figure], base[figure]), "{:.2f}")
        rows.append([
            name, text(middle(figures["cpu"])), against("cpu"), text(middle(figures["tps"]), "{:,.0f}"), against("tps"),
            text(middle(figures["p50"]), "{:,.0f}"), text(middle(figures["p99"]), "{:,.0f}"),
            text(middle([p99 / p50 for p99, p50 in zip(figures["p99"], figures["p50"])]), "{:.2f}"),
        ])
    table(title, ["", "CPU µs/txn", "ratio", "tps", "ratio", "p50 µs", "p99 µs", "p99/p50"], rows)


def system_calls(world, options):
    """System calls per transaction under load, counted by strace."""
    for mode in options.modes:
        rows = []
        for target in world.poolers:
            load = subprocess.Popen(
                ["pgbench", "-n", "-S", "-M", mode, "-c", "32", "-j", "2", "-T", "8", "-P", "1"],
                env=target.environment("disable"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            load.stderr.readline()
            tracer = target.processes.trace_system_calls()
            # Its reports come once a second, each with the transactions per second since the last.
            done = sum(float(PROGRESS.match(load.stderr.readline())[2]) for _ in range(4))
            calls = tracer()
            load.communicate()
            most = sorted(calls.items(), key=lambda item: -item[1])[:6]
            rows.append([target.name, text(sum(calls.values()) / done, "{:.2f}"),
                         ", ".join(f"{name} {count / done:.2f}" for name, count in most)])
        table(f"System calls per transaction, {mode}, 32 clients", ["", "all", "of them"], rows)


LOGIN_LOOP = """
import sys, time
sys.path.insert(0, sys.argv[1])
import programs, protocol
host, port, user, password, options, kind, seconds = sys.argv[2:]
target = programs.Target("", host, int(port), user=user, password=password, parameters={"options": options} if options else {})
tls = None if kind == "plain" else protocol.trusting_tls()
session = None
if kind == "resumed":
    # The ticket comes behind the handshake, with what is read first.
    client = protocol.Client(target, tls)
    session = client.sock.session
    client.close()
count, end = 0, time.time() + float(seconds)
while time.time() < end:
    if kind in ("handshake", "resumed"):
        protocol.connect(target, tls, session=session).close()
    else:
        client = protocol.Client(target, tls)
        client.query("select 1")
        client.close()
    count += 1
print(count)
"""


def logins(world, options):
    """CPU per login with one query, and per TLS handshake: raw clients that come and go in a loop."""
    def measure(target, kind):
        before = target.processes.cpu()
        arguments = [target.host, str(target.port), target.user, target.password, target.parameters.get("options", ""), kind,
                     str(options.seconds)]
        folder = os.path.dirname(os.path.abspath(__file__))
        clients = [subprocess.Popen([sys.executable, "-c", LOGIN_LOOP, folder, *arguments], stdout=subprocess.PIPE, text=True)
                   for _ in range(2)]
        count = sum(int(client.communicate()[0]) for client in clients)
        return {"cpu": (target.processes.cpu() - before) * 1e6 / count, "rate": count / options.seconds}

    rows, handshakes = [], {}
    for kind, title, targets in [
        ("plain", "SCRAM login, not encrypted", world.poolers),
        ("resumed", "TLS handshake of a session resumed", world.poolers),
        ("handshake", "TLS handshake alone", world.poolers),
        ("tls", "SCRAM login over TLS", world.poolers),
        ("tls", "token login over TLS", world.people),
    ]:
        found = rounds(options, targets, title, lambda target: measure(target, kind))
        if kind == "handshake":
            handshakes = {target.processes: found[target.name]["cpu"] for target in targets}
        for target in targets:
            figures = found[target.name]
            own = figures["cpu"] if kind == "plain" else None
            if kind == "tls":
                own = [cpu - handshake for cpu, handshake in zip(figures["cpu"], handshakes[target.processes])]
            rows.append([f"{title}: {target.name}", text(middle(figures["cpu"]), "{:,.0f}"),
                         text(own and middle(own), "{:,.0f}"), text(middle(figures["rate"]), "{:,.0f}")])
    table("Logins", ["", "CPU µs each", "less the handshake", "logins/s"], rows)


def idle(world, options):
    """Memory: fresh processes, at start, per idle client after one query, and after all clients have left."""
    rows = []
    for count, tls in [(options.idle, None), (options.idle // 5, protocol.trusting_tls())]:
        for make in world.fresh:
            with contextlib.closing(_Stopped(make())) as program:
                rows.append(_idle_row(program.target, count, tls))
    table("Memory", ["", "clients", "RSS at start MiB", "bytes per idle client", "CPU while idle", "RSS after all left MiB"], rows)


class _Stopped:
    """A program that `closing` stops."""

    def __init__(self, program):
        self.program = program
        self.target = program.target
        self.close = program.stop


def _idle_row(target, count, tls):
    # The first client opens the pool, and what is needed once.
    protocol.Client(target, tls).close()
    time.sleep(SETTLE_SECONDS)
    start = target.processes.resident()
    with ThreadPoolExecutor(8) as threads:
        # One address has no more than 28,000 ports.
        clients = list(threads.map(lambda n: protocol.Client(target, tls, f"127.0.0.{2 + n % 8}"), range(count)))
        list(threads.map(lambda client: client.query("select 1"), clients))
    time.sleep(SETTLE_SECONDS)
    held = target.processes.resident()
    before, seconds = target.processes.cpu(), 3
    time.sleep(seconds)
    at_rest = (target.processes.cpu() - before) / seconds
    for client in clients:
        client.close()
    time.sleep(2 * SETTLE_SECONDS)
    after = target.processes.resident()
    say(f"idle: {target.name} {start} {held} {after}")
    return [f"{target.name}, {'TLS' if tls else 'plain'}", text(count, "{:,}"), text(start / MEBIBYTE),
            text((held - start) / count, "{:,.0f}"), text(at_rest, "{:.1%}"), text(after / MEBIBYTE)]


def copy(world, options):
    """COPY both ways with one client: CPU per GB and speed."""
    count = options.copy_megabytes * 1000
    out = f"copy (select repeat('x', 999) from generate_series(1, {count})) to stdout"
    with tempfile.NamedTemporaryFile("w", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as source:
        source.writelines("x" * 999 + "\n" for _ in range(count))
        source.flush()
        gigabytes = os.path.getsize(source.name) / 1e9
        for title, command in [("COPY TO", out), ("COPY FROM", f"\\copy sink from '{source.name}'")]:
            def measure(target):
                environment = world.server.target.environment("disable")
                subprocess.run(["psql", "-qc", "truncate sink"], env=environment, check=True)
                before, since = target.processes.cpu(), time.time()
                subprocess.run(["psql", "-Xqo", "/dev/null", "-c", command], env=target.environment("disable"), check=True,
                               stdout=subprocess.DEVNULL)
                took = time.time() - since
                return {"cpu": (target.processes.cpu() - before) / gigabytes, "speed": gigabytes * 1000 / took}
            found = rounds(options, world.poolers, title, measure)
            base = found[options.base]
            rows = [[name, text(middle(figures["cpu"]), "{:.2f}"), text(ratio(figures["cpu"], base["cpu"]), "{:.2f}"),
                     text(middle(figures["speed"]), "{:,.0f}")] for name, figures in found.items()]
            table(f"{title}, {options.copy_megabytes} MB, one client", ["", "CPU s/GB", "ratio", "MB/s"], rows)


def tokens(world, options):
    """Sessions of people with tokens against those with passwords, both over TLS."""
    person = world.people[-1]
    password = Target("password", person.host, person.port, person.processes, user=world.sluice.target.user)
    for mode in options.modes:
        found = rounds(options, [password, person], f"tokens, {mode}",
                       lambda target: pgbench(target, ["-M", mode], 32, options.seconds, "require"))
        _load_table(f"Token sessions, {mode}, 32 clients, TLS", options, found, base="password")


def sockets(world, options):
    """The way to a server on the same machine: TCP, and its Unix socket."""
    world.sluice.add_tenant("local", host=str(world.server.folder))
    tcp, local = world.sluice.tenant("bench"), world.sluice.tenant("local")
    tcp.name, local.name = "TCP", "Unix socket"
    for mode in options.modes:
        found = rounds(options, [tcp, local], f"sockets, {mode}",
                       lambda target: pgbench(target, ["-M", mode], 32, options.seconds, "disable"))
        _load_table(f"The way to the server, {mode}, 32 clients", options, found, base="TCP")


def tenants(world, options):
    """Many tenants: memory of those that do nothing, and the cost of a transaction when many are active in turn.

    PgBouncer's are databases, each with a pool of its own: every pooler's cost of many is compared with its own of one.
    """
    count, active = options.tenants, options.tenants // 10
    rows = []
    with contextlib.closing(_Stopped(PgBouncer(world.server, databases=active))) as bouncer:
        rows.append(_turns_row(bouncer, [bouncer.program.database(n) for n in range(active)], options))
    with contextlib.closing(_Stopped(Sluice(world.server, options.binary))) as sluice:
        time.sleep(SETTLE_SECONDS)
        before = sluice.target.processes.resident()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: sluice.program.add_tenant(f"tenant{n}", pool_size=1), range(count)))
        time.sleep(SETTLE_SECONDS)
        registered = sluice.target.processes.resident()
        rows.append(_turns_row(sluice, [sluice.program.tenant(f"tenant{n}") for n in range(active)], options))
    table(f"{active:,} tenants in turn", ["", f"CPU µs/txn, {active:,} clients of one", "one client of each", "ratio"], rows)
    print(f"A registered tenant, of {count:,}: {(registered - before) / count:,.0f} bytes")


def _turns_row(pooler, many, options):
    costs = {"one": [], "many": []}
    with contextlib.ExitStack() as stack:
        crowds = {}
        for name, targets in [("one", [pooler.target] * len(many)), ("many", many)]:
            crowds[name] = [stack.enter_context(contextlib.closing(protocol.Client(target))) for target in targets]
            _take_turns(crowds[name], 2 * len(many))
        for number in range(options.rounds):
            for name, crowd in crowds.items():
                since = pooler.target.processes.cpu()
                done = _take_turns(crowd, 20 * len(many))
                costs[name].append((pooler.target.processes.cpu() - since) * 1e6 / done)
                say(f"{pooler.target.name}, round {number + 1}, {name}: {costs[name][-1]:.1f} µs")
    return [pooler.target.name, text(middle(costs["one"])), text(middle(costs["many"])),
            text(ratio(costs["many"], costs["one"]), "{:.2f}")]


def _take_turns(clients, count, at_once=32):
    """Has the clients send one query each, over and over, so many of them at a time."""
    waiting, free, sent, done = selectors.DefaultSelector(), collections.deque(clients), 0, 0
    while done < count:
        while sent < count and sent - done < at_once:
            client = free.popleft()
            client.ask("select 1")
            waiting.register(client.sock, selectors.EVENT_READ, client)
            sent += 1
        for key, _ in waiting.select():
            key.data.until_ready()
            waiting.unregister(key.fileobj)
            free.append(key.data)
            done += 1
    return done


POOL_OF_FLOOD = 20


def neighbours(world, options):
    """One tenant floods with 500 clients: what another's latency is, on the same worker and through a pooler of its own.

    The second is the measure of the first: there the flood takes the same share of the machine, but no part of the pooler.
    """
    with contextlib.ExitStack() as stack:
        flooded, beside = (stack.enter_context(contextlib.closing(_Stopped(Sluice(world.server, options.binary, workers=1))))
                           for _ in range(2))
        flooded.program.add_tenant("flood", pool_size=POOL_OF_FLOOD)
        quiet = {"alone": (flooded, False), "flood in another pooler": (beside, True), "flood in the same": (flooded, True)}
        targets = [Target(name, "127.0.0.1", one.target.port, one.target.processes, user=one.target.user)
                   for name, (one, _) in quiet.items()]
        def measure(target):
            with _flood(flooded.program.tenant("flood")) if quiet[target.name][1] else contextlib.nullcontext():
                return pgbench(target, [], 1, options.seconds)
        _load_table("One client beside a flood of 500", options, rounds(options, targets, "neighbours", measure),
                    base="flood in another pooler")


@contextlib.contextmanager
def _flood(target):
    flood = subprocess.Popen(["pgbench", "-n", "-S", "-c", "500", "-j", "1", "-T", "600", "-P", "1"], text=True,
                             env=target.environment("disable"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    flood.stderr.readline()
    try:
        yield
    finally:
        flood.kill()
        flood.communicate()


ALL = {
    "transactions": transactions, "system_calls": system_calls, "logins": logins, "idle": idle, "copy": copy,
    "tokens": tokens, "sockets": sockets, "tenants": tenants, "neighbours": neighbours,
}


def fresh_programs(server, sluices):
    """What makes the programs whose memory is measured from their start."""
    return [lambda: PgBouncer(server), *(partial(Sluice, server, binary, name) for name, binary in sluices)]
