"""Cluster IPs and node ports.

What is in use is read off the stored Services and kept up to date by the store's listener; what a create in flight has
taken is reserved until the Service is stored or refused.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import Any

from tulle.cluster.apiserver.errors import FieldError, invalid_value
from tulle.cluster.store import Event, Key, Store

Object = dict[str, Any]
_NODE_PORTS = range(30000, 32768)


class Allocator:
    """Hands out addresses of `network` and ports of 30000-32767."""

    def __init__(self, store: Store, network: str) -> None:
        self.network = ipaddress.IPv4Network(network)
        self._addresses: dict[str, str] = {}
        self._ports: dict[int, str] = {}
        for record in store.list("services"):
            self._changed(Event(record.revision, record.key, None, record))
        store.listen("services", self._changed)

    def _changed(self, event: Event) -> None:
        if event.old is not None:
            self._forget(_uid(event.old.decode()))
        if event.new is not None:
            service = event.new.decode()
            owner, spec = _uid(service), service.get("spec") or {}
            self._forget(owner)
            for address in spec.get("clusterIPs") or ():
                if address != "None":
                    self._addresses[address] = owner
            for port in spec.get("ports") or ():
                if port.get("nodePort"):
                    self._ports[port["nodePort"]] = owner

    def _forget(self, owner: str) -> None:
        self._addresses = {a: o for a, o in self._addresses.items() if o != owner}
        self._ports = {p: o for p, o in self._ports.items() if o != owner}

    def release(self, obj: Object, store: Store) -> None:
        """Take back what a write that did not happen has reserved."""
        metadata = obj["metadata"]
        self._forget(_uid(obj))
        record = store.get(Key("services", metadata.get("namespace", ""), metadata.get("name", "")))
        if record is not None:
            self._changed(Event(record.revision, record.key, None, record))

    def allocate(self, obj: Object, old: Object | None) -> list[FieldError]:
        """Give a Service the addresses and ports it needs, in place; what is wrong with those it asks for."""
        spec, owner = obj["spec"], _uid(obj)
        errors = self._address(spec, (old or {}).get("spec") or {}, owner)
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            errors += self._node_ports(spec, (old or {}).get("spec") or {}, owner)
        else:
            for port in spec.get("ports") or ():
                port.pop("nodePort", None)
        return errors

    def _address(self, spec: Object, before: Object, owner: str) -> list[FieldError]:
        if spec.get("type") == "ExternalName":
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(name, None)
            return []
        if before.get("clusterIP") and not spec.get("clusterIP"):
            spec["clusterIP"], spec["clusterIPs"] = before["clusterIP"], before.get("clusterIPs", [before["clusterIP"]])
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        wanted = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")
        if wanted == "None":
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            return []
        if not wanted:
            wanted = self._free_address()
        elif problem := self._unusable(wanted, owner):
            return [invalid_value("spec.clusterIPs", [wanted], problem)]
        self._addresses[wanted] = owner
        spec["clusterIP"], spec["clusterIPs"] = wanted, [wanted]
        return []

    def _unusable(self, address: str, owner: str) -> str:
        try:
            parsed = ipaddress.IPv4Address(address)
        except ValueError:
            return 'must be a valid IPv4 address, "None" or empty'
        if parsed not in self.network:
            return (
                f"failed to allocate IP {address}: the provided IP is not in the valid range. "
                f"The range of valid IPs is {self.network}"
            )
        if self._addresses.get(address, owner) != owner:
            return f"failed to allocate IP {address}: provided IP is already allocated"
        return ""

    def _free_address(self) -> str:
        size = self.network.num_addresses
        # The low end of the range is left to Services that ask for a fixed address.
        low = min(max(16, size // 16), 256)
        start = secrets.randbelow(size - low - 2)
        for step in range(size - low - 2):
            address = str(self.network[low + (start + step) % (size - low - 2) + 1])
            if address not in self._addresses:
                return address
        raise OverflowError(f"no free cluster IP is left in {self.network}")

    def _node_ports(self, spec: Object, before: Object, owner: str) -> list[FieldError]:
        errors: list[FieldError] = []
        if spec.get("type") == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is False:
            return errors
        _keep_node_ports(spec, before)
        for index, port in enumerate(spec.get("ports") or ()):
            number = port.get("nodePort")
            path = f"spec.ports[{index}].nodePort"
            if not number:
                number = self._free_port()
            elif number not in _NODE_PORTS:
                errors.append(
                    invalid_value(
                        path, number, "provided port is not in the valid range. The range of valid ports is 30000-32767"
                    )
                )
            elif self._ports.get(number, owner) != owner:
                errors.append(invalid_value(path, number, "provided port is already allocated"))
            self._ports.setdefault(number, owner)
            port["nodePort"] = number
        return errors

    def _free_port(self) -> int:
        start = secrets.randbelow(len(_NODE_PORTS))
        for step in range(len(_NODE_PORTS)):
            port = _NODE_PORTS[(start + step) % len(_NODE_PORTS)]
            if port not in self._ports:
                return port
        raise OverflowError("no free node port is left in 30000-32767")


def _keep_node_ports(spec: Object, before: Object) -> None:
    """A port that says no node port keeps the one it had, unless another port says that one now."""
    had = {port.get("name", ""): port.get("nodePort") for port in before.get("ports") or ()}
    taken = {port.get("nodePort") for port in spec.get("ports") or ()}
    for port in spec.get("ports") or ():
        number = had.get(port.get("name", ""))
        if not port.get("nodePort") and number and number not in taken:
            port["nodePort"] = number


def _uid(obj: Object) -> str:
    # The uid, not the name, is the owner: two creates of one name may be in flight, and only one of them will be stored.
    return str(obj["metadata"].get("uid", ""))
