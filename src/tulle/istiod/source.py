"""From watch events to the index: the rim where objects become records and changes become one flush.

Every informer's change is reduced to index changes at once; the flush that follows runs in the next turn of the event loop, so that all
events which arrive together are computed together and none waits for a timer. Until everything is synced nothing is flushed: half a mesh
must not be told to proxies that know the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog
import yaml

from tulle.istiod.index import convert, entries
from tulle.istiod.index.contained import contained
from tulle.istiod.index.convert import Records
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Change, Kind
from tulle.istiod.index.state import Delta
from tulle.istiod.informers import Informers, Manifest
from tulle.kube.informer import Change as ObjectChange
from tulle.kube.informer import Informer
from tulle.kube.objects import ConfigMap
from tulle.security.admission import validate
from tulle.security.mesh import InvalidMeshConfig, MeshSettings, parse_mesh_config
from tulle.security.model import AuthorizationPolicy, Meta, MtlsMode, PeerAuthentication
from tulle.security.parse import (
    InvalidObject,
    parse_peer_authentication,
    parse_request_authentication,
    policy_or_closed,
)

T = TypeVar("T")
log = structlog.get_logger("tulle.istiod.source")

_MESH_KEY = "mesh"


class MeshDocumentError(ValueError):
    """The mesh configuration is not a document that can be read at all."""


def mesh_settings(config: ConfigMap | None) -> MeshSettings:
    """Read the mesh configuration; without a ConfigMap the defaults hold. Raises InvalidMeshConfig, MeshDocumentError."""
    if config is None:
        return MeshSettings()
    try:
        document = yaml.safe_load(config.data.get(_MESH_KEY, ""))
    except yaml.YAMLError as error:
        raise MeshDocumentError(f"key {_MESH_KEY!r} is no YAML: {error}") from error
    return parse_mesh_config(document)


class MeshSource:
    """Feeds a `MeshIndex` and reports what each flush changed to `on_delta`."""

    def __init__(self, informers: Informers, index: MeshIndex, domain: str, on_delta: Callable[[Delta], None]) -> None:
        self._index = index
        self._on_delta = on_delta
        self._live = False
        self._changed = asyncio.Event()
        self._settings_known = asyncio.Event()
        self._feed(informers.namespaces, convert.from_namespace)
        self._feed(informers.nodes, convert.from_node)
        self._feed(informers.gateway_classes, convert.from_gateway_class)
        self._feed(informers.gateways, convert.from_gateway)
        self._feed(informers.services, lambda obj: convert.from_service(obj, domain))
        self._feed(informers.pods, convert.from_pod)
        self._feed(informers.endpoint_slices, lambda obj: convert.from_endpoint_slice(obj, domain))
        self._feed(informers.service_entries, entries.from_service_entry)
        self._feed(informers.workload_entries, entries.from_workload_entry)
        self._feed(informers.authorization_policies, _from_policy)
        self._feed(informers.peer_authentications, _from_peer_authentication)
        self._feed(informers.request_authentications, _from_request_authentication)
        informers.authorization_policies.on_change(lambda change: _complain("AuthorizationPolicy", change))
        informers.peer_authentications.on_change(lambda change: _complain("PeerAuthentication", change))
        informers.request_authentications.on_change(lambda change: _complain("RequestAuthentication", change))
        informers.mesh_config.on_change(self._mesh_config_changed)
        self._informers = informers

    def _feed(self, informer: Informer[T], reduce: Callable[[T], Records]) -> None:
        kind = informer.resource.kind
        instead, consequence = _UNREADABLE.get(kind, (_as_before, "it stays as it was"))
        # What counts in the place of objects that cannot be read.
        replaced: dict[tuple[str, str], Records] = {}

        def changed(change: ObjectChange[T]) -> None:
            key = change.key
            before = replaced.pop(key, None)
            if before is None:
                before = reduce(change.old) if change.old is not None else {}

            def unreadable() -> Records:
                replaced[key] = instead(key, before)
                return replaced[key]

            after: Records = {}
            if (new := change.new) is not None:
                after = contained(lambda: reduce(new), unreadable, f"{kind} {'/'.join(filter(None, key))}", consequence)
            self._apply(convert.changes(before, after))

        informer.on_change(changed)

    def _apply(self, changes: Any) -> None:
        found = tuple(changes)
        if found:
            self._index.apply(found)
            self._schedule()

    def _mesh_config_changed(self, change: ObjectChange[ConfigMap]) -> None:
        try:
            settings = mesh_settings(change.new)
        except (InvalidMeshConfig, MeshDocumentError) as error:
            kept = (
                "the last good configuration stays in force"
                if self._settings_known.is_set()
                else "waiting for a usable one"
            )
            log.error("mesh configuration refused", config_map="/".join(change.key), error=str(error), consequence=kept)
            return
        self._settings_known.set()
        self._apply((Change(Kind.SETTINGS, ("", ""), settings),))

    async def start(self) -> None:
        """Wait until everything is synced and a usable mesh configuration is known, then flush for the first time.

        A mesh configuration that cannot be read keeps istiod from starting to serve, instead of being taken for the defaults.
        """
        await self._informers.synced()
        if self._informers.mesh_config.store:
            await self._settings_known.wait()
        self._live = True
        self._flush()

    async def run(self) -> None:
        """Flush whatever has changed, until cancelled. What a flush raises ends this, and istiod: a start anew is better than proxies
        that are told half of a change.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._flush()

    def _schedule(self) -> None:
        if self._live:
            self._changed.set()

    def _flush(self) -> None:
        delta = self._index.flush()
        if delta:
            self._on_delta(delta)


def _from_policy(manifest: Manifest) -> Records:
    """An invalid object denies everything where it would have applied: what cannot be understood must not open anything."""
    policy, _ = policy_or_closed({"kind": "AuthorizationPolicy", **manifest})
    return {(Kind.POLICY, (policy.meta.namespace, policy.meta.name)): policy}


def _from_peer_authentication(manifest: Manifest) -> Records:
    """An invalid object counts as STRICT for its whole namespace, for the same reason."""
    try:
        policy = parse_peer_authentication({"kind": "PeerAuthentication", **manifest})
    except InvalidObject as error:
        policy = PeerAuthentication(error.meta, mode=MtlsMode.STRICT)
    return {(Kind.PEER_AUTHENTICATION, (policy.meta.namespace, policy.meta.name)): policy}


def _from_request_authentication(manifest: Manifest) -> Records:
    """An invalid object vouches for nobody: no token is taken for good because of it."""
    try:
        policy = parse_request_authentication({"kind": "RequestAuthentication", **manifest})
    except InvalidObject:
        return {}
    return {(Kind.REQUEST_AUTHENTICATION, (policy.meta.namespace, policy.meta.name)): policy}


def _as_before(_: tuple[str, str], before: Records) -> Records:
    return before


def _gone(_: tuple[str, str], __: Records) -> Records:
    return {}


def _closed_policy(key: tuple[str, str], _: Records) -> Records:
    return {(Kind.POLICY, key): AuthorizationPolicy(Meta("AuthorizationPolicy", *key))}


def _strict(key: tuple[str, str], _: Records) -> Records:
    return {(Kind.PEER_AUTHENTICATION, key): PeerAuthentication(Meta("PeerAuthentication", *key), mode=MtlsMode.STRICT)}


_UNREADABLE: Mapping[str, tuple[Callable[[tuple[str, str], Records], Records], str]] = {
    "Pod": (_gone, "it has no traffic"),
    "WorkloadEntry": (_gone, "it has no traffic"),
    "EndpointSlice": (_gone, "its Service has no endpoints because of it"),
    "AuthorizationPolicy": (_closed_policy, "everything in its namespace is denied"),
    "PeerAuthentication": (_strict, "STRICT holds in its namespace instead"),
    "RequestAuthentication": (_gone, "no token is accepted because of it"),
}
"""What an object that cannot be read counts as, if not as what it was."""
_CONSEQUENCES = {
    "AuthorizationPolicy": "it denies everything where it would have applied, unless it is a dry run or audits",
    "PeerAuthentication": "STRICT holds in its namespace instead",
    "RequestAuthentication": "no token is accepted because of it",
}


def _complain(kind: str, change: ObjectChange[Manifest]) -> None:
    """Say what is wrong with an object that was stored while no webhook looked at it."""
    if change.new is None:
        return
    errors = validate({**change.new, "kind": kind}).errors
    if errors:
        log.error(
            "invalid policy in the store",
            policy=f"{kind}/{'/'.join(change.key)}",
            errors=[str(error) for error in errors],
            consequence=_CONSEQUENCES[kind],
        )
