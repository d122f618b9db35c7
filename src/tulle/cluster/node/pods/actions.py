"""What a hook or probe does to a running container, once."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from tulle.cluster.node.pods import requests
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.spec import Container, Handler
from tulle.cluster.node.runtime.exec import ExecError, ExecRequest, ExecSession

MAX_OUTPUT = 10 * 1024

log = structlog.get_logger("tulle.node.actions")


async def perform(node: Node, container: Container, cid: str, handler: Handler, *, pod_ip: str, timeout: float) -> str:
    """Do it; an empty text is success, any other says what was wrong. Never takes much longer than `timeout` seconds.

    Whatever goes wrong is an answer: an exception would end the probing, or leave a container that is to end running.
    """
    try:
        if handler.exec is not None:
            return await run(node, cid, handler.exec.command, timeout)
        if handler.http_get is not None:
            await requests.http_get(container, handler.http_get, pod_ip, timeout)
        elif handler.tcp_socket is not None:
            await requests.tcp_connect(container, handler.tcp_socket, pod_ip, timeout)
        elif handler.grpc is not None:
            await requests.grpc_health(handler.grpc, pod_ip, timeout)
        elif handler.sleep is not None:
            await asyncio.sleep(min(handler.sleep.seconds, timeout))
    except requests.RequestError as error:
        return str(error)
    except Exception as error:
        log.exception("hook or probe failed", container=container.name, cid=cid)
        return f"{type(error).__name__}: {error}"
    return ""


async def run(node: Node, cid: str, command: tuple[str, ...], timeout: float) -> str:
    """Run a command in the container; its output if it fails, or why it could not run."""
    try:
        session = await ExecSession.start(node.runtime.directory(cid), node.paths.crun, cid, ExecRequest(command))
    except (ExecError, OSError) as error:
        return f"command could not be started: {error}"
    output = bytearray()

    async def collect() -> int:
        await asyncio.gather(_gather(session.read_stdout, output), _gather(session.read_stderr, output))
        return await session.wait()

    code: int | None = None
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                code = await collect()
    except ExecError as error:
        return f"command could not be started: {error}"
    finally:
        await session.hang_up()
    if code is None:
        return f'command timed out: "{" ".join(command)}" timed out after {timeout:g}s'
    if code == 0:
        return ""
    text = output.decode(errors="replace").strip()
    return text or f'"{" ".join(command)}" exited with {code}'


async def _gather(read: object, output: bytearray) -> None:
    assert callable(read)
    while data := await read():
        if len(output) < MAX_OUTPUT:
            output += data
