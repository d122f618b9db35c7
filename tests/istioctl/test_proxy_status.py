"""`istioctl proxy-status`: istiod's page, from what a stream has acknowledged to the table."""

from __future__ import annotations

import msgspec
import pytest
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import status_pb2

from tests.istioctl import golden
from tulle.cli.console import CommandError
from tulle.cli.proxy_status import parse, table
from tulle.istiod.debug import syncz
from tulle.xds import types
from tulle.xds.delta import Push, ServerStream
from tulle.xds.resources import ResourceMap
from tulle.xds.server import ClientNode, Connection, Peer

ZTUNNEL = ClientNode(
    "ztunnel~10.0.0.1~ztunnel-a.istio-system~istio-system.svc.cluster.local",
    {"CLUSTER_ID": "Kubernetes", "NODE_NAME": "n1", "ISTIO_VERSION": "9.8", "SECRET": "x"},
    Peer("spiffe://cluster.local/ns/istio-system/sa/ztunnel"),
)
WAYPOINT = ClientNode("waypoint~10.0.0.2~waypoint-b.hello~hello.svc.cluster.local", {"ISTIO_VERSION": "9.9"})


def connection(node: ClientNode, *type_urls: str) -> tuple[Connection, ServerStream, ResourceMap]:
    """An open stream on which the client has asked for these types, and been answered."""
    resources = ResourceMap(type_urls[0])
    resources.set("r", StringValue(value="x"))
    maps = {type_urls[0]: resources}
    stream = ServerStream(maps.get, lambda: None)
    made = Connection("ipv4:10.0.0.1:5", lambda _source, _work: stream, node, stream)
    for type_url in type_urls:
        stream.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url))
    return made, stream, resources


def acknowledge(stream: ServerStream) -> None:
    for push in list(stream.pushes()):
        stream.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=push.type_url, response_nonce=push.nonce))


def refuse(stream: ServerStream, push: Push) -> None:
    error = status_pb2.Status(message="no")
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=push.type_url, response_nonce=push.nonce, error_detail=error)
    stream.receive(request)


def page(*connections: Connection) -> bytes:
    return msgspec.json.encode(syncz(connections))


def states(found: Connection) -> dict[str, str]:
    (proxy,) = parse(page(found), "istiod-1")
    return dict(proxy.types)


def test_every_state_of_a_type() -> None:
    made, stream, resources = connection(ZTUNNEL, types.ADDRESS)
    assert states(made) == {"WDS": "NOT_SENT"}
    pushed = list(stream.pushes())
    assert states(made) == {"WDS": "STALE"}
    stream.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=types.ADDRESS, response_nonce=pushed[0].nonce))
    assert states(made) == {"WDS": "SYNCED"}
    resources.set("r", StringValue(value="y"))
    (again,) = stream.pushes()
    assert states(made) == {"WDS": "STALE"}
    refuse(stream, again)
    assert states(made) == {"WDS": "ERROR"}
    assert b"no" in page(made)


def test_the_page_tells_what_tools_need_and_no_more() -> None:
    node, stream, _ = connection(ZTUNNEL, types.ADDRESS)
    acknowledge(stream)
    assert msgspec.json.decode(page(node)) == [
        {
            "cluster_id": "Kubernetes",
            "proxy": "ztunnel-a.istio-system",
            "proxy_type": "ztunnel",
            "istio_version": "9.8",
            "resources": {types.ADDRESS: {"sent": "1", "acked": "1"}},
        }
    ]


def test_what_envoys_use_stands_in_fields_of_its_own_too() -> None:
    waypoint, stream, _ = connection(WAYPOINT, types.CLUSTER, types.EXTENSION)
    (_, second) = list(stream.pushes())
    refuse(stream, second)
    (status,) = msgspec.json.decode(page(waypoint))
    assert (status["cluster_sent"], status.get("cluster_acked")) == ("1", None)
    assert (status["extensionconfig_sent"], status.get("extensionconfig_acked")) == ("2", None)
    assert status["resources"][types.EXTENSION] == {"sent": "2", "lastError": "no"}


def test_one_namespace() -> None:
    both = [connection(node, types.ADDRESS)[0] for node in (WAYPOINT, ZTUNNEL)]
    assert [one["proxy"] for one in syncz(both, "hello")] == ["waypoint-b.hello"]


def test_a_client_that_has_not_said_who_it_is_is_left_out() -> None:
    assert syncz([Connection("ipv4:10.0.0.9:1", lambda _s, _w: None)]) == []  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("verbose", [True, False])
def test_tables(verbose: bool) -> None:
    node, node_stream, _ = connection(ZTUNNEL, types.ADDRESS, types.AUTHORIZATION)
    acknowledge(node_stream)
    waypoint, waypoint_stream, _ = connection(WAYPOINT, types.CLUSTER, types.LISTENER, types.ROUTES)
    acknowledge(waypoint_stream)
    golden.matches(
        f"proxy-status{'-verbose' * verbose}", table(parse(page(waypoint, node), "istiod-1"), verbose=verbose)
    )


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'[{"proxy": "a.b"}]', b'[{"proxy": "a.b", "resources": []}]'])
def test_what_is_no_page(text: bytes) -> None:
    with pytest.raises(CommandError, match="/debug/syncz of istiod i is not understood"):
        parse(text, "i")


def test_an_unknown_type_is_shown_as_it_is_named() -> None:
    document = {"proxy": "x.y", "resources": {"type.googleapis.com/a.B": {"sent": "1", "acked": "1"}}}
    (proxy,) = parse(msgspec.json.encode([document]), "i")
    assert (proxy.name, dict(proxy.types)) == ("x.y", {"a.B": "SYNCED"})
    assert "1 (a.B)" in table((proxy,), verbose=False)
