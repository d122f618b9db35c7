"""The work queue: no lost key, no two workers on one key, back-off per key; and label selectors."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tulle.kube import ApiError, WorkQueue
from tulle.kube.objects import LabelSelector, LabelSelectorRequirement
from tulle.kube.selectors import matches, matches_requirement, to_query

from .conftest import until


async def test_a_key_waits_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]


async def test_a_key_added_during_work_comes_again() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done(key)
    assert len(queue) == 1


async def test_back_off_doubles_until_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(first_delay=0.25, longest_delay=1.0)
    assert [queue.retry("a") for _ in range(4)] == [0.25, 0.5, 1.0, 1.0]
    queue.forget("a")
    assert queue.retry("a") == 0.25
    queue.close()


async def test_the_shortest_delay_holds() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 60)
    queue.add_after("a", 0.001)
    async with asyncio.timeout(60):
        assert await queue.get() == "a"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_last_state_is_always_worked_on(steps: list[tuple[str, bool]]) -> None:
    asyncio.run(_worked(steps))


async def _worked(steps: list[tuple[str, bool]]) -> None:
    queue: WorkQueue[str] = WorkQueue(first_delay=0.0001)
    state: dict[str, int] = {}
    seen: dict[str, int] = {}
    active: set[str] = set()
    failing = 2

    async def reconcile(key: str) -> None:
        nonlocal failing
        assert key not in active
        active.add(key)
        now = state[key]
        await asyncio.sleep(0)
        active.discard(key)
        if failing:
            failing -= 1
            raise ApiError(500, "", "injected")
        seen[key] = now

    task = asyncio.create_task(queue.work(reconcile, workers=3))
    for key, pause in steps:
        state[key] = state.get(key, 0) + 1
        queue.add(key)
        if pause:
            await asyncio.sleep(0)
    await until(lambda: seen == state)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_exception_costs_its_key_a_delay_and_no_other_key_anything() -> None:
    queue: WorkQueue[str] = WorkQueue("Widget", first_delay=0.0001)
    done: list[str] = []

    async def reconcile(key: str) -> None:
        if key == "odd" and done.count("odd") == 0:
            done.append("odd")
            raise ValueError("an odd number")
        done.append(key)

    for key in ("odd", "plain"):
        queue.add(key)
    with capture_logs() as logs:
        task = asyncio.create_task(queue.work(reconcile))
        await until(lambda: done == ["odd", "plain", "odd"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(entry["log_level"], entry["object"]) for entry in logs] == [("error", "Widget odd")]


labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))
requirements = st.builds(
    LabelSelectorRequirement,
    key=st.sampled_from("abc"),
    operator=st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    values=st.lists(st.sampled_from("xyz"), min_size=1).map(tuple),
)


@given(requirements, labels)
def test_each_requirement_has_its_opposite(requirement: LabelSelectorRequirement, found: dict[str, str]) -> None:
    opposite = {"In": "NotIn", "NotIn": "In", "Exists": "DoesNotExist", "DoesNotExist": "Exists"}[requirement.operator]
    other = LabelSelectorRequirement(key=requirement.key, operator=opposite, values=requirement.values)
    assert matches_requirement(requirement, found) is not matches_requirement(other, found)


@given(labels, labels, st.lists(requirements).map(tuple))
def test_selector_is_a_conjunction(
    wanted: dict[str, str], found: dict[str, str], expressions: tuple[LabelSelectorRequirement, ...]
) -> None:
    selector = LabelSelector(match_labels=wanted, match_expressions=expressions)
    expected = all(found.get(k) == v for k, v in wanted.items()) and all(
        matches_requirement(r, found) for r in expressions
    )
    assert matches(selector, found) is expected


def test_query_form() -> None:
    selector = LabelSelector(
        match_labels={"a": "b"},
        match_expressions=(
            LabelSelectorRequirement(key="c", operator="In", values=("d", "e")),
            LabelSelectorRequirement(key="f", operator="DoesNotExist"),
        ),
    )
    assert to_query(selector) == "a=b,c in (d,e),!f"
