"""`python -m tulle.cluster.apiserver --state-dir DIR --port N`: serve the API alone."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from tulle.cluster.apiserver.server import serve


async def _main(arguments: argparse.Namespace) -> None:
    ready = asyncio.Event()
    task = asyncio.create_task(
        serve(arguments.state_dir, arguments.port, arguments.address, ready=ready, names=arguments.name)
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    if ready.is_set():
        kubeconfig = arguments.state_dir / "kubeconfig"
        print(f"ready: https://127.0.0.1:{arguments.port} kubeconfig {kubeconfig}", flush=True)
    waiting.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


def main() -> None:
    """Parse the command line and serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tulle.cluster.apiserver")
    parser.add_argument("--state-dir", type=Path, required=True, help="directory of the store, the keys and kubeconfig")
    parser.add_argument("--port", type=int, required=True, help="HTTPS port on 127.0.0.1 and every --address")
    parser.add_argument("--address", action="append", default=[], help="a further IP address of this host to serve on")
    parser.add_argument("--name", action="append", default=[], help="a further name of the server certificate")
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
