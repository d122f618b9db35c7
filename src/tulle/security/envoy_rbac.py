"""Policies as Envoy RBAC filters, for a waypoint.

The result is protobuf-JSON (``envoy.extensions.filters.http.rbac.v3.RBAC`` and the network filter's twin): one filter per
action over all policies, in the order CUSTOM, AUDIT, DENY, ALLOW (C4). A waypoint reads requests on an internal listener, so
how the client's identity and address reach the filter is a parameter; see ``Inputs``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .envoy_match import Inputs, Json, permission, principal
from .mesh import MeshSettings
from .model import Action, AuthorizationPolicy, Rule
from .reduction import Place, reduce_policy
from .terms import Attribute, Entry, Term, groups

__all__ = ["Filters", "Inputs", "http_filters", "http_normalization", "tcp_filters"]

HTTP_TYPE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
TCP_TYPE = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"

_ENVOY_ACTION = {Action.CUSTOM: "DENY", Action.AUDIT: "LOG", Action.DENY: "DENY", Action.ALLOW: "ALLOW"}
# Envoy evaluates destination and request attributes as permissions, the rest as principals.
_PERMISSIONS = frozenset(
    {
        Attribute.HOST,
        Attribute.METHOD,
        Attribute.PATH,
        Attribute.DESTINATION_IP,
        Attribute.DESTINATION_PORT,
        Attribute.SNI,
        Attribute.FILTER_METADATA,
    }
)


@dataclass(frozen=True)
class Filters:
    """One RBAC config per action, None where no policy has that action.

    CUSTOM stands for a DENY of everything that its policies match: no external authorizer can be asked, and an authorizer
    that cannot be asked must not count as consent (C4).
    """

    custom: Json | None = None
    audit: Json | None = None
    deny: Json | None = None
    allow: Json | None = None
    type_url: str = HTTP_TYPE

    def named(self) -> tuple[Json, ...]:
        """The filters in their order, ready for a filter chain (name and typed_config)."""
        configs = (("custom", self.custom), ("audit", self.audit), ("deny", self.deny), ("allow", self.allow))
        return tuple(
            {"name": f"tulle.rbac.{name}", "typed_config": {"@type": self.type_url, **config}}
            for name, config in configs
            if config is not None
        )


def http_filters(
    policies: Iterable[AuthorizationPolicy], settings: MeshSettings, inputs: Inputs | None = None
) -> Filters:
    """The HTTP RBAC filters for ``policies``, as ``PolicySet.for_service`` gives them."""
    return _filters(tuple(policies), settings, inputs or Inputs(), HTTP_TYPE)


def tcp_filters(
    policies: Iterable[AuthorizationPolicy], settings: MeshSettings, inputs: Inputs | None = None
) -> Filters:
    """The network RBAC filters for a port that is not HTTP: ALLOW rules with HTTP fields are dropped, DENY rules lose
    them and so deny more (C5)."""
    reduced = (reduce_policy(policy, Place.TCP).policy for policy in policies)
    return _filters(tuple(p for p in reduced if p is not None), settings, inputs or Inputs(), TCP_TYPE)


def http_normalization(settings: MeshSettings) -> Json:
    """The fields of an HTTP connection manager that normalise paths as policies expect (C3)."""
    option = settings.path_normalization
    fields: Json = {"normalize_path": option != "NONE"}
    if option in ("MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"):
        fields["merge_slashes"] = True
    if option == "DECODE_AND_MERGE_SLASHES":
        fields["path_with_escaped_slashes_action"] = "UNESCAPE_AND_FORWARD"
    return fields


def _filters(policies: Sequence[AuthorizationPolicy], settings: MeshSettings, inputs: Inputs, type_url: str) -> Filters:
    configs: dict[str, Json | None] = {}
    for action in Action:
        chosen = [policy for policy in policies if policy.action is action]
        configs[action.value.lower()] = _config(chosen, action, settings, inputs, type_url) if chosen else None
    return Filters(**configs, type_url=type_url)


def _config(
    policies: Sequence[AuthorizationPolicy], action: Action, settings: MeshSettings, inputs: Inputs, type_url: str
) -> Json:
    """Dry runs become shadow rules, which only count and log."""
    config: Json = {}
    if type_url == TCP_TYPE:
        config["stat_prefix"] = f"tulle_{action.value.lower()}."
    enforced = [policy for policy in policies if not policy.dry_run]
    shadow = [policy for policy in policies if policy.dry_run]
    if enforced:
        config["rules"] = _rules(enforced, action, settings, inputs)
    if shadow:
        config["shadow_rules"] = _rules(shadow, action, settings, inputs)
        config["shadow_rules_stat_prefix"] = f"tulle_dry_run_{action.value.lower()}_"
    return config


def _rules(policies: Sequence[AuthorizationPolicy], action: Action, settings: MeshSettings, inputs: Inputs) -> Json:
    found: Json = {}
    for policy in policies:
        for rule in policy.rules:
            found[_name(policy, rule)] = _rule(policy, rule, settings, inputs)
    return {"action": _ENVOY_ACTION[action], "policies": found}


def _name(policy: AuthorizationPolicy, rule: Rule) -> str:
    """The name that istioctl's authz check reads."""
    index = rule.path.rpartition("[")[2].rstrip("]")
    return f"ns[{policy.meta.namespace}]-policy[{policy.meta.name}]-rule[{index}]"


def _rule(policy: AuthorizationPolicy, rule: Rule, settings: MeshSettings, inputs: Inputs) -> Json:
    permissions: list[Json] = []
    principals: list[Json] = []
    for group in groups(rule):
        if group.kind == "when":
            (entry,) = group.entries
            of_permission = bool(entry.terms) and entry.terms[0].attribute in _PERMISSIONS
        else:
            of_permission = group.kind == "to"
        alternatives = [_entry(entry, policy, settings, inputs, of_permission) for entry in group.entries]
        (permissions if of_permission else principals).append(_any_of(alternatives, of_permission))
    return {
        "permissions": [_all_of(permissions, True)],
        "principals": [_all_of(principals, False)],
    }


def _entry(
    entry: Entry, policy: AuthorizationPolicy, settings: MeshSettings, inputs: Inputs, of_permission: bool
) -> Json:
    if not entry.terms:
        return _not({"any": True}, of_permission)
    return _all_of([_term(term, policy, settings, inputs, of_permission) for term in entry.terms], of_permission)


def _term(term: Term, policy: AuthorizationPolicy, settings: MeshSettings, inputs: Inputs, of_permission: bool) -> Json:
    if of_permission:
        found = permission(term, settings, inputs)
    else:
        found = principal(term, policy.meta.namespace, settings, inputs, policy.action is not Action.ALLOW)
    matcher = _any_of(found, of_permission)
    return _not(matcher, of_permission) if term.negated else matcher


def _any_of(items: list[Json], of_permission: bool) -> Json:
    if len(items) == 1:
        return items[0]
    return {"or_rules": {"rules": items}} if of_permission else {"or_ids": {"ids": items}}


def _all_of(items: list[Json], of_permission: bool) -> Json:
    if not items:
        return {"any": True}
    if len(items) == 1:
        return items[0]
    return {"and_rules": {"rules": items}} if of_permission else {"and_ids": {"ids": items}}


def _not(item: Json, of_permission: bool) -> Json:
    return {"not_rule": item} if of_permission else {"not_id": item}
