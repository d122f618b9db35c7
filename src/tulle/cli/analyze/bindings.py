"""Waypoints that are asked for in vain, and STRICT in front of those who cannot do mTLS (TUL0001, TUL0011 to TUL0013)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from tulle.cli.analyze.messages import Message
from tulle.cli.explain import surroundings
from tulle.cli.explain.documents import Key
from tulle.cli.explain.world import World
from tulle.istiod.index import labels as names
from tulle.istiod.index.waypoints import Reason


def unknown_label(world: World) -> Iterator[Message]:
    """TUL0001: `istio.io/waypoint`, which is no label of Istio's (A4)."""
    for kind in ("Namespace", "Service", "Pod"):
        for document in world.of(kind):
            labels = world.labels(*document.key)
            if names.WAYPOINT_ALIAS not in labels:
                continue
            value = labels[names.WAYPOINT_ALIAS]
            if kind == "Namespace" and world.settings.waypoint_label_alias and value == "enabled":
                continue
            hint = (
                f"on a namespace, {names.WAYPOINT_ALIAS}=enabled counts"
                if world.settings.waypoint_label_alias
                else "it is ignored"
            )
            text = f"Unknown label {names.WAYPOINT_ALIAS}={value}: {hint}; the label that enrols is {names.USE_WAYPOINT}=<waypoint>"
            yield Message("TUL0001", document.key, text)


def not_bound(world: World) -> Iterator[Message]:
    """TUL0012: a waypoint that is asked for and not there; layer 7 policies are then not enforced at all (fails open, A4)."""
    for state in world.index.services.values():
        binding, record = state.binding, state.record
        if binding.reason not in (None, Reason.ACCEPTED):
            text = f"{binding.reason}: {binding.message}. Until then no layer 7 policy is enforced for it"
            yield Message("TUL0012", Key(record.kind, record.namespace, record.name), text)


def address_blocks(world: World) -> Iterator[Message]:
    """TUL0013: node proxies know a service by single addresses, so what goes to a block goes past it and its waypoint (as upstream)."""
    for state in world.index.services.values():
        record = state.record
        blocks = [one for one in record.addresses if "/" in one and ip_network(one, strict=False).num_addresses > 1]
        if blocks:
            text = (
                f"spec.addresses {', '.join(blocks)}: a block of addresses takes no part in the mesh, and connections to it pass no "
                "waypoint and meet none of its policies: list single addresses, or leave them out and connect by host name"
            )
            yield Message("TUL0013", Key(record.kind, record.namespace, record.name), text)


def webhooks(world: World) -> Iterator[Message]:
    """TUL0011: an admission webhook that the API server cannot reach, since it has no identity."""
    for name, service in surroundings.webhooks(world):
        for uid in world.index.tables.members_of(service):
            state = world.index.workloads.get(uid)
            if state is None or not state.record.hbone:
                continue
            view = world.index.view(state.record, state.services, state.binding)
            ports = next((one.ports for one in state.services if one.service == service), ())
            for port in ports:
                mode = world.index.policy_set.peer_authentications.effective(view, port.target_port)
                if mode.strict and mode.source is not None:
                    text = (
                        f"Pods of {service[1]} require mTLS on port {port.target_port}, but {name} is called by the API server, which "
                        "has no identity: its calls will fail. Except that port by portLevelMtls"
                    )
                    yield Message("TUL0011", Key(mode.source.kind, mode.source.namespace, mode.source.name), text)
            break
