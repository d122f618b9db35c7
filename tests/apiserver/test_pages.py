"""Lists in pages: one moment of the store, kept nowhere but in its history."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.cluster.store import CompactedError, FutureRevisionError, Key, Record, Store

from .conftest import Api
from .test_auth import allow, with_token
from .test_http import config_map


def names(answer: Any) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


async def filled(api: Api, namespace: str, count: int = 5) -> str:
    path = f"{await api.namespace(namespace)}/configmaps"
    for index in range(count):
        await api.ok("POST", path, config_map(f"c{index}"))
    return path


async def test_a_token_shows_no_more_than_the_request_that_brings_it_may_see(api: Api) -> None:
    path = await filled(api, "n")
    other = f"{await api.namespace('other')}/configmaps"
    token = (await api.ok("GET", f"{path}?limit=2"))["metadata"]["continue"]
    assert names(await api.ok("GET", f"{other}?continue={token}")) == []
    assert (await api.ok("GET", f"/api/v1/namespaces/n/secrets?continue={token}"))["items"] == []
    assert names(await api.ok("GET", f"{path}?fieldSelector=metadata.name%3Dc3&continue={token}")) == ["c3"]
    rule = {"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["c4"]}
    bearer = await allow(api, "n", rule)
    status, page = await with_token(api, bearer, f"{path}?fieldSelector=metadata.name%3Dc4&continue={token}")
    assert (status, names(page)) == (200, ["c4"])


async def test_pages_of_a_selection_count_what_is_selected(api: Api) -> None:
    path = await filled(api, "n")
    first = await api.ok("GET", f"{path}?limit=2&fieldSelector=metadata.name!%3Dc1")
    assert names(first) == ["c0", "c2"]
    token = first["metadata"]["continue"]
    second = await api.ok("GET", f"{path}?limit=2&fieldSelector=metadata.name!%3Dc1&continue={token}")
    assert names(second) == ["c3", "c4"]
    assert "continue" not in second["metadata"]


async def test_lists_that_nobody_reads_to_their_end_hold_nothing(api: Api) -> None:
    path = await filled(api, "n")
    for number in range(20):
        await api.ok("GET", f"{path}?limit=1")
        await api.ok("PUT", f"{path}/c4", config_map("c4", x=str(number)))
    gc.collect()
    kept = [r for r in gc.get_objects() if isinstance(r, Record) and r.key == Key("configmaps", "n", "c4")]
    assert [h for r in kept for h in gc.get_referrers(r) if isinstance(h, list) and h is not kept] == []


@pytest.mark.parametrize("token", ["x", "gone.2", "e30", "WzEsMl0", "WzEsIm4iLDVd", "9" * 5000, "WyIxIiwibiIsIngiXQ"])
async def test_a_token_of_nobody_is_refused(api: Api, token: str) -> None:
    path = await filled(api, "n", 1)
    status, refused = await api.call("GET", f"{path}?continue={token}")
    assert (status, refused["reason"]) == (400, "BadRequest")


async def test_a_list_older_than_the_history_has_to_be_begun_again(api: Api) -> None:
    path = await filled(api, "n")
    token = (await api.ok("GET", f"{path}?limit=2"))["metadata"]["continue"]
    window = api.server.store._window
    window._limit = 1
    await api.ok("DELETE", f"{path}/c4")
    await api.ok("DELETE", f"{path}/c3")
    status, refused = await api.call("GET", f"{path}?continue={token}")
    assert (status, refused["reason"]) == (410, "Expired")
    assert refused["message"].startswith("The provided continue parameter is too old")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["write", "delete"])), max_size=12))
@settings(max_examples=25, deadline=None)
async def test_the_store_remembers_each_moment_of_its_history(steps: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / "store.db", lambda _resource, _obj: {})
        moments: dict[int, Sequence[Record]] = {0: []}
        for name, step in steps:
            key = Key("pods", "n", name)
            known = store.get(key)
            if step == "write":
                await store.write(key, {"metadata": {"name": name}}, known.revision if known else 0)
            elif known:
                await store.delete(key, known.decode(), known.revision)
            moments[store.revision] = store.list("pods", "n")
        for revision, wanted in moments.items():
            assert store.list_at("pods", "n", revision) == wanted
            assert store.list_at("pods", "other", revision) == []
        with pytest.raises(FutureRevisionError):
            store.list_at("pods", "n", store.revision + 1)
        with pytest.raises(CompactedError):
            store.list_at("pods", "n", -1)
        await store.close()
