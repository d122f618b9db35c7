"""Single controllers on an API in memory: requests that fail half-way, objects that change in between, time that passes."""

from typing import Any

from tulle.cluster.controllers.garbagecollector import GarbageCollector
from tulle.cluster.controllers.ownergraph import FOREGROUND
from tulle.kube.resources import CONFIG_MAPS

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
