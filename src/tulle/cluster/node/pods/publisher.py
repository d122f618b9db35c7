"""Writes a pod's status to the API server, only when it changed, only what changed."""

from __future__ import annotations

import time
from typing import Any

import structlog

from tulle.cluster.node.pods import status
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.spec import Pod
from tulle.cluster.node.pods.status import PodState
from tulle.kube.errors import ApiError, NotFound
from tulle.kube.resources import Resource, untyped

PODS: Resource[dict[str, Any]] = untyped("", "v1", "pods", "Pod", True)

log = structlog.get_logger("tulle.node.status")


class Publisher:
    """Remembers what was written last, because the API server's copy arrives here a little later."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._written: dict[str, Any] = {}

    async def publish(self, pod: Pod, state: PodState) -> bool:
        """False if the API server could not be told and it has to be tried again."""
        known = self._known(pod)
        wanted = status.build(known, state, time.time())
        changed = {key: value for key, value in wanted.items() if known.status.get(key) != value}
        if not changed:
            return True
        body = {"metadata": {"uid": pod.metadata.uid}, "status": _patch(changed)}
        try:
            await self._node.client.patch(
                PODS, pod.metadata.name, body, pod.metadata.namespace, kind="strategic", subresource="status"
            )
        except NotFound:
            return True  # it is gone; the informer will say so
        except ApiError as error:
            log.warning("status not written", pod=str(pod.ref), error=str(error))
            return False
        self._written.update(changed)
        return True

    def _known(self, pod: Pod) -> Pod:
        """The pod with the status that the API server has or is about to show."""
        if not self._written:
            return pod
        ours = {c["type"]: c for c in self._written.get("conditions", ())}
        conditions = [
            ours.pop(c["type"], c) if c["type"] in status.OWN_CONDITIONS else c
            for c in pod.status.get("conditions", ())
        ]
        conditions += [c for kind, c in ours.items() if kind in status.OWN_CONDITIONS]
        return Pod(
            metadata=pod.metadata, spec=pod.spec, status={**pod.status, **self._written, "conditions": conditions}
        )


def _patch(changed: dict[str, Any]) -> dict[str, Any]:
    """Conditions are merged one by one: a reason or message that one has no more must be taken out by name."""
    if "conditions" not in changed:
        return changed
    return {**changed, "conditions": [{"reason": None, "message": None, **c} for c in changed["conditions"]]}
