"""One object that cannot be used is closed, and everything else goes on.

No schema lets these objects in that the mesh's own resources are installed with; other versions of them, and objects stored before, do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Change, Kind, Protocol, ServicePort
from tulle.istiod.informers import Informers
from tulle.istiod.source import MeshSource
from tulle.istiod.waypoint_config import names
from tulle.kube import resources as res
from tulle.kube.informer import Change as ObjectChange
from tulle.security.model import AuthorizationPolicy, Meta, MtlsMode, PeerAuthentication
from tulle.xds.proto import authorization_pb2, workload_pb2

from .test_mesh_index import POD, SERVICE, pod, service, waypoint
from .test_publish import TARGET, WAYPOINT, Mesh

ODD: Any = "odd"
"""What stands where no text may stand."""
OTHER = "Kubernetes//Pod/hello/q"


def another_pod() -> Change:
    """What has to go on."""
    changed = pod(uid=OTHER, name="q", addresses=("10.244.0.6",))
    return changed._replace(key=("", OTHER))


def sent(mesh: Mesh, uid: str) -> Any:
    entry = mesh.publisher.addresses.get(uid)
    return workload_pb2.Address.FromString(entry.body()).workload if entry is not None else None


@pytest.mark.parametrize("field", [{"network": []}, {"capacity": ODD}, {"addresses": ("x",)}])
def test_a_workload_that_cannot_be_used_is_none(field: dict[str, Any]) -> None:
    mesh = Mesh()
    mesh.apply(pod(**field), another_pod())
    assert sent(mesh, POD) is None
    assert sent(mesh, OTHER) is not None
    mesh.apply(pod())
    assert sent(mesh, POD) is not None


@pytest.mark.parametrize("field", [{"traffic_distribution": 5}, {"labels": {"istio.io/use-waypoint": ["w"]}}])
def test_a_service_that_cannot_be_used_stays_as_it_was(field: dict[str, Any]) -> None:
    mesh = Mesh()
    mesh.apply(service(**field), another_pod())
    entry = mesh.publisher.addresses.get("/".join(SERVICE))
    assert entry is not None
    assert workload_pb2.Address.FromString(entry.body()).service.HasField("waypoint")
    assert sent(mesh, OTHER) is not None


def test_a_gateway_that_cannot_be_used_stays_as_it_was() -> None:
    mesh = Mesh()
    (gateway,) = (one for one in waypoint() if one.kind is Kind.GATEWAY)
    odd = msgspec.structs.replace(gateway.record, addresses=((ODD, 5),))
    mesh.apply(gateway._replace(record=odd), another_pod())
    assert mesh.index.waypoints[WAYPOINT].ready
    assert sent(mesh, OTHER) is not None


@pytest.mark.parametrize(
    ("policy", "key", "scope"),
    [
        (AuthorizationPolicy(Meta("AuthorizationPolicy", "hello", "bad"), rules=(ODD,)), "hello/bad", "NAMESPACE"),
        (
            AuthorizationPolicy(Meta("AuthorizationPolicy", "hello", "bad"), selector=(("app", "x"),), rules=(ODD,)),
            "hello/bad",
            "WORKLOAD_SELECTOR",
        ),
    ],
)
def test_a_policy_that_cannot_be_used_denies_where_it_applies(
    policy: AuthorizationPolicy, key: str, scope: str
) -> None:
    mesh = Mesh()
    mesh.apply(Change(Kind.POLICY, ("hello", "bad"), policy), another_pod())
    entry = mesh.publisher.authorizations.get(key)
    assert entry is not None
    closed = authorization_pb2.Authorization.FromString(entry.body())
    assert (closed.action, len(closed.rules)) == (authorization_pb2.ALLOW, 0)
    assert closed.scope == authorization_pb2.Scope.Value(scope)
    assert sent(mesh, OTHER) is not None
    mesh.apply(Change(Kind.POLICY, ("hello", "bad"), None))
    assert mesh.publisher.authorizations.get(key) is None


def test_a_peer_authentication_that_cannot_be_used_is_strict() -> None:
    mesh = Mesh()
    odd = PeerAuthentication(Meta("PeerAuthentication", "hello", "bad"), (("app", "x"),), MtlsMode.PERMISSIVE, (ODD,))
    mesh.apply(Change(Kind.PEER_AUTHENTICATION, ("hello", "bad"), odd), another_pod())
    strict = PeerAuthentication(odd.meta, odd.selector, MtlsMode.STRICT)
    meant = Mesh(Change(Kind.PEER_AUTHENTICATION, ("hello", "bad"), strict), another_pod())
    assert mesh.index.workloads == meant.index.workloads
    assert mesh.index.ztunnel_policies == meant.index.ztunnel_policies != {}
    assert sent(mesh, OTHER) is not None


def test_a_target_that_cannot_be_configured_is_not_served_and_the_others_are() -> None:
    mesh = Mesh()
    other = service(name="t", hostname="t.hello.svc.cluster.local", addresses=("10.96.0.8",))
    mesh.apply(other._replace(key=("hello", "t.hello.svc.cluster.local")))
    mesh.apply(service(ports=(ServicePort("http", ODD, 0, Protocol.HTTP11),)))
    routes = mesh.publisher.waypoints.maps(WAYPOINT)[names.ROUTE_TYPE]
    assert "Service/hello/t|80" in routes
    assert TARGET not in routes


# --- objects that cannot be reduced to records


class _Informer:
    """Tells what it is told to."""

    def __init__(self, resource: Any) -> None:
        self.resource = resource
        self.store: dict[Any, Any] = {}
        self.tell: list[Callable[[Any], None]] = []

    def on_change(self, fn: Callable[[Any], None]) -> None:
        self.tell.append(fn)

    def put(self, namespace: str, name: str, old: Any, new: Any) -> None:
        for fn in self.tell:
            fn(ObjectChange((namespace, name), old, new))


class _Informers:
    def __init__(self) -> None:
        self.namespaces = _Informer(res.NAMESPACES)
        self.nodes = _Informer(res.NODES)
        self.pods = _Informer(res.PODS)
        self.services = _Informer(res.SERVICES)
        self.endpoint_slices = _Informer(res.ENDPOINT_SLICES)
        self.gateway_classes = _Informer(res.GATEWAY_CLASSES)
        self.gateways = _Informer(res.GATEWAYS)
        self.authorization_policies = _Informer(res.AUTHORIZATION_POLICIES)
        self.peer_authentications = _Informer(res.PEER_AUTHENTICATIONS)
        self.request_authentications = _Informer(res.REQUEST_AUTHENTICATIONS)
        self.service_entries = _Informer(res.SERVICE_ENTRIES)
        self.workload_entries = _Informer(res.WORKLOAD_ENTRIES)
        self.mesh_config = _Informer(res.CONFIG_MAPS)


def source() -> tuple[_Informers, MeshIndex]:
    informers: Any = _Informers()
    index = MeshIndex()
    MeshSource(_as_informers(informers), index, "cluster.local", lambda _: None)
    return informers, index


def _as_informers(fake: Any) -> Informers:
    found: Informers = fake
    return found


def entry(address: Any = "192.0.2.7", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "a", "name": "vm"}, "spec": {"address": address, **spec}}


ODD_ENTRIES = [{"metadata": {"namespace": "a", "name": "vm"}, "spec": "odd"}, entry(locality="r", ports=["80"])]


@pytest.mark.parametrize("odd", ODD_ENTRIES)
def test_a_workload_entry_that_cannot_be_read_is_none_until_it_can(odd: dict[str, Any]) -> None:
    informers, index = source()
    told = informers.workload_entries
    told.put("a", "vm", None, entry())
    index.flush()
    assert len(index.workloads) == 1
    told.put("a", "vm", entry(), odd)
    index.flush()
    assert not index.workloads
    told.put("a", "vm", odd, entry())
    index.flush()
    assert len(index.workloads) == 1
    told.put("a", "vm", entry(), None)
    index.flush()
    assert not index.workloads


def test_labels_of_an_entry_that_are_no_text_end_nothing() -> None:
    informers, index = source()
    informers.workload_entries.put("a", "vm", None, entry(labels={"app": ["x"], "b": {"c": 1}}))
    selecting = {"hosts": ["x"], "workloadSelector": {"labels": {"app": ["x"]}}}
    informers.service_entries.put("a", "x", None, {"metadata": {"namespace": "a", "name": "x"}, "spec": selecting})
    index.flush()
    assert len(index.workloads) == 1


def test_a_service_entry_that_cannot_be_read_stays_as_it_was() -> None:
    informers, index = source()
    good = {"metadata": {"namespace": "a", "name": "x"}, "spec": {"hosts": ["x.example"], "ports": []}}
    odd = {**good, "spec": {"hosts": ["x.example"], "ports": ["80"]}}
    informers.service_entries.put("a", "x", None, good)
    informers.service_entries.put("a", "x", good, odd)
    index.flush()
    assert ("a", "x.example") in index.services
    informers.service_entries.put("a", "x", odd, None)
    index.flush()
    assert not index.services
