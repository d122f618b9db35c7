"""The RBAC index: roles and bindings as they are stored, kept ready for a decision per request.

It follows the store through its listeners, so a decision never lags behind an acknowledged write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tulle.cluster.apiserver.auth.rules import Attributes, Rule
from tulle.cluster.apiserver.auth.users import MASTERS, SERVICE_ACCOUNT_PREFIX, User
from tulle.cluster.apiserver.errors import forbidden
from tulle.cluster.apiserver.selectors import from_label_selector_object
from tulle.cluster.store import Event, Key, Store

GROUP = "rbac.authorization.k8s.io"
ROLES = f"roles.{GROUP}"
CLUSTER_ROLES = f"clusterroles.{GROUP}"
ROLE_BINDINGS = f"rolebindings.{GROUP}"
CLUSTER_ROLE_BINDINGS = f"clusterrolebindings.{GROUP}"


@dataclass(frozen=True, slots=True)
class _Binding:
    key: Key
    namespace: str
    role: Key


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request is allowed, and by which binding."""

    allowed: bool
    reason: str = ""


def _subject_key(subject: Mapping[str, Any]) -> tuple[str, str]:
    if subject.get("kind") == "ServiceAccount":
        return "User", f"{SERVICE_ACCOUNT_PREFIX}{subject.get('namespace', '')}:{subject.get('name', '')}"
    return str(subject.get("kind", "")), str(subject.get("name", ""))


class Rbac:
    """Decides by the roles and bindings in the store; `system:masters` may do everything."""

    def __init__(self, store: Store) -> None:
        self._rules: dict[Key, tuple[Rule, ...]] = {}
        self._raw: dict[Key, list[dict[str, Any]]] = {}
        self._labels: dict[Key, Mapping[str, str]] = {}
        self._aggregations: dict[Key, list[dict[str, Any]]] = {}
        self._bindings: dict[tuple[str, str], dict[Key, _Binding]] = {}
        self._subjects: dict[Key, tuple[tuple[str, str], ...]] = {}
        for resource, change in (
            (ROLES, self._role_changed),
            (CLUSTER_ROLES, self._role_changed),
            (ROLE_BINDINGS, self._binding_changed),
            (CLUSTER_ROLE_BINDINGS, self._binding_changed),
        ):
            for record in store.list(resource):
                change(Event(record.revision, record.key, None, record))
            store.listen(resource, change)

    def _role_changed(self, event: Event) -> None:
        for table in (self._rules, self._raw, self._labels, self._aggregations):
            table.pop(event.key, None)
        if event.new is None:
            return
        role = event.new.decode()
        self._raw[event.key] = role.get("rules") or []
        self._rules[event.key] = tuple(Rule.parse(rule) for rule in self._raw[event.key])
        self._labels[event.key] = event.new.labels
        aggregation = (role.get("aggregationRule") or {}).get("clusterRoleSelectors")
        if aggregation:
            self._aggregations[event.key] = aggregation

    def _binding_changed(self, event: Event) -> None:
        for subject in self._subjects.pop(event.key, ()):
            self._bindings[subject].pop(event.key, None)
        if event.new is None:
            return
        binding = event.new.decode()
        reference = binding.get("roleRef") or {}
        namespaced = reference.get("kind") == "Role"
        role = Key(
            ROLES if namespaced else CLUSTER_ROLES, event.key.namespace if namespaced else "", reference.get("name", "")
        )
        subjects = tuple(_subject_key(subject) for subject in binding.get("subjects") or ())
        self._subjects[event.key] = subjects
        for subject in subjects:
            self._bindings.setdefault(subject, {})[event.key] = _Binding(event.key, event.key.namespace, role)

    def knows(self, role: Key) -> bool:
        """Whether the role exists."""
        return role in self._raw

    def rules_of(self, role: Key) -> tuple[Rule, ...]:
        """Rules of a role, aggregated ones included; empty when it does not exist."""
        return tuple(rule for part in self._parts(role) for rule in self._rules.get(part, ()))

    def raw_rules_of(self, role: Key) -> list[dict[str, Any]]:
        """PolicyRule objects of a role, aggregated ones included."""
        return [rule for part in self._parts(role) for rule in self._raw.get(part, ())]

    def _parts(self, role: Key) -> list[Key]:
        """A role and those it aggregates."""
        selectors = [from_label_selector_object(selector) for selector in self._aggregations.get(role, ())]
        if not selectors:
            return [role]
        others = (
            (key, labels) for key, labels in self._labels.items() if key.resource == CLUSTER_ROLES and key != role
        )
        return [role, *(key for key, labels in others if any(s.matches(labels) for s in selectors))]

    def _bindings_of(self, user: User, namespace: str) -> Iterable[_Binding]:
        for subject in (("User", user.name), *(("Group", group) for group in user.groups)):
            for binding in self._bindings.get(subject, {}).values():
                if not binding.namespace or binding.namespace == namespace:
                    yield binding

    def held_rules(self, user: User, namespace: str) -> list[Rule]:
        """Every rule that applies to the user in a namespace ("": cluster-wide ones only)."""
        if MASTERS in user.groups:
            everything = frozenset("*")
            return [Rule(everything, everything, everything), Rule(everything, paths=("*",))]
        return [rule for binding in self._bindings_of(user, namespace) for rule in self.rules_of(binding.role)]

    def decide(self, user: User, attributes: Attributes) -> Decision:
        """Whether `user` may do it."""
        if MASTERS in user.groups:
            return Decision(True)
        for binding in self._bindings_of(user, attributes.namespace):
            if any(rule.covers(attributes) for rule in self.rules_of(binding.role)):
                return Decision(True, _why(binding, user))
        return Decision(False)


def _why(binding: _Binding, user: User) -> str:
    what = "RoleBinding" if binding.namespace else "ClusterRoleBinding"
    where = f"{binding.key.name}/{binding.namespace}" if binding.namespace else binding.key.name
    role = "Role" if binding.role.resource == ROLES else "ClusterRole"
    return f'RBAC: allowed by {what} "{where}" of {role} "{binding.role.name}" to User "{user.name}"'


def refusal(user: User, attributes: Attributes) -> str:
    """The sentence that says what was not allowed."""
    what = f'User "{user.name}" cannot {attributes.verb} resource "{attributes.full_resource}" in API group "{attributes.group}"'
    if attributes.namespace:
        return f'{what} in the namespace "{attributes.namespace}"'
    return f"{what} at the cluster scope"


def require(rbac: Rbac, user: User, attributes: Attributes) -> None:
    """Refuse what is not allowed. Raises StatusError 403."""
    if not rbac.decide(user, attributes).allowed:
        raise forbidden(attributes.full_resource, attributes.group, attributes.name, refusal(user, attributes))
