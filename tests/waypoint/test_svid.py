"""Whose certificate a waypoint believes: only a leaf with one clean identity of its trust domain."""

from __future__ import annotations

import os
import ssl

import pytest

from tests.support import hbone
from tests.support.minting import Shape, usage
from tests.waypoint.lab import HTTP, VIP, Mesh

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
MINTED = "spiffe://cluster.local/ns/test/sa/minted"


async def tunnel(mesh: Mesh, shape: Shape) -> int:
    """The status of a tunnel, 0 when the connection is refused."""
    forge = mesh.workloads.forge
    try:
        context = forge.mint(shape).client(forge.certificate)
        async with hbone.Client.connect(mesh.place.inside, 15008, context) as client:
            return (await client.tunnel(f"{VIP}:{HTTP}")).status
    except (ConnectionError, ssl.SSLError):
        return 0


async def test_a_leaf_is_believed(mesh: Mesh) -> None:
    await mesh.configure()
    assert await tunnel(mesh, Shape()) == 200


@pytest.mark.parametrize(
    "shape",
    [
        Shape(ca=True),
        Shape(key_usage=usage("digital_signature", "key_cert_sign")),
        Shape(key_usage=usage("digital_signature", "crl_sign")),
        Shape(uris=(MINTED, MINTED + "2")),
        Shape(uris=(MINTED + "?x=y",)),
        Shape(uris=("spiffe://other/ns/test/sa/minted",)),
    ],
    ids=["cA", "keyCertSign", "cRLSign", "two URIs", "a query", "another trust domain"],
)
async def test_who_is_not(mesh: Mesh, shape: Shape) -> None:
    assert await tunnel(mesh, shape) == 0
