"""Pods for tests, from as little as the test is about."""

from typing import Any

from tulle.cluster.node.pods import spec
from tulle.cluster.node.pods.downward import PodFacts
from tulle.cluster.node.pods.runs import ContainerRuns, Run
from tulle.cluster.node.runtime.records import Exit

FACTS = PodFacts("10.244.0.9", "n1", "169.254.77.2", {"memory": "1024Ki", "cpu": "2"})


def pod(*containers: dict[str, Any], status: dict[str, Any] | None = None, **fields: Any) -> spec.Pod:
    listed = list(containers) or [{"name": "c"}]
    return spec.parse(
        {
            "metadata": {
                "name": "p",
                "namespace": "ns",
                "uid": "u1",
                "labels": {"app": "x"},
                "annotations": {"k": 'a"b'},
            },
            "spec": {"containers": listed, **fields},
            "status": status or {},
        }
    )


def running(name: str = "c", attempt: int = 0, *, ready: bool = True) -> ContainerRuns:
    run = Run(name, attempt, "running", "cid", "img", "sha256:1", 100.0, hook_done=True, started=True, ready=ready)
    return ContainerRuns(current=run)


def exited(
    name: str = "c", code: int = 0, attempt: int = 0, *, at: float = 200.0, not_before: float = 0.0
) -> ContainerRuns:
    run = Run(
        name,
        attempt,
        "exited",
        "cid",
        "img",
        "sha256:1",
        100.0,
        exit=Exit(exit_code=code, finished_at=at),
        hook_done=True,
    )
    return ContainerRuns(current=run, not_before=not_before)
