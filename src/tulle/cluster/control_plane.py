"""The embedded cluster's control plane in one process: the API server, and the controllers as its clients.

`python -m tulle.cluster.control_plane --state-dir DIR --port N [--address IP ...]`. The controllers talk to the API over HTTPS with a
certificate of their own, as on any cluster; that they share a process with the server only saves memory and start-up time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvloop

from tulle.cluster import controllers
from tulle.cluster.apiserver.server import serve
from tulle.kube.client import Client

_log = structlog.get_logger("tulle.cluster.control_plane")


async def _controllers(state: Path, ready: asyncio.Event) -> None:
    await ready.wait()
    async with Client.from_kubeconfig(
        str(state / "kubeconfig.controllers"), component="kube-controller-manager"
    ) as client:
        await controllers.run(client, root_ca=(state / "pki" / "ca.crt").read_text())


async def run(state: Path, port: int, addresses: Sequence[str]) -> None:
    """Serve until cancelled. Raises OSError when an address cannot be bound."""
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(state, port, addresses, ready=ready), name="apiserver")
        group.create_task(_controllers(state, ready), name="controllers")


async def _main(arguments: argparse.Namespace) -> None:
    task = asyncio.create_task(run(arguments.state_dir, arguments.port, arguments.address))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """Parse the command line and serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tulle.cluster.control_plane")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True, help="HTTPS port on 127.0.0.1 and every --address")
    parser.add_argument(
        "--address", action="append", default=[], help="a further address of this host; pods use the last"
    )
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
