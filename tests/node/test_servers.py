"""The sample images' servers: over real sockets where HTTP matters, as functions where it does not."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tulle.cluster.node.images.servers import helloworld, httpbin
from tulle.cluster.node.images.servers.http import Answer, Handler, Request, Server


def request(path: str, method: str = "GET", *headers: tuple[str, str], query: str = "", body: bytes = b"") -> Request:
    pairs = tuple(tuple(p.split("=")) for p in query.split("&") if p)
    return Request(method, path, path, pairs, (("Host", "h"), *headers), body, "10.0.0.1")  # type: ignore[arg-type]


def test_hello_says_who_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_VERSION", "v2")
    monkeypatch.setenv("HOSTNAME", "pod-1")
    assert helloworld.answer(request("/hello")).body == b"Hello version: v2, instance: pod-1\n"
    assert helloworld.answer(request("/hello", "HEAD")).status == 200
    assert helloworld.answer(request("/hello", "POST")).status == 405
    assert helloworld.answer(request("/health")).status == 200
    assert helloworld.answer(request("/")).status == 404


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("/status/418"), 418),
        (request("/status/x"), 400),
        (request("/status/999"), 400),
        (request("/post"), 405),
        (request("/post", "POST"), 200),
        (request("/nope"), 404),
        (request("/redirect/2"), 302),
        (request("/basic-auth/u/p"), 401),
        (request("/basic-auth/u/p", "GET", ("Authorization", "Basic dTpw")), 200),
        (request("/basic-auth/u/p", "GET", ("Authorization", "Basic %%%")), 401),
        (request("/"), 200),
    ],
)
def test_httpbin_statuses(asked: Request, status: int) -> None:
    assert httpbin.answer(asked).status == status


def test_httpbin_tells_what_it_got() -> None:
    asked = request(
        "/anything",
        "PUT",
        ("X-A", "1"),
        ("X-A", "2"),
        ("Content-Type", "application/json"),
        query="a=1&a=2",
        body=b'{"x": 1}',
    )
    told = json.loads(httpbin.answer(asked).body)
    assert told["args"] == {"a": ["1", "2"]}
    assert told["headers"]["X-A"] == "1,2"
    assert (told["json"], told["method"], told["origin"]) == ({"x": 1}, "PUT", "10.0.0.1")


@contextmanager
def served(answer: Handler) -> Iterator[int]:
    with Server(0, answer, "test") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.end()
            thread.join()


def talk(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        return received


def echo(asked: Request) -> Answer:
    return Answer(200, f"{asked.method} {asked.path} ".encode() + asked.body)


def test_a_connection_serves_many_requests() -> None:
    with served(echo) as port:
        answer = talk(
            port,
            b"GET /a%20b HTTP/1.1\r\nHost: x\r\n\r\n"
            b"POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz"
            b"POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            b"HEAD /e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            b"GET /never HTTP/1.1\r\n\r\n",
        )
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert b"GET /a b " in answer
    assert b"POST /c xyz" in answer
    assert b"POST /d hi" in answer
    assert b"Content-Length: 8\r\n\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70000 + b"\r\n\r\n", b"431"),
    ],
)
def test_bad_requests_are_refused(data: bytes, status: bytes) -> None:
    with served(echo) as port:
        assert talk(port, data).startswith(b"HTTP/1.1 " + status)


def test_a_body_is_announced() -> None:
    with served(echo) as port:
        answer = talk(port, b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_an_ending_server_answers_what_was_asked_and_ends_what_waits() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> Answer:
        if request.path == "/slow":
            asked.set()
            assert go_on.wait(30)
        return echo(request)

    with Server(0, slow, "test") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = ("127.0.0.1", server.server_address[1])
        with (
            socket.create_connection(address, timeout=30) as busy,
            socket.create_connection(address, timeout=30) as idle,
        ):
            idle.sendall(b"GET /a HTTP/1.1\r\n\r\n")
            assert b"Connection: keep-alive" in idle.recv(65536)
            busy.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
            assert asked.wait(30)
            server.end()
            thread.join()
            assert idle.recv(1) == b""
            go_on.set()
            assert b"Connection: close" in busy.recv(65536)
            assert busy.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
