"""Deployments: one ReplicaSet per pod template, and an orderly passage from the old ones to the new.

Every pass reads the present state from the caches and does at most the next step; the steps' effects on
ReplicaSets bring the next pass. ``rollout`` has the arithmetic, ``revisions`` the names and numbers,
``deployment_status`` the conditions.
"""

from typing import Any

from tulle.cluster.controllers import revisions
from tulle.cluster.controllers.caches import Context, Subscriptions, controller_of
from tulle.cluster.controllers.deployment_status import Progress, computed_status, is_complete, seconds_to_deadline
from tulle.cluster.controllers.patches import merge_diff
from tulle.cluster.controllers.pods import is_active, owner_reference
from tulle.cluster.controllers.rollout import Limits, SetState, limits, new_replicas, proportional, shrink_old
from tulle.kube import AlreadyExists, Change, NotFound, WorkQueue, reference
from tulle.kube.informer import Key
from tulle.kube.objects import Deployment, Pod, ReplicaSet
from tulle.kube.resources import DEPLOYMENTS, REPLICA_SETS
from tulle.kube.selectors import matches

_DEFAULT_HISTORY = 10


class DeploymentController:
    """Reconciles every Deployment with its ReplicaSets."""

    name = "deployment-controller"

    def __init__(self, context: Context) -> None:
        self._client = context.client
        self._caches = context.caches
        self._events = context.recorder(self.name)
        self._queue: WorkQueue[Key] = WorkQueue("Deployment")

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.deployments, self._caches.replica_sets, self._caches.pods)
            handlers.on(self._caches.deployments, lambda change: self._queue.add(change.key))
            handlers.on(self._caches.replica_sets, self._on_set)
            handlers.on(self._caches.pods, self._on_pod)
            await self._queue.work(self.reconcile, workers=4)
        finally:
            handlers.close()

    def _on_set(self, change: Change[ReplicaSet]) -> None:
        for rs in (change.old, change.new):
            if rs is None:
                continue
            owner = controller_of(rs)
            if owner is not None and owner.kind == "Deployment":
                self._queue.add((change.key[0], owner.name))
            elif owner is None:
                for key, deployment in self._caches.deployments.store.items():
                    if key[0] == change.key[0] and matches(deployment.spec.selector, rs.metadata.labels):
                        self._queue.add(key)

    def _on_pod(self, change: Change[Pod]) -> None:
        """Recreate waits for the last old pod to go, which no ReplicaSet reports."""
        owner = controller_of(change.old) if change.new is None and change.old is not None else None
        if owner is not None and owner.kind == "ReplicaSet":
            rs = self._caches.replica_sets.store.get((change.key[0], owner.name))
            parent = controller_of(rs) if rs is not None else None
            if parent is not None and parent.kind == "Deployment":
                self._queue.add((change.key[0], parent.name))

    async def reconcile(self, key: Key) -> float | None:
        """Does the next step of one Deployment; returns when to look again."""
        deployment = self._caches.deployments.store.get(key)
        if deployment is None:
            return None
        sets = await self._claimed(deployment)
        limit = limits(deployment.spec)
        new = revisions.find_new(deployment, sets)
        progress = Progress()
        if deployment.metadata.deletion_timestamp:
            return await self._finish(deployment, sets, new, limit, progress)
        if deployment.spec.paused or self._was_scaled(limit, sets):
            sets = await self._rescale(deployment, limit, sets, new)
            return await self._finish(deployment, sets, revisions.find_new(deployment, sets), limit, progress)
        if deployment.spec.strategy.type == "Recreate":
            sets, new = await self._recreate(deployment, limit, sets, new, progress)
        else:
            sets, new = await self._roll(deployment, limit, sets, new, progress)
        if new is not None and is_complete(deployment, sets, new):
            await self._forget_old(deployment, [rs for rs in sets if rs.metadata.uid != new.metadata.uid])
        return await self._finish(deployment, sets, new, limit, progress)

    async def _claimed(self, deployment: Deployment) -> list[ReplicaSet]:
        namespace, uid = deployment.metadata.namespace, deployment.metadata.uid
        sets = self._caches.replica_sets_by_owner.owned(namespace, uid)
        if not deployment.metadata.deletion_timestamp:
            for rs in self._caches.replica_sets_by_owner.owned(namespace, ""):
                if matches(deployment.spec.selector, rs.metadata.labels) and not rs.metadata.deletion_timestamp:
                    owner = owner_reference(DEPLOYMENTS, deployment)
                    sets.append(await self._patch_set(rs, {"metadata": {"ownerReferences": [owner]}}))
        return [rs for rs in sets if not rs.metadata.deletion_timestamp]

    @staticmethod
    def _was_scaled(limit: Limits, sets: list[ReplicaSet]) -> bool:
        active = [rs for rs in sets if replicas(rs) > 0]
        recorded = [revisions.annotation_number(rs, revisions.DESIRED) for rs in active]
        return any(number is not None and number != limit.replicas for number in recorded)

    async def _rescale(
        self, deployment: Deployment, limit: Limits, sets: list[ReplicaSet], new: ReplicaSet | None
    ) -> list[ReplicaSet]:
        active = sorted((rs for rs in sets if replicas(rs) > 0), key=_age, reverse=True)
        if len(active) <= 1:
            target = active[0] if active else new
            sizes = {target.metadata.name: limit.replicas} if target is not None else {}
            return await self._resize(deployment, limit, sets, sizes)
        if new is not None and replicas(new) == limit.replicas == new.status.available_replicas:
            sizes = {rs.metadata.name: 0 for rs in active if rs.metadata.uid != new.metadata.uid}
        else:
            sizes = proportional(limit, [_state(rs) for rs in active])
        marked = {rs.metadata.name: replicas(rs) for rs in active} | sizes
        return await self._resize(deployment, limit, sets, marked)

    async def _roll(
        self, deployment: Deployment, limit: Limits, sets: list[ReplicaSet], new: ReplicaSet | None, progress: Progress
    ) -> tuple[list[ReplicaSet], ReplicaSet | None]:
        old = [rs for rs in sets if new is None or rs.metadata.uid != new.metadata.uid]
        if new is None:
            size = new_replicas(limit, SetState("", 0, 0), [_state(rs) for rs in old])
            new = await self._create_new(deployment, limit, old, size, progress)
            return [*old, new], new
        new = await self._mark_new(deployment, limit, old, new, progress)
        size = new_replicas(limit, _state(new), [_state(rs) for rs in old])
        sizes = {new.metadata.name: size}
        if size == replicas(new):
            sizes = shrink_old(limit, _state(new), [_state(rs) for rs in sorted(old, key=_age)])
        sets = await self._resize(deployment, limit, [*old, new], sizes)
        return sets, next(rs for rs in sets if rs.metadata.uid == new.metadata.uid)

    async def _recreate(
        self, deployment: Deployment, limit: Limits, sets: list[ReplicaSet], new: ReplicaSet | None, progress: Progress
    ) -> tuple[list[ReplicaSet], ReplicaSet | None]:
        old = [rs for rs in sets if new is None or rs.metadata.uid != new.metadata.uid]
        shrinking = {rs.metadata.name: 0 for rs in old if replicas(rs) > 0}
        if shrinking:
            return await self._resize(deployment, limit, sets, shrinking), new
        if any(self._has_pods(rs) for rs in old):
            return sets, new
        if new is None:
            new = await self._create_new(deployment, limit, old, limit.replicas, progress)
            return [*old, new], new
        new = await self._mark_new(deployment, limit, old, new, progress)
        sets = await self._resize(deployment, limit, [*old, new], {new.metadata.name: limit.replicas})
        return sets, next(rs for rs in sets if rs.metadata.uid == new.metadata.uid)

    def _has_pods(self, rs: ReplicaSet) -> bool:
        """Pods that still run count, those being deleted too: Recreate never has two versions at once."""
        pods = self._caches.pods_by_owner.owned(rs.metadata.namespace, rs.metadata.uid)
        return any(is_active(pod) or pod.status.phase not in ("Succeeded", "Failed") for pod in pods)

    async def _create_new(
        self, deployment: Deployment, limit: Limits, old: list[ReplicaSet], size: int, progress: Progress
    ) -> ReplicaSet:
        collisions = deployment.status.collision_count or 0
        suffix = revisions.template_hash(deployment.spec.template, collisions)
        revision = max(map(revisions.revision_of, old), default=0) + 1
        annotations = revisions.set_annotations(deployment, None, revision, limit.replicas, limit.most)
        body = revisions.manifest(deployment, suffix, size, annotations, owner_reference(DEPLOYMENTS, deployment))
        try:
            new = await self._client.create(REPLICA_SETS, body, deployment.metadata.namespace)
        except AlreadyExists:
            await self._resolve_collision(deployment, body["metadata"]["name"], collisions)
            raise
        await self._set_revision(deployment, revision)
        progress.created = new.metadata.name
        if size > 0:
            self._scaling_event(deployment, "up", new.metadata.name, 0, size)
        return new

    async def _resolve_collision(self, deployment: Deployment, name: str, collisions: int) -> None:
        """The name is ours from a moment ago (the cache lags), or another template has the same hash."""
        taken = await self._client.get(REPLICA_SETS, name, deployment.metadata.namespace)
        owner = controller_of(taken)
        ours = owner is not None and owner.uid == deployment.metadata.uid
        if ours and revisions.same_template(taken.spec.template, deployment.spec.template):
            return
        body = {"status": {"collisionCount": collisions + 1}}
        await self._patch_status(deployment, body)

    async def _mark_new(
        self, deployment: Deployment, limit: Limits, old: list[ReplicaSet], new: ReplicaSet, progress: Progress
    ) -> ReplicaSet:
        """Gives the new set the highest revision and its annotations, also when an undo brings an old one back."""
        revision = max(max(map(revisions.revision_of, old), default=0) + 1, revisions.revision_of(new))
        annotations = revisions.set_annotations(deployment, new, revision, limit.replicas, limit.most)
        patch: dict[str, Any] = {}
        if annotations != new.metadata.annotations:
            patch["metadata"] = {"annotations": annotations}
        if new.spec.min_ready_seconds != deployment.spec.min_ready_seconds:
            patch["spec"] = {"minReadySeconds": deployment.spec.min_ready_seconds}
        if patch:
            new = await self._patch_set(new, patch)
        await self._set_revision(deployment, revision)
        progress.found = new.metadata.name
        return new

    async def _set_revision(self, deployment: Deployment, revision: int) -> None:
        if revisions.revision_of(deployment) != revision:
            body = {"metadata": {"annotations": {revisions.REVISION: str(revision)}}}
            await self._client.patch(DEPLOYMENTS, deployment.metadata.name, body, deployment.metadata.namespace)

    async def _resize(
        self, deployment: Deployment, limit: Limits, sets: list[ReplicaSet], sizes: dict[str, int]
    ) -> list[ReplicaSet]:
        """Gives sets their new size, and every set of ``sizes`` the present desired and greatest number of replicas."""
        result = []
        for rs in sets:
            name, size = rs.metadata.name, sizes.get(rs.metadata.name)
            noted = {revisions.DESIRED: str(limit.replicas), revisions.MAX_REPLICAS: str(limit.most)}
            current = rs.metadata.annotations
            if size is None or (size == replicas(rs) and noted.items() <= current.items()):
                result.append(rs)
                continue
            body: dict[str, Any] = {"metadata": {"annotations": noted}}
            if size != replicas(rs):
                body["spec"] = {"replicas": size}
            result.append(await self._patch_set(rs, body))
            if size != replicas(rs):
                self._scaling_event(deployment, "up" if size > replicas(rs) else "down", name, replicas(rs), size)
        return result

    def _scaling_event(self, deployment: Deployment, direction: str, name: str, before: int, after: int) -> None:
        message = f"Scaled {direction} replica set {name} from {before} to {after}"
        self._events.event(reference(DEPLOYMENTS, deployment), "Normal", "ScalingReplicaSet", message)

    async def _forget_old(self, deployment: Deployment, old: list[ReplicaSet]) -> None:
        keep = deployment.spec.revision_history_limit
        keep = _DEFAULT_HISTORY if keep is None else keep
        idle = [rs for rs in old if replicas(rs) == 0 and rs.status.replicas == 0]
        idle.sort(key=revisions.revision_of)
        for rs in idle[: max(0, len(old) - keep)]:
            try:
                await self._client.delete(REPLICA_SETS, rs.metadata.name, rs.metadata.namespace, uid=rs.metadata.uid)
            except NotFound:
                continue

    async def _finish(
        self,
        deployment: Deployment,
        sets: list[ReplicaSet],
        new: ReplicaSet | None,
        limit: Limits,
        progress: Progress,
    ) -> float | None:
        status = computed_status(deployment, sets, new, limit, progress)
        patch = merge_diff(deployment.status, status)
        if patch:
            await self._patch_status(deployment, {"status": patch})
        return seconds_to_deadline(deployment, status)

    async def _patch_status(self, deployment: Deployment, body: dict[str, Any]) -> None:
        meta = deployment.metadata
        await self._client.patch(DEPLOYMENTS, meta.name, body, meta.namespace, subresource="status")

    async def _patch_set(self, rs: ReplicaSet, body: dict[str, Any]) -> ReplicaSet:
        """With the resource version, so that a decision taken on an old state is refused, not applied."""
        metadata = {**body.get("metadata", {}), "uid": rs.metadata.uid, "resourceVersion": rs.metadata.resource_version}
        body = {**body, "metadata": metadata}
        return await self._client.patch(REPLICA_SETS, rs.metadata.name, body, rs.metadata.namespace)


def replicas(rs: ReplicaSet) -> int:
    """The size asked for."""
    return 1 if rs.spec.replicas is None else rs.spec.replicas


def _state(rs: ReplicaSet) -> SetState:
    most = revisions.annotation_number(rs, revisions.MAX_REPLICAS)
    return SetState(rs.metadata.name, replicas(rs), rs.status.available_replicas, most)


def _age(rs: ReplicaSet) -> tuple[str, int, str]:
    return rs.metadata.creation_timestamp, revisions.revision_of(rs), rs.metadata.name
