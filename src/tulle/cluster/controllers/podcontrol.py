"""Pods made and deleted in the name of an owner, as ReplicaSets and DaemonSets do it: the owner's Events tell of each, and a controller
does not look again before its cache shows them.
"""

from collections.abc import Mapping
from typing import Any

from tulle.cluster.controllers.expectations import Expectations
from tulle.cluster.controllers.pods import namespace_is_ending
from tulle.kube import ApiError, Change, NotFound
from tulle.kube.client import Client
from tulle.kube.events import EventRecorder
from tulle.kube.informer import Key
from tulle.kube.objects import ObjectReference, Pod
from tulle.kube.resources import PODS


class PodControl:
    """The pods of one kind of owner. Feed ``observe`` with every change of ``pods``, the informer's store of them."""

    def __init__(self, client: Client, events: EventRecorder, pods: Mapping[Key, Pod]) -> None:
        self._client = client
        self._events = events
        self._pods = pods
        self._expectations = Expectations()

    def observe(self, change: Change[Pod]) -> None:
        """A pod changed."""
        self._expectations.observe(change)

    def settled(self, owner: Key) -> bool:
        """Whether the cache shows everything that was done for ``owner``."""
        return self._expectations.satisfied(owner)

    async def create(self, key: Key, owner: ObjectReference, body: Any) -> ApiError | None:
        """One more pod in the owner's namespace; what was refused, if it was. A namespace that ends takes no pods, and that is no error."""
        try:
            pod = await self._client.create(PODS, body, key[0])
        except ApiError as error:
            if namespace_is_ending(error):
                return None
            self._events.event(owner, "Warning", "FailedCreate", f"Error creating: {error.message}")
            return error
        self._expectations.created(key, pod, self._pods)
        self._events.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {pod.metadata.name}")
        return None

    async def delete(self, key: Key, owner: ObjectReference, pod: Pod) -> ApiError | None:
        """One pod less, if it is still the same; what was refused, if it was."""
        self._expectations.deleted(key, pod)
        try:
            await self._client.delete(PODS, pod.metadata.name, pod.metadata.namespace, uid=pod.metadata.uid)
        except NotFound:
            return None
        except ApiError as error:
            self._expectations.withdraw(pod)
            self._events.event(owner, "Warning", "FailedDelete", f"Error deleting: {error.message}")
            return error
        self._events.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod.metadata.name}")
        return None
