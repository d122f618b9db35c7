"""Revoked certificates: their holders are refused on both sides, what they have open is closed, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.revoking import revocation_list
from tulle.ztunnel.traffic.revoked import SETTLE_SECONDS

from .conftest import needs_root
from .mesh import VIP
from .node import Node
from .test_open_connections import ENDED, _counted, _line, live

pytestmark = [needs_root, pytest.mark.asyncio(loop_scope="package")]

MINTED = "spiffe://cluster.local/ns/test/sa/minted"
SERVER = "spiffe://cluster.local/ns/out/sa/default"


def serial_of(files: dict[str, str]) -> int:
    return x509.load_pem_x509_certificate(Path(files["cert"]).read_bytes()).serial_number


async def revoke(node: Node, *serials: int) -> None:
    """Hand out lists of both authorities, and wait until Envoy has them and idle tunnels have been closed: one that is about to be
    made in that moment is closed too, before it can be refused."""
    istiod = node.istiod
    node.crl_path.write_text(revocation_list(istiod.root) + revocation_list(istiod.signer, *serials))
    seen = node.log.read_text().count("revocations_changed")

    async def taken() -> bool:
        return node.log.read_text().count("revocations_changed") > seen

    await node.eventually(taken)
    await asyncio.sleep(SETTLE_SECONDS + 0.3)


async def certificate(node: Node, identity: str) -> int:
    """The serial number of the certificate that a local identity has now."""
    for one in (await node.admin("/config_dump"))["certificates"]:
        if one["identity"] == identity and one["certChain"]:
            return int(one["certChain"][0]["serialNumber"])
    return 0


@contextlib.asynccontextmanager
async def server(node: Node, files: dict[str, str]) -> AsyncIterator[None]:
    """A workload on another node: out-1 takes tunnels itself."""
    where = node.lab.pods["out-1"]
    what = {"mode": "server", "host": where.ip, "port": 15008, "backend": [where.ip, 2500], **files}
    command: Sequence[str] = where.argv(sys.executable, "-m", "tests.ztunnel.peer", json.dumps(what))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"listening\n"
        node.istiod.workload("out-1", "out", where.ip, node="node2")
        await node.settled()
        yield
    finally:
        process.kill()
        await process.communicate()


async def test_a_revoked_client_is_refused_and_others_are_not(fresh: Node) -> None:
    host = fresh.lab.pods["hello-1"].ip
    asked = {"authority": f"{host}:5000"}
    revoked, other = fresh.identity_files(MINTED), fresh.identity_files(MINTED + "-2")
    assert [await fresh.tunnels("out-1", host, who, asked) for who in (revoked, other)]
    await revoke(fresh, serial_of(revoked))
    (refused,) = await fresh.tunnels("out-1", host, revoked, asked)
    assert "status" not in refused
    (accepted,) = await fresh.tunnels("out-1", host, other, asked)
    assert accepted["status"] == 200
    line = await fresh.eventually(lambda: _line(fresh, "certificate_revoked"))
    assert (line["direction"], line["level"]) == ("inbound", "warn")
    await fresh.eventually(
        lambda: _counted(fresh, "istio_tcp_connections_failed_total", 'response_flags="CERT_REVOKED"')
    )
    assert await _counted(fresh, "istio_crl_policy_rejections_total", 'reporter="destination"')


async def test_a_revoked_server_is_refused_and_what_is_open_to_it_is_closed(fresh: Node) -> None:
    files = fresh.identity_files(SERVER)
    host = fresh.lab.pods["out-1"].ip
    async with server(fresh, files), live(fresh, "test-1", host=host) as to_it, live(fresh, "web-1") as to_another:
        assert await to_it.goes_on()
        await revoke(fresh, serial_of(files))
        assert await to_it.ended() in ENDED
        assert await to_another.goes_on()
        assert (await fresh.curl("test-1", f"http://{host}:5000/")).code != 0
    await fresh.eventually(lambda: _counted(fresh, "istio_crl_policy_rejections_total", 'reporter="source"'))
    await fresh.eventually(lambda: _line(fresh, "closed: the peer's certificate is revoked"))
    fresh.istiod.remove("Kubernetes//Pod/out/out-1")


async def test_a_local_workload_whose_certificate_is_revoked_gets_another(fresh: Node) -> None:
    identity = "spiffe://cluster.local/ns/test/sa/default"
    before = await certificate(fresh, identity)
    async with live(fresh, "test-1") as of_it, live(fresh, "web-1") as of_another:
        await revoke(fresh, before)
        assert await of_it.ended() in ENDED
        assert await of_another.goes_on()
    assert await certificate(fresh, identity) not in (0, before)
    assert (await fresh.curl("test-1", f"http://{VIP}:5000/")).code == 0


async def test_lists_that_cannot_be_read_leave_the_former_ones_in_force(fresh: Node) -> None:
    host = fresh.lab.pods["hello-1"].ip
    files, asked = fresh.identity_files(MINTED), {"authority": f"{host}:5000"}
    await revoke(fresh, serial_of(files))
    fresh.crl_path.write_text("what is this?")

    async def told() -> bool:
        return "revocations_unreadable" in fresh.log.read_text()

    await fresh.eventually(told)
    assert "status" not in (await fresh.tunnels("out-1", host, files, asked))[0]
    fresh.crl_path.write_text("")

    async def believed() -> bool:
        return "status" in (await fresh.tunnels("out-1", host, files, asked))[0]

    await fresh.eventually(believed)
