"""What istioctl is told over xDS, and that nobody learns of another namespace's proxies."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2
from google.protobuf.message import Message

from tulle.istiod.debug import PageError, proxy_id
from tulle.istiod.debug_pages import config_dump
from tulle.istiod.inspection import CONFIG_DUMP, CONNECT, CONNECTIONS, SYNCZ, Inspection, control_plane
from tulle.xds import types
from tulle.xds.delta import ServerStream
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AccessDenied, ClientNode, Connection, Peer
from tulle.xds.sotw import SotwStream


def node(pod: str, namespace: str) -> ClientNode:
    peer = Peer(f"spiffe://cluster.local/ns/{namespace}/sa/x", {"namespace": namespace})
    name = f"waypoint~10.0.0.1~{pod}.{namespace}~{namespace}.svc.cluster.local"
    # What it claims is another namespace, which must mean nothing.
    return ClientNode(name, {"NAMESPACE": "istio-system", "CLUSTER_ID": "Kubernetes", "TOKEN": "x"}, peer)


def proxy(pod: str, namespace: str) -> Connection:
    """A connected proxy that has taken its one listener."""
    listeners = ResourceMap(types.LISTENER)
    listeners.set("main", listener_pb2.Listener(name="main"))
    stream = ServerStream({types.LISTENER: listeners}.get, lambda: None)
    stream.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=types.LISTENER))
    for push in list(stream.pushes()):
        stream.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=push.type_url, response_nonce=push.nonce))
    return Connection("ipv4:10.0.0.1:5", lambda _source, _work: stream, node(pod, namespace), stream)


PROXIES = (proxy("a", "shop"), proxy("b", "bank"))


def ask(caller: ClientNode, type_url: str, *names: str) -> discovery_pb2.DiscoveryResponse:
    """One request in the form that istioctl speaks, and its answer."""
    inspection = Inspection("istio-system", lambda: PROXIES)
    stream = SotwStream.make(lambda url: inspection(caller, url), lambda: None)
    stream.receive(discovery_pb2.DiscoveryRequest(type_url=type_url, resource_names=names))
    (push,) = stream.pushes()
    return discovery_pb2.DiscoveryResponse.FromString(push.encode(control_plane("istiod-0")))


def unpack(answer: discovery_pb2.DiscoveryResponse, kind: type[Message]) -> Iterable[Message]:
    for resource in answer.resources:
        message = kind()
        assert resource.Unpack(message), resource.type_url
        yield message


@pytest.mark.parametrize(
    ("namespace", "seen"),
    [("istio-system", ["a.shop", "b.bank"]), ("shop", ["a.shop"]), ("other", [])],
)
def test_proxy_status(namespace: str, seen: list[str]) -> None:
    answer = ask(node("debug", namespace), SYNCZ)
    found = list(unpack(answer, csds_pb2.ClientConfig))
    assert [one.node.id for one in found] == seen  # type: ignore[attr-defined]
    for one in found:
        assert dict(one.node.metadata) == {"CLUSTER_ID": "Kubernetes"}  # type: ignore[attr-defined]
        (listeners,) = one.generic_xds_configs  # type: ignore[attr-defined]
        assert (listeners.type_url, listeners.config_status) == (types.LISTENER, csds_pb2.SYNCED)


def test_who_answers_is_what_istioctl_parses() -> None:
    said = json.loads(ask(node("debug", "istio-system"), SYNCZ).control_plane.identifier)
    assert (said["Component"], said["ID"], set(said["Info"])) >= ("istiod", "istiod-0", {"version", "revision"})


@pytest.mark.parametrize("type_url", [CONNECT, CONNECTIONS])
def test_version_reads_the_nodes(type_url: str) -> None:
    (found,) = unpack(ask(node("debug", "shop"), type_url), base_pb2.Node)
    assert proxy_id(ClientNode(found.id, {})) == "a.shop"  # type: ignore[attr-defined]


def test_config_dump_of_one_proxy() -> None:
    (found,) = unpack(ask(node("debug", "shop"), CONFIG_DUMP, "a.shop"), config_dump_shared_pb2.ListenersConfigDump)
    (listener,) = found.dynamic_listeners  # type: ignore[attr-defined]
    assert listener.name == "main"
    assert not ask(node("debug", "shop"), CONFIG_DUMP, "b.bank").resources


def test_who_has_proved_nothing_is_told_nothing() -> None:
    inspection = Inspection("istio-system", lambda: PROXIES)
    for caller in (ClientNode("x", {"NAMESPACE": "istio-system"}), ClientNode("x", {}, Peer("spiffe://x"))):
        with pytest.raises(AccessDenied):
            inspection(caller, SYNCZ)


def test_config_dump_page() -> None:
    inspection = Inspection("istio-system", lambda: PROXIES)
    for name in ("b.bank", "waypoint~10.0.0.1~b.bank~bank.svc.cluster.local"):
        (found,) = config_dump(inspection, {"proxyID": name})["configs"]
        assert found["@type"] == "type.googleapis.com/envoy.admin.v3.ListenersConfigDump"
        assert [one["name"] for one in found["dynamicListeners"]] == ["main"]
    for query, status in (({}, 400), ({"proxyID": "c.shop"}, 404)):
        with pytest.raises(PageError, match="/debug/syncz") as caught:
            config_dump(inspection, query)
        assert caught.value.status == status
