"""What a tunnel's request tells of the client and of what it wants (spec D3): for telemetry at the other end, never for policy.

It stands in the pod's outbound listener as text, and a listener that changes cuts connections in the end.  So a pod is described
once, when it is taken over; the record of a pod that has only just got its address comes later, and then its workload and
version stay untold until ztunnel is started again.
"""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote

from tulle.envoy.filter_state import literal
from tulle.envoy.network import Header
from tulle.ztunnel.config import names
from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.state.model import Locality, Workload

#: Kinds of workload that have a member of their own; whatever else there may be is told of as its pod.
_KINDS: Final = frozenset({"deployment", "cronjob", "job", "pod"})


def baggage(pod: LocalPod, record: Workload | None, cluster: str, place: Locality) -> str:
    """`place`: where the node is.  What is not known is left out."""
    known = record is not None and record.workload_name and record.workload_type in _KINDS
    kind, name = (record.workload_type, record.workload_name) if record is not None and known else ("pod", pod.name)
    members = {
        "k8s.cluster.name": cluster,
        "k8s.namespace.name": pod.namespace,
        f"k8s.{kind}.name": name,
        "service.name": record.canonical_name if record is not None else "",
        "service.version": record.canonical_revision if record is not None else "",
        "cloud.region": place.region,
        "cloud.availability_zone": place.zone,
    }
    return ",".join(f"{key}={quote(value, safe='')}" for key, value in members.items() if value)


def headers(pod: LocalPod, *, by_service: bool) -> tuple[Header, ...]:
    """Of the request for a tunnel; their values are format strings.  `by_service`: the destination is a service."""
    source = 'for="%DOWNSTREAM_REMOTE_ADDRESS%"'
    return (
        Header(names.REFUSAL_HEADER, names.REFUSAL_IN_TUNNEL),
        Header("baggage", literal(pod.baggage)),
        Header("forwarded", f"{source};host=%CLUSTER_METADATA(tulle:hostname)%" if by_service else source),
        Header("traceparent", _trace(pod)),
    )


def _trace(pod: LocalPod) -> str:
    """A trace of its own for each connection, not sampled: unique by the pod and the nanosecond, both in hexadecimal digits."""
    own = hashlib.sha256(pod.uid.encode()).hexdigest()
    return f"00-{own[:13]}%START_TIME(%s%9f)%-{own[13:20]}%START_TIME(%9f)%-00"
