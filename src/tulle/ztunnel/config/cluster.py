"""Writes a destination down as an Envoy cluster.

Each endpoint's host name is the authority to ask for in the tunnel, and each set of expected identities has a transport
of its own, so that every endpoint is verified as itself.  Endpoints without identities are reached through an internal
listener that ends the tunnel inside the same Envoy: the pod's listener always tunnels, and mixed services need no case.
"""

from __future__ import annotations

from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2

from tulle.envoy.clusters import Endpoint, fall_back_when_unreachable, static_cluster
from tulle.envoy.sockets import bind_in_connection_netns, internal_address, tcp_address
from tulle.envoy.tls import internal_upstream, mutual_client
from tulle.ztunnel.config.destination import Destination, Hop, Kind
from tulle.ztunnel.config.names import (
    EXPLAIN_FRONT_LISTENER,
    MARK,
    PLAIN_LISTENER,
    RESET_FRONT_LISTENER,
    Target,
)

_INSIDE: Final = "inside"


def cluster_of(target: Target, destination: Destination) -> cluster_pb2.Cluster:
    """The cluster named after `target`."""
    if destination.kind is Kind.REFUSE:
        front = EXPLAIN_FRONT_LISTENER if destination.explain else RESET_FRONT_LISTENER
        refusal = Endpoint(internal_address(front), target.where)
        return _cluster(target, destination, [[refusal]], {(): _INSIDE})
    labels = _labels(destination)
    priorities = [[_endpoint(hop, labels) for hop in group] for group in destination.priorities]
    if not destination.explain:
        return _cluster(target, destination, priorities, labels)
    answer = Endpoint(internal_address(EXPLAIN_FRONT_LISTENER), target.where, transport=labels[()])
    cluster = _cluster(target, destination, [*priorities, [answer]], labels)
    fall_back_when_unreachable(cluster)
    return cluster


def _labels(destination: Destination) -> dict[tuple[str, ...], str]:
    """A transport's label for each set of identities, the same in every version of the cluster."""
    sets = {hop.identities for group in destination.priorities for hop in group}
    if destination.explain:
        sets.add(())
    return {identities: ",".join(identities) or _INSIDE for identities in sorted(sets)}


def _endpoint(hop: Hop, labels: dict[tuple[str, ...], str]) -> Endpoint:
    inside = internal_address(PLAIN_LISTENER, endpoint_id=hop.authority)
    address = tcp_address(str(hop.address), hop.port) if hop.identities else inside
    facts = tuple((key, value) for key, value in (("workload", hop.workload), ("namespace", hop.namespace)) if value)
    return Endpoint(
        address, hop.authority, max(1, hop.weight), labels[hop.identities] if len(labels) > 1 else "", facts
    )


def _cluster(
    target: Target,
    destination: Destination,
    priorities: list[list[Endpoint]],
    labels: dict[tuple[str, ...], str],
) -> cluster_pb2.Cluster:
    transports: list[tuple[str, Any]] = [
        (label, mutual_client(identities) if identities else internal_upstream())
        for identities, label in labels.items()
    ]
    hostname = destination.service.partition("/")[2]
    facts = (("service", destination.service), ("hostname", hostname), ("reason", destination.reason))
    tunnels = any(labels_of for labels_of in labels)
    return static_cluster(
        target.cluster,
        priorities,
        transports=transports,
        http2=True,
        fragment=bind_in_connection_netns(MARK) if tunnels else None,
        metadata=tuple((key, value) for key, value in facts if value),
    )
