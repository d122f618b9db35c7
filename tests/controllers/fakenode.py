"""A node without a machine: it keeps its Lease, reports pods that are bound to it as running, and lets deleted ones go.

It stands in for the kubelet in tests of the controllers, which see a node through the API only.
"""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from tulle.kube import AlreadyExists, ApiError, Change, Client, Informer, NotFound
from tulle.kube.objects import Pod, now, now_micro
from tulle.kube.resources import LEASES, NODES, PODS

BROKEN_IMAGE = "never-starts"


class FakeNode:
    """Pods of image ``never-starts`` stay pending."""

    def __init__(self, client: Client, name: str, number: int, labels: Mapping[str, str] | None = None) -> None:
        self.client = client
        self.name = name
        self.number = number
        self.labels = {"kubernetes.io/hostname": name, **(labels or {})}
        self._pods = Informer(client, PODS, field_selector=f"spec.nodeName={name}")
        self._since = now()
        self._wake = asyncio.Event()
        self._addresses: dict[str, str] = {}

    async def run(self) -> None:
        await self._register()
        self._pods.on_change(self._changed)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            group.create_task(self._beat())
            group.create_task(self._work())

    async def _register(self) -> None:
        meta = {"name": self.name, "labels": self.labels}
        with contextlib.suppress(AlreadyExists):
            await self.client.create(NODES, {"metadata": meta})
        await self._ready()

    async def _ready(self) -> None:
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": self._since}
        body = {"status": {"conditions": [condition], "allocatable": {"pods": "110", "cpu": "4", "memory": "8Gi"}}}
        await self.client.patch(NODES, self.name, body, subresource="status", kind="strategic")

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(ApiError):
                await self._ready()  # a node that was thought lost says that it is not
            spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now_micro()}
            try:
                await self.client.patch(LEASES, self.name, {"spec": spec}, "kube-node-lease")
            except NotFound:
                with contextlib.suppress(ApiError):
                    await self.client.create(LEASES, {"metadata": {"name": self.name}, "spec": spec}, "kube-node-lease")
            except ApiError:
                pass
            await asyncio.sleep(0.5)

    def _changed(self, _: Change[Pod]) -> None:
        self._wake.set()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for pod in list(self._pods.store.values()):
                try:
                    await self._serve(pod)
                except NotFound:
                    continue
                except ApiError:
                    self._wake.set()
            if self._wake.is_set():
                await asyncio.sleep(0.05)

    async def _serve(self, pod: Pod) -> None:
        meta = pod.metadata
        if meta.deletion_timestamp:
            await self.client.delete(PODS, meta.name, meta.namespace, uid=meta.uid, grace_period=0)
            return
        if pod.status.phase in ("", "Pending") and all(BROKEN_IMAGE not in c.image for c in pod.spec.containers):
            address = self._addresses.setdefault(meta.uid, f"10.244.{self.number}.{len(self._addresses) % 250 + 2}")
            moment = now()
            conditions = [
                {"type": name, "status": "True", "lastTransitionTime": moment}
                for name in ("Initialized", "ContainersReady", "Ready")
            ]
            statuses: list[dict[str, Any]] = [
                {
                    "name": c.name,
                    "ready": True,
                    "started": True,
                    "restartCount": 0,
                    "image": c.image,
                    "imageID": c.image,
                    "state": {"running": {"startedAt": moment}},
                }
                for c in pod.spec.containers
            ]
            status = {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "hostIP": f"169.254.77.{self.number}",
                "startTime": moment,
                "conditions": conditions,
                "containerStatuses": statuses,
            }
            await self.client.patch(
                PODS,
                meta.name,
                {"metadata": {"uid": meta.uid}, "status": status},
                meta.namespace,
                kind="strategic",
                subresource="status",
            )


async def main(kubeconfig: str, name: str, number: str) -> None:
    async with Client.from_kubeconfig(kubeconfig, component="kubelet") as client:
        await FakeNode(client, name, int(number)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
