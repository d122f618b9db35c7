"""Policies in the form of Envoy's RBAC filters: those that decide, and those that only look and leave a note in the metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_pb2
from envoy.type.matcher.v3 import metadata_pb2
from google.protobuf import any_pb2, json_format

from tulle.envoy.wire import pack
from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_config.view import ActionRules, Rules

_Config = dict[str, Any]


def read(rules: Rules) -> rbac_pb2.RBAC:
    """Rules as a message. Raises `google.protobuf.json_format.ParseError` on a field that the message does not have."""
    return json_format.ParseDict(dict(rules), rbac_pb2.RBAC())


def per_route(rules: ActionRules) -> Iterator[tuple[str, any_pb2.Any]]:
    """What each policy filter of an HTTP chain holds on a route, by the filter's name."""
    filters = (
        (names.CUSTOM_FILTER, None, rules.custom, names.CUSTOM_PREFIX),
        (names.AUDIT_FILTER, None, rules.audit, names.AUDIT_PREFIX),
        (names.DENY_FILTER, rules.deny, rules.dry_deny, names.DRY_DENY_PREFIX),
        (names.ALLOW_FILTER, rules.allow, rules.dry_allow, names.DRY_ALLOW_PREFIX),
    )
    for name, enforced, shadow, prefix in filters:
        config = http_pb2.RBAC(**_config(enforced, shadow, prefix))
        if config.ByteSize():
            yield name, pack(http_pb2.RBACPerRoute(rbac=config))


def of_connections(rules: ActionRules, *, deny_custom: bool) -> Iterator[network_pb2.RBAC]:
    """The same for a chain of opaque TCP, in order. `deny_custom`: what CUSTOM policies match is denied, not asked about."""
    custom = {"action": "DENY", "policies": rules.custom["policies"]} if rules.custom else None
    filters = (
        ("custom", custom if deny_custom else None, None if deny_custom else custom, names.CUSTOM_PREFIX),
        ("audit", None, rules.audit, names.AUDIT_PREFIX),
        ("deny", rules.deny, rules.dry_deny, names.DRY_DENY_PREFIX),
        ("allow", rules.allow, rules.dry_allow, names.DRY_ALLOW_PREFIX),
    )
    for action, enforced, shadow, prefix in filters:
        config = _config(enforced, shadow, prefix)
        if config:
            yield network_pb2.RBAC(stat_prefix=f"{names.MAIN_INTERNAL}_{action}_", **config)


def custom_matched(metadata: str) -> metadata_pb2.MetadataMatcher:
    """Whether a CUSTOM policy matched, asked of the metadata that the rules under `metadata` left.

    It does not ask which: so it holds in whatever order the rules and the authorizer of a target are replaced.
    """
    matcher = metadata_pb2.MetadataMatcher(filter=metadata)
    matcher.path.add(key=names.CUSTOM_PREFIX + names.MATCHED_POLICY)
    matcher.value.present_match = True
    return matcher


def deny_custom(reason: str) -> http_pb2.RBAC:
    """Deny what CUSTOM policies match, since nobody can be asked: `reason` is what the access log names."""
    matched = rbac_pb2.SourcedMetadata(metadata_matcher=custom_matched(names.HTTP_RBAC))
    policy = rbac_pb2.Policy(
        permissions=[rbac_pb2.Permission(sourced_metadata=matched)],
        principals=[rbac_pb2.Principal(any=True)],
    )
    return http_pb2.RBAC(rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies={reason: policy}))


def _config(enforced: Rules | None, shadow: Rules | None, prefix: str) -> _Config:
    config: _Config = {}
    if enforced is not None:
        config["rules"] = read(enforced)
    if shadow is not None:
        config["shadow_rules"] = read(shadow)
        config["shadow_rules_stat_prefix"] = prefix
    return config
