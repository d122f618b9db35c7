"""The way into another network, as WDS tells it: which Gateway is one, and by what it is found."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tulle.kube.objects import Gateway
from tulle.xds.proto import workload_pb2 as pb

from .wds_world import Mesh, address, pod

FAR = {"topology.istio.io/network": "far"}


def way_in(
    *addresses: tuple[str, str], name: str = "way-in", labels: Any = FAR, protocol: str = "HBONE", **spec: Any
) -> Any:
    listener = {"name": "x", "port": 15008, "protocol": protocol}
    found = [{"type": kind, "value": value} for kind, value in addresses]
    body = {
        "metadata": {"namespace": "edge", "name": name, "labels": labels},
        "spec": {"gatewayClassName": "istio-east-west", "listeners": [listener], **spec},
        "status": {"addresses": found},
    }
    return msgspec.convert(body, Gateway)


FAR_BY_ADDRESS = pb.GatewayAddress(
    address=pb.NetworkAddress(network="far", address=address("192.0.2.1")), hbone_mtls_port=15008
)
FAR_BY_NAME = pb.GatewayAddress(
    hostname=pb.NamespacedHostname(namespace="edge", hostname="in.example"), hbone_mtls_port=15008
)
IN_FAR = pod({"labels": FAR})
ADDRESS = ("IPAddress", "192.0.2.1")


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([IN_FAR, way_in(ADDRESS)], FAR_BY_ADDRESS),
        ([IN_FAR, way_in(("Hostname", "in.example"))], FAR_BY_NAME),
        ([IN_FAR, way_in(ADDRESS, name="a"), way_in(("Hostname", "in.example"), name="b")], FAR_BY_ADDRESS),
        ([IN_FAR, way_in(gatewayClassName="istio-remote", addresses=[{"value": "192.0.2.1"}])], FAR_BY_ADDRESS),
        ([pod(), way_in(ADDRESS)], None),
        ([IN_FAR, way_in(ADDRESS, labels={})], None),
        ([IN_FAR, way_in(ADDRESS, protocol="TLS")], None),
        ([IN_FAR, way_in(ADDRESS, gatewayClassName="istio-waypoint")], None),
        ([IN_FAR, way_in(("IPAddress", "nonsense"))], None),
        ([IN_FAR, way_in()], None),
    ],
)
def test_the_way_into_another_network(objects: Any, expected: Any) -> None:
    for order in (objects, objects[::-1]):
        found = Mesh.of(*order).workload()
        assert (found.network_gateway if found.HasField("network_gateway") else None) == expected
