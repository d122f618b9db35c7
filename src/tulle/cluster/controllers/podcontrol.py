"""Pods made and deleted in the name of an owner, as ReplicaSets and DaemonSets do it: the owner's Events tell of each, and a controller
does not look again before its cache shows them.
"""

from typing import Any

from tulle.cluster.controllers.caches import Caches
from tulle.cluster.controllers.expectations import Expectations
from tulle.cluster.controllers.pods import is_active, namespace_is_ending, owner_reference
from tulle.kube import ApiError, Change, NotFound, Resource
from tulle.kube.client import Client
from tulle.kube.events import EventRecorder
from tulle.kube.informer import Key
from tulle.kube.objects import KubeObject, LabelSelector, ObjectReference, Pod
from tulle.kube.resources import PODS
from tulle.kube.selectors import matches


class PodControl:
    """The pods of one kind of owner. Feed ``observe`` with every change of the pods in ``caches``."""

    def __init__(self, client: Client, events: EventRecorder, caches: Caches) -> None:
        self._client = client
        self._events = events
        self._pods = caches.pods.store
        self._owned = caches.pods_by_owner
        self._expectations = Expectations()

    def observe(self, change: Change[Pod]) -> None:
        """A pod changed."""
        self._expectations.observe(change)

    def settled(self, owner: Key) -> bool:
        """Whether the cache shows everything that was done for ``owner``."""
        return self._expectations.satisfied(owner)

    async def claimed(self, res: Resource[Any], owner: KubeObject, selector: LabelSelector) -> list[Pod]:
        """The owner's pods, after releasing those that left its selector and, unless it is being deleted, adopting orphans
        that match. Raises ApiError.
        """
        meta, claimed = owner.metadata, []
        for pod in self._owned.owned(meta.namespace, meta.uid):
            if matches(selector, pod.metadata.labels):
                claimed.append(pod)
            elif not pod.metadata.deletion_timestamp:
                await self._patch_owners(pod, [ref for ref in pod.metadata.owner_references if ref.uid != meta.uid])
        if meta.deletion_timestamp or not (selector.match_labels or selector.match_expressions):
            return claimed
        for pod in self._owned.owned(meta.namespace, ""):
            if is_active(pod) and matches(selector, pod.metadata.labels):
                await self._patch_owners(pod, [*pod.metadata.owner_references, owner_reference(res, owner)])
                claimed.append(pod)
        return claimed

    async def _patch_owners(self, pod: Pod, refs: list[Any]) -> None:
        meta = {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "ownerReferences": refs}
        await self._client.patch(PODS, pod.metadata.name, {"metadata": meta}, pod.metadata.namespace)

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
