"""The fields of access logs (spec D12), as format strings that Envoy fills in.

What is known of the local pod is written into its listeners as text; the other side comes from its certificate, and on
the way out from the metadata of the endpoint.  The policy that refused a connection is the name of the route taken.
"""

from __future__ import annotations

from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2

from tulle.envoy.accesslog import stdout_json
from tulle.envoy.filter_state import literal

_COMMON: Final = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "level": "info",
    "scope": "access",
    "message": "connection complete",
    "duration": "%DURATION%ms",
    "bytes_sent": "%BYTES_SENT%",
    "bytes_recv": "%BYTES_RECEIVED%",
    "response_flags": "%RESPONSE_FLAGS%",
}


def outbound(workload: str, namespace: str, identity: str, asked_for: str) -> accesslog_pb2.AccessLog:
    """Of connections that a local pod makes.  `asked_for`: format string of the tunnel's authority, "" without tunnel."""
    return stdout_json(
        {
            **_COMMON,
            "direction": "outbound",
            "src.addr": "%DOWNSTREAM_REMOTE_ADDRESS%",
            "src.workload": literal(workload),
            "src.namespace": literal(namespace),
            "src.identity": literal(identity),
            "dst.addr": "%UPSTREAM_HOST%",
            "dst.hbone_addr": asked_for,
            "dst.original_addr": "%DOWNSTREAM_LOCAL_ADDRESS%",
            "dst.service": "%CLUSTER_METADATA(tulle:service)%",
            "dst.workload": "%UPSTREAM_METADATA(tulle:workload)%",
            "dst.namespace": "%UPSTREAM_METADATA(tulle:namespace)%",
            "dst.identity": "%UPSTREAM_PEER_URI_SAN%",
            "error": "%CLUSTER_METADATA(tulle:reason)%",
            "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        }
    )


def hbone(workload: str, namespace: str, identity: str) -> accesslog_pb2.AccessLog:
    """Of tunnelled connections that a local pod takes or refuses."""
    return stdout_json(
        {
            **_COMMON,
            "direction": "inbound",
            "src.addr": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
            "src.identity": "%DOWNSTREAM_PEER_URI_SAN%",
            "dst.addr": "%DOWNSTREAM_LOCAL_ADDRESS%",
            "dst.hbone_addr": "%REQ(:AUTHORITY)%",
            "dst.workload": literal(workload),
            "dst.namespace": literal(namespace),
            "dst.identity": literal(identity),
            "response_code": "%RESPONSE_CODE%",
            "error": "%ROUTE_NAME%",
            "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        }
    )


def plaintext(workload: str, namespace: str, error: str = "") -> accesslog_pb2.AccessLog:
    """Of plaintext connections that a local pod takes (`error` empty) or refuses."""
    fields = {
        **_COMMON,
        "direction": "inbound",
        "src.addr": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        "dst.addr": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "dst.workload": literal(workload),
        "dst.namespace": literal(namespace),
        "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    }
    if error:
        fields["error"] = literal(error)
    return stdout_json(fields)
