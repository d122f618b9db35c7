"""Who may connect to a local pod: put together from its record, its policies and its services."""

from __future__ import annotations

from dataclasses import dataclass

from tulle.ztunnel.config.access import Access, Named
from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.policy.decide import effective
from tulle.ztunnel.state.mesh import SCOPED_POLICIES, Key, Mesh, pod_key, policy_key, service_key
from tulle.ztunnel.state.model import Workload


@dataclass(frozen=True)
class LocalAccess:
    """`access`, the pod's record if istiod has sent it, and the keys that this depends on."""

    access: Access
    workload: Workload | None
    looked_at: frozenset[Key]

    @property
    def is_waypoint(self) -> bool:
        """Whether the app takes tunnels as a waypoint does, so that what it sends on must not come back to it."""
        return self.access.tunnel is not None


def local_access(mesh: Mesh, pod: LocalPod) -> LocalAccess:
    """The access to `pod` as the mesh stands now."""
    looked_at: set[Key] = {pod_key(pod.namespace, pod.name), SCOPED_POLICIES}
    workload = mesh.pod(pod.namespace, pod.name, pod.service_account)
    attached = workload.authorization_policies if workload is not None else ()
    looked_at.update(policy_key(name) for name in attached)
    policies = effective(pod.namespace, attached, mesh.policies, mesh.scoped_policies())
    explained: set[int] = set()
    named: list[Named] = []
    for key, own in workload.services if workload is not None else ():
        looked_at.add(service_key(key))
        service = mesh.services.get(key)
        if service is not None:
            targets = service.targets(own)
            named += [Named(service.hostname, port, target) for port, target in targets.items()]
            http = {port.service_port for port in service.ports if port.is_http and service.explain_refusals}
            explained |= {target for port, target in targets.items() if port in http}
    access = Access(
        addresses=workload.addresses if workload is not None else (),
        policies=policies,
        known=workload is not None,
        tunnel=workload.tunnel if workload is not None else None,
        explain_ports=tuple(sorted(explained)),
        named=tuple(sorted(named)),
        keeps_source=pod.keeps_source,
    )
    return LocalAccess(access, workload, frozenset(looked_at))
