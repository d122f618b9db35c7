"""What the node proxy knows, as the JSON that tools read from `/config_dump` (spec D14).

Names and shapes are those of a stock node proxy, so that its tools read it: a certificate is its PEM in base64, a policy's rules are
alternatives of clauses that all must hold, each of alternatives.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from cryptography import x509

import tulle
from tulle.envoy.certificates import CertificateState
from tulle.xds.proto import authorization_pb2
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.policy.convert import Policy, Scope
from tulle.ztunnel.state.mesh import Mesh
from tulle.ztunnel.state.model import AppTunnel, GatewayRef, Service, Workload
from tulle.ztunnel.traffic.table import OpenConnections

_SCOPES = {Scope.GLOBAL: "Global", Scope.NAMESPACE: "Namespace", Scope.WORKLOAD_SELECTOR: "WorkloadSelector"}

#: LoadBalancing.Scope of istio.workload.
_PREFERENCES = {
    0: "Unspecified",
    1: "Region",
    2: "Zone",
    3: "Subzone",
    4: "Node",
    5: "Cluster",
    6: "Network",
}


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
        "certificates": [_certificates(state) for state in sorted(certificates, key=lambda state: state.identity)],
        "workloadState": {
            uid: {**_local(configurator, uid), "connections": connections.dump(uid)} for uid in configurator.pods
        },
        "destinations": {
            name: {"kind": found.kind.value, "service": found.service, "reason": found.reason}
            for name, found in configurator.destinations.items()
        },
        "config": static,
        "staticConfig": {"workloads": [], "services": [], "policies": []},
        "version": {"version": tulle.__version__},
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
        "networkMode": "HostNetwork" if workload.host_network else "Standard",
        "network": workload.network,
        "trustDomain": workload.trust_domain,
        "serviceAccount": workload.service_account,
        "node": workload.node,
        "clusterId": workload.cluster_id,
        "waypoint": _gateway(workload.waypoint),
        "networkGateway": _gateway(workload.network_gateway),
        "workloadName": workload.workload_name,
        "workloadType": workload.workload_type,
        "hostname": workload.hostname,
        "locality": {key: value for key, value in dataclasses.asdict(workload.locality).items() if value},
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "status": "Healthy" if workload.healthy else "Unhealthy",
        "authorizationPolicies": list(workload.authorization_policies),
        "nativeTunnel": workload.native_tunnel,
        "applicationTunnel": _tunnel(workload.tunnel),
        "capacity": workload.capacity,
        "services": [service for service, _ in workload.services],
    }


def _tunnel(tunnel: AppTunnel | None) -> dict[str, Any] | None:
    if tunnel is None:
        return None
    return {"protocol": "PROXY" if tunnel.proxy else "NONE", "port": tunnel.port or None}


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
                "service": service.key,
                "status": "Healthy" if workload.healthy else "Unhealthy",
                "port": {str(port.service_port): port.target_port for port in workload.ports_of(service.key) or ()},
            }
            for workload in endpoints
        },
        "subjectAltNames": list(service.subject_alt_names),
        "waypoint": _gateway(service.waypoints[0][0]) if service.waypoints else None,
        "loadBalancer": {
            "mode": service.mode.name.title(),
            "routingPreferences": [_PREFERENCES.get(scope, str(scope)) for scope in service.routing_preference],
            "healthPolicy": "AllowAll" if service.all_endpoints else "OnlyHealthy",
        },
    }


def _policy(policy: Policy) -> dict[str, Any]:
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "action": "Deny" if policy.deny else "Allow",
        "scope": _SCOPES[policy.scope],
        "dryRun": policy.dry_run,
        "rules": [
            [[_match(match) for match in clause.matches] for clause in rule.clauses]
            for rule in authorization_pb2.Authorization.FromString(policy.wire).rules
        ],
    }


def _match(match: authorization_pb2.Match) -> dict[str, Any]:
    """The fields that are set, named as in the proto's JSON."""
    return {field.camelcase_name: [_value(value) for value in values] for field, values in match.ListFields()}


def _value(value: Any) -> Any:
    match value:
        case authorization_pb2.StringMatch():
            kind = value.WhichOneof("match_type") or ""
            return {kind.title(): {} if kind == "presence" else getattr(value, kind, "")}
        case authorization_pb2.ServiceAccountMatch():
            return {"namespace": value.namespace, "serviceAccount": value.serviceAccount}
        case authorization_pb2.Address():
            return f"{_address(value.address)}/{value.length}"
        case _:
            return value


def _address(raw: bytes) -> str:
    return str(ip_address(raw)) if len(raw) in (4, 16) else raw.hex()


def _certificates(state: CertificateState) -> dict[str, Any]:
    """An identity's chain, leaf first, and the roots."""
    failed = state.error and state.status == "Unavailable"
    return {
        "identity": state.identity,
        "state": f"{state.status}: {state.error}" if failed else state.status,
        "certChain": [_certificate(pem) for pem in state.chain_pem],
        "rootCerts": [_certificate(pem) for pem in state.roots_pem],
    }


def _certificate(pem: str) -> dict[str, Any]:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return {
        "pem": base64.b64encode(pem.encode()).decode(),
        "serialNumber": str(certificate.serial_number),
        "validFrom": _time(certificate.not_valid_before_utc),
        "expirationTime": _time(certificate.not_valid_after_utc),
    }


def _time(when: datetime.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _local(configurator: Configurator, uid: str) -> dict[str, Any]:
    pod = configurator.pods[uid]
    access = configurator.access[uid].access
    return {
        "state": "Up" if access.known else "WaitingForWorkload",
        "info": {
            "name": pod.name,
            "namespace": pod.namespace,
            "trustDomain": pod.trust_domain,
            "serviceAccount": pod.service_account,
        },
        "identity": pod.identity,
        "addresses": [str(address) for address in access.addresses],
        "deny": [policy.key for policy in access.policies.deny],
        "allow": [policy.key for policy in access.policies.allow],
        "unknownPolicies": list(access.policies.unknown),
    }
