"""The lines that Envoy writes of connections, as format strings that it fills in.

They are read by `tulle.ztunnel.traffic`, which keeps the table of open connections by them, and writes the access log of
spec D12 from them.  Keys with a dot are fields of that log as they stand; keys without one are for the reader.  What is
known of the local pod is written in as text; the other side comes from its certificate, and on the way out from the
metadata of the endpoint.  The policy that refused a connection is the name of the route taken.
"""

from __future__ import annotations

from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2

from tulle.envoy.accesslog import stdout_json
from tulle.envoy.filter_state import literal
from tulle.ztunnel.config.local_pod import LocalPod

_COMMON: Final = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "type": "%ACCESS_LOG_TYPE%",
    "duration": "%DURATION%ms",
    "bytes_sent": "%BYTES_SENT%",
    "bytes_recv": "%BYTES_RECEIVED%",
    "response_flags": "%RESPONSE_FLAGS%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
#: The connection to the app: what tells connections of a pod apart, and what is closed to close one.
_APP: Final = {"app_local": "%UPSTREAM_LOCAL_ADDRESS%", "app_remote": "%UPSTREAM_REMOTE_ADDRESS%"}


def outbound(pod: LocalPod, asked_for: str) -> accesslog_pb2.AccessLog:
    """Of connections that a local pod makes.  `asked_for`: format string of the tunnel's authority, "" without tunnel."""
    return stdout_json(
        {
            **_COMMON,
            "pod": literal(pod.uid),
            "kind": "outbound",
            "src.addr": "%DOWNSTREAM_REMOTE_ADDRESS%",
            "src.workload": literal(pod.name),
            "src.namespace": literal(pod.namespace),
            "src.identity": literal(pod.identity) if asked_for else "",
            "dst.addr": "%UPSTREAM_HOST%",
            "dst.hbone_addr": asked_for,
            "dst.original_addr": "%DOWNSTREAM_LOCAL_ADDRESS%",
            "dst.service": "%CLUSTER_METADATA(tulle:service)%",
            "dst.workload": "%UPSTREAM_METADATA(tulle:workload)%",
            "dst.namespace": "%UPSTREAM_METADATA(tulle:namespace)%",
            "dst.identity": "%UPSTREAM_PEER_URI_SAN%",
            "error": "%CLUSTER_METADATA(tulle:reason)%",
            **(
                {"tunnel_local": "%UPSTREAM_LOCAL_ADDRESS%", "peer_certificate": "%UPSTREAM_PEER_CERT%"}
                if asked_for
                else {}
            ),
        }
    )


def hbone(pod: LocalPod) -> accesslog_pb2.AccessLog:
    """Of tunnelled connections that a local pod takes or refuses."""
    return stdout_json(
        {
            **_inbound(pod, "hbone"),
            "src.identity": "%DOWNSTREAM_PEER_URI_SAN%",
            "dst.hbone_addr": "%REQ(:AUTHORITY)%",
            "dst.identity": literal(pod.identity),
            "stream": "%START_TIME(%s%9f)%",
            "peer_serials": "%DOWNSTREAM_PEER_CHAIN_SERIALS%",
            "response_code": "%RESPONSE_CODE%",
            "error": "%ROUTE_NAME%",
            **_APP,
        }
    )


def handshake(pod: LocalPod) -> accesslog_pb2.AccessLog:
    """Of TLS connections to a local pod that end, among them those whose peer was not accepted."""
    failure, refused = "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%", "%CONNECTION_TERMINATION_DETAILS%"
    return stdout_json({**_inbound(pod, "handshake"), "failure": failure, "error": refused})


def plaintext(pod: LocalPod, error: str = "") -> accesslog_pb2.AccessLog:
    """Of plaintext connections that a local pod takes (`error` empty) or refuses."""
    return stdout_json({**_inbound(pod, "plaintext"), "error": literal(error), **_APP})


def _inbound(pod: LocalPod, kind: str) -> dict[str, str]:
    return {
        **_COMMON,
        "pod": literal(pod.uid),
        "kind": kind,
        "src.addr": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        "dst.addr": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "dst.workload": literal(pod.name),
        "dst.namespace": literal(pod.namespace),
    }
