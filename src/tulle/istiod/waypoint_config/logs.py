"""What a waypoint writes of each request and connection: who asked for what, which policy decided, and where it went.

The policy that denied stands in `response_code_details`; policies that only look (AUDIT, dry runs) are named by fields of their own,
which are absent when none matched.
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.accesslog.v3 import accesslog_pb2

from tulle.envoy.accesslog import stdout_json
from tulle.envoy.clusters import METADATA
from tulle.envoy.filter_state import literal
from tulle.istiod.waypoint_config import named, names
from tulle.istiod.waypoint_config.view import TargetView

_COMMON: Mapping[str, str] = {
    "time": "%START_TIME%",
    "src.addr": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "src.identity": f"%FILTER_STATE({names.PEER_PRINCIPAL}:PLAIN)%",
    "dst.addr": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "dst.hbone_addr": "%UPSTREAM_METADATA(tulle:address)%",
    "dst.identity": "%UPSTREAM_METADATA(tulle:identity)%",
    "response_flags": "%RESPONSE_FLAGS%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "upstream_names": f"%CLUSTER_METADATA({METADATA}:{named.ENDPOINTS})%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_recv": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
}
_REQUEST: Mapping[str, str] = {
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "token.iss": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:iss)%",
    "token.sub": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:sub)%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
}
_LOOKING: Mapping[str, str] = {
    "custom.policy": names.CUSTOM_PREFIX + names.MATCHED_POLICY,
    "audit.policy": names.AUDIT_PREFIX + names.MATCHED_POLICY,
    "dry_run.deny.policy": names.DRY_DENY_PREFIX + names.MATCHED_POLICY,
    "dry_run.deny.result": names.DRY_DENY_PREFIX + names.RESULT,
    "dry_run.allow.policy": names.DRY_ALLOW_PREFIX + names.MATCHED_POLICY,
    "dry_run.allow.result": names.DRY_ALLOW_PREFIX + names.RESULT,
}


def of_requests(target: TargetView) -> accesslog_pb2.AccessLog:
    """One line per request to a target."""
    return stdout_json({**_destination(target), **_COMMON, **_REQUEST, **_looking(names.HTTP_RBAC)})


def of_connections(target: TargetView) -> accesslog_pb2.AccessLog:
    """One line per opaque connection to a target."""
    closed = {"connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%"}
    return stdout_json({**_destination(target), **_COMMON, **closed, **_looking(names.TCP_RBAC)})


def _destination(target: TargetView) -> Mapping[str, str]:
    named = {"dst.namespace": literal(target.namespace)}
    if target.kind in ("Service", "ServiceEntry"):
        return {**named, "dst.service": literal(target.hostname)}
    return {**named, "dst.workload": literal(target.name)}


def _looking(metadata: str) -> Mapping[str, str]:
    return {field: f"%DYNAMIC_METADATA({metadata}:{key})%" for field, key in _LOOKING.items()}
