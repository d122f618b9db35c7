"""A local copy of one resource that follows the server: list once, watch from there, repair after any gap.

The promise to a reader is a chain: every change's ``old`` is the ``new`` that was told before, for each key,
across broken connections, API server restarts and expired history. After a gap the list is compared with the
copy and only differences are told. An object deleted and made again under the same name is told as a removal
and an addition, even if both fell into the gap.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

import structlog

from tulle.kube.client import Client
from tulle.kube.codec import ListResult, identity
from tulle.kube.errors import ApiError, Gone, Unreachable
from tulle.kube.resources import Resource

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Key = tuple[str, str]

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0
_STEADY_SECONDS = 1.0

log = structlog.get_logger("tulle.kube.informer")


@dataclass(frozen=True)
class Change(Generic[T_co]):
    """``old`` None: appeared. ``new`` None: went. Key is (namespace, name)."""

    key: Key
    old: T_co | None
    new: T_co | None


class Informer(Generic[T]):
    """Follows one resource, optionally of one namespace or selection. Reads are plain dictionary reads of ``store``."""

    def __init__(
        self,
        client: Client,
        res: Resource[T],
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        self.resource = res
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._objects: dict[Key, T] = {}
        self.store: Mapping[Key, T] = MappingProxyType(self._objects)
        self._handlers: list[Callable[[Change[T]], None]] = []
        self._synced = asyncio.Event()
        self._complaint = ""
        self._progress = False

    def on_change(self, fn: Callable[[Change[T]], None]) -> Callable[[], None]:
        """Calls ``fn`` at each change, after ``store`` has it; what is known already comes at once, as additions.

        Returns a function that ends this. ``fn`` must not block. What it raises ends ``run``: a reader that missed a
        change has no way to know.
        """
        self._handlers.append(fn)
        for key, obj in list(self._objects.items()):
            fn(Change(key, None, obj))
        return lambda: self._handlers.remove(fn)

    async def synced(self) -> None:
        """Returns once the first list is in ``store``."""
        await self._synced.wait()

    @property
    def is_whole(self) -> bool:
        """Whether it follows every object of the resource: no namespace, no selection."""
        return not (self._namespace or self._label_selector or self._field_selector)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Waits until ``condition``, a test of ``store``, holds; False when it does not within ``seconds``."""
        met = asyncio.Event()
        end = self.on_change(lambda _: met.set() if condition() else None)
        try:
            if condition():
                return True
            async with asyncio.timeout(seconds):
                await met.wait()
        except TimeoutError:
            return False
        finally:
            end()
        return True

    @property
    def has_synced(self) -> bool:
        """Whether the first list is in ``store``."""
        return self._synced.is_set()

    async def run(self) -> None:
        """Follows the resource until cancelled. API errors are logged and retried with back-off (50 ms to 5 s)."""
        delay = _FIRST_DELAY
        while True:
            try:
                listed = await self._list()
                self._compare(listed)
                self._synced.set()
                self._progress = False
                started = time.monotonic()
                # Listing again repairs both; if the server is away, the list is what says so.
                with contextlib.suppress(Gone, Unreachable):
                    await self._follow(listed.resource_version)
                if self._progress or time.monotonic() - started >= _STEADY_SECONDS:
                    # A watch that worked; one that fails at once must not make a tight loop of lists.
                    delay = _FIRST_DELAY
                    self._complaint = ""
            except ApiError as error:
                self._complain(error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(delay * 2, _LONGEST_DELAY)

    async def _list(self) -> ListResult[T]:
        return await self._client.list(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )

    async def _follow(self, version: str) -> None:
        """Watches until an error; a watch that the server ended in the ordinary way is taken up where it stopped."""
        while True:
            before = version
            async with aclosing(
                self._client.watch(
                    self.resource,
                    self._namespace,
                    resource_version=version,
                    label_selector=self._label_selector,
                    field_selector=self._field_selector,
                )
            ) as events:
                async for event in events:
                    version = event.resource_version or version
                    self._progress = True
                    if event.object is not None:
                        self._put(event.object, gone=event.type == "DELETED")
            if version == before:
                # A server that ends watches at once must not be asked in a tight loop.
                await asyncio.sleep(_FIRST_DELAY)

    def _compare(self, listed: ListResult[T]) -> None:
        present = set()
        for obj in listed.items:
            who = identity(obj)
            present.add((who.namespace, who.name))
        for key in [key for key in self._objects if key not in present]:
            self._remove(key)
        for obj in listed.items:
            self._put(obj, gone=False)

    def _put(self, obj: T, *, gone: bool) -> None:
        who = identity(obj)
        key = (who.namespace, who.name)
        if gone:
            self._remove(key)
            return
        old = self._objects.get(key)
        if old is not None:
            known = identity(old)
            if known.uid != who.uid:
                self._remove(key)
                old = None
            elif known.resource_version == who.resource_version:
                return
        self._objects[key] = obj
        self._tell(Change(key, old, obj))

    def _remove(self, key: Key) -> None:
        old = self._objects.pop(key, None)
        if old is not None:
            self._tell(Change(key, old, None))

    def _tell(self, change: Change[T]) -> None:
        for handler in tuple(self._handlers):
            handler(change)

    def _complain(self, error: ApiError) -> None:
        """Once per distinct error: a server that is down for an hour is one line."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.warning("watch interrupted, trying again", resource=self.resource.plural, error=str(error))
