"""The keys of every issuer that some waypoint wants, fetched when they are first wanted and refreshed ever after.

A failed refresh keeps the keys that the same issuer served before, and nothing else ever stands in for an issuer's keys
(CVE-2026-31837). An issuer that was never reached has none: its tokens are refused, and it is tried again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from tulle.istiod.jwks.fetch import Issuer, KeysUnavailableError

log = structlog.get_logger("tulle.istiod.jwks")

REFRESH_SECONDS = 1200.0
_FIRST_RETRY = 1.0
_LONGEST_RETRY = 300.0
_PATIENCE = 5.0

Fetch = Callable[[Issuer, float], Awaitable[str]]


class KeyStore:
    """`fetch(issuer, timeout)` gets a key set or raises KeysUnavailableError; `changed` hears of issuers with other keys than before."""

    def __init__(self, fetch: Fetch, changed: Callable[[Issuer], None], *, refresh: float = REFRESH_SECONDS) -> None:
        self._fetch = fetch
        self._changed = changed
        self._refresh = refresh
        self._keys: dict[Issuer, str] = {}
        self._tasks: dict[Issuer, asyncio.Task[None]] = {}
        self._tried: dict[Issuer, asyncio.Event] = {}
        self._wanted: dict[Issuer, float] = {}

    def keys(self, issuer: Issuer) -> str:
        """The issuer's key set as JSON, "" while there is none."""
        return self._keys.get(issuer, "")

    def want(self, issuers: Mapping[Issuer, float]) -> None:
        """Keep the keys of exactly these issuers, each with the longest time in seconds that one fetch may take."""
        for issuer in self._wanted.keys() - issuers.keys():
            self._tasks.pop(issuer).cancel()
            del self._tried[issuer]
            self._keys.pop(issuer, None)
        new = issuers.keys() - self._wanted.keys()
        self._wanted = dict(issuers)
        for issuer in new:
            self._tried[issuer] = asyncio.Event()
            self._tasks[issuer] = asyncio.get_running_loop().create_task(self._keep(issuer), name=f"keys of {issuer}")

    async def tried(self) -> None:
        """Wait until each wanted issuer was asked once, for a few seconds at most."""
        waiting = [asyncio.ensure_future(event.wait()) for event in self._tried.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=_PATIENCE)
            for one in late:
                one.cancel()

    async def close(self) -> None:
        """Stop all fetching."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, issuer: Issuer) -> None:
        retry = _FIRST_RETRY
        while True:
            try:
                found = await self._fetch(issuer, self._wanted[issuer])
            except KeysUnavailableError as error:
                kept = "the keys it served before stay in use" if issuer in self._keys else "its tokens are refused"
                log.warning("keys not fetched", reason=str(error), consequence=kept, again_in_seconds=round(retry, 1))
                pause, retry = retry, min(retry * 2, _LONGEST_RETRY)
            except Exception:
                # Whatever an issuer answers, it is asked again: keys that it takes back must not stay in use for ever.
                log.exception("keys not fetched", source=str(issuer), again_in_seconds=round(retry, 1))
                pause, retry = retry, min(retry * 2, _LONGEST_RETRY)
            else:
                pause, retry = self._refresh, _FIRST_RETRY
                self._take(issuer, found)
            self._tried[issuer].set()
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 (spreads load)

    def _take(self, issuer: Issuer, found: str) -> None:
        if self._keys.get(issuer) == found:
            return
        self._keys[issuer] = found
        log.info("keys fetched", source=str(issuer))
        self._changed(issuer)
