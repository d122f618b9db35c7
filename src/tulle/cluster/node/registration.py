"""The node as the API server sees it: a Node object, its status, and the heartbeat that proves it alive.

The status is written when it changed and every five minutes; in between a Lease is renewed every ten seconds, as
every kubelet does, because it is cheaper.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from tulle.cluster.node.pods.status import rfc3339
from tulle.kube.client import Client
from tulle.kube.errors import AlreadyExists, ApiError, NotFound
from tulle.kube.resources import Resource, untyped

NODES: Resource[dict[str, Any]] = untyped("", "v1", "nodes", "Node", False)
LEASES: Resource[dict[str, Any]] = untyped("coordination.k8s.io", "v1", "leases", "Lease", True)

LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
RENEW_EVERY = 10.0
REPORT_EVERY = 300.0
MAX_PODS = 110
KUBELET_VERSION = "v1.36.4"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

log = structlog.get_logger("tulle.node.registration")


@dataclass(frozen=True)
class NodeIdentity:
    """What the command line says about the node."""

    name: str
    ip: str
    pod_cidr: str
    port: int
    labels: Mapping[str, str]


def capacity(state: Path) -> dict[str, str]:
    """What this machine has, as Kubernetes quantities."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = os.statvfs(state)
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{memory // 1024}Ki",
        "ephemeral-storage": f"{disk.f_blocks * disk.f_frsize // 1024}Ki",
        "pods": str(MAX_PODS),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }


def node_info() -> dict[str, str]:
    """`status.nodeInfo`. Reads the machine; raises FileNotFoundError without crun."""
    first = subprocess.run(["crun", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine_id = Path("/etc/machine-id")
    identity = machine_id.read_text().strip() if machine_id.exists() else boot_id.replace("-", "")
    return {
        "machineID": identity,
        "systemUUID": identity,
        "bootID": boot_id,
        "kernelVersion": platform.release(),
        "osImage": release.get("PRETTY_NAME", "Linux"),
        "containerRuntimeVersion": f"crun://{first.rpartition(' ')[2]}",
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": architecture(),
    }


def architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def labels(identity: NodeIdentity) -> dict[str, str]:
    return {
        "kubernetes.io/hostname": identity.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture(),
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": architecture(),
        **identity.labels,
    }


def conditions(known: Sequence[Mapping[str, Any]], ready: bool, why: str, now: float) -> list[dict[str, Any]]:
    """The node's conditions (pure); a transition time changes only with the condition."""
    wanted = (
        ("MemoryPressure", False, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", False, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", False, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", ready, "KubeletReady" if ready else "KubeletNotReady", why),
    )
    before = {c["type"]: c for c in known}
    found = []
    for kind, value, reason, message in wanted:
        text = "True" if value else "False"
        old = before.get(kind)
        since = old["lastTransitionTime"] if old is not None and old.get("status") == text else rfc3339(now)
        found.append(
            {
                "type": kind,
                "status": text,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": rfc3339(now),
                "lastTransitionTime": since,
            }
        )
    return found


class Registration:
    """Keeps the Node object. `ready` answers whether pods can run, and if not, why."""

    def __init__(self, client: Client, identity: NodeIdentity, capacity_: Mapping[str, str]) -> None:
        self._client = client
        self._identity = identity
        self._capacity = dict(capacity_)
        self._info = node_info()
        self._ready = False
        self._why = "container runtime is starting"
        self._changed = asyncio.Event()
        self._uid = ""

    def set_ready(self, ready: bool, why: str) -> None:
        """What the Ready condition says from now on."""
        if (ready, why) != (self._ready, self._why):
            self._ready, self._why = ready, why
            self._changed.set()

    async def run(self) -> None:
        """Register, report and renew until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_forever())
            group.create_task(self._renew_forever())

    async def register(self) -> None:
        """Make the Node object, or bring its labels and pod range up to date. Raises ApiError."""
        identity = self._identity
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": identity.name, "labels": labels(identity)},
            "spec": {"podCIDR": identity.pod_cidr, "podCIDRs": [identity.pod_cidr]},
        }
        try:
            node = await self._client.create(NODES, body)
        except AlreadyExists:
            change = {"metadata": {"labels": labels(identity)}, "spec": body["spec"]}
            node = await self._client.patch(NODES, identity.name, change)
        self._uid = node["metadata"]["uid"]

    async def _report_forever(self) -> None:
        while True:
            # Before the report, not after: what changes while one is being written is in the next.
            self._changed.clear()
            try:
                await self.report()
                pause = REPORT_EVERY
            except NotFound:
                await self._register_again()
                pause = 0.5
            except ApiError as error:
                log.warning("node status not written", error=str(error))
                pause = 2.0
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _register_again(self) -> None:
        try:
            await self.register()
        except ApiError as error:
            log.warning("node not registered", error=str(error))

    async def report(self) -> None:
        """Write the node's status. Raises NotFound before `register`, ApiError."""
        identity = self._identity
        node = await self._client.get(NODES, identity.name)
        known = (node.get("status") or {}).get("conditions") or []
        status = {
            "addresses": [
                {"type": "InternalIP", "address": identity.ip},
                {"type": "Hostname", "address": identity.name},
            ],
            "capacity": self._capacity,
            "allocatable": self._capacity,
            "conditions": conditions(known, self._ready, self._why, time.time()),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": identity.port}},
            "nodeInfo": self._info,
        }
        await self._client.patch(NODES, identity.name, {"status": status}, kind="strategic", subresource="status")

    async def _renew_forever(self) -> None:
        while True:
            try:
                await self._renew()
            except ApiError as error:
                log.warning("lease not renewed", error=str(error))
            await asyncio.sleep(RENEW_EVERY)

    async def _renew(self) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        name = self._identity.name
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        try:
            await self._client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
        except NotFound:
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": self._uid}
            metadata = {
                "name": name,
                "namespace": LEASE_NAMESPACE,
                **({"ownerReferences": [owner]} if self._uid else {}),
            }
            await self._client.create(LEASES, {"metadata": metadata, "spec": spec}, LEASE_NAMESPACE)
