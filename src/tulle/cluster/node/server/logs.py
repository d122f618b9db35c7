"""`GET /containerLogs/{namespace}/{pod}/{container}`: a container's log, followed if asked for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from aiohttp import web

from tulle.cluster.node.pods.manager import PodManager
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.server.logreader import BLOCK, Log, LogOptions, render

POLL = 0.1


def options(query: dict[str, str]) -> LogOptions:
    """Raises web.HTTPBadRequest naming the parameter."""
    since = None
    try:
        if query.get("sinceSeconds"):
            since = time.time() - int(query["sinceSeconds"])
        elif query.get("sinceTime"):
            since = datetime.fromisoformat(query["sinceTime"]).timestamp()
        return LogOptions(
            follow=_flag(query, "follow"),
            previous=_flag(query, "previous"),
            timestamps=_flag(query, "timestamps"),
            tail=int(query["tailLines"]) if query.get("tailLines") else None,
            since=since,
            limit=int(query["limitBytes"]) if query.get("limitBytes") else None,
        )
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"log parameters: {error}") from error


def _flag(query: dict[str, str], name: str) -> bool:
    return query.get(name, "").lower() in {"true", "1"}


class LogHandler:
    """Finds the log of a run and streams it."""

    def __init__(self, manager: PodManager, log_path: Callable[[Run, str, str, str], Path]) -> None:
        self._manager = manager
        self._log_path = log_path

    async def get(self, request: web.Request) -> web.StreamResponse:
        namespace, pod, container = (request.match_info[name] for name in ("namespace", "pod", "container"))
        wanted = options(dict(request.query))
        run = self._run(namespace, pod, container, previous=wanted.previous)
        worker = self._manager.find(namespace, pod)
        assert worker is not None
        path = self._log_path(run, namespace, pod, worker.pod.metadata.uid)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        writer = _Limited(response, wanted.limit)
        try:
            log = Log(path)
        except FileNotFoundError:
            return response
        with contextlib.closing(log):
            await _history(log, wanted, writer)
            if wanted.follow and not writer.full:
                await _follow(log, wanted, run, writer)
        return response

    def _run(self, namespace: str, pod: str, container: str, *, previous: bool) -> Run:
        worker = self._manager.find(namespace, pod)
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{namespace}/{pod}" is not on this node')
        if worker.pod.container(container) is None:
            raise web.HTTPBadRequest(text=f"container {container} is not valid for pod {pod}")
        known = worker.runs.get(container)
        run = None if known is None else known.previous if previous else known.current
        if run is not None and run.cid:
            return run
        if previous:
            raise web.HTTPBadRequest(text=f'previous terminated container "{container}" in pod "{pod}" not found')
        reason = known.waiting.reason if known is not None and known.waiting is not None else "ContainerCreating"
        raise web.HTTPBadRequest(text=f'container "{container}" in pod "{pod}" is waiting to start: {reason}')


class _Limited:
    """Writes at most `limit` bytes."""

    def __init__(self, response: web.StreamResponse, limit: int | None) -> None:
        self._response = response
        self._left = limit

    @property
    def full(self) -> bool:
        return self._left == 0

    async def write(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if data:
            await self._response.write(data)


async def _history(log: Log, wanted: LogOptions, writer: _Limited) -> None:
    block = bytearray()
    for line in log.history(wanted):
        block += line
        if len(block) > BLOCK:
            await writer.write(bytes(block))
            block.clear()
    await writer.write(bytes(block))


async def _follow(log: Log, wanted: LogOptions, run: Run, writer: _Limited) -> None:
    """New lines as they come, until the container has ended and all of it was sent."""
    rest = b""
    ended = False
    for data in log.follow():
        if data:
            *lines, rest = (rest + data).split(b"\n")
            await writer.write(b"".join(render(line + b"\n", wanted) for line in lines))
        elif ended:
            return
        else:
            ended = run.state == "exited"
            if not ended:
                await asyncio.sleep(POLL)
        if writer.full:
            return
