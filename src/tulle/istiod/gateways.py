"""The waypoint controller: from a Gateway of class `istio-waypoint` to a running waypoint and back to the Gateway's status (spec A5).

What stands behind a Gateway is applied server-side and looked at whenever it changes, so an edited field or a deleted object comes back.
An apply is skipped while the object is exactly what the last apply left behind; that keeps the controller from answering its own events.
An object of the same name that is somebody else's is left alone: it would become the Gateway's, and go with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from tulle.istiod import gateway_objects, gateway_status
from tulle.istiod.gateway_objects import Rendered, WaypointImage
from tulle.istiod.gateway_status import Behind
from tulle.istiod.index import labels as names
from tulle.istiod.informers import Informers
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.informer import Change, Informer
from tulle.kube.objects import Gateway, GatewayClass
from tulle.kube.queue import WorkQueue
from tulle.kube.resources import (
    DEPLOYMENTS,
    GATEWAY_CLASSES,
    GATEWAYS,
    POD_DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)

log = structlog.get_logger("tulle.istiod.gateways")

FIELD_MANAGER = names.MESH_CONTROLLER
_LOOK_AGAIN = 30.0
"""Seconds until an object that stands in the way is looked for again: not all of them are followed."""
_NEEDED = (DEPLOYMENTS.kind, SERVICES.kind)
"""Kinds without which there is no waypoint; somebody else's ServiceAccount or disruption budget serves as well."""
_CLASS_KEY = ("", names.WAYPOINT_CLASS)


class GatewayController:
    """Reconciles GatewayClass `istio-waypoint` and every Gateway of a class of this controller."""

    def __init__(self, client: Client, informers: Informers, domain: str, image: WaypointImage) -> None:
        self._client = client
        self._informers = informers
        self._domain = domain
        self._image = image
        self._queue: WorkQueue[tuple[str, str]] = WorkQueue()
        self._applied: dict[tuple[str, str, str], tuple[bytes, Any]] = {}
        self._foreign: set[tuple[str, str, str]] = set()
        informers.gateways.on_change(self._enqueue)
        informers.gateway_classes.on_change(self._class_changed)
        informers.managed_deployments.on_change(self._enqueue)
        informers.managed_accounts.on_change(self._enqueue)
        informers.managed_budgets.on_change(self._enqueue)
        informers.services.on_change(self._enqueue_managed)
        self._stores: Mapping[str, Informer[Any]] = {
            DEPLOYMENTS.kind: informers.managed_deployments,
            SERVICE_ACCOUNTS.kind: informers.managed_accounts,
            POD_DISRUPTION_BUDGETS.kind: informers.managed_budgets,
            SERVICES.kind: informers.services,
        }

    def set_image(self, image: WaypointImage) -> None:
        """Take over what the mesh configuration says of waypoint pods; existing ones follow."""
        if image != self._image:
            self._image = image
            for key in self._informers.gateways.store:
                self._queue.add(key)

    def _enqueue(self, change: Change[Any]) -> None:
        self._queue.add(change.key)

    def _enqueue_managed(self, change: Change[Any]) -> None:
        managed = any(
            one is not None and names.GATEWAY_MANAGED in one.metadata.labels for one in (change.old, change.new)
        )
        if managed or (SERVICES.kind, *change.key) in self._foreign:
            self._queue.add(change.key)

    def _class_changed(self, change: Change[GatewayClass]) -> None:
        self._queue.add(change.key)
        for key, gateway in self._informers.gateways.store.items():
            if gateway.spec.gateway_class_name == change.key[1]:
                self._queue.add(key)

    async def run(self) -> None:
        """Reconcile until cancelled. Everything is looked at once at the start."""
        self._applied.clear()
        self._queue.add(_CLASS_KEY)
        for key in self._informers.gateways.store:
            self._queue.add(key)
        await self._queue.work(self._reconcile, workers=2)

    async def _reconcile(self, key: tuple[str, str]) -> float | None:
        if key[0] == "":
            await self._reconcile_class(key[1])
            return None
        return await self._reconcile_gateway(key)

    # --- the class

    async def _reconcile_class(self, name: str) -> None:
        found = self._informers.gateway_classes.store.get(("", name))
        if found is None:
            if name == names.WAYPOINT_CLASS:
                spec = {"controllerName": names.MESH_CONTROLLER, "description": "Waypoint proxies of the ambient mesh"}
                await self._apply(GATEWAY_CLASSES, {"metadata": {"name": name}, "spec": spec})
            return
        if found.spec.controller_name != names.MESH_CONTROLLER:
            return
        status = gateway_status.class_status(found.metadata.generation, found.status.conditions)
        if gateway_status.differs(
            (one for one in found.status.conditions if one.type == "Accepted"), status["conditions"]
        ):
            await self._apply(GATEWAY_CLASSES, {"metadata": {"name": name}, "status": status}, "status")

    # --- one Gateway

    async def _reconcile_gateway(self, key: tuple[str, str]) -> float | None:
        gateway = self._informers.gateways.store.get(key)
        if gateway is None or gateway.metadata.deletion_timestamp or not self._ours(gateway):
            for known in [known for known in self._applied if known[1:] == key]:
                del self._applied[known]
            self._foreign -= {known for known in self._foreign if known[1:] == key}
            return None
        for rendered in gateway_objects.render(gateway, self._image):
            await self._ensure(gateway, rendered)
        taken = [known[0] for known in self._foreign if known[1:] == key]
        await self._report(gateway, tuple(kind for kind in _NEEDED if kind in taken))
        return _LOOK_AGAIN if taken else None

    def _ours(self, gateway: Gateway) -> bool:
        found = self._informers.gateway_classes.store.get(("", gateway.spec.gateway_class_name))
        return found is not None and found.spec.controller_name == names.MESH_CONTROLLER

    async def _ensure(self, gateway: Gateway, rendered: Rendered) -> None:
        """Apply an object unless it is what the same manifest made it before, or somebody else's."""
        key = (gateway.metadata.namespace, gateway.metadata.name)
        known = (rendered.resource.kind, *key)
        manifest = msgspec.json.encode(rendered.manifest, order="deterministic")
        present = self._stores[rendered.resource.kind].store.get(key)
        if present is not None and self._applied.get(known) == (manifest, essence(present)):
            return
        if await self._is_foreign(gateway, rendered.resource, present):
            if known not in self._foreign:
                log.warning(
                    "an object with a waypoint's name is not the waypoint's",
                    object=f"{known[0]} {'/'.join(key)}",
                    remedy="delete it, or give the Gateway another name",
                )
            self._foreign.add(known)
            return
        self._foreign.discard(known)
        result = await self._apply(rendered.resource, rendered.manifest)
        self._applied[known] = (manifest, essence(result))

    async def _is_foreign(self, gateway: Gateway, resource: Resource[Any], present: Any) -> bool:
        """Whether there is such an object that neither has the label of what is managed nor is owned by the Gateway."""
        meta = gateway.metadata
        if present is None:
            try:
                present = await self._client.get(resource, meta.name, meta.namespace)
            except NotFound:
                return False
        _, labels, _, owners, *_ = essence(present)
        uids = (one.get("uid") if isinstance(one, Mapping) else one.uid for one in owners or ())
        return names.GATEWAY_MANAGED not in (labels or {}) and meta.uid not in uids

    async def _report(self, gateway: Gateway, taken: tuple[str, ...]) -> None:
        key = (gateway.metadata.namespace, gateway.metadata.name)
        deployment = self._informers.managed_deployments.store.get(key)
        service = self._informers.services.store.get(key) if SERVICES.kind not in taken else None
        status = gateway_status.gateway_status(gateway, Behind(deployment, service, self._domain, taken))
        if not _status_differs(gateway, status):
            return
        metadata = {"name": key[1], "namespace": key[0]}
        try:
            await self._apply(GATEWAYS, {"metadata": metadata, "status": status}, "status")
        except NotFound:
            # Deleted meanwhile: its going is told next.
            return
        log.info(
            "waypoint status", gateway="/".join(key), addresses=[one["value"] for one in status.get("addresses", ())]
        )

    async def _apply(self, resource: Resource[Any], manifest: Mapping[str, Any], subresource: str = "") -> Any:
        return await self._client.patch(
            resource,
            manifest["metadata"]["name"],
            manifest,
            manifest["metadata"].get("namespace"),
            kind="apply",
            subresource=subresource,
            field_manager=FIELD_MANAGER,
            force=True,
        )


def essence(obj: Any) -> Any:
    """What of a managed object somebody could have edited: everything but its status and bookkeeping.

    A Deployment's own controller writes status at every pod's change; its generation says whether its specification is still the same.
    """
    if isinstance(obj, Mapping):
        meta = obj.get("metadata") or {}
        return (
            meta.get("uid"),
            meta.get("labels"),
            meta.get("annotations"),
            meta.get("ownerReferences"),
            obj.get("spec"),
        )
    meta = obj.metadata
    return (meta.uid, meta.labels, meta.annotations, meta.owner_references, getattr(obj, "spec", None))


def _status_differs(gateway: Gateway, status: Mapping[str, Any]) -> bool:
    known = gateway.status
    if [(one.type, one.value) for one in known.addresses] != [
        (one["type"], one["value"]) for one in status.get("addresses", ())
    ]:
        return True
    wanted = {one["type"] for one in status["conditions"]}
    if gateway_status.differs((one for one in known.conditions if one.type in wanted), status["conditions"]):
        return True
    listeners = {one.name: one.conditions for one in known.listeners}
    if set(listeners) != {one["name"] for one in status["listeners"]}:
        return True
    return any(gateway_status.differs(listeners[one["name"]], one["conditions"]) for one in status["listeners"])
