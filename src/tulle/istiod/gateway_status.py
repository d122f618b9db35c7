"""A waypoint Gateway's status as a pure function of what stands behind it (spec A5).

The Gateway has addresses only once its deployment has had a ready pod, because that is what makes bindings take effect: a namespace that
is labelled before the waypoint can serve must not lose its traffic. Once given, addresses stay while the Service exists, also when every
pod is down: a bound waypoint without endpoints fails closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tulle.istiod.index.waypoints import HBONE_PORT
from tulle.kube.objects import Condition, Deployment, Gateway, Listener, Service, now


@dataclass(frozen=True)
class Behind:
    """What exists for a Gateway now."""

    deployment: Deployment | None
    service: Service | None
    domain: str
    taken: tuple[str, ...] = ()
    """Kinds of which an object with the Gateway's name is somebody else's, so that the waypoint has none."""

    @property
    def ready(self) -> bool:
        return self.deployment is not None and self.deployment.status.ready_replicas > 0


def gateway_status(gateway: Gateway, behind: Behind) -> dict[str, Any]:
    """The status to apply. Conditions that did not change keep their transition time."""
    addresses = _addresses(gateway, behind)
    problems = [problem for problem in (_listener_problem(one) for one in gateway.spec.listeners) if problem]
    if len(gateway.spec.listeners) != 1:
        problems.append(f"a waypoint has exactly one listener, found {len(gateway.spec.listeners)}")
    generation = gateway.metadata.generation
    fresh = [
        _accepted(generation, problems),
        _programmed(gateway, behind, addresses),
        _condition("ResolvedRefs", True, "ResolvedRefs", "All references resolved", generation),
    ]
    return {
        **({"addresses": addresses} if addresses else {}),
        "conditions": merged(gateway.status.conditions, fresh),
        "listeners": [_listener_status(gateway, listener, bool(addresses)) for listener in gateway.spec.listeners],
    }


def _addresses(gateway: Gateway, behind: Behind) -> list[dict[str, str]]:
    service = behind.service
    if service is None or not (behind.ready or gateway.status.addresses):
        return []
    meta = service.metadata
    hostname = {"type": "Hostname", "value": f"{meta.name}.{meta.namespace}.svc.{behind.domain}"}
    ip = service.spec.cluster_ip
    return [{"type": "IPAddress", "value": ip}, hostname] if ip and ip != "None" else [hostname]


def _accepted(generation: int, problems: list[str]) -> dict[str, Any]:
    message = "Resource accepted"
    if problems:
        return _condition("Accepted", True, "ListenersNotValid", f"{message}; {'; '.join(problems)}", generation)
    return _condition("Accepted", True, "Accepted", message, generation)


def _programmed(gateway: Gateway, behind: Behind, addresses: list[dict[str, str]]) -> dict[str, Any]:
    generation = gateway.metadata.generation
    if behind.taken:
        name = f"{gateway.metadata.namespace}/{gateway.metadata.name}"
        message = f"{' and '.join(behind.taken)} {name} exists and is not the waypoint's: delete it, or give the Gateway another name"
        return _condition("Programmed", False, "AddressNotUsable", message, generation)
    if addresses and behind.service is not None:
        hostname = addresses[-1]["value"]
        message = f"Resource programmed, assigned to service(s) {hostname}:{HBONE_PORT}"
        return _condition("Programmed", True, "Programmed", message, generation)
    if behind.service is None:
        return _condition(
            "Programmed", False, "AddressNotUsable", "The waypoint's Service does not exist yet", generation
        )
    message = "Waiting for the first ready pod of the waypoint's Deployment"
    return _condition("Programmed", False, "AddressNotAssigned", message, generation)


def _listener_problem(listener: Listener) -> str:
    if listener.protocol != "HBONE":
        return f"listener {listener.name!r}: protocol {listener.protocol!r} is not supported, use HBONE"
    if listener.port != HBONE_PORT:
        return f"listener {listener.name!r}: port {listener.port} is not supported, use {HBONE_PORT}"
    return ""


def _listener_status(gateway: Gateway, listener: Listener, programmed: bool) -> dict[str, Any]:
    generation = gateway.metadata.generation
    problem = _listener_problem(listener)
    reason = "UnsupportedProtocol" if listener.protocol != "HBONE" else "PortUnavailable"
    fresh = [
        _condition(
            "Accepted", not problem, reason if problem else "Accepted", problem or "No errors found", generation
        ),
        _condition("Conflicted", False, "NoConflicts", "No errors found", generation),
        _condition(
            "Programmed",
            programmed and not problem,
            "Programmed" if programmed and not problem else "Invalid" if problem else "Pending",
            problem or ("No errors found" if programmed else "Waiting for the waypoint's first ready pod"),
            generation,
        ),
        _condition("ResolvedRefs", True, "ResolvedRefs", "No errors found", generation),
    ]
    known = next((one.conditions for one in gateway.status.listeners if one.name == listener.name), ())
    return {
        "name": listener.name,
        "attachedRoutes": 0,
        "supportedKinds": [] if problem else [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}],
        "conditions": merged(known, fresh),
    }


def class_status(generation: int, known: tuple[Condition, ...]) -> dict[str, Any]:
    """The status of a GatewayClass that this controller serves."""
    fresh = _condition("Accepted", True, "Accepted", "Handled by the mesh's waypoint controller", generation)
    return {"conditions": merged(known, [fresh])}


def _condition(kind: str, status: bool, reason: str, message: str, generation: int) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if status else "False",
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }


def merged(known: Iterable[Condition], fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fresh conditions with their transition times: the known one's while `status` stays, else now."""
    before = {condition.type: condition for condition in known}
    result = []
    for condition in fresh:
        old = before.get(condition["type"])
        kept = old.last_transition_time if old is not None and old.status == condition["status"] else ""
        result.append({**condition, "lastTransitionTime": kept or now()})
    return result


def differs(known: Iterable[Condition], fresh: Iterable[dict[str, Any]]) -> bool:
    """Whether writing the fresh conditions would say anything new."""
    before = {one.type: (one.status, one.reason, one.message, one.observed_generation) for one in known}
    after = {
        one["type"]: (one["status"], one["reason"], one["message"], one.get("observedGeneration", 0)) for one in fresh
    }
    return before != after
