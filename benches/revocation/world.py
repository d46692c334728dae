"""PostgreSQL, Sluice, and one tenant of it with many people: those who are revoked, and the crowd around them."""

import http.client
import json
import subprocess
import sys
from pathlib import Path

import protocol
from programs import ADMIN_KEY, DATABASE, PASSWORD, PostgreSql, Sluice, Target

TENANT = "revoked"
# The role of those whose access ends. Whoever logs in with it is theirs, so that PostgreSQL can be asked who is left.
ROLE = "guest"
CROWD_ROLE = "crowd"
POOL_SIZE = 8
CROWD_PROCESSES = 2
TLS = "ssl = on\nssl_cert_file = '../server.crt'\nssl_key_file = '../server.key'\n"
SCHEMA = f"""
create table held (id int primary key);
insert into held select generate_series(1, 100);
create unlogged table inlet (line text);
grant all on held, inlet to {ROLE};
"""


class World:
    """Everything that runs. The way to PostgreSQL is encrypted, as the one to Sluice: cancelling costs a handshake."""

    def __init__(self, binary, stack):
        self.server = PostgreSql(settings=TLS)
        stack.callback(self.server.stop)
        superuser = self.superuser("postgres")
        for role in (ROLE, CROWD_ROLE):
            superuser.query(f"create role {role} login password '{PASSWORD}'")
        superuser.close()
        self.control = self.superuser()
        self.control.query(SCHEMA)
        self.sluice = Sluice(self.server, binary)
        stack.callback(self.sluice.stop)
        self.sluice.add_tenant(
            TENANT, {"password": PASSWORD}, backend_tls="require", token_access="enabled", pool_size=POOL_SIZE,
            backend_budget=1000)
        for role in (ROLE, CROWD_ROLE):
            self.sluice.call("PUT", f"/v1/tenants/{TENANT}/roles/{role}/secret", {"password": PASSWORD})
        self.guest = self.person("guest@example.com")

    def superuser(self, database=DATABASE):
        target = Target("postgres", self.server.target.host, self.server.port, user="postgres", database=database)
        return protocol.Client(target)

    def person(self, email):
        """A new member with a token: both as the API names them."""
        person = self.sluice.call("POST", "/v1/people", {"email": email, "name": email})["person"]["id"]
        self.sluice.call("PUT", f"/v1/tenants/{TENANT}/members/{person}", {"kind": "member"})
        token = self.sluice.call("POST", f"/v1/people/{person}/tokens", {"name": "bench", "expires": "1d"})["secret"]
        return person, token

    def rule(self, person, role):
        return f"/v1/tenants/{TENANT}/rules/{person}/{role}"

    def grant(self, person, role):
        self.sluice.call("PUT", self.rule(person, role), {"expires": "1d"})

    def target(self, token, role):
        return Target("Sluice", "127.0.0.1", self.sluice.port, user=f"{role}.{TENANT}", password=token,
                      parameters={"options": "-c jit=true"})

    def guests(self, count):
        """Sessions of the one who is to be revoked."""
        target = self.target(self.guest[1], ROLE)
        return [protocol.Client(target, protocol.trusting_tls()) for _ in range(count)]

    def rows(self, sql):
        """The first column of what a superuser reads."""
        self.control.ask(sql)
        found = []
        while (message := self.control.receive())[0] != b"Z":
            if message[0] == b"D":
                found.append(message[1][6:].decode())
        return found


class Call:
    """A call of the API whose connection is open already, so that only the call itself is timed."""

    def __init__(self, world, method, path, body=None):
        self.sock = http.client.HTTPConnection("127.0.0.1", int(world.sluice.admin.rsplit(":", 1)[1]))
        self.sock.connect()
        self.request = (method, path, json.dumps(body) if body else None)

    def send(self):
        headers = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}
        self.sock.request(*self.request, headers)

    def fileno(self):
        return self.sock.sock.fileno()

    def answer(self):
        response = self.sock.getresponse()
        said = response.read()
        self.sock.close()
        if response.status != 200:
            raise SystemExit(f"{self.request}: {response.status} {said.decode()}")
        return json.loads(said)


class Crowd:
    """Idle sessions of other people in the same tenant, held by processes of their own."""

    def __init__(self, world, people):
        self.world = world
        self.tokens = []
        for number in range(people):
            person, token = world.person(f"crowd{number}@example.com")
            world.grant(person, CROWD_ROLE)
            self.tokens.append(token)
        script = Path(__file__).with_name("crowd.py")
        self.processes = [
            subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(CROWD_PROCESSES)
        ]
        target = world.target("", CROWD_ROLE)
        for process in self.processes:
            self._tell(process, {"host": target.host, "port": target.port, "user": target.user, "tokens": self.tokens})
        self.count = 0

    def grow(self, count):
        """Returns when `count` sessions are open."""
        share = -(-(count - self.count) // len(self.processes))
        shares = [min(share, count - self.count - share * number) for number in range(len(self.processes))]
        for process, more in zip(self.processes, shares):
            self._tell(process, {"open": more})
        for process in self.processes:
            self._hear(process)
        self.count = count

    def ends(self):
        """When each session was told FATAL, by the monotonic clock, once all of them are over."""
        for process in self.processes:
            self._tell(process, {"report": "ends"})
        reports = [self._hear(process) for process in self.processes]
        return [told for report in reports for told in report["told"]], sum(report["untold"] for report in reports)

    def stop(self):
        for process in self.processes:
            process.stdin.close()
            process.stdout.close()
            process.wait()

    @staticmethod
    def _tell(process, message):
        print(json.dumps(message), file=process.stdin, flush=True)

    @staticmethod
    def _hear(process):
        line = process.stdout.readline()
        if not line:
            raise SystemExit("a process of the crowd has died")
        return json.loads(line)
