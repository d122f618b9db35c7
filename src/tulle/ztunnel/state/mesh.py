"""The index over everything istiod has sent, and the answer to "who has to look again?".

Whoever derives something from the mesh notes the keys of what it looked at (an address, a service, a policy); every
change yields the keys it touches.  So one changed pod costs work for those who looked at it, whatever the size of the mesh.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias, TypeVar

from tulle.xds.client import Rejected
from tulle.xds.proto import authorization_pb2, workload_pb2
from tulle.ztunnel.policy.convert import Policy, Scope, policy_from
from tulle.ztunnel.policy.convert import UnreadableError as UnreadablePolicyError
from tulle.ztunnel.policy.terms import Address
from tulle.ztunnel.state.model import (
    NetworkAddress,
    Service,
    UnreadableError,
    Workload,
    service_from,
    workload_from,
)

_K = TypeVar("_K")

#: What a derived value looked at, and what a change touches: a kind and a name.
Key: TypeAlias = tuple[str, Hashable]

#: The key of "the set of policies that need not be named".
SCOPED_POLICIES: Final[Key] = ("scoped-policies", "")
#: The kind of key that stands for a host name of an endpoint.
HOST: Final = "host"


def address_key(address: NetworkAddress) -> Key:
    return ("address", address)


def service_key(service: str) -> Key:
    return ("service", service)


def policy_key(policy: str) -> Key:
    return ("policy", policy)


def host_key(name: str) -> Key:
    return (HOST, name)


def pod_key(namespace: str, name: str) -> Key:
    return ("pod", (namespace, name))


class Mesh:
    """Workloads, services and policies, by every name they are looked up by.

    The apply methods take one delta of xDS and return the keys that it touched.  They raise `Rejected` naming the
    resources that could not be read (all others are in use): an unreadable workload or service is as if it were absent;
    of an unreadable policy the version before stays, and without one it is unknown, which closes those who name it.
    """

    def __init__(self) -> None:
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.policies: dict[str, Policy] = {}
        self.hosts: dict[str, tuple[Address, ...]] = {}
        """What host names of endpoints stand for, as far as they were looked up."""
        self._resource_kinds: dict[str, str] = {}
        self._policy_of_resource: dict[str, str] = {}
        self._by_address: dict[NetworkAddress, dict[str, None]] = {}
        self._services_by_address: dict[NetworkAddress, dict[str, None]] = {}
        self._services_by_name: dict[str, dict[str, None]] = {}
        self._endpoints: dict[str, dict[str, None]] = {}
        self._pods: dict[tuple[str, str], dict[str, None]] = {}

    # -- looking up ---------------------------------------------------------------------------------------------------

    def workload_at(self, address: NetworkAddress) -> Workload | None:
        """The workload with that address; a host's own address belongs to none.

        A pod has its address from the cluster; everything else has what somebody wrote down, which may be a pod's or a Service's.
        """
        found = (self.workloads[uid] for uid in self._by_address.get(address, ()))
        first = min(found, key=lambda one: (not one.is_pod, not one.hbone), default=None)
        if first is None or (not first.is_pod and self._is_the_clusters(address)):
            return None
        return first

    def _is_the_clusters(self, address: NetworkAddress) -> bool:
        return any(self.services[key].kubernetes for key in self._services_by_address.get(address, ()))

    def service_at(self, address: NetworkAddress, namespace: str) -> Service | None:
        """The service with that address as a client in `namespace` sees it: its own namespace's first, then the canonical one."""
        found = (self.services[key] for key in self._services_by_address.get(address, ()))
        visible = (service for service in found if not service.private or service.namespace == namespace)
        return min(
            visible,
            key=lambda one: (one.namespace != namespace, not one.kubernetes, not one.canonical, one.key),
            default=None,
        )

    def services_named(self, hostname: str) -> list[Service]:
        """The services of any namespace with exactly that hostname (in small letters), which may be a wildcard."""
        return [self.services[key] for key in self._services_by_name.get(hostname, ())]

    def endpoints(self, service: str) -> list[Workload]:
        """The workloads that serve a service (`ns/hostname`), healthy or not."""
        return [self.workloads[uid] for uid in self._endpoints.get(service, ())]

    def pod(self, namespace: str, name: str, service_account: str) -> Workload | None:
        """The record of a pod that the node agent handed over; None while istiod has not sent a matching one."""
        found = (one for one in self.pods_named(namespace, name) if one.service_account == service_account)
        return next(found, None)

    def pods_named(self, namespace: str, name: str) -> list[Workload]:
        """The records of pods of that name."""
        found = (self.workloads[uid] for uid in self._pods.get((namespace, name), ()))
        return [one for one in found if one.is_pod]

    def scoped_policies(self) -> list[Policy]:
        """Policies that hold without being named by a workload."""
        return [policy for policy in self.policies.values() if policy.scope is not Scope.WORKLOAD_SELECTOR]

    def is_service(self, address: NetworkAddress) -> bool:
        """Whether the address is a service's."""
        return address in self._services_by_address

    def is_routed_workload(self, address: NetworkAddress) -> bool:
        """Whether connections to the address may have to go another way than straight to the workload there."""
        workload = self.workload_at(address)
        return workload is not None and (workload.hbone or workload.waypoint is not None)

    # -- changing -----------------------------------------------------------------------------------------------------

    def apply_addresses(self, updated: Mapping[str, bytes], removed: Sequence[str]) -> frozenset[Key]:
        """One delta of istio.workload.Address."""
        touched: set[Key] = set()
        failed: dict[str, str] = {}
        for name in removed:
            touched |= self._drop(name)
        for name, encoded in updated.items():
            message = workload_pb2.Address.FromString(encoded)
            try:
                touched |= self._put_address(name, message)
            except UnreadableError as error:
                failed[name] = str(error)
                touched |= self._drop(name)
        _reject(failed, touched)
        return frozenset(touched)

    def apply_policies(self, updated: Mapping[str, bytes], removed: Sequence[str]) -> frozenset[Key]:
        """One delta of istio.security.Authorization."""
        touched: set[Key] = set()
        failed: dict[str, str] = {}
        for name in removed:
            touched |= self._drop_policy(name)
        for name, encoded in updated.items():
            try:
                policy = policy_from(authorization_pb2.Authorization.FromString(encoded))
            except UnreadablePolicyError as error:
                failed[name] = str(error)
                continue
            touched |= self._drop_policy(name)
            self.policies[policy.key] = policy
            self._policy_of_resource[name] = policy.key
            touched |= _policy_keys(policy)
        _reject(failed, touched)
        return frozenset(touched)

    def _put_address(self, name: str, message: workload_pb2.Address) -> set[Key]:
        kind = message.WhichOneof("type")
        if kind == "workload":
            workload = workload_from(message.workload)
            touched = self._drop(name)
            self._resource_kinds[name] = "workload"
            return touched | self._add_workload(workload, name)
        if kind == "service":
            service = service_from(message.service)
            touched = self._drop(name)
            self._resource_kinds[name] = "service"
            return touched | self._add_service(service, name)
        raise UnreadableError(f"Address/{name}: neither a workload nor a service")

    def _drop(self, name: str) -> set[Key]:
        kind = self._resource_kinds.pop(name, "")
        if kind == "workload":
            return self._remove_workload(name)
        if kind == "service":
            return self._remove_service(name)
        return set()

    def _add_workload(self, workload: Workload, name: str) -> set[Key]:
        self.workloads[name] = workload
        for address in _addresses_of(workload):
            self._by_address.setdefault(address, {})[name] = None
        for service, _ in workload.services:
            self._endpoints.setdefault(service, {})[name] = None
        self._pods.setdefault((workload.namespace, workload.name), {})[name] = None
        return _workload_keys(workload)

    def _remove_workload(self, name: str) -> set[Key]:
        workload = self.workloads.pop(name)
        for address in _addresses_of(workload):
            _discard(self._by_address, address, name)
        for service, _ in workload.services:
            _discard(self._endpoints, service, name)
        _discard(self._pods, (workload.namespace, workload.name), name)
        return _workload_keys(workload)

    def _add_service(self, service: Service, name: str) -> set[Key]:
        self.services[name] = service
        self._services_by_name.setdefault(service.hostname.lower(), {})[name] = None
        for address in service.addresses:
            self._services_by_address.setdefault(address, {})[name] = None
        return _service_keys(service)

    def _remove_service(self, name: str) -> set[Key]:
        service = self.services.pop(name)
        _discard(self._services_by_name, service.hostname.lower(), name)
        for address in service.addresses:
            _discard(self._services_by_address, address, name)
        return _service_keys(service)

    def _drop_policy(self, name: str) -> set[Key]:
        key = self._policy_of_resource.pop(name, "")
        policy = self.policies.pop(key, None)
        return set() if policy is None else _policy_keys(policy)


class PartlyRejected(Rejected):
    """Some resources could not be read; `touched` are the keys of what changed all the same."""

    def __init__(self, reason: str, names: Iterable[str], touched: frozenset[Key]) -> None:
        super().__init__(reason, names)
        self.touched = touched


def _reject(failed: Mapping[str, str], touched: set[Key]) -> None:
    if failed:
        raise PartlyRejected("; ".join(failed.values()), failed, frozenset(touched))


def _addresses_of(workload: Workload) -> list[NetworkAddress]:
    if workload.host_network:
        return []
    return [NetworkAddress(workload.network, address) for address in workload.addresses]


def _workload_keys(workload: Workload) -> set[Key]:
    keys = {address_key(NetworkAddress(workload.network, address)) for address in workload.addresses}
    keys |= {service_key(service) for service, _ in workload.services}
    keys.add(pod_key(workload.namespace, workload.name))
    return keys


def _service_keys(service: Service) -> set[Key]:
    return {service_key(service.key), *(address_key(address) for address in service.addresses)}


def _policy_keys(policy: Policy) -> set[Key]:
    keys = {policy_key(policy.key)}
    if policy.scope is not Scope.WORKLOAD_SELECTOR:
        keys.add(SCOPED_POLICIES)
    return keys


def _discard(index: dict[_K, dict[str, None]], key: _K, name: str) -> None:
    names = index.get(key)
    if names is None:
        return
    names.pop(name, None)
    if not names:
        del index[key]
