"""The dispatcher between the writer and what each kind needs."""

from __future__ import annotations

import base64
from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.rbac import Rbac
from tulle.cluster.apiserver.errors import FieldError
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.rest.call import Change, Options
from tulle.cluster.apiserver.schema import custom
from tulle.cluster.apiserver.schema.validate import validate
from tulle.cluster.apiserver.strategy import admission, escalation, ownership
from tulle.cluster.apiserver.strategy.allocation import Allocator
from tulle.cluster.apiserver.strategy.defaults import DEFAULTERS, stamp_event
from tulle.cluster.apiserver.strategy.immutable import IMMUTABLE
from tulle.cluster.apiserver.strategy.rules import RULES
from tulle.cluster.apiserver.strategy.webhooks import Webhooks
from tulle.cluster.store import Store

Object = dict[str, Any]


class KindStrategy:
    """Implements `rest.writer.Strategy` over the tables of this package."""

    def __init__(self, store: Store, registry: Registry, allocator: Allocator, webhooks: Webhooks, rbac: Rbac) -> None:
        self._store = store
        self._registry = registry
        self._allocator = allocator
        self._webhooks = webhooks
        self._rbac = rbac

    def default(self, kind: Kind, obj: Object) -> None:
        """Fill in defaults, in place."""
        if not isinstance(kind.schema, str):
            custom.default(obj, kind.schema)
            return
        defaulter = DEFAULTERS.get((kind.group, kind.kind))
        if defaulter is not None:
            defaulter(obj)

    async def await_needed(self, kind: Kind, obj: Object) -> None:
        """Wait for what others make at about the same time; whether it came is for `prepare_create` to say."""
        if (kind.group, kind.kind) == ("", "Pod"):
            await admission.await_default_account(self._store, obj)

    def prepare_create(self, kind: Kind, obj: Object, options: Options) -> None:
        """ServiceAccount admission, allocation, finalizers. Raises StatusError."""
        self.check_place(kind, obj)
        match (kind.group, kind.kind):
            case ("", "Pod"):
                admission.admit_pod(self._store, obj)
            case ("", "Service"):
                self._allocate(kind, obj, None)
            case ("", "Event"):
                stamp_event(obj)
            case ("", "Secret"):
                _join_string_data(obj)
            case ("apiextensions.k8s.io", "CustomResourceDefinition"):
                admission.hold_definition(obj)

    def check_place(self, kind: Kind, obj: Object) -> None:
        """Whether a new object still has a namespace and a definition to be in. Raises StatusError."""
        if kind.custom:
            admission.check_definition_alive(self._registry, kind)
        if kind.namespaced:
            admission.check_namespace_alive(self._store, kind, obj)

    def prepare_update(self, kind: Kind, old: Object, new: Object, subresource: str) -> None:
        """Allocation for changed Services. Raises StatusError."""
        match (kind.group, kind.kind):
            case ("", "Service") if subresource != "status":
                self._allocate(kind, new, old)
            case ("", "Secret"):
                _join_string_data(new)
            case ("", "Namespace") if subresource not in ("finalize", "status"):
                new["spec"] = old.get("spec") or {}

    def _allocate(self, kind: Kind, obj: Object, old: Object | None) -> None:
        try:
            problems = self._allocator.allocate(obj, old)
        except OverflowError as error:
            raise errors.internal(
                f"Service {obj['metadata'].get('namespace')}/{obj['metadata'].get('name')}: {error}"
            ) from None
        if problems:
            self.released(kind, obj)
            raise errors.invalid("Service", "", obj["metadata"].get("name", ""), problems)

    def validate(self, kind: Kind, obj: Object, old: Object | None, subresource: str) -> list[FieldError]:
        """What is wrong."""
        key = (kind.group, kind.kind)
        if not isinstance(kind.schema, str):
            return validate(obj, kind.schema)
        problems: list[FieldError] = []
        if subresource in ("", "scale") and key in RULES:
            problems += RULES[key](obj)
        if old is not None and subresource == "" and key in IMMUTABLE:
            problems += IMMUTABLE[key](old, obj)
        return problems

    async def review(self, change: Change, options: Options) -> None:
        """Deletion guards, the escalation check, and validating webhooks. Raises StatusError."""
        if change.operation == "DELETE":
            admission.check_may_die(change.kind, change.subject["metadata"]["name"])
        elif change.obj is not None:
            escalation.check(self._rbac, change.kind, change.obj, change.old, options.user)
        await self._webhooks.review(change, options)

    def own(self, kind: Kind, old: Object | None, new: Object, options: Options, subresource: str) -> None:
        """Record field ownership."""
        ownership.record(kind, old, new, options.manager, subresource)

    def released(self, kind: Kind, obj: Object) -> None:
        """Give back what was allocated."""
        if (kind.group, kind.kind) == ("", "Service"):
            self._allocator.release(obj, self._store)


def _join_string_data(secret: Object) -> None:
    """stringData is only a way to write data."""
    for key, text in (secret.pop("stringData", None) or {}).items():
        secret.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
