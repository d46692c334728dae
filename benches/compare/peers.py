"""Poolers that are compared where they are installed: Odyssey and pg_doorman, set up as PgBouncer and Sluice are."""

import os
import shutil
import signal

import protocol
from processes import Processes
from programs import DATABASE, POOL_SIZE, ROLE, Program, Target, unprivileged

CLIENTS_MAX = 20_000

ODYSSEY = """
daemonize no
log_to_stdout yes
log_format "%p %t %l [%i %s] (%c) %m\\n"
log_debug no
log_config no
log_session no
log_query no
log_stats no
workers {cores}
resolvers 1
coroutine_stack_size 16
nodelay yes
client_max {clients}
locks_dir "{folder}"
enable_online_restart no
graceful_die_on_errors yes
listen {{
    host "127.0.0.1"
    port {port}
    backlog 4096
    tls "allow"
    tls_cert_file "{folder}/server.crt"
    tls_key_file "{folder}/server.key"
}}
storage "server" {{
    type "remote"
    host "127.0.0.1"
    port {server}
}}
database "{database}" {{
    user "{role}" {{
        authentication "scram-sha-256"
        password "{verifier}"
        storage "server"
        storage_user "{role}"
        storage_password "{password}"
        pool "transaction"
        pool_size {pool}
        pool_reserve_prepared_statement yes
        pool_discard no
        pool_smart_discard yes
        client_max {clients}
        client_fwd_error yes
    }}
}}
"""

PG_DOORMAN = """
[general]
host = "127.0.0.1"
port = {port}
backlog = 4096
max_connections = {clients}
worker_threads = {cores}
log_client_connections = false
log_client_disconnections = false
prepared_statements = true
query_wait_timeout = 30000
tls_certificate = "{folder}/server.crt"
tls_private_key = "{folder}/server.key"
admin_username = "admin"
admin_password = "admin"
[pools.{database}]
server_host = "127.0.0.1"
server_port = {server}
pool_mode = "transaction"
[pools.{database}.users.0]
username = "{role}"
password = "{verifier}"
server_username = "{role}"
server_password = "{password}"
pool_size = {pool}
"""


class Peer(Program):
    """A pooler with one configuration file, which is its argument."""

    # With SIGINT pg_doorman makes way for a new process of its own.
    stop_signal = signal.SIGTERM

    def __init__(self, server, name, program, template, file):
        super().__init__(program)
        self.make_certificate()
        self.write(file, template.format(
            port=self.port, server=server.port, folder=self.folder, database=DATABASE, role=ROLE, pool=POOL_SIZE,
            verifier=server.verifier, password=server.target.password, cores=os.cpu_count(), clients=CLIENTS_MAX))
        self.give_away()
        self.spawn(*unprivileged(), shutil.which(program), file)
        self.target = Target(name, "127.0.0.1", self.port, Processes(self.process.pid))
        self.wait_for(lambda: protocol.Client(self.target).close())


KNOWN = [
    ("Odyssey", "odyssey", ODYSSEY, "odyssey.conf"),
    ("pg_doorman", "pg_doorman", PG_DOORMAN, "pg_doorman.toml"),
]


def installed(server):
    """What starts each of the poolers that are on the path."""
    return [lambda peer=peer: Peer(server, *peer) for peer in KNOWN if shutil.which(peer[1])]
