"""Creating and changing objects: the one path that every write takes.

Decode, fill in, default, admit, validate, ask the webhooks, record who owns which field, and commit at the revision that
was read. A write that somebody else overtook is made again from the newer object, unless its author insisted on a revision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.errors import FieldError, StatusError
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.rest import objects
from tulle.cluster.apiserver.rest.call import Change, Options
from tulle.cluster.apiserver.rest.convert import from_storage, to_storage
from tulle.cluster.apiserver.rest.fields import check_fields
from tulle.cluster.store import Key, Record, RevisionConflictError, Store, StoreFailedError

Object = dict[str, Any]
_ATTEMPTS = 16


class Strategy(Protocol):
    """What differs from kind to kind."""

    def default(self, kind: Kind, obj: Object) -> None:
        """Fill in defaults, in place."""

    async def await_needed(self, kind: Kind, obj: Object) -> None:
        """Wait for what a new object needs and others are about to make."""

    def prepare_create(self, kind: Kind, obj: Object, options: Options) -> None:
        """Mutating admission and allocation for a new object. Raises StatusError."""

    def check_place(self, kind: Kind, obj: Object) -> None:
        """Whether a new object still has a namespace and a definition to be in. Raises StatusError."""

    def prepare_update(self, kind: Kind, old: Object, new: Object, subresource: str) -> None:
        """Mutating admission for a change. Raises StatusError."""

    def validate(self, kind: Kind, obj: Object, old: Object | None, subresource: str) -> list[FieldError]:
        """What is wrong with the object (or with the change)."""

    async def review(self, change: Change, options: Options) -> None:
        """Validating webhooks. Raises StatusError."""

    def own(self, kind: Kind, old: Object | None, new: Object, options: Options, subresource: str) -> None:
        """Record the manager's ownership of what it changed, in metadata.managedFields."""

    def released(self, kind: Kind, obj: Object) -> None:
        """The object was not written after all, or is gone: give back what was allocated for it."""


def key_of(kind: Kind, namespace: str, name: str) -> Key:
    """Store key of an object."""
    return Key(kind.storage, namespace if kind.namespaced else "", name)


class Writer:
    """Creates and changes objects."""

    def __init__(self, store: Store, strategy: Strategy) -> None:
        self.store = store
        self.strategy = strategy

    def get(self, kind: Kind, namespace: str, name: str) -> tuple[Record, Object]:
        """The stored record and its object in `kind`'s version. Raises StatusError 404."""
        record = self.store.get(key_of(kind, namespace, name))
        if record is None:
            raise errors.not_found(kind.plural, kind.group, name)
        return record, from_storage(kind, record.decode())

    async def create(self, kind: Kind, namespace: str, obj: Object, options: Options, *, owned: bool = False) -> Object:
        """Create an object; `owned` says that managedFields are already in it. Raises StatusError."""
        objects.check_type(obj, kind.api_version, kind.kind)
        objects.check_namespace(kind, namespace, obj)
        obj = check_fields(kind, obj, options)
        if obj["metadata"].get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        objects.begin(kind, obj)
        name = obj["metadata"].get("name", "")
        self.strategy.default(kind, obj)
        await self.strategy.await_needed(kind, obj)
        if name and self.store.get(key_of(kind, namespace, name)) is not None:
            raise errors.already_exists(kind.plural, kind.group, name)
        self.strategy.prepare_create(kind, obj, options)
        try:
            self._refuse_if(kind, obj, self._problems(kind, obj, None, ""))
            await self.strategy.review(Change(kind, "CREATE", obj, None), options)
            if not owned:
                self.strategy.own(kind, None, obj, options, "")
            if options.dry_run:
                self.strategy.released(kind, obj)
                return obj
            return await self._insert(kind, namespace, obj)
        except BaseException:
            self.strategy.released(kind, obj)
            raise

    async def _insert(self, kind: Kind, namespace: str, obj: Object) -> Object:
        name = obj["metadata"]["name"]
        try:
            # Asked once more as it is written: what it was made for may have gone while webhooks thought about it, and nobody
            # would look for it there any more.
            record = await self.store.write(
                key_of(kind, namespace, name), to_storage(kind, obj), 0, lambda: self.strategy.check_place(kind, obj)
            )
        except RevisionConflictError:
            raise errors.already_exists(kind.plural, kind.group, name) from None
        except StoreFailedError as error:
            raise errors.internal(str(error)) from None
        obj["metadata"]["resourceVersion"] = str(record.revision)
        return obj

    async def change(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        make: Callable[[Object], Object],
        options: Options,
        *,
        subresource: str = "",
        owned: bool = False,
    ) -> Object:
        """Replace an object by `make(old)`; `make` is called again when somebody else was faster. Raises StatusError.

        When the object that `make` returns carries a resourceVersion other than the current one, that is a conflict.
        """
        for _ in range(_ATTEMPTS):
            record, old = self.get(kind, namespace, name)
            new = make(copy.deepcopy(old))
            objects.check_type(new, kind.api_version, kind.kind)
            insisted = new["metadata"].get("resourceVersion")
            if insisted and objects.parse_revision(insisted) != record.revision:
                raise errors.conflict(kind.plural, kind.group, name)
            try:
                new = await self._prepared(kind, old, new, options, subresource=subresource, owned=owned)
                if not options.dry_run and not objects.same(old, new):
                    return await self._replace(kind, record, new)
            except RevisionConflictError:
                self.strategy.released(kind, old)
                continue
            except BaseException:
                self.strategy.released(kind, old)
                raise
            self.strategy.released(kind, old)
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            return new
        raise errors.conflict(kind.plural, kind.group, name)

    async def _prepared(
        self, kind: Kind, old: Object, new: Object, options: Options, *, subresource: str, owned: bool
    ) -> Object:
        namespace, name = old["metadata"].get("namespace", ""), old["metadata"]["name"]
        objects.check_namespace(kind, namespace, new)
        new = check_fields(kind, new, options)
        metadata = new["metadata"]
        if metadata.get("name", name) != name:
            raise errors.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        if metadata.get("uid") and metadata["uid"] != old["metadata"].get("uid"):
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {old['metadata'].get('uid')}"
            raise errors.conflict(kind.plural, kind.group, name, why)
        objects.carry_over(kind, old, new, subresource)
        self.strategy.default(kind, new)
        self.strategy.prepare_update(kind, old, new, subresource)
        if (kind.generation or kind.custom) and objects.desired_state(kind, old) != objects.desired_state(kind, new):
            metadata = new["metadata"]
            metadata["generation"] = old["metadata"].get("generation", 0) + 1
        self._refuse_if(kind, new, self._problems(kind, new, old, subresource))
        if not objects.same(old, new):
            await self.strategy.review(Change(kind, "UPDATE", new, old, subresource), options)
            if not owned:
                self.strategy.own(kind, old, new, options, subresource)
        return new

    async def _replace(self, kind: Kind, record: Record, new: Object) -> Object:
        try:
            if finished(kind, new):
                await self.store.delete(record.key, to_storage(kind, new), record.revision)
                self.strategy.released(kind, new)
            else:
                written = await self.store.write(record.key, to_storage(kind, new), record.revision)
                new["metadata"]["resourceVersion"] = str(written.revision)
        except StoreFailedError as error:
            raise errors.internal(str(error)) from None
        return new

    def _problems(self, kind: Kind, obj: Object, old: Object | None, subresource: str) -> list[FieldError]:
        problems = objects.check_metadata(kind, obj)
        if old is not None:
            problems += objects.check_finalizers_kept(old, obj)
        return problems + self.strategy.validate(kind, obj, old, subresource)

    @staticmethod
    def _refuse_if(kind: Kind, obj: Object, problems: list[FieldError]) -> None:
        if problems:
            raise errors.invalid(kind.kind, kind.group, obj["metadata"].get("name", ""), problems)


def finished(kind: Kind, obj: Object) -> bool:
    """Whether an object marked for deletion has nothing left that holds it."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if kind.plural == "namespaces" and not kind.group and obj.get("spec", {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")


__all__ = ["Options", "StatusError", "Strategy", "Writer", "finished", "key_of"]
