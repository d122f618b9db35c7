"""The way a request takes through the mesh (D2, D4, D5): past a waypoint or not, over HBONE or in plaintext, to which pods.

A way may end before any policy is asked: no endpoint, a waypoint without proxies, a client that is captured but not yet served. Such an
end is a `Stop`, with what the client sees.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tulle.cli.explain.places import Client, Endpoint, Sort, Target, Via, declared_http
from tulle.cli.explain.world import World
from tulle.cni import enrolment as capture
from tulle.istiod.index import labels as names
from tulle.istiod.index.state import WorkloadState
from tulle.istiod.index.waypoints import UNBOUND, Binding, Waypoint
from tulle.istiod.waypoint_targets import service_endpoints
from tulle.security.request import HttpRequest, Request


@dataclass(frozen=True)
class Ask:
    """A question, as typed. It is resolved anew in every world that it is put to. `now` (Unix seconds) is for the token's expiry,
    `authorizers` are assumed answers of external authorizers.
    """

    client: str
    namespace: str
    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    token: str = ""
    now: float = 0.0
    authorizers: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True)
class Leg:
    """The way to one endpoint. `request` is what the policy engine is asked."""

    endpoint: Endpoint
    request: Request
    binding: Binding
    waypoint: Waypoint | None

    @property
    def hbone(self) -> bool:
        """Whether the last hop is mTLS: the pod has a ztunnel, and who speaks to it has an identity."""
        return self.endpoint.state.record.hbone and (self.request.client is not None or self.waypoint is not None)


@dataclass(frozen=True)
class Stop:
    """Why no request gets anywhere: `code` as in `Seen`, the reason, and what to look at."""

    code: str
    reason: str
    look: str = ""


@dataclass(frozen=True)
class Way:
    """Everything about the way but its verdicts. `detour` says why a waypoint is on it, or why not."""

    client: Client
    target: Target
    legs: tuple[Leg, ...]
    detour: str = ""
    stop: Stop | None = None

    @property
    def waypoint(self) -> Waypoint | None:
        return self.legs[0].waypoint if self.legs else None


def way(world: World, client: Client, target: Target, ask: Ask, claims: Mapping[str, Any] | None) -> Way:
    """Lay the way out. `claims` are those of a token that the waypoint accepts."""
    binding = binding_of(target, target.endpoints[0] if target.endpoints else None)
    through = _through(world, client, target, binding)
    if through is not None:
        target = replace(target, endpoints=_dialled(world, target))
    legs = tuple(_leg(world, client, target, endpoint, ask, claims) for endpoint in target.endpoints)
    return Way(client, target, legs, _detour(client, target, binding, through), _stop(world, client, target, through))


def binding_of(target: Target, endpoint: Endpoint | None) -> Binding:
    """The binding that counts for traffic to the target: the Service's for its address, else the pod's own."""
    if target.via is Via.SERVICE and target.service is not None:
        return target.service.binding
    return endpoint.state.binding if endpoint is not None else UNBOUND


def _dialled(world: World, target: Target) -> tuple[Endpoint, ...]:
    """The endpoints that a waypoint uses: not each that there is can be reached from it."""
    if target.via is not Via.SERVICE or target.service is None:
        return target.endpoints
    views = service_endpoints(world.index, target.service.record.key).get(target.port, ())
    used = {view.uid for view in views}
    return tuple(endpoint for endpoint in target.endpoints if endpoint.state.record.uid in used)


def _through(world: World, client: Client, target: Target, binding: Binding) -> Waypoint | None:
    if binding.waypoint is None or not client.in_mesh:
        return None
    if client.sort in (Sort.GATEWAY, Sort.SIDECAR) and not binding.ingress:
        return None
    if client.pod is not None and client.pod.record.namespace == binding.waypoint.namespace:
        own = client.pod.record.labels.get(names.GATEWAY_NAME)
        if own == binding.waypoint.name:
            return None
    return binding.waypoint


def _detour(client: Client, target: Target, binding: Binding, through: Waypoint | None) -> str:
    if through is not None:
        return binding.message
    if binding.waypoint is None:
        return binding.message
    name = f"{binding.waypoint.namespace}/{binding.waypoint.name}"
    if client.sort in (Sort.GATEWAY, Sort.SIDECAR):
        return f"waypoint {name} is skipped: {client.what}, {client.sort.value}, goes to the pod directly"
    if not client.in_mesh:
        return f"waypoint {name} is skipped: only clients of the mesh are sent through it"
    return f"waypoint {name} is the client itself"


def _leg(
    world: World, client: Client, target: Target, endpoint: Endpoint, ask: Ask, claims: Mapping[str, Any] | None
) -> Leg:
    index, record = world.index, endpoint.state.record
    binding = binding_of(target, endpoint)
    waypoint = _through(world, client, target, binding)
    by_service = target.via is Via.SERVICE and target.service is not None
    http = target.http if by_service else declared_http(endpoint.state, endpoint.port)
    # What is addressed to a pod is read where it looks like HTTP, whatever its Services declare (D4).
    read = http or target.undeclared or not by_service
    request = Request(
        client=client.identity,
        workload=index.view(record, endpoint.state.services, endpoint.state.binding),
        port=endpoint.port,
        source_ip=client.address,
        destination_ip=record.addresses[0] if record.addresses else "",
        service=index.service_view(target.service.record.key) if by_service and target.service else None,
        service_port=target.port if by_service else 0,
        service_ip=next(iter(target.service.record.addresses), "") if by_service and target.service else "",
        waypoint=index.waypoint_view(waypoint) if waypoint else None,
        waypoint_ip=_address(waypoint_pods(world, waypoint)) if waypoint else "",
        http=_http(target, ask, claims) if target.scheme == "http" and (waypoint is None or read) else None,
        http_declared=http,
        captured=_enforced(world, endpoint.state),
    )
    return Leg(endpoint, request, binding, waypoint)


def _http(target: Target, ask: Ask, claims: Mapping[str, Any] | None) -> HttpRequest:
    given = next((value for name, value in ask.headers if name.lower() == "host"), "")
    name = f"[{target.host}]" if ":" in target.host else target.host
    host = given or (name if target.port == 80 else f"{name}:{target.port}")
    headers = tuple((name, value) for name, value in ask.headers if name.lower() != "host")
    return HttpRequest(ask.method, target.path, host, headers, claims, _forwarded(headers))


def _forwarded(headers: tuple[tuple[str, str], ...]) -> str:
    """The address that a waypoint takes for the remote one: the last of X-Forwarded-For, "" for the peer's (C3)."""
    given = [value for name, value in headers if name.lower() == "x-forwarded-for"]
    last = given[-1].rpartition(",")[2].strip() if given else ""
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return ""


def _enforced(world: World, state: WorkloadState) -> bool:
    """Whether a ztunnel (or the workload's own proxy) sees what comes in."""
    meta = (world.manifest("Pod", state.record.namespace, state.record.name) or {}).get("metadata") or {}
    return state.record.hbone and capture.redirection(meta.get("annotations") or {}, dns_capture=False).inbound


def waypoint_pods(world: World, waypoint: Waypoint) -> tuple[WorkloadState, ...]:
    """The pods of a waypoint's proxy."""
    uids = world.index.tables.selected(waypoint.namespace, {names.GATEWAY_NAME: waypoint.name})
    return tuple(world.index.workloads[uid] for uid in sorted(uids) if uid in world.index.workloads)


def _address(pods: tuple[WorkloadState, ...]) -> str:
    return next((address for pod in pods for address in pod.record.addresses), "")


# --- ends before any policy


_NOWHERE: Mapping[tuple[bool, bool], str] = {
    (False, False): "unresolved",
    (False, True): "unresolved",
    (True, False): "refused",
    (True, True): "closed",
}
"""What becomes of an address that leads nowhere: whether its Service is there, whether the client is in the mesh."""


def _stop(world: World, client: Client, target: Target, through: Waypoint | None) -> Stop | None:
    if client.sort is Sort.PENDING:
        reason = f"{client.what} is redirected, but no ztunnel has taken it over yet, so its traffic goes nowhere"
        return Stop("refused", reason, f"kubectl get pods -n {world.settings.root_namespace} -l app=ztunnel -o wide")
    if target.problem:
        return Stop(_NOWHERE[target.service is not None, client.in_mesh], target.problem)
    if through is not None and world.live:
        pods = waypoint_pods(world, through)
        if not any(pod.record.ready for pod in pods):
            name = f"{through.namespace}/{through.name}"
            return Stop(
                "closed",
                f"waypoint {name} is bound, but none of its {len(pods)} pods is ready; a bound waypoint fails closed",
                f"kubectl get pods -n {through.namespace} -l {names.GATEWAY_NAME}={through.name}",
            )
    if target.service is not None and not target.endpoints and target.via is not Via.EXTERNAL:
        return _no_endpoint(world, client, target, through)
    return _not_served(world, client, target)


_MISSING: Mapping[str, tuple[str, str]] = {
    "Service": (
        "no pod that runs is selected by it",
        "kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={name}",
    ),
    "ServiceEntry": (
        "it has none that a waypoint can connect to (with resolution NONE it has none; a waypoint looks no wildcards up, "
        "speaks HBONE to addresses only, and does not enter other networks)",
        "kubectl get serviceentry -n {namespace} {name} -o yaml",
    ),
}
"""By kind: why there is no endpoint, and where to look."""


def _no_endpoint(world: World, client: Client, target: Target, through: Waypoint | None) -> Stop | None:
    record = target.service.record if target.service else None
    if record is None or (record.kind == "ServiceEntry" and not target.waiting and through is None):
        return None
    waiting = ", ".join(f"{one.record.namespace}/{one.record.name}" for one in target.waiting)
    why, look = _MISSING[record.kind]
    why = f"its pods are not ready: {waiting}" if waiting else why
    explained = world.settings.explain_refusals and target.http
    code = "503" if target.http and (through is not None or explained) else "closed"
    look = look.format(namespace=record.namespace, name=record.name)
    code = code if client.in_mesh else "refused"
    return Stop(code, f"{target.what} has no ready endpoint: {why}", look)


def _not_served(world: World, client: Client, target: Target) -> Stop | None:
    """Live only: nobody holds the certificates that mTLS needs (D9)."""
    if not world.live or not client.in_mesh or client.pod is None or client.sort is not Sort.MESH:
        return None
    root = world.settings.root_namespace
    node = client.pod.record.node
    here = [one for one in _pods_of(world, root, "ztunnel") if one.record.node == node]
    if here and not any(one.record.ready for one in here):
        reason = (
            f"ztunnel on node {node} is not ready, so {client.what} has nobody to hold its certificate and open mTLS"
        )
        return Stop("closed", reason, f"kubectl logs -n {root} {here[0].record.name}")
    return None


def _pods_of(world: World, namespace: str, app: str) -> tuple[WorkloadState, ...]:
    uids = world.index.tables.selected(namespace, {"app": app})
    return tuple(world.index.workloads[uid] for uid in sorted(uids) if uid in world.index.workloads)


def control_plane(world: World) -> tuple[WorkloadState, ...]:
    """istiod's pods."""
    return _pods_of(world, world.settings.root_namespace, "istiod")
