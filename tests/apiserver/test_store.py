"""The store: optimistic writes, watches that miss nothing, durability."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.cluster.apiserver.crds import CustomKinds
from tulle.cluster.apiserver.expiry import EventExpiry
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.store import CompactedError, Event, FutureRevisionError, Key, Record, RevisionConflictError, Store
from tulle.cluster.store.watch import OVERHEAD, Watcher, Window


def fields_of(resource: str, obj: Mapping[str, Any]) -> Mapping[str, str]:
    return {"metadata.name": obj["metadata"]["name"]}


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels}}


def key(name: str) -> Key:
    return Key("pods", "default", name)


async def test_a_write_is_visible_with_its_revision_and_survives_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of)
    first = await store.write(key("a"), pod("a", app="x"), 0)
    second = await store.write(key("b"), pod("b"), 0)
    await store.delete(key("b"), pod("b"), second.revision)
    await store.close()
    again = Store(tmp_path / "store.db", fields_of)
    assert [record.key.name for record in again.list("pods")] == ["a"]
    record = again.get(key("a"))
    assert record is not None
    assert record.revision == first.revision
    assert record.labels == {"app": "x"}
    assert record.decode()["metadata"]["resourceVersion"] == str(first.revision)
    assert again.revision == 3
    await again.close()


async def test_only_the_expected_revision_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of)
    record = await store.write(key("a"), pod("a"), 0)
    with pytest.raises(RevisionConflictError):
        await store.write(key("a"), pod("a"), 0)
    await store.write(key("a"), pod("a", v="2"), record.revision)
    with pytest.raises(RevisionConflictError):
        await store.write(key("a"), pod("a", v="3"), record.revision)
    await store.close()


async def test_of_concurrent_writers_exactly_one_wins_per_revision(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of)
    await store.write(key("a"), pod("a", n="0"), 0)

    async def increment() -> None:
        while True:
            record = store.get(key("a"))
            assert record is not None
            try:
                await store.write(key("a"), pod("a", n=str(int(record.labels["n"]) + 1)), record.revision)
            except RevisionConflictError:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(50)))
    record = store.get(key("a"))
    assert record is not None
    assert record.labels["n"] == "50"
    await store.close()


async def test_a_watch_gets_history_then_the_present_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of)
    first = await store.write(key("a"), pod("a"), 0)
    await store.write(key("b"), pod("b"), 0)
    watcher = store.watch("pods", "", first.revision)
    await store.delete(key("a"), pod("a"), first.revision)
    events = await watcher.drain(1.0)
    assert [(e.key.name, e.new is None) for e in events] == [("b", False), ("a", True)]
    assert events[1].old is not None
    store.unwatch(watcher)
    await store.close()


async def test_a_listener_that_fails_keeps_no_write_from_being_seen(tmp_path: Path) -> None:
    def fail(_: Event) -> None:
        raise ValueError

    store = Store(tmp_path / "store.db", fields_of)
    store.listen("pods", fail)
    watcher = store.watch("pods", "", store.revision)
    written = await asyncio.gather(*(store.write(key(name), pod(name), 0) for name in "ab"))
    assert [event.revision for event in await watcher.drain(1.0)] == [record.revision for record in written]
    await store.close()


async def test_a_change_in_the_moment_a_wait_ends_is_not_passed_over(tmp_path: Path) -> None:
    """Both are due when the loop comes round, the end of the wait first. (A bookmark then says that all was seen.)"""
    watcher = Watcher("pods", "", (), 0)
    record = Record(key("a"), 1, b"{}", {}, {})
    waiting = asyncio.create_task(watcher.drain(0.05))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, watcher.offer, Event(1, key("a"), None, record))
    time.sleep(0.2)  # noqa: ASYNC251 (so that the loop is late)
    assert [event.revision for event in await waiting] == [1]
    assert await watcher.drain(0.0) == []


async def test_history_survives_a_restart_with_the_old_values(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of)
    first = await store.write(key("a"), pod("a", app="x"), 0)
    await store.write(key("a"), pod("a", app="y"), first.revision)
    await store.close()
    again = Store(tmp_path / "store.db", fields_of)
    (event,) = await again.watch("pods", "", first.revision).drain(1.0)
    assert event.old is not None
    assert event.old.labels == {"app": "x"}
    assert event.new is not None
    assert event.new.labels == {"app": "y"}
    await again.close()


async def test_fields_that_are_known_later_are_those_of_objects_and_history_too(tmp_path: Path) -> None:
    registry = Registry()
    store = Store(tmp_path / "store.db", registry.fields_of)
    storage, first = Key("xs.e.com", "", "a"), {"metadata": {"name": "a"}, "spec": {"color": "blue"}}
    written = await store.write(storage, first, 0)
    under_way = asyncio.create_task(store.write(storage, {**first, "spec": {"color": "red"}}, written.revision))
    await asyncio.sleep(0)
    names = {"plural": "xs", "kind": "X"}
    version = {"name": "v1", "served": True, "storage": True, "selectableFields": [{"jsonPath": ".spec.color"}]}
    definition = {"metadata": {"name": "xs.e.com"}, "spec": {"group": "e.com", "names": names, "versions": [version]}}
    CustomKinds(store, registry, None)._register(definition)  # type: ignore[arg-type]
    await under_way
    (record,) = store.list("xs.e.com")
    assert record.fields["spec.color"] == "red"
    created, changed = await store.watch("xs.e.com", "", written.revision - 1).drain(1.0)
    assert created.new is not None
    assert changed.old is not None
    assert created.new.fields["spec.color"] == changed.old.fields["spec.color"] == "blue"
    await store.close()
    registry = Registry()
    again = Store(tmp_path / "store.db", registry.fields_of)
    CustomKinds(again, registry, None)._register(definition)  # type: ignore[arg-type]
    assert again.list("xs.e.com")[0].fields["spec.color"] == "red"
    await again.close()


async def test_too_old_and_future_revisions_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of, window=5)
    for index in range(10):
        await store.write(key(f"p{index}"), pod(f"p{index}"), 0)
    with pytest.raises(CompactedError):
        store.watch("pods", "", 3)
    with pytest.raises(FutureRevisionError):
        store.watch("pods", "", 11)
    assert len(await store.watch("pods", "", 5).drain(1.0)) == 5
    await store.close()


async def test_the_window_holds_so_many_bytes_and_always_the_last_event() -> None:
    window = Window(0, most_bytes=2 * OVERHEAD + 100)
    for revision, size in ((1, 40), (2, 40), (3, 40), (4, 2 * OVERHEAD)):
        record = Record(key("a"), revision, b"x" * size, {}, {})
        assert window.append(Event(revision, key("a"), None, record)) == {3: 1, 4: 3}.get(revision, 0)
    assert [event.revision for event in window.since("pods", 3, 4, lambda _: True)] == [4]
    with pytest.raises(CompactedError):
        window.since("pods", 2, 4, lambda _: True)


async def test_events_are_gone_an_hour_after_their_last_change(tmp_path: Path) -> None:
    now = 0.0
    store = Store(tmp_path / "store.db", fields_of)
    keys = [Key("events", "default", name) for name in ("there-before", "kept", "repeated", "deleted")]
    before, kept, repeated, deleted = keys
    await store.write(before, pod("there-before"), 0)
    expiry = EventExpiry(store, lambda: now)
    records = {one: await store.write(one, pod(one.name), 0) for one in (repeated, deleted)}
    await store.delete(deleted, pod("deleted"), records[deleted].revision)
    now = 1000.0
    await store.write(kept, pod("kept"), 0)
    await store.write(repeated, pod("repeated", again="1"), records[repeated].revision)
    now = 3599.0
    await expiry.expire()
    assert {record.key for record in store.list("events")} == {before, kept, repeated}
    now = 3600.0
    await expiry.expire()
    assert {record.key for record in store.list("events")} == {kept, repeated}
    now = 4600.0
    await expiry.expire()
    assert store.list("events") == []
    await store.close()


async def test_of_too_many_events_the_newest_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of)
    expiry = EventExpiry(store, lambda: 0.0, most=2)
    keys = [Key("events", "default", name) for name in ("a", "b", "c", "d")]
    records = {one: await store.write(one, pod(one.name), 0) for one in keys}
    await store.write(keys[0], pod("a", again="1"), records[keys[0]].revision)
    await expiry.expire()
    assert {record.key for record in store.list("events")} == {keys[0], keys[3]}
    await store.close()


async def test_a_namespace_watch_sees_its_namespace_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", fields_of)
    watcher = store.watch("pods", "one", 0)
    await store.write(Key("pods", "two", "x"), pod("x"), 0)
    await store.write(Key("pods", "one", "y"), pod("y"), 0)
    assert [event.key.name for event in await watcher.drain(1.0)] == ["y"]
    await store.close()


_STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "delete"]), st.sampled_from("abc"), st.integers(0, 3)), max_size=30
)


@settings(max_examples=25, deadline=None)
@given(steps=_STEPS, start=st.integers(0, 30))
def test_replaying_a_watch_over_a_snapshot_gives_the_present(
    steps: list[tuple[str, str, int]], start: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def check(path: Path) -> None:
        store = Store(path / "store.db", fields_of)
        snapshots = {0: {}}
        for what, name, value in steps:
            record = store.get(key(name))
            if what == "write":
                await store.write(key(name), pod(name, v=str(value)), record.revision if record else 0)
            elif record is not None:
                await store.delete(key(name), pod(name), record.revision)
            snapshots[store.revision] = {r.key.name: dict(r.labels) for r in store.list("pods")}
        revision = min(start, store.revision)
        seen = dict(snapshots[revision])
        watcher = store.watch("pods", "", revision)
        for event in await watcher.drain(0.0):
            if event.new is None:
                del seen[event.key.name]
            else:
                seen[event.key.name] = dict(event.new.labels)
        assert seen == snapshots[store.revision]
        await store.close()

    asyncio.run(check(tmp_path_factory.mktemp("tk-store")))
