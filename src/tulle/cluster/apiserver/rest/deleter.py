"""Deleting: graceful for pods, held up by finalizers, with preconditions and a policy for dependents.

Removing the dependents themselves is the garbage collector's work; here the policy only decides which finalizer tells it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.rest.call import Change, Options
from tulle.cluster.apiserver.rest.convert import to_storage
from tulle.cluster.apiserver.rest.fields import check_builtin
from tulle.cluster.apiserver.rest.objects import now, parse_number
from tulle.cluster.apiserver.rest.writer import Writer, finished
from tulle.cluster.apiserver.schema.definitions import META
from tulle.cluster.store import RevisionConflictError, StoreFailedError

Object = dict[str, Any]
_FINALIZER_OF_POLICY = {"Orphan": "orphan", "Foreground": "foregroundDeletion"}
_ATTEMPTS = 16
_LONGEST_GRACE = 100 * 365 * 86400
"""Seconds: what comes after it is a date that cannot be written."""


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """The DeleteOptions object: grace in seconds (None: the object's own), policy, preconditions."""

    grace: int | None = None
    policy: str = ""
    uid: str = ""
    revision: str = ""

    @classmethod
    def parse(cls, sent: Object, query: Mapping[str, str], options: Options) -> DeleteOptions:
        """From the request's body and query; what they say of dry runs goes to `options`. Raises StatusError 400/422."""
        body = check_builtin(META + "DeleteOptions", "DeleteOptions", "v1", sent, options)
        if any(value != "All" for value in body.get("dryRun") or ()):
            raise errors.bad_request(f'dryRun: found {body["dryRun"]!r}, supported values: "All"')
        options.dry_run = options.dry_run or bool(body.get("dryRun"))
        grace = body.get("gracePeriodSeconds")
        if grace is None and "gracePeriodSeconds" in query:
            grace = parse_number("gracePeriodSeconds", query["gracePeriodSeconds"], signed=True)
        policy = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
        orphan = body.get("orphanDependents")
        if orphan is not None and not policy:
            policy = "Orphan" if orphan else "Background"
        if policy not in ("", "Background", *_FINALIZER_OF_POLICY):
            accepted = ("Background", "Foreground", "Orphan")
            raise errors.invalid(
                "DeleteOptions", "meta.k8s.io", "", [errors.not_supported("propagationPolicy", policy, accepted)]
            )
        conditions = body.get("preconditions") or {}
        return cls(
            grace,
            policy,
            conditions.get("uid") or "",
            conditions.get("resourceVersion") or "",
        )


class Deleter:
    """Deletes one object at a time."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def delete(
        self, kind: Kind, namespace: str, name: str, wish: DeleteOptions, options: Options
    ) -> tuple[Object, bool]:
        """(the object as it is now, whether it is gone). Raises StatusError."""
        for _ in range(_ATTEMPTS):
            record, old = self._writer.get(kind, namespace, name)
            self._check_preconditions(kind, old, wish)
            await self._writer.strategy.review(Change(kind, "DELETE", None, old), options)
            new = _marked(kind, old, wish)
            if options.dry_run:
                return new or old, new is not None and finished(kind, new)
            if new is None:
                return old, False
            stored = to_storage(kind, new)
            try:
                if finished(kind, new):
                    await self._writer.store.delete(record.key, stored, record.revision)
                    self._writer.strategy.released(kind, new)
                    return new, True
                written = await self._writer.store.write(record.key, stored, record.revision)
            except RevisionConflictError:
                continue
            except StoreFailedError as error:
                raise errors.internal(str(error)) from None
            new["metadata"]["resourceVersion"] = str(written.revision)
            return new, False
        raise errors.conflict(kind.plural, kind.group, name)

    @staticmethod
    def _check_preconditions(kind: Kind, obj: Object, wish: DeleteOptions) -> None:
        metadata = obj["metadata"]
        if wish.uid and wish.uid != metadata.get("uid"):
            why = f"Precondition failed: UID in precondition: {wish.uid}, UID in object meta: {metadata.get('uid')}"
            raise errors.conflict(kind.plural, kind.group, metadata["name"], why)
        if wish.revision and wish.revision != metadata.get("resourceVersion"):
            why = (
                f"Precondition failed: ResourceVersion in precondition: {wish.revision}, "
                f"ResourceVersion in object meta: {metadata.get('resourceVersion')}"
            )
            raise errors.conflict(kind.plural, kind.group, metadata["name"], why)


def _grace(kind: Kind, obj: Object, wish: DeleteOptions) -> int:
    if kind.plural != "pods" or kind.group:
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Failed", "Succeeded"):
        return 0
    grace = spec.get("terminationGracePeriodSeconds", 30) if wish.grace is None else wish.grace
    return 1 if grace < 0 else min(grace, _LONGEST_GRACE)


def _marked(kind: Kind, old: Object, wish: DeleteOptions) -> Object | None:
    """The object with the deletion written into it, or None when that would change nothing."""
    metadata = dict(old["metadata"])
    new = {**old, "metadata": metadata}
    finalizers = _finalizers(metadata, wish)
    grace = _grace(kind, old, wish)
    marked = metadata.get("deletionTimestamp")
    # A second request may only shorten the grace period.
    if (
        marked
        and grace >= metadata.get("deletionGracePeriodSeconds", 0)
        and finalizers == metadata.get("finalizers", [])
    ):
        return new if finished(kind, new) else None
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=grace)
    if not marked or grace < metadata.get("deletionGracePeriodSeconds", 0):
        metadata["deletionTimestamp"] = when.strftime("%Y-%m-%dT%H:%M:%SZ") if grace else now()
        metadata["deletionGracePeriodSeconds"] = grace
    if "generation" in metadata:
        metadata["generation"] += 1
    if kind.plural == "namespaces" and not kind.group:
        new["status"] = {**(old.get("status") or {}), "phase": "Terminating"}
        metadata.pop("deletionGracePeriodSeconds", None)
    return new


def _finalizers(metadata: Object, wish: DeleteOptions) -> list[str]:
    finalizers = list(metadata.get("finalizers") or [])
    if not wish.policy:
        return finalizers
    others = [f for f in finalizers if f not in _FINALIZER_OF_POLICY.values()]
    chosen = _FINALIZER_OF_POLICY.get(wish.policy)
    return [*others, chosen] if chosen else others
