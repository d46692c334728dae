"""The programs that are compared, each started in a folder of its own and stopped at the end."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import protocol
from processes import Processes

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
POOL_SIZE = 20
ROLE, PASSWORD, DATABASE = "bench", "a password of the benchmark", "bench"
ADMIN_KEY = "the-key-of-the-benchmark's-administrator"
READY_SECONDS = 60

# Durability is not what is measured, and no disk is the same from minute to minute.
POSTGRESQL = """
listen_addresses = '127.0.0.1'
max_connections = 1300
shared_buffers = '256MB'
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
max_wal_size = '4GB'
"""

PGBOUNCER = """
[databases]
{database} = host=127.0.0.1 port={server}
{databases}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 20000
max_prepared_statements = 500
client_tls_sslmode = allow
client_tls_cert_file = {folder}/server.crt
client_tls_key_file = {folder}/server.key
logfile = {folder}/pgbouncer.log
pidfile =
"""

SLUICE = """
[listen]
pooler = "127.0.0.1:{port}"
workers = {workers}
[tls]
certificate = "server.crt"
key = "server.key"
[limits]
unauthenticated_per_address = 20000
tenant_clients = 20000
[pool]
size = {pool}
overall_budget = 1200
[catalog]
path = "sluice.db"
key_file = "catalog.key"
[admin]
listen = "127.0.0.1:{admin}"
key_file = "admin.key"
"""


@dataclass
class Target:
    """Where clients connect, and whose CPU that is."""

    name: str
    host: str
    port: int
    processes: Processes | None = None
    user: str = ROLE
    password: str = PASSWORD
    database: str = DATABASE
    # Startup parameters beyond user and database.
    parameters: dict = field(default_factory=dict)

    def environment(self, sslmode):
        options = self.parameters.get("options", "")
        return {
            **os.environ, "PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": self.user, "PGPASSWORD": self.password,
            "PGDATABASE": self.database, "PGSSLMODE": sslmode, "PGGSSENCMODE": "disable", "PGOPTIONS": options, "LC_ALL": "C",
        }


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def unprivileged():
    """What to put before a program that refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


class Program:
    """A child process with a folder."""

    stop_signal = signal.SIGINT

    def __init__(self, name, port=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"compare-{name}-"))
        self.port = port or free_port()
        self.process = None

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def make_certificate(self):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", "server.key", "-out", "server.crt"],
            cwd=self.folder, check=True, stderr=subprocess.DEVNULL)

    def give_away(self):
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "nobody:nogroup", self.folder], check=True)

    def spawn(self, *command):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for(self, attempt):
        """Returns what `attempt` answers once it no longer raises."""
        deadline = time.time() + READY_SECONDS
        while True:
            try:
                return attempt()
            except (OSError, protocol.ServerError) as error:
                if time.time() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{self.folder}: not ready: {error}\n{(self.folder / 'log').read_text()[-2000:]}")
                time.sleep(0.05)

    def stop(self):
        if self.process:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgreSql(Program):
    """The server behind all poolers, with pgbench's tables and a role that owns them."""

    def __init__(self, port=None, settings=""):
        super().__init__("postgres", port)
        self.make_certificate()
        programs = pathlib.Path(subprocess.check_output([REPOSITORY / "scripts/postgres"], text=True).strip())
        self.write("password", PASSWORD)
        self.give_away()
        subprocess.run(
            [*unprivileged(), programs / "initdb", "-D", "data", "--username=postgres", "--auth=scram-sha-256", "--locale=C",
             "--encoding=UTF8", "--no-sync", "--pwfile=password"],
            cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        with open(self.folder / "data/postgresql.conf", "a") as file:
            file.write(f"{POSTGRESQL}{settings}port = {self.port}\nunix_socket_directories = '{self.folder}'\n")
        self.spawn(*unprivileged(), programs / "postgres", "-D", "data")
        superuser = Target("postgres", "127.0.0.1", self.port, user="postgres", database="postgres")
        control = self.wait_for(lambda: protocol.Client(superuser))
        control.query(f"create role {ROLE} login password '{PASSWORD}'")
        control.query(f"create database {DATABASE} owner {ROLE}")
        control.ask("select rolpassword from pg_authid where rolname = 'bench'")
        # A DataRow: the number of columns, and the column with its length before it.
        self.verifier = next(body[6:].decode() for tag, body in iter(control.receive, None) if tag == b"D")
        control.close()
        self.target = Target("PostgreSQL", "127.0.0.1", self.port, Processes(self.process.pid))
        environment = self.target.environment("disable")
        subprocess.run(["pgbench", "-i", "-q", "-s", "5"], env=environment, check=True, stderr=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        subprocess.run(["psql", "-qc", "create unlogged table sink (line text)"], env=environment, check=True)


class PgBouncer(Program):
    """PgBouncer with the database `bench`, and so many more that lead to the same one, with one backend each."""

    def __init__(self, server, databases=0):
        super().__init__("pgbouncer")
        command = subprocess.check_output([REPOSITORY / "benches/compare/pgbouncer"], text=True).split()
        self.version = subprocess.check_output([*command, "--version"], text=True).split("\n")[0]
        self.make_certificate()
        self.write("users", f'"{ROLE}" "{server.verifier}"\n')
        more = [f"tenant{n} = host=127.0.0.1 port={server.port} dbname={DATABASE} pool_size=1" for n in range(databases)]
        values = {"database": DATABASE, "databases": "\n".join(more), "server": server.port, "port": self.port,
                  "folder": self.folder, "pool": POOL_SIZE}
        self.write("pgbouncer.ini", PGBOUNCER.format(**values))
        self.give_away()
        self.spawn(*unprivileged(), *command, "-q", "pgbouncer.ini")
        self.target = Target("PgBouncer", "127.0.0.1", self.port, Processes(self.process.pid))
        self.wait_for(lambda: protocol.Client(self.target).close())

    def database(self, number):
        """The same PgBouncer, as the clients of one of its other databases see it."""
        return Target(self.target.name, self.target.host, self.port, self.target.processes, database=f"tenant{number}")


class Sluice(Program):
    """Sluice with the tenant `bench`; role passwords are checked against a stored verifier, as PgBouncer has it."""

    def __init__(self, server, binary, name="Sluice", workers=0):
        super().__init__("sluice")
        self.server = server
        self.admin = f"http://127.0.0.1:{free_port()}"
        self.make_certificate()
        self.write("catalog.key", os.urandom(32).hex())
        self.write("admin.key", ADMIN_KEY)
        values = {"port": self.port, "pool": POOL_SIZE, "workers": workers, "admin": self.admin.rsplit(":", 1)[1]}
        self.write("pooler.toml", SLUICE.format(**values))
        self.spawn(binary, "serve", "--config", "pooler.toml")
        self.wait_for(lambda: urllib.request.urlopen(f"{self.admin}/ready").close())
        self.add_tenant("bench")
        self.target = Target(name, "127.0.0.1", self.port, Processes(self.process.pid), user=f"{ROLE}.bench")

    def call(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}
        request = urllib.request.Request(self.admin + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.read().decode()}") from error
        return json.loads(said) if said[:1] == b"{" else None

    def add_tenant(self, tenant, secret=None, **fields):
        self.call("POST", "/v1/tenants", {
            "ref": tenant, "host": "127.0.0.1", "port": self.server.port, "default_database": DATABASE,
            "backend_tls": "disable", "login": "role_secret", **fields,
        })
        self.call("PUT", f"/v1/tenants/{tenant}/roles/{ROLE}/secret", secret or {"verifier": self.server.verifier})

    def tenant(self, tenant):
        """The same Sluice, as the clients of another tenant see it."""
        return Target(tenant, self.target.host, self.port, self.target.processes, user=f"{ROLE}.{tenant}")

    def person(self):
        """As a person with a token sees it. The tenant's password users are to be told apart by nothing else."""
        self.add_tenant("people", {"password": PASSWORD}, token_access="enabled")
        person = self.call("POST", "/v1/people", {"email": "ada@example.com", "name": "Ada"})["person"]["id"]
        self.call("PUT", f"/v1/tenants/people/members/{person}", {"kind": "member"})
        self.call("PUT", f"/v1/tenants/people/rules/{person}/{ROLE}", {"expires": "1d"})
        token = self.call("POST", f"/v1/people/{person}/tokens", {"name": "bench", "expires": "1d"})["secret"]
        target = self.tenant("people")
        target.name, target.password, target.parameters = f"token, {self.target.name}", token, {"options": "-c jit=true"}
        return target
