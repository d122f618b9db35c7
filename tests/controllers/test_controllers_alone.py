"""Single controllers on an API in memory: requests that fail half-way, objects that change in between, time that passes."""

import asyncio
from typing import Any

from tulle.cluster.controllers.daemonset import DaemonSetController
from tulle.cluster.controllers.endpointslice import EndpointSliceController
from tulle.cluster.controllers.garbagecollector import GarbageCollector
from tulle.cluster.controllers.nodelifecycle import NodeLifecycleController
from tulle.cluster.controllers.ownergraph import FOREGROUND
from tulle.cluster.controllers.replicaset import ReplicaSetController
from tulle.cluster.controllers.scheduler import Scheduler
from tulle.kube import Conflict
from tulle.kube.errors import Forbidden
from tulle.kube.resources import CONFIG_MAPS, DAEMON_SETS, ENDPOINT_SLICES, NODES, PODS, REPLICA_SETS, SERVICES

from .memoryapi import MemoryApi, running, until

NOW = "2026-01-01T00:00:00Z"


def config_map(name: str, *owners: str, **meta: Any) -> dict[str, Any]:
    refs = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner, "blockOwnerDeletion": True}
        for owner in owners
    ]
    return {"metadata": {"namespace": "a", "name": name, "uid": name, "ownerReferences": refs, **meta}}


CONFIG_MAPS_ONLY = {
    "items": [
        {
            "metadata": {"name": ""},
            "versions": [
                {
                    "version": "v1",
                    "resources": [
                        {
                            "resource": "configmaps",
                            "responseKind": {"kind": "ConfigMap"},
                            "scope": "Namespaced",
                            "verbs": ["list", "watch", "delete"],
                        }
                    ],
                }
            ],
        }
    ]
}


async def test_a_foreground_deletion_ends_when_its_last_dependent_lets_go() -> None:
    api = MemoryApi()
    api.discovery = CONFIG_MAPS_ONLY
    for one in (config_map("going"), config_map("staying"), config_map("shared", "going", "staying")):
        api.put(CONFIG_MAPS, one)
    maps = api.objects["configmaps"]
    async with running(api, GarbageCollector):
        api.put(CONFIG_MAPS, config_map("going", deletionTimestamp=NOW, finalizers=[FOREGROUND]))
        await until(lambda: [ref["uid"] for ref in maps["a", "shared"]["metadata"]["ownerReferences"]] == ["staying"])
        await until(lambda: "finalizers" not in maps["a", "going"]["metadata"])


def ready(status: str = "True") -> dict[str, Any]:
    return {"type": "Ready", "status": status, "lastTransitionTime": NOW}


def node(name: str = "n1", status: str = "True", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec, "status": {"conditions": [ready(status)]}}


def pod(name: str, *, on: str = "", status: str = "True", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "a", "name": name, "uid": name, "labels": {"app": name}},
        "spec": {"nodeName": on, "containers": [{"name": "c", "image": "x"}], **spec},
        "status": {"phase": "Running" if on else "Pending", "conditions": [ready(status)] if on else []},
    }


async def test_every_pod_of_a_lost_node_is_unready_also_when_a_request_fails() -> None:
    api = MemoryApi()
    api.put(NODES, node())
    for name in ("one", "two"):
        api.put(PODS, pod(name, on="n1"))
    failures = [Conflict(409, "Conflict", "changed")]

    def fail(verb: str, plural: str, name: str) -> None:
        if (verb, plural, name) == ("patch", "pods", "one") and failures:
            raise failures.pop()

    def is_ready(name: str) -> bool:
        return api.objects["pods"]["a", name]["status"]["conditions"][0]["status"] == "True"

    api.fail = fail
    async with running(api, lambda context: NodeLifecycleController(context, grace_seconds=0.05)):
        await until(lambda: not is_ready("one") and not is_ready("two"))
        api.put(PODS, pod("one", on="n1"))  # what the node said before it fell silent, and came late
        api.put(NODES, {**api.objects["nodes"]["", "n1"]})
        await until(lambda: not is_ready("one"))


async def test_a_taint_that_comes_back_counts_anew() -> None:
    api, clock = MemoryApi(), [0.0]
    reserved = {"key": "reserved", "effect": "NoExecute"}
    api.put(PODS, pod("one", on="n1", tolerations=[{"key": "reserved", "operator": "Exists"}]))

    async def becomes(status: str) -> None:
        """The node says so, and the controller has acted on it: it removed a pod that does not tolerate the other taint."""
        api.put(NODES, node(status=status, taints=[reserved]))
        await until(lambda: bool(caches.nodes.store))
        api.put(PODS, pod("intruder", on="n1"))
        await until(lambda: ("a", "intruder") not in api.objects["pods"])

    async with running(api, lambda context: NodeLifecycleController(context, 1e9, lambda: clock[0])) as caches:
        await becomes("False")
        await becomes("True")
        clock[0] = 86400.0
        await becomes("False")
        assert ("a", "one") in api.objects["pods"]
        clock[0] += 301.0
        await becomes("False")
        assert ("a", "one") not in api.objects["pods"]


def replica_set(name: str, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    full = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template, **spec}
    return {"metadata": {"namespace": "a", "name": name, "uid": name, "generation": 1}, "spec": full}


async def test_pods_that_are_refused_are_tried_again_ever_more_seldom() -> None:
    api = MemoryApi()
    tries: list[float] = []

    def refuse(verb: str, plural: str, _: str) -> None:
        if (verb, plural) == ("create", "pods"):
            tries.append(asyncio.get_running_loop().time())
            # As the API says it: with the generated name, another one each time.
            raise Forbidden(403, "Forbidden", f'pods "web-{len(tries)}" is forbidden: serviceaccount "x" not found')

    api.fail = refuse
    api.put(REPLICA_SETS, replica_set("web"))
    async with running(api, ReplicaSetController):
        await asyncio.sleep(0.5)
    assert 3 <= len(tries) <= 10


async def test_a_pod_that_must_be_near_another_is_placed_once_the_other_is() -> None:
    api = MemoryApi()
    api.put(NODES, {**node(), "metadata": {"name": "n1", "labels": {"host": "n1"}}})
    term = {"topologyKey": "host", "labelSelector": {"matchLabels": {"app": "cache"}}}
    near = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    pods = api.objects.setdefault("pods", {})
    async with running(api, Scheduler):
        api.put(PODS, pod("web", affinity=near))
        await until(lambda: bool(pods["a", "web"]["status"]["conditions"]))
        api.put(PODS, pod("cache"))
        await until(lambda: pods["a", "web"]["spec"]["nodeName"] == "n1")


async def test_a_service_that_a_finalizer_holds_leads_to_no_pod_that_is_gone() -> None:
    api = MemoryApi()
    service: dict[str, Any] = {
        "metadata": {"namespace": "a", "name": "web", "uid": "web", "finalizers": ["example.com/held"]},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }
    api.put(SERVICES, service)
    running_pod = pod("web", on="n1")
    running_pod["status"]["podIP"] = "10.244.1.2"
    api.put(PODS, running_pod)
    slices = api.objects.setdefault("endpointslices", {})
    async with running(api, EndpointSliceController):
        await until(lambda: any(one.get("endpoints") for one in slices.values()))
        api.put(SERVICES, {**service, "metadata": {**service["metadata"], "deletionTimestamp": NOW}})
        api.remove(PODS, "web", "a")
        await until(lambda: not any(one.get("endpoints") for one in slices.values()))
        for _, name in list(slices):
            api.remove(ENDPOINT_SLICES, name, "a")
        await asyncio.sleep(0.05)
        assert not slices


async def test_an_object_that_breaks_its_controller_costs_no_other_object_its_care() -> None:
    api = MemoryApi()
    api.put(REPLICA_SETS, replica_set("odd"))
    odd = pod("odd", on="n1")
    odd["status"]["conditions"][0]["lastTransitionTime"] = "a while ago"
    api.put(PODS, odd)
    async with running(api, ReplicaSetController):
        await until(lambda: bool(api.objects["pods"]["a", "odd"]["metadata"].get("ownerReferences")))
        await asyncio.sleep(0.05)
        api.put(REPLICA_SETS, replica_set("web"))
        await until(lambda: any(name.startswith("web-") for _, name in api.objects["pods"]))


def daemon_set(name: str, **meta: Any) -> dict[str, Any]:
    body = replica_set(name)
    del body["spec"]["replicas"]
    body["spec"]["updateStrategy"] = {"type": "OnDelete"}
    body["metadata"] |= {"uid": f"{name}-uid", **meta}
    return body


def owners(api: MemoryApi, name: str) -> list[str]:
    return [ref["uid"] for ref in api.objects["pods"]["a", name]["metadata"].get("ownerReferences", ())]


async def test_a_daemon_set_takes_over_pods_that_nobody_owns() -> None:
    api = MemoryApi()
    api.put(NODES, node())
    api.put(PODS, pod("web", on="n1"))
    api.put(DAEMON_SETS, daemon_set("web"))
    async with running(api, DaemonSetController):
        await until(lambda: owners(api, "web") == ["web-uid"])
        await until(lambda: "status" in api.objects["daemonsets"]["a", "web"])
        await asyncio.sleep(0.1)
    assert list(api.objects["pods"]) == [("a", "web")]


async def test_a_daemon_set_lets_go_of_a_pod_that_it_does_not_select_any_more() -> None:
    api = MemoryApi()
    api.put(NODES, node())
    api.put(DAEMON_SETS, daemon_set("web"))
    async with running(api, DaemonSetController):
        await until(lambda: bool(api.objects.get("pods")))
        (_, name), found = next(iter(api.objects["pods"].items()))
        api.put(PODS, {**found, "metadata": {**found["metadata"], "labels": {"app": "debug"}}})
        await until(lambda: not owners(api, name))
        await until(lambda: len(api.objects["pods"]) == 2)


async def test_pods_of_a_daemon_set_that_fail_at_once_are_replaced_ever_more_seldom() -> None:
    api = MemoryApi()
    api.put(NODES, node())
    api.put(DAEMON_SETS, daemon_set("web"))
    async with running(api, lambda context: DaemonSetController(context, first_pause=0.05)):
        for _ in range(300):
            for key, found in list(api.objects.get("pods", {}).items()):
                if found.get("status", {}).get("phase") != "Failed":
                    api.put(
                        PODS, {**api.objects["pods"][key], "spec": {"nodeName": "n1"}, "status": {"phase": "Failed"}}
                    )
            await asyncio.sleep(0.005)
    made = sum(verb == "create" and plural == "pods" for verb, plural, _ in api.requests)
    assert 3 <= made <= 8


async def test_a_deleted_daemon_set_takes_over_nothing() -> None:
    api = MemoryApi()
    api.put(NODES, node())
    api.put(PODS, pod("web", on="n1"))
    api.put(DAEMON_SETS, daemon_set("web", deletionTimestamp=NOW))
    async with running(api, DaemonSetController):
        await asyncio.sleep(0.1)
    assert not owners(api, "web")
