"""One process of the crowd: opens sessions when it is told to, watches them, and says when each was told to go.

Its orders come on standard input and its answers leave on standard output, one JSON object a line.
"""

import gc
import json
import selectors
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compare"))

import protocol
from programs import Target

LOGINS_AT_ONCE = 4
PATIENCE_SECONDS = 30


def say(message):
    print(json.dumps(message), flush=True)


def open_sessions(world, first, count):
    tls = protocol.trusting_tls()

    def login(number):
        token = world["tokens"][number % len(world["tokens"])]
        target = Target("Sluice", world["host"], world["port"], user=world["user"], password=token,
                        parameters={"options": "-c jit=true"})
        return protocol.Client(target, tls)

    with ThreadPoolExecutor(LOGINS_AT_ONCE) as threads:
        return list(threads.map(login, range(first, first + count)))


class Watch:
    """Notes the time when each session's FATAL was read."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.told = []
        self.untold = 0

    def add(self, client):
        client.sock.setblocking(False)
        self.selector.register(client.sock, selectors.EVENT_READ)

    def left(self):
        return len(self.selector.get_map())

    def look(self, seconds):
        for key, _ in self.selector.select(seconds):
            self._read(key.fileobj)

    def _read(self, sock):
        try:
            data = sock.recv(65536)
        except ssl.SSLWantReadError:
            return
        except OSError:
            data = b""
        if data[:1] == b"E" and b"57P01" in data:
            self.told.append(time.monotonic())
        else:
            self.untold += 1
        # The end of the connection is of no interest; closing it is left for when all is measured.
        self.selector.unregister(sock)


def main():
    # Not buffered: what has been read ahead would wake nobody.
    orders = open(0, "rb", buffering=0)
    world = json.loads(orders.readline())
    watch, sessions = Watch(), []
    # A collection would stop the clock that everybody is measured with.
    gc.disable()
    while order := next_order(orders, watch):
        if more := order.get("open"):
            opened = open_sessions(world, len(sessions), more)
            sessions += opened
            for client in opened:
                watch.add(client)
            say({"open": len(sessions)})
        elif "open" in order:
            say({"open": len(sessions)})
        else:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while watch.left() and time.monotonic() < deadline:
                watch.look(0.1)
            say({"told": watch.told, "untold": watch.untold + watch.left()})


def next_order(orders, watch):
    """The next order, `None` at the end; meanwhile the sessions are watched."""
    with selectors.DefaultSelector() as both:
        both.register(orders, selectors.EVENT_READ)
        both.register(watch.selector, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in both.select()]
            if watch.selector in ready:
                watch.look(0)
            if orders in ready:
                line = orders.readline()
                return json.loads(line) if line else None


if __name__ == "__main__":
    main()
