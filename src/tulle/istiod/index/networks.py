"""Which Gateway leads into another network (spec E2, `Workload.network_gateway`).

A Gateway of class `istio-east-west` or `istio-remote` that is labelled `topology.istio.io/network` stands for that network: its HBONE
listener takes tunnels for everything there. Workloads of the network carry its address, so that proxies elsewhere know the way in.
"""

from __future__ import annotations

from typing import NamedTuple

from tulle.istiod.index import labels as names
from tulle.istiod.index.addresses import address_of
from tulle.istiod.index.records import GatewayRecord, WaypointKey


class NetworkGateway(NamedTuple):
    """Where a network is entered: an IP address or a host name of the Gateway's namespace, and the port for HBONE."""

    namespace: str
    address: str
    is_hostname: bool
    port: int


class NetworkGateways:
    """The Gateways of networks. Of several for one network the first by name is taken, the same in every istiod."""

    def __init__(self) -> None:
        self._found: dict[str, dict[WaypointKey, NetworkGateway]] = {}

    def of(self, network: str) -> NetworkGateway | None:
        """The way into a network; None when there is none, or it is the mesh's own."""
        found = self._found.get(network)
        return found[min(found)] if found else None

    def put(self, key: WaypointKey, old: GatewayRecord | None, new: GatewayRecord | None) -> set[str]:
        """Take over a Gateway; the networks whose way in is another now."""
        networks = {record.labels.get(names.NETWORK, "") for record in (old, new) if record is not None} - {""}
        before = {network: self.of(network) for network in networks}
        for network in networks:
            self._found.get(network, {}).pop(key, None)
        gateway = _gateway(new) if new is not None else None
        if new is not None and gateway is not None:
            self._found.setdefault(new.labels[names.NETWORK], {})[key] = gateway
        return {network for network in networks if self.of(network) != before[network]}


def _gateway(record: GatewayRecord) -> NetworkGateway | None:
    """None for a Gateway that leads nowhere: another class, no network, no usable address (yet), no listener for HBONE."""
    port = next((listener.port for listener in record.listeners if listener.protocol == "HBONE"), 0)
    if record.class_name not in names.NETWORK_GATEWAYS or not record.labels.get(names.NETWORK) or not port:
        return None
    named = (
        (value if kind == "Hostname" else address_of(value), kind == "Hostname") for kind, value in record.addresses
    )
    return next((NetworkGateway(record.namespace, value, host, port) for value, host in named if value), None)
