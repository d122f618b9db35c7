"""The wire API: status codes, concurrency, deletion, lists and watches."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import aiohttp
import pytest

from tulle.cluster.store import watch as watch_queue
from tulle.cluster.store.log import Entry

from .conftest import Api


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def pod(name: str, **more: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "nginx:1"}], **more.pop("spec", {})}
    return {"metadata": {"name": name, **more.pop("metadata", {})}, "spec": spec}


class Watch:
    """One watch request, event by event."""

    def __init__(self, api: Api, path: str) -> None:
        self._request = api.session.get(api.url + path)

    async def __aenter__(self) -> Watch:
        self._answer = await self._request.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._answer.close()

    async def next(self) -> Any:
        async with asyncio.timeout(60):
            return json.loads(await self._answer.content.readline())

    async def ended(self) -> bool:
        async with asyncio.timeout(60):
            return await self._answer.content.readline() == b""


async def test_optimistic_concurrency(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    first = await api.ok("POST", path, config_map("a", x="1"))
    await api.ok("PUT", f"{path}/a", {**first, "data": {"x": "2"}})
    status, refused = await api.call("PUT", f"{path}/a", {**first, "data": {"x": "3"}})
    assert (status, refused["reason"]) == (409, "Conflict")
    assert refused["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    status, refused = await api.call("POST", path, config_map("a"))
    assert (status, refused["reason"]) == (409, "AlreadyExists")
    unconditional = {**config_map("a", x="4"), "kind": "ConfigMap"}
    assert (await api.ok("PUT", f"{path}/a", unconditional))["data"] == {"x": "4"}


async def test_a_write_that_changes_nothing_is_no_write(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    first = await api.ok("POST", path, config_map("a", x="1"))
    again = await api.ok("PUT", f"{path}/a", first)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_generation_counts_desired_state_only(api: Api) -> None:
    namespace = await api.namespace("n")
    path = f"{namespace}/pods"
    await api.ok("POST", path, pod("p"))
    merge = {"Content-Type": "application/merge-patch+json"}
    labelled = await api.ok("PATCH", f"{path}/p", {"metadata": {"labels": {"a": "b"}}}, headers=merge)
    assert labelled["metadata"]["generation"] == 1
    status = await api.ok(
        "PATCH", f"{path}/p/status", {"status": {"phase": "Running"}, "spec": {"x": 1}}, headers=merge
    )
    assert (status["metadata"]["generation"], status["status"]["phase"]) == (1, "Running")
    image = {"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}}
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    changed = await api.ok("PATCH", f"{path}/p", image, headers=strategic)
    assert changed["metadata"]["generation"] == 2
    assert changed["status"]["phase"] == "Running"


async def test_what_a_main_update_says_of_the_status_is_ignored(api: Api) -> None:
    path = f"{await api.namespace('n')}/pods"
    created = await api.ok("POST", path, {**pod("p"), "status": {"phase": "Failed"}})
    assert created["status"]["phase"] == "Pending"
    created["status"]["phase"] = "Failed"
    assert (await api.ok("PUT", f"{path}/p", created))["status"]["phase"] == "Pending"


async def test_a_scheduled_pod_is_deleted_gracefully(api: Api) -> None:
    path = f"{await api.namespace('n')}/pods"
    await api.ok("POST", path, pod("p"))
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "node-1"}}
    await api.ok("POST", f"{path}/p/binding", binding)
    bound = await api.ok("GET", f"{path}/p")
    assert bound["spec"]["nodeName"] == "node-1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    status, refused = await api.call("POST", f"{path}/p/binding", binding)
    assert status == 409
    assert "already assigned" in refused["message"]
    marked = await api.ok("DELETE", f"{path}/p", {"gracePeriodSeconds": 20})
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 20
    again = await api.ok("DELETE", f"{path}/p")
    assert again["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
    shorter = await api.ok("DELETE", f"{path}/p", {"gracePeriodSeconds": 5})
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    wrong = {"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}}
    assert (await api.call("DELETE", f"{path}/p", wrong))[0] == 409
    final = {"gracePeriodSeconds": 0, "preconditions": {"uid": marked["metadata"]["uid"]}}
    assert (await api.ok("DELETE", f"{path}/p", final))["status"] == "Success"
    assert (await api.call("GET", f"{path}/p"))[0] == 404


async def test_an_eviction_in_pretence_evicts_nothing(api: Api) -> None:
    path = f"{await api.namespace('n')}/pods"
    await api.ok("POST", path, pod("p"))
    eviction = {"metadata": {"name": "p", "namespace": "n"}, "deleteOptions": {"dryRun": ["All"]}}
    await api.ok("POST", f"{path}/p/eviction", eviction)  # as kubectl drain --dry-run=server does
    await api.ok("GET", f"{path}/p")
    await api.ok("POST", f"{path}/p/eviction", {**eviction, "deleteOptions": {}})
    assert (await api.call("GET", f"{path}/p"))[0] == 404


async def test_finalizers_hold_an_object(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    held = config_map("a")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await api.ok("POST", path, held)
    marked = await api.ok("DELETE", f"{path}/a", {"propagationPolicy": "Foreground"})
    assert marked["metadata"]["finalizers"] == ["example.com/hold", "foregroundDeletion"]
    merge = {"Content-Type": "application/merge-patch+json"}
    status, refused = await api.call(
        "PATCH", f"{path}/a", {"metadata": {"finalizers": ["example.com/hold", "example.com/new"]}}, headers=merge
    )
    assert status == 422
    assert "no new finalizers can be added" in refused["message"]
    await api.ok("PATCH", f"{path}/a", {"metadata": {"finalizers": None}}, headers=merge)
    assert (await api.call("GET", f"{path}/a"))[0] == 404


async def test_namespaces_end_by_their_finalizer(api: Api) -> None:
    path = await api.namespace("n")
    await api.ok("DELETE", path)
    ending = await api.ok("GET", path)
    assert ending["status"]["phase"] == "Terminating"
    ending = await api.ok("DELETE", path, {"propagationPolicy": "Foreground"})
    assert ending["metadata"]["finalizers"] == ["foregroundDeletion"]
    await api.ok("DELETE", path, {"propagationPolicy": "Background"})
    ending = await api.ok("GET", path)
    status, refused = await api.call("POST", f"{path}/configmaps", config_map("late"))
    assert status == 403
    assert "because it is being terminated" in refused["message"]
    assert refused["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    ending["spec"]["finalizers"] = []
    await api.ok("PUT", f"{path}/finalize", ending)
    assert (await api.call("GET", path))[0] == 404
    assert (await api.call("POST", f"{path}/configmaps", config_map("x")))[1]["message"] == 'namespaces "n" not found'


async def test_lists_are_paged_from_one_snapshot(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    for index in range(5):
        await api.ok("POST", path, config_map(f"c{index}"))
    first = await api.ok("GET", f"{path}?limit=2")
    await api.ok("DELETE", f"{path}/c4")
    await api.ok("POST", path, config_map("c5"))
    assert first["metadata"]["remainingItemCount"] == 3
    names, token = [i["metadata"]["name"] for i in first["items"]], first["metadata"]["continue"]
    while token:
        page = await api.ok("GET", f"{path}?limit=2&continue={token}")
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
    assert names == ["c0", "c1", "c2", "c3", "c4"]


async def test_selectors_in_lists_and_collections(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    for name, app in (("a", "x"), ("b", "y"), ("c", "x")):
        await api.ok("POST", path, {"metadata": {"name": name, "labels": {"app": app}}})
    found = await api.ok("GET", f"{path}?labelSelector=app%3Dx")
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "c"]
    await api.ok("DELETE", f"{path}?labelSelector=app%3Dx")
    left = await api.ok("GET", f"{path}?fieldSelector=metadata.name!%3Dq")
    assert [item["metadata"]["name"] for item in left["items"]] == ["b"]
    assert (await api.call("GET", f"{path}?fieldSelector=spec.x%3D1"))[0] == 400


async def test_a_selector_watch_sees_objects_come_and_go(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    revision = (await api.ok("GET", path))["metadata"]["resourceVersion"]
    merge = {"Content-Type": "application/merge-patch+json"}
    async with Watch(api, f"{path}?watch=True&labelSelector=on%3Dyes&resourceVersion={revision}") as watch:
        await api.ok("POST", path, config_map("a"))
        await api.ok("PATCH", f"{path}/a", {"metadata": {"labels": {"on": "yes"}}}, headers=merge)
        await api.ok("PATCH", f"{path}/a", {"data": {"k": "v"}}, headers=merge)
        last = await api.ok("PATCH", f"{path}/a", {"metadata": {"labels": {"on": "no"}}}, headers=merge)
        events = [await watch.next() for _ in range(3)]
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
        assert events[2]["object"]["metadata"]["resourceVersion"] == last["metadata"]["resourceVersion"]
        assert events[2]["object"]["metadata"]["labels"] == {"on": "yes"}


async def test_a_streaming_list_ends_with_its_bookmark(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    await api.ok("POST", path, config_map("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion="
    async with Watch(api, f"{path}?{query}") as watch:
        assert (await watch.next())["type"] == "ADDED"
        bookmark = await watch.next()
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await api.ok("POST", path, config_map("b"))
        assert (await watch.next())["object"]["metadata"]["name"] == "b"
    refused = await api.call("GET", f"{path}?watch=1&sendInitialEvents=true")
    assert refused[0] == 422


async def test_a_watch_ends_at_its_timeout_with_a_bookmark(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    revision = (await api.ok("GET", path))["metadata"]["resourceVersion"]
    async with Watch(
        api, f"{path}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={revision}"
    ) as watch:
        await api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "elsewhere"}})
        bookmark = await watch.next()
        assert bookmark["type"] == "BOOKMARK"
        assert int(bookmark["object"]["metadata"]["resourceVersion"]) > int(revision)
        assert await watch.ended()


async def test_a_watch_that_falls_behind_as_its_time_is_up_ends_without_a_bookmark(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bookmark would say that all was seen, and the client would never ask for what was dropped."""
    path = f"{await api.namespace('n')}/configmaps"
    revision = (await api.ok("GET", path))["metadata"]["resourceVersion"]
    query = f"watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={revision}"
    store, held = api.server.store, list[Entry]()
    monkeypatch.setattr(watch_queue, "_WATCHER_LIMIT", 1)
    monkeypatch.setattr(store._log, "commit", held.append)
    async with Watch(api, f"{path}?{query}") as watch:
        posts = [asyncio.create_task(api.ok("POST", path, config_map(name))) for name in ("a", "b")]
        while len(held) < len(posts):
            await asyncio.sleep(0.01)
        time.sleep(1.1)  # noqa: ASYNC251 (so that the time is up when the changes are made)
        store._committed(held, None)
        assert (await watch.next())["object"]["metadata"]["resourceVersion"] == str(held[0].revision)
        assert await watch.ended()
    await asyncio.gather(*posts)


async def test_revisions_in_the_past_and_future(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    status, refused = await api.call("GET", f"{path}?resourceVersion=99999999")
    assert status == 504
    assert refused["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    api.server.store._window.compacted = 5
    async with Watch(api, f"{path}?watch=1&resourceVersion=2") as watch:
        event = await watch.next()
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_names_and_types_are_checked(api: Api) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    status, refused = await api.call("POST", path, config_map("Not_A_Name"))
    assert status == 422
    assert refused["details"]["causes"][0]["field"] == "metadata.name"
    generated = await api.ok("POST", path, {"metadata": {"generateName": "x-"}})
    assert generated["metadata"]["name"].startswith("x-")
    assert len(generated["metadata"]["name"]) == 7
    status, refused = await api.call("POST", path, {"metadata": {"name": "a"}, "data": {"k": 1}})
    assert status == 400
    assert "cannot unmarshal number into Go struct field" in refused["message"]
    assert (await api.call("POST", path, {"apiVersion": "v2", "metadata": {"name": "a"}}))[0] == 400
    assert (await api.call("POST", path, b"{not json"))[0] == 400
    async with api.session.post(api.url + path, data=io.BytesIO(b"x" * (3 * 1024 * 1024 + 1))) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (413, "RequestEntityTooLarge")
    assert (await api.call("POST", path, {"metadata": []}))[0] == 400
    assert (await api.call("POST", path, b"a", headers={"Content-Type": "application/cbor"}))[0] == 415
    assert (await api.call("GET", path, headers={"Accept": "application/vnd.kubernetes.protobuf"}))[0] == 406


async def test_unknown_fields_warn_or_are_refused(api: Api) -> None:
    path = f"{await api.namespace('n')}/services"
    service = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "prot": "x"}]}, "bogus": 1}
    status, refused = await api.call("POST", f"{path}?fieldValidation=Strict", service)
    assert status == 400
    assert refused["message"] == (
        'Service in version "v1" cannot be handled as a Service: strict decoding error: '
        'unknown field "spec.ports[0].prot", unknown field "bogus"'
    )
    async with api.session.post(f"{api.url}{path}", json=service) as answer:
        assert answer.status == 201
        assert answer.headers.getall("Warning") == [
            '299 - "unknown field \\"spec.ports[0].prot\\""',
            '299 - "unknown field \\"bogus\\""',
        ]
        assert "bogus" not in await answer.json()


async def test_dry_run_leaves_nothing(api: Api) -> None:
    path = f"{await api.namespace('n')}/services"
    service = {"metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.5.5", "ports": [{"port": 80}]}}
    assert (await api.ok("POST", f"{path}?dryRun=All", service))["spec"]["clusterIP"] == "10.96.5.5"
    assert (await api.call("GET", f"{path}/s"))[0] == 404
    await api.ok("POST", path, service)
    other = {**service, "metadata": {"name": "t"}}
    status, refused = await api.call("POST", path, other)
    assert status == 422
    assert "provided IP is already allocated" in refused["message"]
    await api.ok("DELETE", f"{path}/s")
    await api.ok("POST", path, other)


async def test_concurrent_services_get_different_addresses(api: Api) -> None:
    path = f"{await api.namespace('n')}/services"
    bodies = [{"metadata": {"name": f"s{i}"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}} for i in range(40)]
    made = await asyncio.gather(*(api.ok("POST", path, body) for body in bodies))
    assert len({service["spec"]["clusterIP"] for service in made}) == 40
    assert len({service["spec"]["ports"][0]["nodePort"] for service in made}) == 40
    await api.ok("POST", path, {"metadata": {"name": "h"}, "spec": {"clusterIP": "None"}})
    external = {"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "example.com"}}
    assert "clusterIP" not in (await api.ok("POST", path, external))["spec"]


async def test_events_are_one_kind_seen_through_two_groups(api: Api) -> None:
    namespace = await api.namespace("n")
    involved = {"kind": "Pod", "namespace": "n", "name": "p", "apiVersion": "v1"}
    event = {"metadata": {"name": "e"}, "involvedObject": involved, "reason": "Started", "message": "hello", "count": 3}
    await api.ok("POST", f"{namespace}/events", event)
    seen = await api.ok("GET", "/apis/events.k8s.io/v1/namespaces/n/events/e")
    assert (seen["note"], seen["regarding"]["name"], seen["deprecatedCount"]) == ("hello", "p", 3)
    found = await api.ok("GET", f"{namespace}/events?fieldSelector=involvedObject.name%3Dp,involvedObject.kind%3DPod")
    assert len(found["items"]) == 1


async def test_status_and_metadata_forms(api: Api) -> None:
    namespace = await api.namespace("n")
    form = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"}
    partial = await api.ok("GET", f"{namespace}/serviceaccounts", headers=form)
    assert partial["kind"] == "PartialObjectMetadataList"
    assert partial["items"][0]["kind"] == "PartialObjectMetadata"
    async with api.session.get(f"{api.url}{namespace}", headers={"Accept": "application/yaml"}) as answer:
        assert "kind: Namespace" in await answer.text()


async def test_the_public_documents(api: Api) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as anonymous:
        for path, status in (
            ("/healthz", 200),
            ("/livez", 200),
            ("/readyz", 200),
            ("/version", 200),
            ("/version/", 200),
        ):
            async with anonymous.get(api.url + path) as answer:
                assert answer.status == status
        for path in ("/api", "/apis", "/api/v1/pods", "/openapi/v3", "/nothing"):
            async with anonymous.get(api.url + path) as answer:
                assert answer.status == 401
                assert (await answer.json())["reason"] == "Unauthorized"
    assert (await api.ok("GET", "/version"))["gitVersion"] == "v1.36.4"
    for path in (
        "/api/v2/pods",
        "/apis/nothing/v1",
        "/apis/apps/v1/namespaces/n/statefulsets",
        "/apis/apps",
        "/nothing",
    ):
        status, _ = await api.call("GET", path)
        assert status == (200 if path == "/apis/apps" else 404)


async def test_openapi_documents_are_cacheable_and_complete(api: Api) -> None:
    index = await api.ok("GET", "/openapi/v3")
    for entry in index["paths"].values():
        async with api.session.get(api.url + entry["serverRelativeURL"]) as answer:
            assert answer.headers["Expires"].endswith("9999 23:59:59 GMT")
            text, tag = await answer.text(), answer.headers["ETag"]
        document = json.loads(text)
        for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
            assert reference in document["components"]["schemas"]
        async with api.session.get(api.url + entry["serverRelativeURL"], headers={"If-None-Match": tag}) as answer:
            assert answer.status == 304
    core = await api.ok("GET", "/openapi/v3/api/v1")
    patch = core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"]
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]
