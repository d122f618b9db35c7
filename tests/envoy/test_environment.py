"""What a proxy reads of its environment, and how long it runs."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.envoy.environment import Environment, InvalidEnvironmentError
from tulle.envoy.lifetime import until


def read(**variables: str) -> Environment:
    return Environment(variables, set_by="the test")


@given(st.integers(min_value=0), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)]))
def test_durations(number: int, unit: tuple[str, float]) -> None:
    number %= 10**6
    assert read(D=f"{number}{unit[0]}").duration("D", "1s") == pytest.approx(number * unit[1])


@given(st.text())
def test_numbers_are_read_or_named(text: str) -> None:
    if text.isascii() and text.isdigit():
        assert read(X=text).number("X", 1) == int(text)
    else:
        with pytest.raises(InvalidEnvironmentError, match="X="):
            read(X=text).number("X", 1)


def test_servers() -> None:
    assert read().server("X") == "istiod.istio-system.svc:15012"
    assert read(X="https://a:1").server("X") == read(X="a:1").server("X") == "a:1"
    with pytest.raises(InvalidEnvironmentError, match="X='http://a:1': accepted is https://HOST:PORT"):
        read(X="http://a:1").server("X")


def test_a_missing_variable_is_named_with_who_sets_it() -> None:
    with pytest.raises(InvalidEnvironmentError, match="X is not set: the test sets it"):
        read().required("X")


async def _forever() -> None:
    await asyncio.Event().wait()


async def _end() -> None:
    await asyncio.sleep(0)


async def _fail() -> None:
    await asyncio.sleep(0)
    raise OSError("broken")


async def test_until_it_is_told_to_stop() -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(_forever())
    once = asyncio.create_task(_end())
    waiting = asyncio.create_task(until(stop, [running], may_end=[once]))
    await once
    await asyncio.sleep(0.01)
    assert not waiting.done()
    stop.set()
    await waiting
    running.cancel()


async def test_until_something_fails_or_ends() -> None:
    with pytest.raises(OSError, match="broken"):
        await until(asyncio.Event(), [asyncio.create_task(_fail())])
    with pytest.raises(OSError, match="broken"):
        await until(asyncio.Event(), [], may_end=[asyncio.create_task(_fail())])
    with pytest.raises(RuntimeError, match="it ended unexpectedly"):
        await until(asyncio.Event(), [asyncio.create_task(_end(), name="it")])
