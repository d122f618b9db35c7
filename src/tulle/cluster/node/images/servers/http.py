"""A small threaded HTTP/1.1 server: one function from request to answer, keep-alive, HEAD answered from GET.

It is built on `socketserver` and not on asyncio because a sample pod should start in a moment and stay small.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_LINE = 64 * 1024
MAX_BODY = 64 << 20

REASONS = {
    100: "Continue", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently",
    302: "Found", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 409: "Conflict",
    410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large", 418: "I'm a teapot",
    422: "Unprocessable Content", 429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes
    client: str

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Answer]


class BadRequestError(Exception):
    """The client sent no HTTP; `status` is what it gets."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Connection(socketserver.StreamRequestHandler):
    timeout = 65
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def handle(self) -> None:
        # a client that goes away, or stays silent for too long, ends its connection and nothing else
        with contextlib.suppress(ConnectionError, TimeoutError, BrokenPipeError):
            while self.server.may_wait(self.connection) and self._one_request():
                pass

    def _one_request(self) -> bool:
        try:
            request, version = self._read()
        except BadRequestError as bad:
            self._write(Answer(bad.status, REASONS[bad.status].encode() + b"\n"), head=False, keep=False)
            return False
        if request is None:
            return False
        connection = request.header("connection").lower()
        keep = "close" not in connection and (version != "HTTP/1.0" or "keep-alive" in connection)
        answer = self.server.answer(request)
        keep = keep and not self.server.ending
        self._write(answer, head=request.method == "HEAD", keep=keep)
        return keep

    def _read(self) -> tuple[Request | None, str]:
        line = self.rfile.readline(MAX_LINE + 1)
        while line in {b"\r\n", b"\n"}:
            line = self.rfile.readline(MAX_LINE + 1)
        self.server.no_longer_waits(self.connection)
        if not line:
            return None, ""
        words = line.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequestError(400)
        headers = self._read_headers()
        named = {key.lower(): value for key, value in headers}
        if named.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        body = self._read_body(named)
        parts = urlsplit(words[1])
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        client = self.client_address[0].removeprefix("::ffff:")
        return Request(words[0], words[1], unquote(parts.path), query, tuple(headers), body, client), words[2]

    def _read_headers(self) -> list[tuple[str, str]]:
        headers: list[tuple[str, str]] = []
        size = 0
        while (line := self.rfile.readline(MAX_LINE + 1)) not in {b"\r\n", b"\n", b""}:
            size += len(line)
            name, colon, value = line.decode("latin-1").partition(":")
            if size > MAX_LINE:
                raise BadRequestError(431)
            if not colon or name != name.strip():
                raise BadRequestError(400)
            headers.append((name, value.strip()))
        return headers

    def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._read_chunks()
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise BadRequestError(400)
        if int(length) > MAX_BODY:
            raise BadRequestError(413)
        return self.rfile.read(int(length))

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = self.rfile.readline(MAX_LINE).split(b";")[0].strip()
            try:
                count = int(size, 16)
            except ValueError:
                raise BadRequestError(400) from None
            if len(body) + count > MAX_BODY:
                raise BadRequestError(413)
            body += self.rfile.read(count)
            self.rfile.readline(MAX_LINE)
            if count == 0:
                return bytes(body)

    def _write(self, answer: Answer, *, head: bool, keep: bool) -> None:
        bodyless = answer.status < 200 or answer.status in {204, 304}
        lines = [
            f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Unknown')}",
            f"Server: {self.server.name}",
            f"Date: {formatdate(usegmt=True)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
            *(f"{key}: {value}" for key, value in answer.headers.items()),
        ]
        if not bodyless:
            lines += [f"Content-Type: {answer.content_type}", f"Content-Length: {len(answer.body)}"]
        payload = b"" if head or bodyless else answer.body
        self.wfile.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + payload)
        self.wfile.flush()


class Server(socketserver.ThreadingTCPServer):
    """Serves on every address of the pod, IPv4 and IPv6."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = False
    request_queue_size = 1024

    def __init__(self, port: int, answer: Handler, name: str, address: str = "::") -> None:
        self.answer = answer
        self.name = name
        self.ending = False
        self._waiting: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((address, port), _Connection)

    def may_wait(self, connection: socket.socket) -> bool:
        """A connection is about to wait for a request; False when it should end instead."""
        with self._lock:
            if not self.ending:
                self._waiting.add(connection)
            return not self.ending

    def no_longer_waits(self, connection: socket.socket) -> None:
        """The first line of a request is there, or the end of the connection."""
        with self._lock:
            self._waiting.discard(connection)

    def end(self) -> None:
        """Accept nothing more; what is asked already is answered, connections that only wait are ended."""
        with self._lock:
            self.ending = True
            for connection in self._waiting:
                # what has arrived can still be read
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
        self.shutdown()

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Server4(Server):
    address_family = socket.AF_INET

    def __init__(self, port: int, answer: Handler, name: str) -> None:
        super().__init__(port, answer, name, "0.0.0.0")  # noqa: S104 - a pod serves its pod network

    def server_bind(self) -> None:
        socketserver.ThreadingTCPServer.server_bind(self)


def serve(port: int, answer: Handler, name: str) -> None:
    """Serve until SIGTERM or SIGINT, finishing what is in flight."""
    threading.stack_size(256 * 1024)
    server = Server(port, answer, name) if socket.has_dualstack_ipv6() else _Server4(port, answer, name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.end).start())
    print(f"listening on port {port}", file=sys.stderr, flush=True)
    with server:
        server.serve_forever(poll_interval=0.2)
