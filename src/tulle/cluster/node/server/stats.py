"""`GET /stats/summary`: what the node and its pods use, as far as cgroup2 counts it here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tulle.cluster.node.pods.manager import PodManager
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.status import rfc3339
from tulle.cluster.node.runtime import cgroups


def summary(node: Node, manager: PodManager) -> Mapping[str, Any]:
    """The document of the kubelet's summary API: CPU time and, where the kernel counts it, memory."""
    now = rfc3339(time.time())
    pods = []
    for worker in manager.workers.values():
        meta = worker.pod.metadata
        containers = []
        for name, known in worker.runs.items():
            run = known.current
            if run is not None and run.state == "running":
                path = cgroups.container_path(meta.uid, run.cid)
                containers.append({"name": name, "startTime": rfc3339(run.started_at), **_usage(path, now)})
        reference = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
        pods.append({"podRef": reference, "containers": containers, **_usage(cgroups.pod_path(meta.uid), now)})
    return {"node": {"nodeName": node.name, "startTime": now}, "pods": pods}


def _usage(path: str, now: str) -> dict[str, Any]:
    directory = cgroups.directory(path)
    found: dict[str, Any] = {}
    try:
        for line in (directory / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                found["cpu"] = {"time": now, "usageCoreNanoSeconds": int(line.split()[1]) * 1000}
        memory = int((directory / "memory.current").read_text())
        found["memory"] = {"time": now, "workingSetBytes": memory, "usageBytes": memory}
    except FileNotFoundError:
        return found
    return found
