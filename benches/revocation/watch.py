"""Watches a revocation from all sides at once: one loop, one clock (CLOCK_MONOTONIC)."""

import selectors
import ssl
import struct
import time
from dataclasses import dataclass, field

from world import ROLE

PATIENCE_SECONDS = 10
# Between two looks at pg_stat_activity; each costs the machine half a millisecond.
PAUSE_SECONDS = 0.001
PRESENT = f"select pid::text from pg_stat_activity where usename = '{ROLE}'"


@dataclass
class Times:
    """Milliseconds since the call was sent."""

    # FATAL was read; or the connection ended without one, which is right only in the middle of a message.
    told: list = field(default_factory=list)
    cut: int = 0
    # The last byte of a result was read.
    last_byte: list = field(default_factory=list)
    # A server process is no more in pg_stat_activity.
    gone: list = field(default_factory=list)
    # Somebody else has got the lock that a session held.
    unlocked: list = field(default_factory=list)
    # The call was answered.
    answered: list = field(default_factory=list)
    # Of that, what was spent before the change was in the catalogue: the rest is what Sluice reports to have taken.
    committed: list = field(default_factory=list)
    # What did not come to pass in time.
    missing: int = 0

    def add(self, other):
        for name in ("told", "last_byte", "gone", "unlocked", "answered", "committed"):
            getattr(self, name).extend(getattr(other, name))
        self.cut += other.cut
        self.missing += other.missing


def revoke(world, scene, call):
    """Sends `call` and returns when all that has to come of it has come."""
    watch = _Watch(world)
    if scene.reads:
        for client in scene.measured:
            watch.add(client.sock, _Victim(client, watch.times))
    for contender in scene.contenders:
        watch.add(contender.sock, _Contender(contender, watch.times))
    watch.add(call, _Answer(call, watch.times))
    watch.run(call)
    return watch.times


def answered(times, took, answer):
    """Notes the answer to a call that was over after `took` milliseconds."""
    report = answer["revocation"]
    times.answered.append(took)
    times.committed.append(took - report["elapsed_ms"])
    times.missing += report["unconfirmed"]


class _Watch:
    def __init__(self, world):
        self.times = Times()
        self.selector = selectors.DefaultSelector()
        self.looker = _Looker(world.superuser())

    def add(self, what, side):
        if isinstance(what, ssl.SSLSocket):
            what.setblocking(False)
        self.selector.register(what, selectors.EVENT_READ, side)

    def run(self, call):
        self.looker.begin(self.selector)
        start = time.monotonic()
        call.send()
        self.looker.look()
        while self.selector.get_map() and time.monotonic() < start + PATIENCE_SECONDS:
            for key, _ in self.selector.select(self.looker.pause()):
                if key.data.read(start):
                    self.selector.unregister(key.fileobj)
            self.looker.look()
        self.times.gone = self.looker.gone
        self.times.missing = len(self.selector.get_map()) + len(self.looker.present)
        self.looker.client.close()


class _Victim:
    """A session that is revoked."""

    def __init__(self, client, times):
        self.client, self.times = client, times
        self.at = None
        # What is still to come of a message whose head has been read.
        self.rest = 0
        self.buffer = client.buffer

    def read(self, start):
        """Whether that was the end of it."""
        try:
            data = self.client.sock.recv(65536)
        except ssl.SSLWantReadError:
            return False
        except OSError:
            data = b""
        now = (time.monotonic() - start) * 1000
        if not data:
            self._over(now)
            self.times.cut += 1
            return True
        if self._is_fatal(data):
            self._over(now)
            return True
        self.at = now
        return False

    def _over(self, now):
        self.times.told.append(now)
        if self.at is not None:
            self.times.last_byte.append(self.at)

    def _is_fatal(self, data):
        """Whether an error has begun. Messages are skipped by their heads; none but the last is looked into."""
        data = self.buffer + data
        at = self.rest
        while at + 5 <= len(data):
            if data[at:at + 1] == b"E":
                return True
            at += 1 + struct.unpack_from("!i", data, at + 1)[0]
        self.buffer, self.rest = data[at:], max(0, at - len(data))
        return False


class _Contender:
    """A session that waits for a lock."""

    def __init__(self, client, times):
        self.client, self.times = client, times

    def read(self, start):
        self.client.until_ready()
        self.times.unlocked.append((time.monotonic() - start) * 1000)
        return True


class _Answer:
    def __init__(self, call, times):
        self.call, self.times = call, times

    def read(self, start):
        answered(self.times, (time.monotonic() - start) * 1000, self.call.answer())
        return True


class _Looker:
    """Looks at pg_stat_activity again and again, until none is left of those who were there."""

    def __init__(self, client):
        self.client = client
        self.gone, self.present = [], set()
        self.is_asking = False

    def begin(self, selector):
        """Notes who is there. A connection's first look is its slowest, so it comes before the clock starts."""
        self.client.ask(PRESENT)
        self.present = self._answer()
        selector.register(self.client.sock, selectors.EVENT_READ, self)
        self.next = time.monotonic()

    def pause(self):
        return 0.1 if self.is_asking else max(0.0, self.next - time.monotonic())

    def look(self):
        if not self.is_asking and time.monotonic() >= self.next and self.present:
            self.client.ask(PRESENT)
            self.is_asking = True

    def read(self, start):
        left = self._answer()
        now = time.monotonic()
        self.gone += [(now - start) * 1000] * len(self.present - left)
        self.present &= left
        self.next, self.is_asking = now + PAUSE_SECONDS, False
        return not self.present

    def _answer(self):
        found = set()
        while (message := self.client.receive())[0] != b"Z":
            if message[0] == b"D":
                found.add(message[1][6:].decode())
        return found
