"""External authorizers: what becomes of requests that a CUSTOM policy matches.

The policies of a target only mark those requests; one filter after them settles what is marked. It asks the target's authorizer. If
there is none to ask it does nothing by itself, and the route that holds the policies has it deny what they marked: a filter that asks
takes no notice of that. A change of it and a change of the policies may thus reach Envoy in any order, and either may be refused,
without a request slipping through unasked; and a request that no CUSTOM policy is about does not pay for the question.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.core.v3 import base_pb2, grpc_service_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as http_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_pb2
from envoy.type.matcher.v3 import string_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf import any_pb2

from tulle.envoy.wire import pack, seconds
from tulle.istiod.waypoint_config import names, rbac
from tulle.istiod.waypoint_config.view import AuthorizerView, PolicyRules, WaypointConfigView

_FORBIDDEN = 403
_V3 = 2
"""`envoy.config.core.v3.ApiVersion.V3`."""


def filter_config(view: WaypointConfigView, rules: PolicyRules) -> rbac_pb2.RBAC | http_pb2.ExtAuthz:
    """The filter that settles what the CUSTOM policies among `rules` match, on HTTP ports."""
    found = view.authorizer(rules.authorizer)
    return rbac_pb2.RBAC() if found is None else _http(found)


def unasked(view: WaypointConfigView, rules: PolicyRules) -> any_pb2.Any:
    """What a route with CUSTOM policies has that filter do for as long as it asks nobody, whatever is the cause."""
    return pack(rbac_pb2.RBACPerRoute(rbac=rbac.deny_custom(_reason(view, rules))))


def of_connections(view: WaypointConfigView, rules: PolicyRules) -> network_pb2.ExtAuthz | None:
    """The same for opaque TCP. Only a gRPC authorizer can be asked about a connection; None: nobody can."""
    found = view.authorizer(rules.authorizer)
    if found is None or not found.settings.grpc:
        return None
    return network_pb2.ExtAuthz(
        stat_prefix=names.authorizer(found.name),
        grpc_service=_grpc(found),
        failure_mode_allow=found.settings.fail_open,
        transport_api_version=_V3,
        filter_enabled_metadata=rbac.custom_matched(names.TCP_RBAC),
    )


def _reason(view: WaypointConfigView, rules: PolicyRules) -> str:
    if view.authorizer(rules.authorizer) is not None:
        return f"the waypoint does not ask extension provider {rules.authorizer} yet"
    if rules.authorizer:
        return f"the Service of extension provider {rules.authorizer} or its port is not in the mesh"
    return rules.no_authorizer or "no extension provider is asked"


def _http(view: AuthorizerView) -> http_pb2.ExtAuthz:
    settings = view.settings
    config = http_pb2.ExtAuthz(
        transport_api_version=_V3,
        failure_mode_allow=settings.fail_open,
        filter_enabled_metadata=rbac.custom_matched(names.HTTP_RBAC),
    )
    known = http_status_pb2.StatusCode.values()
    config.status_on_error.code = settings.status_on_error if settings.status_on_error in known else _FORBIDDEN
    if settings.body is not None:
        config.with_request_body.max_request_bytes = settings.body.max_bytes
        config.with_request_body.allow_partial_message = settings.body.partial
        config.with_request_body.pack_as_bytes = settings.body.raw
    if settings.grpc:
        config.grpc_service.CopyFrom(_grpc(view))
        return config
    service = config.http_service
    service.path_prefix = settings.path_prefix
    service.server_uri.uri = f"http://{view.hostname}:{settings.port}"
    service.server_uri.cluster = names.authorizer(view.name)
    service.server_uri.timeout.CopyFrom(seconds(settings.timeout))
    _match_headers(config.allowed_headers, settings.include_headers)
    for name, value in settings.additional_headers:
        service.authorization_request.headers_to_add.append(base_pb2.HeaderValue(key=name, value=value))
    answer = service.authorization_response
    _match_headers(answer.allowed_upstream_headers, settings.to_upstream_on_allow)
    _match_headers(answer.allowed_client_headers, settings.to_downstream_on_deny)
    _match_headers(answer.allowed_client_headers_on_success, settings.to_downstream_on_allow)
    return config


def _grpc(view: AuthorizerView) -> grpc_service_pb2.GrpcService:
    service = grpc_service_pb2.GrpcService(timeout=seconds(view.settings.timeout))
    service.envoy_grpc.cluster_name = names.authorizer(view.name)
    service.envoy_grpc.authority = f"{view.hostname}:{view.settings.port}"
    return service


def _match_headers(matcher: string_pb2.ListStringMatcher, headers: Iterable[str]) -> None:
    """Make `matcher` match these header names. A matcher of none is not one, so then it stays unset."""
    for name in headers:
        matcher.patterns.append(_pattern(name))


def _pattern(name: str) -> string_pb2.StringMatcher:
    if name.endswith("*"):
        return string_pb2.StringMatcher(prefix=name[:-1], ignore_case=True)
    if name.startswith("*"):
        return string_pb2.StringMatcher(suffix=name[1:], ignore_case=True)
    return string_pb2.StringMatcher(exact=name, ignore_case=True)
