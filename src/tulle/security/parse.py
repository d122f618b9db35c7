"""From manifests to the model.

Reading is strict: an object that admission would refuse raises ``InvalidObject``, because a half-understood restriction is
no restriction. A control plane that meets such an object in the store anyway (the webhook was down when it was written)
uses ``policy_or_closed``, which gives a policy that lets nothing through in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .admission import validate
from .durations import read_duration
from .fields import FieldError
from .model import (
    Action,
    AuthorizationPolicy,
    Condition,
    JwtRule,
    Labels,
    Meta,
    MtlsMode,
    Operation,
    PeerAuthentication,
    RequestAuthentication,
    Rule,
    Source,
    TargetRef,
)
from .terms import OPERATION_FIELDS, SOURCE_FIELDS

DRY_RUN_ANNOTATION = "istio.io/dry-run"
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})


class InvalidObject(ValueError):  # noqa: N818 - it names the finding, as NotFound does
    """An object that admission refuses; ``errors`` says why."""

    def __init__(self, meta: Meta, errors: tuple[FieldError, ...]) -> None:
        super().__init__(f"{meta}: " + "; ".join(map(str, errors)))
        self.meta = meta
        self.errors = errors


def parse_meta(manifest: Mapping[str, Any]) -> Meta:
    """Kind, namespace, name, creation and generation of a manifest."""
    metadata = manifest.get("metadata") or {}
    return Meta(
        str(manifest.get("kind") or ""),
        str(metadata.get("namespace") or "default"),
        str(metadata.get("name") or ""),
        str(metadata.get("creationTimestamp") or ""),
        int(metadata.get("generation") or 0),
    )


def parse_authorization_policy(manifest: Mapping[str, Any]) -> AuthorizationPolicy:
    """Read an AuthorizationPolicy. Raises InvalidObject."""
    meta = _admitted(manifest, "AuthorizationPolicy")
    spec = manifest.get("spec") or {}
    rules = enumerate(spec.get("rules") or ())
    return AuthorizationPolicy(
        meta,
        Action(spec.get("action") or "ALLOW"),
        _selector(spec),
        _target_refs(spec),
        tuple(_rule(rule, f"spec.rules[{index}]") for index, rule in rules),
        (spec.get("provider") or {}).get("name") or "",
        _dry_run(manifest),
    )


def _dry_run(manifest: Mapping[str, Any]) -> bool:
    metadata = manifest.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return isinstance(annotations, Mapping) and str(annotations.get(DRY_RUN_ANNOTATION, "")) in _TRUE


def policy_or_closed(manifest: Mapping[str, Any]) -> tuple[AuthorizationPolicy, tuple[FieldError, ...]]:
    """Read an AuthorizationPolicy; one that is invalid becomes an ALLOW of nothing where it would have applied.

    Where the attachment itself cannot be read, it applies to the whole namespace. One that would have decided nothing, as a dry run or
    with action AUDIT, decides nothing then either. The errors say what was wrong.
    """
    try:
        return parse_authorization_policy(manifest), ()
    except InvalidObject as invalid:
        broken = {error.path.split("[")[0].split(".rules")[0] for error in invalid.errors}
        spec = manifest.get("spec")
        action = Action.AUDIT if isinstance(spec, Mapping) and spec.get("action") == "AUDIT" else Action.ALLOW
        closed = AuthorizationPolicy(invalid.meta, action, dry_run=_dry_run(manifest))
        readable = isinstance(spec, Mapping) and all(path.startswith("spec") for path in broken)
        attachment_errors = [
            error
            for error in invalid.errors
            if error.path == "spec" or error.path.startswith(("spec.selector", "spec.target"))
        ]
        if not readable or attachment_errors or not isinstance(spec, Mapping):
            return closed, invalid.errors
        return replace(closed, selector=_selector(spec), target_refs=_target_refs(spec)), invalid.errors


def parse_peer_authentication(manifest: Mapping[str, Any]) -> PeerAuthentication:
    """Read a PeerAuthentication. Raises InvalidObject."""
    meta = _admitted(manifest, "PeerAuthentication")
    spec = manifest.get("spec") or {}
    ports = (spec.get("portLevelMtls") or {}).items()
    return PeerAuthentication(
        meta,
        _selector(spec),
        _mode(spec.get("mtls")),
        tuple(sorted((int(port), _mode(mtls)) for port, mtls in ports)),
    )


def parse_request_authentication(manifest: Mapping[str, Any]) -> RequestAuthentication:
    """Read a RequestAuthentication. Raises InvalidObject."""
    meta = _admitted(manifest, "RequestAuthentication")
    spec = manifest.get("spec") or {}
    rules = tuple(_jwt_rule(rule) for rule in spec.get("jwtRules") or ())
    return RequestAuthentication(meta, _selector(spec), _target_refs(spec), rules)


def _admitted(manifest: Mapping[str, Any], kind: str) -> Meta:
    meta = parse_meta({"kind": kind, **manifest})
    admission = validate({"kind": kind, **manifest})
    if meta.kind != kind:
        raise InvalidObject(meta, (FieldError("kind", meta.kind, f"accepted is {kind}"),))
    if admission.errors:
        raise InvalidObject(meta, admission.errors)
    return meta


def _selector(spec: Mapping[str, Any]) -> Labels | None:
    selector = spec.get("selector")
    if selector is None:
        return None
    return tuple(sorted((selector.get("matchLabels") or {}).items()))


def _target_refs(spec: Mapping[str, Any]) -> tuple[TargetRef, ...]:
    single = spec.get("targetRef")
    references = ([single] if single else []) + list(spec.get("targetRefs") or ())
    return tuple(
        TargetRef("" if ref.get("group") in (None, "core") else ref["group"], ref["kind"], ref["name"])
        for ref in references
    )


def _rule(rule: Mapping[str, Any], path: str) -> Rule:
    sources = tuple(Source(**_fields(entry["source"], SOURCE_FIELDS)) for entry in rule.get("from") or ())
    operations = tuple(Operation(**_fields(entry["operation"], OPERATION_FIELDS)) for entry in rule.get("to") or ())
    conditions = tuple(
        Condition(when["key"], tuple(when.get("values") or ()), tuple(when.get("notValues") or ()), index)
        for index, when in enumerate(rule.get("when") or ())
    )
    return Rule(sources, operations, conditions, path)


def _fields(holder: Mapping[str, Any], table: tuple[Any, ...]) -> dict[str, tuple[str, ...]]:
    return {field.attr: tuple(holder[field.json]) for field in table if holder.get(field.json)}


def _mode(mtls: Mapping[str, Any] | None) -> MtlsMode:
    return MtlsMode((mtls or {}).get("mode") or "UNSET")


def _jwt_rule(rule: Mapping[str, Any]) -> JwtRule:
    return JwtRule(
        rule["issuer"],
        tuple(rule.get("audiences") or ()),
        rule.get("jwksUri") or rule.get("jwks_uri") or "",
        rule.get("jwks") or "",
        tuple((header["name"], header.get("prefix") or "") for header in rule.get("fromHeaders") or ()),
        tuple(rule.get("fromParams") or ()),
        bool(rule.get("forwardOriginalToken")),
        tuple(rule.get("fromCookies") or ()),
        rule.get("outputPayloadToHeader") or "",
        tuple((output["header"], output["claim"]) for output in rule.get("outputClaimToHeaders") or ()),
        tuple(rule.get("spaceDelimitedClaims") or ()),
        read_duration(rule["timeout"]) if rule.get("timeout") else 5.0,
    )
