"""Counting a probe's answers, asking once, and the deadline of a graceful end."""

import asyncio

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.node.pods import pod
from tulle.cluster.node.pods import requests
from tulle.cluster.node.pods.probes import Callbacks, Kind, Prober, Verdict
from tulle.cluster.node.pods.spec import GRPC, HTTPGet, Probe, TCPSocket
from tulle.cluster.node.pods.stopping import Deadline, signal_number


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.booleans(), max_size=30))
def test_a_verdict_follows_the_last_run_of_equal_answers(good: int, bad: int, answers: list[bool]) -> None:
    verdict = Verdict(good, bad)
    value: bool | None = None
    for index, answer in enumerate(answers):
        changed = verdict.note(answer)
        tail = answers[: index + 1]
        needed = good if answer else bad
        decided = len(tail) >= needed and all(a == answer for a in tail[-needed:])
        assert changed == (decided and value != answer)
        value = answer if decided else value
        assert verdict.value == value


async def _probe(container: dict[str, object], answers: list[str]) -> list[str]:
    """What the prober reports for a series of answers; the series ends it."""
    told: list[str] = []
    done = asyncio.Event()

    async def ask(kind: Kind, _probe: Probe) -> str:
        if not answers:
            done.set()
            await asyncio.Event().wait()
        return answers.pop(0)

    prober = Prober(
        pod({"name": "c", **container}).spec.containers[0],
        Callbacks(
            ask=ask,
            started=lambda: told.append("started"),
            ready=lambda good: told.append(f"ready={good}"),
            failed=lambda kind, _probe, _text: (told.append(f"{kind} failed"), done.set())[0],
            unhealthy=lambda kind, text: told.append(f"{kind}: {text}"),
        ),
    )
    prober.start()
    if not {"startupProbe", "readinessProbe", "livenessProbe"} & set(container):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    else:
        await done.wait()
    prober.stop()
    return told


FAST = {"exec": {"command": ["x"]}, "periodSeconds": 0}


async def test_without_probes_a_container_is_ready_when_it_runs() -> None:
    assert await _probe({}, []) == ["started", "ready=True"]


async def test_readiness_goes_both_ways() -> None:
    told = await _probe({"readinessProbe": {**FAST, "failureThreshold": 2}}, ["", "no", "no", ""])
    assert told == ["started", "ready=True", "Readiness: no", "Readiness: no", "ready=False", "ready=True"]


async def test_the_startup_probe_holds_the_others_back() -> None:
    told = await _probe({"startupProbe": FAST, "readinessProbe": FAST}, ["not yet", "", ""])
    assert told == ["Startup: not yet", "started", "ready=True"]


async def test_a_startup_probe_that_fails_ends_the_container() -> None:
    assert (await _probe({"startupProbe": {**FAST, "failureThreshold": 1}}, ["no"]))[-1] == "Startup failed"


async def test_liveness_fails_after_its_threshold() -> None:
    told = await _probe({"livenessProbe": {**FAST, "failureThreshold": 2}}, ["no", "", "no", "no"])
    assert told[-1] == "Liveness failed"
    assert told.count("Liveness failed") == 1


CONTAINER = pod({"name": "c", "ports": [{"name": "web", "containerPort": 1}]}).spec.containers[0]


async def test_http_requests(unused_tcp_port: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.headers["User-Agent"].startswith("kube-probe/")
        return web.Response(status=int(request.path.strip("/")), text="why")

    app = web.Application()
    app.router.add_get("/{code}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        for good in ("/200", "/302"):
            await requests.http_get(CONTAINER, HTTPGet(port=unused_tcp_port, path=good), "127.0.0.1", 5)
        with pytest.raises(requests.RequestError, match=r"HTTP probe failed with statuscode: 503 \(why\)"):
            await requests.http_get(CONTAINER, HTTPGet(port=unused_tcp_port, path="/503"), "127.0.0.1", 5)
        await requests.tcp_connect(CONTAINER, TCPSocket(port=unused_tcp_port), "127.0.0.1", 5)
    finally:
        await runner.cleanup()


async def test_a_closed_port_is_told_as_such(unused_tcp_port: int) -> None:
    with pytest.raises(requests.RequestError, match="connect: connection refused"):
        await requests.http_get(CONTAINER, HTTPGet(port=unused_tcp_port), "127.0.0.1", 5)
    with pytest.raises(requests.RequestError, match="connect: connection refused"):
        await requests.tcp_connect(CONTAINER, TCPSocket(port=unused_tcp_port), "127.0.0.1", 5)
    with pytest.raises(requests.RequestError, match="no port named 'nope'"):
        await requests.tcp_connect(CONTAINER, TCPSocket(port="nope"), "127.0.0.1", 5)
    with pytest.raises(requests.RequestError, match="health rpc failed: UNAVAILABLE"):
        await requests.grpc_health(GRPC(port=unused_tcp_port), "127.0.0.1", 5)


async def test_a_grpc_server_is_asked_for_its_health(unused_tcp_port: int) -> None:
    import grpc

    async def check(request: bytes, _context: object) -> bytes:
        return b"\x08\x01" if request == b"\x0a\x02ok" else b"\x08\x02"

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{unused_tcp_port}")
    await server.start()
    try:
        await requests.grpc_health(GRPC(port=unused_tcp_port, service="ok"), "127.0.0.1", 5)
        with pytest.raises(requests.RequestError, match="service unhealthy"):
            await requests.grpc_health(GRPC(port=unused_tcp_port), "127.0.0.1", 5)
    finally:
        await server.stop(None)


async def test_a_deadline_can_only_come_sooner() -> None:
    deadline = Deadline(1000)
    event = asyncio.Event()
    waiting = asyncio.create_task(deadline.wait_for(event))
    await asyncio.sleep(0)
    deadline.shorten(2000)
    assert 900 < deadline.left <= 1000
    deadline.shorten(0)
    assert await waiting is False
    event.set()
    assert await deadline.wait_for(event) is True


@pytest.mark.parametrize(("name", "number"), [("SIGTERM", 15), ("QUIT", 3), ("9", 9), ("SIGNOPE", 15)])
def test_signals(name: str, number: int) -> None:
    assert signal_number(name) == number
