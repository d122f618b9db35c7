"""What the node proxy knows, as the JSON that tools read from `/config_dump` (spec D14)."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from tulle.envoy.certificates import CertificateState
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.policy.convert import Policy, Scope
from tulle.ztunnel.state.mesh import Mesh
from tulle.ztunnel.state.model import GatewayRef, Service, Workload
from tulle.ztunnel.traffic.table import OpenConnections

_SCOPES = {Scope.GLOBAL: "Global", Scope.NAMESPACE: "Namespace", Scope.WORKLOAD_SELECTOR: "WorkloadSelector"}


def config_dump(
    configurator: Configurator,
    connections: OpenConnections,
    certificates: Iterable[CertificateState],
    static: Any,
) -> dict[str, Any]:
    """The whole state.  Keys and certificates' private parts are not in it."""
    mesh = configurator.mesh
    return {
        "workloads": [_workload(workload) for workload in mesh.workloads.values()],
        "services": [_service(mesh, service) for service in mesh.services.values()],
        "policies": [_policy(policy) for policy in mesh.policies.values()],
        "certificates": [_certificate(state) for state in certificates],
        "workloadState": {
            uid: {**_local(configurator, uid), "connections": connections.dump(uid)} for uid in configurator.pods
        },
        "destinations": {
            name: {"kind": found.kind.value, "service": found.service, "reason": found.reason}
            for name, found in configurator.destinations.items()
        },
        "config": static,
        "staticConfig": {},
        "version": {"version": "tulle"},
    }


def _gateway(ref: GatewayRef | None) -> dict[str, Any] | None:
    if ref is None:
        return None
    return {"destination": ref.service or str(ref.address), "hboneMtlsPort": ref.port}


def _workload(workload: Workload) -> dict[str, Any]:
    return {
        "uid": workload.uid,
        "name": workload.name,
        "namespace": workload.namespace,
        "workloadIps": [str(address) for address in workload.addresses],
        "protocol": "HBONE" if workload.hbone else "TCP",
        "network": workload.network,
        "trustDomain": workload.trust_domain,
        "serviceAccount": workload.service_account,
        "node": workload.node,
        "clusterId": workload.cluster_id,
        "waypoint": _gateway(workload.waypoint),
        "workloadName": workload.workload_name,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "status": "Healthy" if workload.healthy else "Unhealthy",
        "authorizationPolicies": list(workload.authorization_policies),
        "nativeTunnel": workload.native_tunnel,
        "capacity": workload.capacity,
        "services": [service for service, _ in workload.services],
    }


def _service(mesh: Mesh, service: Service) -> dict[str, Any]:
    endpoints = mesh.endpoints(service.key)
    return {
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": [str(address) for address in service.addresses],
        "ports": {str(port.service_port): port.target_port for port in service.ports},
        "endpoints": {
            workload.uid: {
                "workloadUid": workload.uid,
                "status": "Healthy" if workload.healthy else "Unhealthy",
                "port": {str(port.service_port): port.target_port for port in workload.ports_of(service.key) or ()},
            }
            for workload in endpoints
        },
        "subjectAltNames": list(service.subject_alt_names),
        "waypoint": _gateway(service.waypoints[0][0]) if service.waypoints else None,
    }


def _policy(policy: Policy) -> dict[str, Any]:
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "action": "Deny" if policy.deny else "Allow",
        "scope": _SCOPES[policy.scope],
        "dryRun": policy.dry_run,
        "condition": repr(policy.condition),
    }


def _certificate(state: CertificateState) -> dict[str, Any]:
    chain = [
        {
            "pem": pem,
            "serialNumber": str(state.serial),
            "validFrom": _time(state.not_before),
            "expirationTime": _time(state.not_after),
        }
        for pem in state.chain_pem[:1]
    ]
    return {
        "identity": state.identity,
        "state": state.status,
        "error": state.error,
        "certChain": chain,
        "rootCerts": [{"pem": pem} for pem in state.roots_pem],
    }


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _local(configurator: Configurator, uid: str) -> dict[str, Any]:
    pod = configurator.pods[uid]
    access = configurator.access[uid].access
    return {
        "state": "Up" if access.known else "WaitingForWorkload",
        "info": {"name": pod.name, "namespace": pod.namespace, "serviceAccount": pod.service_account},
        "identity": pod.identity,
        "addresses": [str(address) for address in access.addresses],
        "deny": [policy.key for policy in access.policies.deny],
        "allow": [policy.key for policy in access.policies.allow],
        "unknownPolicies": list(access.policies.unknown),
    }
