"""The labelling page's server: a few static files and four calls, on loopback unless told otherwise.

No script of the page stands in its HTML, the browser is told to run none (Content-Security-Policy),
and every text is put in as text. Bodies are at most 64 KiB, a client makes at most 40 calls a second.
Beyond loopback every call needs the token; a Host header that is not the server's own is refused, so
that no other page can reach it by a name of its own. What the disk does not take is answered with 507,
and nothing of it is kept.
"""

import hmac
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from scripts.label import files
from scripts.label import store as label_store

STATIC = Path(__file__).parent / "static"
FILES = {"/": "index.html", "/label.js": "label.js", "/label.css": "label.css"}
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
BODY, CALLS = 64 << 10, 40
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HOST = re.compile(
    r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?"
)  # an IPv6 address in brackets, or a name
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Rate:
    """At most CALLS calls a second for each client."""

    def __init__(self, clock=time.monotonic):
        self.clock, self.held, self.lock = clock, {}, threading.Lock()

    def passes(self, client: str) -> bool:
        with self.lock:
            now = self.clock()
            left, at = self.held.get(client, (CALLS, now))
            left = min(CALLS, left + (now - at) * CALLS)
            if len(self.held) > 1000:
                self.held.clear()
            self.held[client] = (left - 1, now) if left >= 1 else (left, now)
            return left >= 1


class Refused(Exception):
    """An answer that is no page: (status, words)."""


class Handler(BaseHTTPRequestHandler):
    server_version, sys_version, timeout = "labels", "", 30

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def _answer(self, call):
        try:
            self._admit()
            status, kind, body = call()
        except Refused as refused:
            status, words = refused.args
            kind, body = "application/json", json.dumps({"error": words}).encode()
        except ValueError as error:
            kind, body = "application/json", json.dumps({"error": str(error)}).encode()
            status = 400
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def _admit(self):
        own = self.server
        if not own.rate.passes(self.client_address[0]):
            raise Refused(429, "too many calls; wait a second")
        host = HOST.fullmatch(self.headers.get("Host") or "")
        if own.loopback and (not host or (host[1] or host[2]) not in LOOPBACK):
            raise Refused(403, "this page is served to this machine alone")
        path = urlsplit(self.path).path
        if own.token and path.startswith("/api/"):
            given = self.headers.get("X-Token") or ""
            if not hmac.compare_digest(given.encode(), own.token.encode()):
                raise Refused(
                    401, "the token is missing or wrong; open the address that was printed"
                )

    def _get(self):
        parts = urlsplit(self.path)
        if parts.path in FILES:
            name = FILES[parts.path]
            return 200, TYPES[name.rsplit(".", 1)[1]], (STATIC / name).read_bytes()
        if parts.path == "/api/next":
            labeller = parse_qs(parts.query).get("labeller", [""])[0]
            label_store.check_name(labeller)
            return self._json({**self.server.store.next(labeller), "flags": label_store.FLAGS})
        if parts.path == "/api/agreement":
            return self._json(label_store.agreement(self.server.store.records()))
        raise Refused(404, "there is nothing here")

    def _post(self):
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "expected application/json")
        try:
            size = int(self.headers.get("Content-Length") or -1)
        except ValueError:
            size = -1
        if not 0 <= size <= BODY:
            raise Refused(413 if size > BODY else 411, f"expected a body of at most {BODY} bytes")
        try:
            given = json.loads(self.rfile.read(size))
        except RecursionError:
            raise ValueError("the body is nested too deeply") from None
        if not isinstance(given, dict):
            raise ValueError("expected an object")
        path = urlsplit(self.path).path
        try:
            if path == "/api/answer":
                self.server.store.answer(given)
                return self._json({"kept": True})
            if path == "/api/undo":
                return self._json({"undone": self.server.store.undo(given.get("labeller"))})
        except OSError as error:
            what = "undo" if path == "/api/undo" else "judgement"
            raise Refused(507, f"the {what} was not kept: {error.strerror or error}") from None
        raise Refused(404, "there is nothing here")

    def _json(self, value):
        return 200, "application/json", files.encoded(value)

    def log_message(self, *_):
        """Nothing: a labeller's terminal is not for requests."""


class Server(ThreadingHTTPServer):
    """A page's server, which has its store's file to itself until it is closed."""

    daemon_threads = True

    def __init__(self, store, host: str, port: int, token: str):
        self.store, self.host, self.token, self.rate = store, host, token, Rate()
        self.loopback, self.address_family = host in LOOPBACK, family(host, port)
        store.hold()
        try:
            super().__init__((host, port), Handler)
        except OSError as error:  # the server is closed then, by which the store is released
            raise ValueError(
                f"--port {port} of {host} cannot be had: {error.strerror}; expected a free one, or 0 "
                "for any"
            ) from None

    def server_close(self):
        super().server_close()
        self.store.release()

    @property
    def url(self) -> str:
        """The page's address, an IPv6 host in brackets."""
        host, port = self.host or self.server_address[0], self.server_address[1]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def family(host: str, port: int):
    """The kind of address that a host has, IPv4 where it has both; ValueError where it has none."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"--host {host} is no address of this machine: {error.strerror}") from None
    kinds = {kind for kind, *_ in found}
    return socket.AF_INET if socket.AF_INET in kinds else socket.AF_INET6


def serve(store, host: str = "127.0.0.1", port: int = 0, token: str = "") -> Server:
    """A server that is bound and not yet running, and holds the store's file.

    ValueError beyond loopback without a token, for an unknown host, a port that is taken, or where
    another server has the file.
    """
    if host not in LOOPBACK and len(token) < 16:
        raise ValueError(
            f"--host {host} is not loopback; expected --token of at least 16 characters"
        )
    return Server(store, host, port, token)
