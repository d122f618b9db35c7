"""Istio's own analyzers, as far as they concern an ambient mesh (spec F)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tulle.cli.analyze.messages import Message
from tulle.cli.explain.documents import Document, Key
from tulle.cli.explain.world import World
from tulle.cni.enrolment import AMBIENT, DATAPLANE_MODE, SIDECAR_STATUS
from tulle.istiod.index import labels as names
from tulle.istiod.index.protocols import protocol_of
from tulle.istiod.index.records import Protocol
from tulle.istiod.index.state import WorkloadState
from tulle.security.admission import validate
from tulle.security.model import labels_match

INJECTION, REVISION = "istio-injection", "istio.io/rev"
SYSTEM = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})
POLICIES = ("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication")
BUNDLE = "gateway.networking.k8s.io/bundle-version"
OLDEST_BUNDLE = (1, 1)
"""The Gateway API release from which all kinds in use here are served as v1."""


def spec(document: Document) -> Mapping[str, Any]:
    found = document.manifest.get("spec")
    return found if isinstance(found, Mapping) else {}


def _labels(document: Document) -> Mapping[str, str]:
    return (document.manifest.get("metadata") or {}).get("labels") or {}


def _annotations(document: Document) -> Mapping[str, str]:
    return (document.manifest.get("metadata") or {}).get("annotations") or {}


def schema(world: World) -> Iterator[Message]:
    """IST0106: what admission would refuse."""
    for kind in POLICIES:
        for document in world.of(kind):
            for error in validate(document.manifest, world.settings.root_namespace).errors:
                yield Message("IST0106", document.key, f"Schema validation error: {error}")


def referenced_namespaces(world: World) -> Iterator[Message]:
    """IST0101: namespaces in an AuthorizationPolicy that do not exist."""
    known = {document.key.name for document in world.of("Namespace")}
    for policy in world.index.policies.values():
        named = (
            value
            for rule in policy.rules
            for source in rule.sources
            for value in (*source.namespaces, *source.not_namespaces)
        )
        for value in dict.fromkeys(named):
            if "*" not in value and value not in known:
                text = f'Referenced namespace not found: "{value}"'
                yield Message("IST0101", Key("AuthorizationPolicy", policy.meta.namespace, policy.meta.name), text)


def injection(world: World) -> Iterator[Message]:
    """IST0102, IST0103, IST0123: which data plane a namespace asks for, and whether it asks for two."""
    for document in world.of("Namespace"):
        labels, name = _labels(document), document.key.name
        ambient = labels.get(DATAPLANE_MODE) == AMBIENT
        injected = labels.get(INJECTION) == "enabled" or REVISION in labels
        both = [label for label in (INJECTION, REVISION) if label in labels and labels[label] != "disabled"]
        if len(both) > 1 or (ambient and both):
            listed = ", ".join([*both, DATAPLANE_MODE] if ambient else both)
            yield Message(
                "IST0123", document.key, f"The namespace has more than one enrolment label: {listed}; one of them wins"
            )
        if injected and not ambient:
            yield from _missing_proxies(world, name)
        quiet = name in SYSTEM or name == world.settings.root_namespace or INJECTION in labels
        if not injected and not ambient and not quiet and any(world.of("Pod", name)):
            text = (
                f"The namespace is not enabled for Istio injection, nor for ambient mode. Run 'kubectl label namespace {name} "
                f"{DATAPLANE_MODE}={AMBIENT}' to bring it into the mesh, or '{INJECTION}=disabled' to mark it as not needing it."
            )
            yield Message("IST0102", document.key, text)


def _missing_proxies(world: World, namespace: str) -> Iterator[Message]:
    for pod in world.of("Pod", namespace):
        opted_out = _labels(pod).get("sidecar.istio.io/inject") == "false"
        if SIDECAR_STATUS not in _annotations(pod) and not opted_out and _labels(pod).get(DATAPLANE_MODE) != AMBIENT:
            yield Message("IST0103", pod.key, "The pod is missing the Istio proxy; restarting it injects one.")


def port_names(world: World) -> Iterator[Message]:
    """IST0118, for Services of the mesh's namespaces."""
    for document in world.of("Service"):
        if world.labels("Namespace", "", document.key.namespace).get(DATAPLANE_MODE) != AMBIENT:
            continue
        for port in spec(document).get("ports") or ():
            name, protocol = str(port.get("name") or ""), str(port.get("appProtocol") or "")
            if port.get("protocol", "TCP") == "TCP" and protocol_of(name, protocol) is Protocol.UNKNOWN:
                text = (
                    f"Port name {name} (port: {port.get('port')}, targetPort: {port.get('targetPort', port.get('port'))}) doesn't follow "
                    "the naming convention of Istio port."
                )
                yield Message("IST0118", document.key, text)


def captured(state: WorkloadState) -> bool:
    """Whether a proxy stands before a workload."""
    return state.record.hbone


def no_workloads(world: World) -> Iterator[Message]:
    """IST0127: a selector that finds no pod of the mesh. In ambient mode the redirection annotation is what counts."""
    root = world.settings.root_namespace
    for policy in world.index.policies.values():
        if policy.selector and not _selected(world, policy.meta.namespace, dict(policy.selector), root):
            labels = ", ".join(f"{key}={value}" for key, value in policy.selector)
            text = f"No matching workloads for this resource with the following labels: {labels}"
            yield Message("IST0127", Key("AuthorizationPolicy", policy.meta.namespace, policy.meta.name), text)


def _selected(world: World, namespace: str, selector: Mapping[str, str], root: str) -> list[WorkloadState]:
    found = world.index.tables.selected(None if namespace == root else namespace, selector)
    return [state for uid in found if (state := world.index.workloads.get(uid)) is not None and captured(state)]


def service_entries(world: World) -> Iterator[Message]:
    """IST0134: a TCP host without an address cannot be told from others."""
    for document in world.of("ServiceEntry"):
        allocated = (document.manifest.get("status") or {}).get("addresses")
        if spec(document).get("addresses") or allocated:
            continue
        for port in spec(document).get("ports") or ():
            if str(port.get("protocol") or "TCP").upper() in ("TCP", "MONGO", "MYSQL", "REDIS"):
                yield Message("IST0134", document.key, "ServiceEntry addresses are required for this protocol.")
                break


_CLAIM = re.compile(r"@request\.auth\.claims")


def claim_routing(world: World) -> Iterator[Message]:
    """IST0149: routing by claims that nobody verifies."""
    for kind in ("VirtualService", "HTTPRoute"):
        for document in world.of(kind):
            claims = sorted(set(_claim_names(spec(document))))
            near = {document.key.namespace, world.settings.root_namespace}
            if claims and not any(one.key.namespace in near for one in world.of("RequestAuthentication")):
                text = f"The {kind} uses the JWT claim based routing (key: {', '.join(claims)}) but found no request authentication."
                yield Message("IST0149", document.key, text)


def _claim_names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and _CLAIM.match(key):
                yield key
            if key == "name" and isinstance(item, str) and _CLAIM.match(item):
                yield item
            yield from _claim_names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _claim_names(item)


def gateway_selectors(world: World) -> Iterator[Message]:
    """IST0166: a selector that aims at a Gateway's own pods."""
    for kind in ("AuthorizationPolicy", "RequestAuthentication"):
        for document in world.of(kind):
            selector = (spec(document).get("selector") or {}).get("matchLabels") or {}
            if not selector or not all(isinstance(value, str) for value in selector.values()):
                continue
            pairs = tuple(sorted(selector.items()))
            gateways = {
                state.record.labels[names.GATEWAY_NAME]
                for state in world.index.workloads.values()
                if state.record.namespace == document.key.namespace
                and names.GATEWAY_NAME in state.record.labels
                and labels_match(pairs, state.record.labels)
            } | ({selector[names.GATEWAY_NAME]} if names.GATEWAY_NAME in selector else set())
            for name in sorted(gateways):
                text = f"Ineffective selector on Kubernetes Gateway {document.key.namespace}/{name}. Use the TargetRef field instead."
                yield Message("IST0166", document.key, text)


def ineffective(world: World) -> Iterator[Message]:
    """IST0167: objects that apply to nothing, whatever else there is."""
    root = world.settings.root_namespace
    for peer in world.index.peer_authentications.values():
        if peer.meta.namespace == root and peer.selector:
            text = (
                f"The PeerAuthentication has no impact: a selector in the root namespace {root} applies to no workload"
            )
            yield Message("IST0167", Key("PeerAuthentication", peer.meta.namespace, peer.meta.name), text)
    for policy in world.index.policies.values():
        if policy.selector == ():
            text = "The AuthorizationPolicy has no impact: a selector without labels is attached to no workload; leave it out for all"
            yield Message("IST0167", Key("AuthorizationPolicy", policy.meta.namespace, policy.meta.name), text)
    for document in world.of("RequestAuthentication"):
        if not spec(document).get("targetRef") and not spec(document).get("targetRefs"):
            text = "The RequestAuthentication has no impact in ambient mode: ztunnel reads no tokens; attach it to a waypoint by targetRefs"
            yield Message("IST0167", document.key, text)


def jwks(world: World) -> Iterator[Message]:
    """IST0175: keys fetched from wherever the object says."""
    for document in world.of("RequestAuthentication"):
        for rule in spec(document).get("jwtRules") or ():
            uri = rule.get("jwksUri") or rule.get("jwks_uri") if isinstance(rule, Mapping) else None
            if uri and not rule.get("jwks"):
                text = f"jwksUri {uri} makes the mesh fetch from wherever its author says; give jwks inline, or limit istiod's reach"
                yield Message("IST0175", document.key, text)


def gateway_api(world: World) -> Iterator[Message]:
    """IST0176: custom resources of the Gateway API that are too old."""
    for document in world.of("CustomResourceDefinition"):
        version = _annotations(document).get(BUNDLE, "")
        found = re.match(r"v(\d+)\.(\d+)", version)
        if found and (int(found[1]), int(found[2])) < OLDEST_BUNDLE:
            oldest = ".".join(map(str, OLDEST_BUNDLE))
            text = f"The Gateway API CRD version {version} is lower than the minimum version: v{oldest}.0"
            yield Message("IST0176", document.key, text)
