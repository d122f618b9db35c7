"""Manifests as istiod reduces them: the same conversion, with errors that say where a manifest is wrong.

istiod meets objects that an API server has already checked; here they may come straight from an editor. So the reduction is
istiod's own, and only the complaint about a malformed object is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from tulle.cli.explain.documents import Document, InputError
from tulle.istiod.index import convert, entries
from tulle.istiod.index.convert import Records
from tulle.istiod.index.records import Kind
from tulle.kube.objects import EndpointSlice, Gateway, GatewayClass, KubeObject, Namespace, Pod, Service
from tulle.security.model import MtlsMode, PeerAuthentication
from tulle.security.parse import InvalidObject, parse_authorization_policy, parse_peer_authentication, policy_or_closed

DOMAIN = "cluster.local"
T = TypeVar("T", bound=KubeObject)


def typed(document: Document, kind: type[T]) -> T:
    """The manifest as a struct. Raises InputError, naming the field."""
    try:
        return msgspec.convert(without_nulls(document.manifest), kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".") or "(the object)"
        raise InputError(f"{document.source}: {document.key}: {field}: {reason}") from error


def without_nulls(value: Any) -> Any:
    """A copy without null fields, which mean "absent" in a manifest."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value if item is not None]
    return value


def records(document: Document, *, admitted: bool) -> Records:
    """What a manifest stands for in istiod's index.

    `admitted`: it comes from a cluster's store, where istiod takes an invalid policy for a closed one. A manifest that was never admitted
    would be refused, so there an invalid policy is an InputError.
    """
    reduce = _REDUCTIONS.get(document.key.kind)
    return {} if reduce is None else reduce(document, admitted)


def _policy(document: Document, admitted: bool) -> Records:
    if admitted:
        policy, _ = policy_or_closed(document.manifest)
    else:
        policy = checked(document, parse_authorization_policy)
    return {(Kind.POLICY, (policy.meta.namespace, policy.meta.name)): policy}


def _peer_authentication(document: Document, admitted: bool) -> Records:
    try:
        policy = parse_peer_authentication(document.manifest)
    except InvalidObject as error:
        if not admitted:
            raise _refused(document, error) from error
        policy = PeerAuthentication(error.meta, mode=MtlsMode.STRICT)
    return {(Kind.PEER_AUTHENTICATION, (policy.meta.namespace, policy.meta.name)): policy}


P = TypeVar("P")


def checked(document: Document, parse: Callable[[Mapping[str, Any]], P]) -> P:
    """A policy as the engine reads it. Raises InputError with every reason for which it would be refused."""
    try:
        return parse(document.manifest)
    except InvalidObject as error:
        raise _refused(document, error) from error


def _refused(document: Document, error: InvalidObject) -> InputError:
    reasons = "\n  ".join(map(str, error.errors))
    return InputError(f"{document.source}: {document.key} would be refused:\n  {reasons}")


_REDUCTIONS: Mapping[str, Callable[[Document, bool], Records]] = {
    "Namespace": lambda document, _: convert.from_namespace(typed(document, Namespace)),
    "Pod": lambda document, _: convert.from_pod(typed(document, Pod)),
    "Service": lambda document, _: convert.from_service(typed(document, Service), DOMAIN),
    "EndpointSlice": lambda document, _: convert.from_endpoint_slice(typed(document, EndpointSlice), DOMAIN),
    "GatewayClass": lambda document, _: convert.from_gateway_class(typed(document, GatewayClass)),
    "Gateway": lambda document, _: convert.from_gateway(typed(document, Gateway)),
    "ServiceEntry": lambda document, _: entries.from_service_entry(document.manifest),
    "WorkloadEntry": lambda document, _: entries.from_workload_entry(document.manifest),
    "AuthorizationPolicy": _policy,
    "PeerAuthentication": _peer_authentication,
}
