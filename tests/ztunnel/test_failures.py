"""What goes on when something fails: istiod, its authority, the node agent, Envoy, or the proxy itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .conftest import needs_root
from .live import ENDED, live
from .mesh import VIP, describe, hello
from .node import Node, lab_of

pytestmark = [needs_root, pytest.mark.asyncio(loop_scope="module")]

URL = f"http://{VIP}:5000/x"


@pytest_asyncio.fixture(loop_scope="module")
async def bare(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose proxy the test starts itself."""
    with lab_of("tk-zf", "10.244.76", "hello-1", "hello-2", "test-1", "web-1", "out-1") as lab:
        node = await Node.start(tmp_path, lab)
        describe(node)
        try:
            yield node
        finally:
            await node.stop()


def envoy_pid(node: Node) -> int:
    """The one child of the proxy's process."""
    assert node.process is not None
    children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
    (envoy,) = [int(pid) for pid in children if "envoy" in Path(f"/proc/{pid}/cmdline").read_text()]
    return envoy


async def test_everything_goes_away_and_comes_back(bare: Node) -> None:
    bare.start_proxy()
    await bare.pods("hello-1", "test-1")
    assert (await bare.ready())[0] == 200
    assert (await bare.curl("test-1", URL)).out.startswith("hello-1")

    await bare.istiod.stop()
    assert await bare.many(10, "test-1", URL) == {0: 10}

    os.kill(envoy_pid(bare), signal.SIGKILL)
    await bare.eventually(lambda: _serves(bare))
    assert await bare.many(10, "test-1", URL) == {0: 10}

    bare.agent.hang_up()
    await asyncio.sleep(0.3)
    assert await bare.many(10, "test-1", URL) == {0: 10}
    await bare.agent.accept()
    assert await bare.agent.keep("uid-hello-1") == ""
    assert "not known" in await bare.agent.keep("uid-nobody")
    assert await bare.agent.add("uid-test-1", "test-1", "test", bare.lab.pods["test-1"].path) == ""
    assert await bare.agent.snapshot_sent() == ""
    assert await bare.many(10, "test-1", URL) == {0: 10}

    await bare.istiod.start()
    bare.istiod.policy("hello", "nobody", "ALLOW", scope="NAMESPACE")
    await bare.eventually(lambda: _fails(bare))
    assert await bare.stop_proxy() == 0


async def _serves(node: Node) -> bool:
    return (await node.curl("test-1", URL, timeout=2)).code == 0


async def _fails(node: Node) -> bool:
    return (await node.curl("test-1", URL, timeout=2)).code == 56


async def test_no_certificate_no_traffic(bare: Node) -> None:
    bare.istiod.signing = False
    bare.start_proxy()
    await bare.pods("hello-1", "test-1")
    assert (await bare.curl("test-1", URL, timeout=3)).code != 0
    assert (await bare.curl("out-1", f"http://{bare.lab.pods['hello-1'].ip}:5000/x")).code == 0
    bare.istiod.signing = True
    await bare.eventually(lambda: _serves(bare), seconds=30)
    assert await bare.stop_proxy() == 0


async def test_an_identity_without_certificate_is_refused_and_not_left_hanging(bare: Node) -> None:
    bare.start_proxy()
    await bare.pods("hello-1", "test-1")
    bare.istiod.signing = False
    assert await bare.hand_over("web-1") == ""
    assert (await bare.curl("web-1", URL, timeout=30)).code == 56
    assert (await bare.curl("test-1", URL)).code == 0, "others are not concerned"
    await bare.istiod.stop()
    bare.istiod.signing = True
    await bare.istiod.start()

    async def serves() -> bool:
        return (await bare.curl("web-1", URL, timeout=2)).code == 0

    await bare.eventually(serves, seconds=30)
    assert await bare.stop_proxy() == 0


async def test_certificates_are_renewed_on_both_sides(bare: Node) -> None:
    """With certificates of ten seconds, connections made after the first ones ended still verify."""
    bare.start_proxy(SECRET_TTL="10s")
    await bare.pods("hello-1", "hello-2", "test-1")
    assert (await bare.curl("test-1", URL)).code == 0
    await bare.eventually(lambda: _signed(bare, 3), seconds=30)
    second = f"http://{bare.lab.pods['hello-2'].ip}:5000/x"
    assert (await bare.curl("test-1", second)).code == 0, "a connection that was not there before"
    (answer,) = await bare.tunnels(
        "out-1",
        bare.lab.pods["hello-1"].ip,
        "spiffe://cluster.local/ns/test/sa/default",
        {"authority": f"{bare.lab.pods['hello-1'].ip}:5000"},
    )
    assert answer["status"] == 200
    assert await bare.stop_proxy() == 0


async def _signed(node: Node, times: int) -> bool:
    """Every identity has been signed that often: the first certificates have ended."""
    return all(node.istiod.signed.count(identity) >= times for identity in set(node.istiod.signed))


async def test_a_pod_that_went_and_one_that_got_its_address(bare: Node) -> None:
    """The same address is first one identity, then nobody, then another one."""
    bare.start_proxy()
    await bare.pods("hello-1", "test-1")
    target = f"http://{bare.lab.pods['hello-1'].ip}:5000/x"
    for _ in range(2):
        assert (await bare.curl("test-1", target)).code == 0
        bare.istiod.remove("Kubernetes//Pod/hello/hello-1")
        await bare.settled()
        assert (await bare.curl("test-1", target, timeout=1)).code != 0
        hello(bare, service_account="impostor")
        await bare.settled()
        assert await bare.many(5, "test-1", target) == {56: 5}
        hello(bare)
        await bare.settled()
    assert (await bare.curl("test-1", target)).code == 0
    assert await bare.stop_proxy() == 0


async def test_pods_come_and_go_without_disturbing_others(bare: Node) -> None:
    bare.start_proxy()
    await bare.pods("hello-1", "test-1")
    script = (
        "import socket,time\n"
        f"s=socket.create_connection(({VIP!r},2500)); s.recv(100)\n"
        "for _ in range(60):\n"
        " s.sendall(b'x'); assert s.recv(1)==b'x'; time.sleep(.05)\n"
        "print('fine')"
    )
    command = bare.lab.pods["test-1"].argv("python3", "-c", script)
    live = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    for _ in range(3):
        assert await bare.hand_over("web-1") == ""
        assert (await bare.curl("web-1", URL)).code == 0
        assert await bare.agent.delete("uid-web-1") == ""
        bare.lab.pods["web-1"].release()
        assert (await bare.curl("web-1", f"http://{bare.lab.pods['hello-1'].ip}:5000/x")).code == 0
    out, _ = await live.communicate()
    assert out.strip() == b"fine"

    bare.agent.hang_up()
    await bare.agent.accept()
    assert await bare.agent.keep("uid-test-1") == ""
    assert await bare.agent.snapshot_sent() == ""
    gone = f"http://{bare.lab.pods['hello-1'].ip}:5000/x"
    assert (await bare.curl("out-1", gone, timeout=2)).code == 7, "nobody listens where hello-1's traffic is redirected"
    assert await bare.stop_proxy() == 0


async def test_pod_without_a_record_is_closed(bare: Node) -> None:
    bare.istiod.remove("Kubernetes//Pod/hello/hello-1")
    bare.start_proxy()
    await bare.pods("hello-1", "test-1")
    target = f"http://{bare.lab.pods['hello-1'].ip}:5000/x"
    assert await bare.many(10, "out-1", target) == {56: 10}
    request = {"authority": f"{bare.lab.pods['hello-1'].ip}:5000"}
    answers = await bare.tunnels(
        "out-1", bare.lab.pods["hello-1"].ip, "spiffe://cluster.local/ns/test/sa/default", request
    )
    assert answers[0]["status"] == 503
    hello(bare)
    await bare.settled()
    assert (await bare.curl("test-1", URL)).code == 0
    assert await bare.stop_proxy() == 0


async def test_envoy_does_not_outlive_the_proxy(bare: Node) -> None:
    bare.start_proxy()
    await bare.pods("test-1")
    envoy = envoy_pid(bare)
    await bare.stop_proxy(signal.SIGKILL)

    async def gone() -> bool:
        return not await asyncio.to_thread(Path(f"/proc/{envoy}").exists)

    await bare.eventually(gone)


async def test_ready_only_with_everything(bare: Node) -> None:
    await bare.istiod.stop()
    bare.start_proxy()

    async def answers() -> tuple[int, str] | None:
        try:
            return await bare.ready()
        except OSError:
            return None

    status, text = await bare.eventually(answers)
    assert status == 500
    assert "istiod" in text
    await bare.istiod.start()
    await bare.agent.accept()
    status, text = await bare.ready()
    assert (status, "node agent" in text) == (500, True)
    await bare.agent.snapshot_sent()
    assert await bare.ready() == (200, "ready\n")
    assert await bare.stop_proxy() == 0


async def test_open_connections_outlive_a_proxy_that_drains(bare: Node) -> None:
    bare.start_proxy(CONNECTION_TERMINATION_DEADLINE="60s")
    await bare.pods("hello-1", "test-1")
    async with live(bare, "test-1") as tunnel:
        ending = asyncio.create_task(bare.stop_proxy())
        await bare.eventually(lambda: _takes_nothing_new(bare), seconds=30)
        assert await tunnel.goes_on()
        assert not ending.done()
    assert await ending == 0
    assert "connections are cut" not in bare.log.read_text()


async def _takes_nothing_new(node: Node) -> bool:
    return (await node.curl("test-1", URL, timeout=2)).code != 0


async def test_what_does_not_end_in_time_is_cut(bare: Node) -> None:
    bare.start_proxy(CONNECTION_TERMINATION_DEADLINE="1s")
    await bare.pods("hello-1", "test-1")
    async with live(bare, "test-1") as tunnel:
        assert await bare.stop_proxy() == 0
        assert await tunnel.ended() in ENDED
    assert "connections are cut" in bare.log.read_text()


async def test_an_app_that_is_not_to_see_its_clients(bare: Node) -> None:
    bare.start_proxy(ENABLE_ORIG_SRC="false")
    await bare.pods("hello-1", "test-1")
    server = bare.lab.pods["hello-1"].ip
    plain = f"http://{server}:5000/x"
    for client in ("test-1", "out-1"):
        assert (await bare.curl(client, plain)).out == f"hello-1 got GET /x HTTP/1.1 from {server}"
    bare.istiod.policy("hello", "nobody", "ALLOW", scope="NAMESPACE")
    await bare.eventually(lambda: _fails(bare))
    assert (await bare.curl("out-1", plain)).code == 56
    assert await bare.stop_proxy() == 0
