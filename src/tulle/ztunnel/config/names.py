"""Names of resources, and the constants of the wire that more than one module needs."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from tulle.ztunnel.policy.terms import Address

OUTBOUND_PORT: Final = 15001
PLAINTEXT_PORT: Final = 15006
HBONE_PORT: Final = 15008
#: Where a pod's refused plaintext connections are reset (Istio keeps this port for its proxies).
SINK_PORT: Final = 15004
#: Ports that are never a target (spec D1).
OWN_PORTS: Final = (OUTBOUND_PORT, PLAINTEXT_PORT, HBONE_PORT, SINK_PORT)
#: A pod's listeners by kind.  Only a pod that sees the addresses of plaintext clients has a sink of its own.
OUTBOUND, PLAINTEXT, HBONE, SINK = "outbound", "plaintext", "hbone", "sink"
#: SO_MARK of the proxy's own sockets, which redirect rules leave alone (spec A3).
MARK: Final = 0x539

#: Request header of a peer that can take a refusal inside the tunnel, and its value.
REFUSAL_HEADER: Final = "x-tulle-refusal"
REFUSAL_IN_TUNNEL: Final = "in-tunnel"
#: Headers that the receiving side sets itself, before routing, from the connection.
PRINCIPAL_HEADER: Final = "x-tulle-principal"
SOURCE_HEADER: Final = "x-tulle-source"
#: Filter state: why a connection is refused.
REFUSAL_REASON: Final = "tulle.refusal.reason"
#: Filter state: who the peer of a connection into an app tunnel is.
TUNNEL_PEER: Final = "tulle.tunnel.peer"
#: Filter state: all that tells two connections into app tunnels apart, so that none is given another's.
TUNNEL_KEY: Final = "tulle.tunnel.key"
#: Type of the TLV of a PROXY header that says who the peer is (spec D10).
PEER_TLV: Final = 0xD0
#: The explanation of a connection for which there is nobody to connect to.
NO_ENDPOINT: Final = "no endpoint can be reached and proves its identity; the log of the client's ztunnel says why"

#: Clusters that all pods share.
APP_BY_AUTHORITY: Final = "shared/app-by-authority"
ORIGINAL_DESTINATION: Final = "shared/original-destination"
APP_TUNNEL: Final = "shared/app-tunnel"
APP_AFTER_HEADER: Final = "shared/app-after-header"
RESET: Final = "shared/reset"
RESET_TCP: Final = "shared/reset-tcp"
RESET_IN_POD: Final = "shared/reset-in-pod"
EXPLAIN: Final = "shared/explain"
#: Internal listeners that all pods share.
PLAIN_LISTENER: Final = "shared/plain"
APP_TUNNEL_LISTENER: Final = "shared/app-tunnel"
RESET_LISTENER: Final = "shared/reset"
RESET_FRONT_LISTENER: Final = "shared/reset-front"
RESET_SINK_LISTENER: Final = "shared/reset-sink"
EXPLAIN_LISTENER: Final = "shared/explain"
EXPLAIN_FRONT_LISTENER: Final = "shared/explain-front"

_SERVICE: Final = "service"
_DIRECT: Final = "direct"


def listener(pod_uid: str, kind: str) -> str:
    """Name of a pod's listener of that kind."""
    return f"pod/{pod_uid}/{kind}"


def routes(pod_uid: str) -> str:
    """Name of a pod's route table for HBONE."""
    return f"pod/{pod_uid}/inbound"


def client_secret(identity: str) -> str:
    """SDS name of an identity's certificate for connections it makes (listeners use the identity itself)."""
    return f"client|{identity}"


def authority(address: Address, port: int) -> str:
    """`address:port` as it is written in URLs."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


@dataclass(frozen=True)
class Target:
    """What a client of one namespace connects to; the name of its cluster.

    An address of a service with a port, or (`port` None) any port of an address that is no service's.  `caller`: the uid of a
    client that is a waypoint itself, which has destinations of its own.
    """

    namespace: str
    address: Address
    port: int | None
    caller: str = ""

    @property
    def where(self) -> str:
        """`address:port`, or the address alone."""
        return str(self.address) if self.port is None else authority(self.address, self.port)

    @property
    def cluster(self) -> str:
        return f"{_DIRECT if self.port is None else _SERVICE}|{_client(self.namespace, self.caller)}|{self.where}"


def service_format(namespace: str, caller: str = "") -> str:
    """The format string that yields the cluster of a connection of a client in `namespace` to a service."""
    return f"{_SERVICE}|{_client(namespace, caller)}|%DOWNSTREAM_LOCAL_ADDRESS%"


def direct_format(namespace: str, caller: str = "") -> str:
    """The format string that yields the cluster of a connection of a client in `namespace` to any other address."""
    return f"{_DIRECT}|{_client(namespace, caller)}|%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"


def _client(namespace: str, caller: str) -> str:
    return f"{namespace}@{caller}" if caller else namespace


def parse_destination(cluster: str) -> Target | None:
    """The target that a cluster's name stands for, None for any other name."""
    kind, _, rest = cluster.partition("|")
    client, _, where = rest.partition("|")
    namespace, _, caller = client.partition("@")
    host, _, port = where.rpartition(":") if kind == _SERVICE else (where, "", "")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        if kind == _DIRECT:
            return Target(namespace, address, None, caller)
        return Target(namespace, address, int(port), caller) if kind == _SERVICE else None
    except ValueError:
        return None
