"""Nobody grants what he does not hold: the escalation check of roles and bindings."""

from __future__ import annotations

from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.rbac import CLUSTER_ROLES, GROUP, ROLES, Rbac
from tulle.cluster.apiserver.auth.rules import Attributes, uncovered
from tulle.cluster.apiserver.auth.users import User
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.store import Key

Object = dict[str, Any]
_EVERYTHING = [
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
]
_OF_COLLECTOR = ("finalizers", "ownerReferences", "managedFields", "resourceVersion")
_ROLE_KINDS = ("Role", "ClusterRole")
_BINDING_KINDS = ("RoleBinding", "ClusterRoleBinding")


def check(rbac: Rbac, kind: Kind, obj: Object, old: Object | None, user: User) -> None:
    """Refuse a role or binding that would give more than `user` has. Raises StatusError 403."""
    if kind.group != GROUP:
        return
    namespace = obj["metadata"].get("namespace", "")
    name = obj["metadata"].get("name", "")
    if kind.kind in _ROLE_KINDS:
        if old is not None and _for_collector_only(old, obj):
            return
        # What an aggregating role will gather is not known yet: only who may do everything may make one.
        wanted = _EVERYTHING if obj.get("aggregationRule") else obj.get("rules") or []
        verb, resource, target = "escalate", kind.plural, name
    elif kind.kind in _BINDING_KINDS:
        if old is not None and old.get("subjects") == obj.get("subjects"):
            return
        reference = obj.get("roleRef") or {}
        namespaced = reference.get("kind") == "Role"
        role = Key(ROLES if namespaced else CLUSTER_ROLES, namespace if namespaced else "", reference.get("name", ""))
        wanted, verb, target = rbac.raw_rules_of(role), "bind", reference.get("name", "")
        resource = "roles" if namespaced else "clusterroles"
    else:
        return
    if rbac.decide(user, Attributes(verb, GROUP, "v1", resource, "", target, namespace)).allowed:
        return
    if kind.kind in _BINDING_KINDS and not rbac.knows(role):
        # What it will give is not known yet.
        raise errors.not_found(resource, GROUP, target)
    missing = uncovered(rbac.held_rules(user, namespace), wanted)
    if missing:
        listed = "\n".join(_shown(attributes) for attributes in missing)
        why = f'user "{user.name}" (groups={list(user.groups)}) is attempting to grant RBAC permissions not currently held:\n{listed}'
        raise errors.forbidden(kind.plural, kind.group, name, why)


def _for_collector_only(old: Object, new: Object) -> bool:
    """Whether nothing else differs than the garbage collector needs. A label does count: others may gather by it."""
    first, second = (
        {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k not in _OF_COLLECTOR}} for obj in (old, new)
    )
    return first == second


def _shown(attributes: Attributes) -> str:
    if attributes.path:
        return f'{{NonResourceURLs:["{attributes.path}"], Verbs:["{attributes.verb}"]}}'
    names = f', ResourceNames:["{attributes.name}"]' if attributes.name else ""
    return f'{{APIGroups:["{attributes.group}"], Resources:["{attributes.full_resource}"]{names}, Verbs:["{attributes.verb}"]}}'
