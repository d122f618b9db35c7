"""One AdmissionReview in, one out: what the webhook answers, as a pure function (Kubernetes admission.k8s.io/v1).

Whether an object may be stored is `tulle.security.admission`'s verdict. What is added here is what only the present mesh can tell: that a
policy which is valid would deny everything, or that it names something that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.policy_status import conditions_of
from tulle.security.admission import validate
from tulle.security.fields import FieldError
from tulle.security.model import Action, AuthorizationPolicy
from tulle.security.parse import parse_authorization_policy

_KINDS = {
    "authorizationpolicies": "AuthorizationPolicy",
    "peerauthentications": "PeerAuthentication",
    "requestauthentications": "RequestAuthentication",
}
_VERSIONS = frozenset({"v1", "v1beta1"})


class ReviewError(ValueError):
    """A body that is no AdmissionReview; the message says what is missing."""


def review(body: object, index: MeshIndex) -> dict[str, Any]:
    """Answer a review. Raises ReviewError when there is no request in it to answer."""
    request = body.get("request") if isinstance(body, Mapping) else None
    if not isinstance(request, Mapping) or not isinstance(request.get("uid"), str):
        raise ReviewError("the body is no AdmissionReview: request.uid is missing")
    errors, warnings = _judge(request, index)
    response: dict[str, Any] = {"uid": request["uid"], "allowed": not errors}
    if errors:
        response["status"] = _refusal(request, errors)
    if warnings:
        response["warnings"] = list(warnings)
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


def _judge(request: Mapping[str, Any], index: MeshIndex) -> tuple[tuple[FieldError, ...], tuple[str, ...]]:
    if request.get("operation") == "DELETE":
        return (), ()
    resource = request.get("resource") or {}
    kind = _KINDS.get(str(resource.get("resource")))
    manifest = request.get("object")
    if kind is None or resource.get("version") not in _VERSIONS:
        return (), ()
    if not isinstance(manifest, Mapping):
        return (FieldError("", manifest, "an object is accepted"),), ()
    metadata = {**(manifest.get("metadata") or {}), "namespace": request.get("namespace")}
    complete = {**manifest, "kind": kind, "metadata": metadata}
    verdict = validate(complete, index.settings.root_namespace)
    if verdict.errors or kind != "AuthorizationPolicy":
        return verdict.errors, verdict.warnings
    policy = parse_authorization_policy(complete)
    return (), (*verdict.warnings, *mesh_warnings(policy, index))


def mesh_warnings(policy: AuthorizationPolicy, index: MeshIndex) -> Iterable[str]:
    """What the present mesh makes of a policy, if that is not what it says (spec C5, C7, H)."""
    ztunnel, waypoint = conditions_of(index, policy)
    if ztunnel is not None and not (ztunnel.status and ztunnel.reason == "Accepted"):
        yield ztunnel.message
    if waypoint is not None and not (waypoint.status and waypoint.reason == "Accepted"):
        yield f"not enforced as written: {waypoint.message}"
    yield from _missing_waypoint_principal(policy, index)


def _missing_waypoint_principal(policy: AuthorizationPolicy, index: MeshIndex) -> Iterable[str]:
    """Traffic from a waypoint carries the waypoint's identity, so an ALLOW that leaves it out cuts the waypoint off (spec C8)."""
    if policy.target_refs or policy.action is not Action.ALLOW or index.settings.lift_selector_policies:
        return
    namespace = None if policy.meta.namespace == index.settings.root_namespace else policy.meta.namespace
    principals = {value for rule in policy.rules for source in rule.sources for value in source.principals}
    through: set[str] = set()
    for uid in index.tables.selected(namespace, dict(policy.selector or ())):
        state = index.workloads.get(uid)
        if state is not None:
            view = index.view(state.record, state.services, state.binding)
            through.update(waypoint.identity.principal for waypoint in view.waypoints)
    for principal in sorted(through - principals):
        if principals:
            yield (
                f"the selected workloads are reached through a waypoint whose identity {principal!r} this ALLOW policy does not "
                "name: requests through the waypoint are denied. Add it to source.principals, or use targetRefs"
            )


def _refusal(request: Mapping[str, Any], errors: tuple[FieldError, ...]) -> dict[str, Any]:
    """A Status as the API server itself writes it for an invalid object."""
    kind = request.get("kind") or {}
    name = str(request.get("name") or "")
    listed = [str(error) for error in errors]
    text = listed[0] if len(listed) == 1 else "[" + ", ".join(listed) + "]"
    qualified = f"{kind.get('kind', '')}.{kind.get('group', '')}"
    return {
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": f'{qualified} "{name}" is invalid: {text}',
        "details": {
            "name": name,
            "group": kind.get("group", ""),
            "kind": kind.get("kind", ""),
            "causes": [_cause(error) for error in errors],
        },
    }


def _cause(error: FieldError) -> dict[str, str]:
    reason = "FieldValueRequired" if error.value is None else "FieldValueInvalid"
    return {"reason": reason, "field": error.path, "message": str(error).removeprefix(f"{error.path}: ")}
