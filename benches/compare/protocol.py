"""A small client of PostgreSQL's protocol: libpq spends 5 ms per login on deriving keys, which would hide the pooler."""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct

SSL_REQUEST = struct.pack("!ii", 8, 80877103)

# Derived keys by password, salt and iterations.
_salted = {}


class ServerError(Exception):
    pass


def trusting_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(target, tls=None, source=None, session=None):
    """A socket to `target`, encrypted if a TLS context is given; `session`: the one of an earlier connection, to be resumed."""
    address = (source, 0) if source else None
    sock = socket.create_connection((target.host, target.port), timeout=60, source_address=address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        sock.sendall(SSL_REQUEST)
        if sock.recv(1) != b"S":
            raise ServerError(f"{target.name} does not speak TLS")
        sock = tls.wrap_socket(sock, session=session)
    return sock


class Client:
    """A session: blocking, simple queries only."""

    def __init__(self, target, tls=None, source=None):
        self.sock = connect(target, tls, source)
        self.buffer = b""
        parameters = {"user": target.user, "database": target.database, "client_encoding": "UTF8", **target.parameters}
        body = struct.pack("!i", 196608)
        body += b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
        self.sock.sendall(struct.pack("!i", len(body) + 4) + body)
        self._authenticate(target.password)
        self.until_ready()

    def send(self, tag, body=b""):
        self.sock.sendall(tag + struct.pack("!i", len(body) + 4) + body)

    def receive(self):
        while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack("!i", self.buffer[1:5])[0]:
            data = self.sock.recv(65536)
            if not data:
                raise ServerError("the connection has ended")
            self.buffer += data
        end = 1 + struct.unpack("!i", self.buffer[1:5])[0]
        tag, body, self.buffer = self.buffer[:1], self.buffer[5:end], self.buffer[end:]
        if tag == b"E":
            raise ServerError(body.replace(b"\0", b" ").decode(errors="replace"))
        return tag, body

    def until_ready(self):
        while self.receive()[0] != b"Z":
            pass

    def ask(self, sql):
        self.send(b"Q", sql.encode() + b"\0")

    def query(self, sql):
        self.ask(sql)
        self.until_ready()

    def close(self):
        try:
            self.send(b"X")
        except OSError:
            pass
        self.sock.close()

    def _authenticate(self, password):
        while True:
            tag, body = self.receive()
            if tag != b"R":
                continue
            kind = struct.unpack("!i", body[:4])[0]
            if kind == 0:
                return
            if kind == 3:
                self.send(b"p", password.encode() + b"\0")
            elif kind == 10:
                nonce = base64.b64encode(os.urandom(18)).decode()
                first = f"n=,r={nonce}"
                message = f"n,,{first}".encode()
                self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(message)) + message)
            elif kind == 11:
                self.send(b"p", _final_message(password, first, body[4:].decode()))
            elif kind != 12:
                raise ServerError(f"authentication request {kind} is not known here")


def _final_message(password, first, challenge):
    """The client's last message of SCRAM-SHA-256 (RFC 5802)."""
    attributes = dict(part.split("=", 1) for part in challenge.split(","))
    key = (password, attributes["s"], attributes["i"])
    if key not in _salted:
        salt = base64.b64decode(attributes["s"])
        _salted[key] = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, int(attributes["i"]))
    client_key = hmac.digest(_salted[key], b"Client Key", "sha256")
    final = f"c=biws,r={attributes['r']}"
    signed = ",".join((first, challenge, final)).encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
    return f"{final},p={proof}".encode()
