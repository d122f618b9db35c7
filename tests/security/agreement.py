"""Three readings of one request must agree: the decision, ztunnel's own evaluation, and the emitted RBAC."""

from __future__ import annotations

from tulle.security.decision import Decision, Request
from tulle.security.envoy_match import PEER_PRINCIPAL, Inputs
from tulle.security.envoy_rbac import http_filters, tcp_filters
from tulle.security.paths import normalize
from tulle.security.policies import PolicySet
from tulle.security.ztunnel_eval import Connection, applicable, evaluate

from .rbac_reference import Seen, permits


def ztunnel_allows(policies: PolicySet, request: Request) -> bool:
    """What a ztunnel that got everything would say of the last hop."""
    via = request.waypoint if request.client is not None else None
    identity = request.client if via is None else via.identity
    names = policies.for_workload(request.workload)
    sent = policies.ztunnel_policies([request.workload])
    assert set(names) <= set(sent), "every name that a workload refers to must be sent"
    chosen = applicable(sent, request.workload.namespace, names)
    source = request.source_ip if via is None else request.waypoint_ip
    return evaluate(chosen, Connection(identity, source, request.destination_ip, request.port)).allowed


def rbac_allows(policies: PolicySet, request: Request, *, static_destination: bool = False) -> bool:
    """What Envoy would say with the filters that are emitted for the request's waypoint."""
    assert request.waypoint is not None
    assert request.client is not None
    if request.service is not None:
        enforced = policies.for_service(request.service, request.waypoint)
    else:
        enforced = policies.for_pod_ip(request.workload, request.waypoint)
    port = request.service_port or request.port
    address = request.service_ip or request.destination_ip
    inputs = Inputs(port=port, addresses=(address,)) if static_destination else Inputs()
    make = http_filters if request.http is not None else tcp_filters
    filters = make(enforced, policies.settings, inputs)
    seen = _seen(request, address, port, policies.settings.path_normalization)
    return all(permits(f["typed_config"], seen) for f in filters.named())


def _seen(request: Request, address: str, port: int, normalization: str) -> Seen:
    http = request.http
    headers: tuple[tuple[str, str], ...] = ()
    if http is not None:
        query = http.path.partition("?")[1:]
        target = "".join((normalize(http.path, normalization), *query))
        own = {":method": http.method, ":authority": http.host, ":path": target, ":scheme": "http"}
        headers = (*own.items(), *http.headers)
    assert request.client is not None
    return Seen(
        {PEER_PRINCIPAL: request.client.spiffe},
        request.source_ip,
        (http.remote_ip if http is not None else "") or request.source_ip,
        address,
        port,
        headers,
        http.claims if http is not None else None,
        request.sni,
        normalize(http.path, normalization) if http is not None else "",
    )


def check(policies: PolicySet, request: Request, decision: Decision) -> None:
    """Assert that the three readings agree on each hop that the decision took."""
    for hop in decision.hops:
        if "refuses TLS" in hop.reason:
            continue
        if hop.where.startswith("waypoint"):
            assert rbac_allows(policies, request) == hop.allowed, hop
            assert rbac_allows(policies, request, static_destination=True) == hop.allowed, hop
        else:
            assert ztunnel_allows(policies, request) == hop.allowed, hop
