"""The downward API: what a pod is told about itself, in environment variables and files (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tulle.cluster.node.pods import quantity
from tulle.cluster.node.pods.spec import Container, Pod, ResourceFieldRef

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class UnknownFieldError(ValueError):
    """A field path that the downward API does not have."""


@dataclass(frozen=True)
class PodFacts:
    """What only the node knows about a pod."""

    ip: str
    node_name: str
    node_ip: str
    allocatable: Mapping[str, str]


def field(pod: Pod, facts: PodFacts, path: str) -> str:
    """The value of a fieldRef. Raises UnknownFieldError."""
    match = _SUBSCRIPT.fullmatch(path)
    if match is not None:
        source = pod.metadata.labels if match[1] == "labels" else pod.metadata.annotations
        return source.get(match[2], "")
    values = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "metadata.labels": _pairs(pod.metadata.labels),
        "metadata.annotations": _pairs(pod.metadata.annotations),
        "spec.nodeName": facts.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.hostIP": facts.node_ip,
        "status.hostIPs": facts.node_ip,
        "status.podIP": facts.ip,
        "status.podIPs": facts.ip,
    }
    if path not in values:
        raise UnknownFieldError(f"fieldRef.fieldPath {path!r} is not supported; accepted are {', '.join(values)}")
    return values[path]


def _pairs(values: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(values.items()))


def resource(pod: Pod, container: Container | None, facts: PodFacts, reference: ResourceFieldRef) -> str:
    """The value of a resourceFieldRef; a limit that is not set is what the node can give. Raises UnknownFieldError."""
    subject = pod.container(reference.container_name) if reference.container_name else container
    kind, _, name = reference.resource.partition(".")
    if subject is None or kind not in {"limits", "requests"}:
        raise UnknownFieldError(
            f"resourceFieldRef {reference.resource!r} of container {reference.container_name!r} does not exist"
        )
    limits, requests = subject.resources.limits, subject.resources.requests
    fallback = facts.allocatable.get(name, "0") if kind == "limits" else limits.get(name, "0")
    value = (limits if kind == "limits" else requests).get(name, fallback)
    return str(quantity.rounded_up(value, reference.divisor))
