"""A mesh of a few services, as istiod would describe it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from tulle.xds.proto import workload_pb2
from tulle.ztunnel.dns.lookup import Place
from tulle.ztunnel.state.mesh import Mesh

PLACE = Place()


class World:
    def __init__(self) -> None:
        self.mesh = Mesh()

    def service(self, namespace: str, hostname: str, *vips: str, **more: Any) -> None:
        """`vips` may have a network in front, as `network/address`."""
        message = workload_pb2.Service(name=hostname.partition(".")[0], namespace=namespace, hostname=hostname, **more)
        for vip in vips:
            network, _, address = vip.rpartition("/")
            message.addresses.add(network=network, address=ip_address(address).packed)
        encoded = workload_pb2.Address(service=message).SerializeToString()
        self.mesh.apply_addresses({f"{namespace}/{hostname}": encoded}, [])

    def endpoint(self, name: str, service: str, *addresses: str, healthy: bool = True) -> None:
        message = workload_pb2.Workload(
            uid=f"Kubernetes//Pod/shop/{name}",
            name=name,
            namespace="shop",
            addresses=[ip_address(address).packed for address in addresses],
            status=0 if healthy else 1,
        )
        message.services[service].ports.add(service_port=80, target_port=80)
        self.mesh.apply_addresses({message.uid: workload_pb2.Address(workload=message).SerializeToString()}, [])

    def remove(self, *names: str) -> None:
        self.mesh.apply_addresses({}, names)
