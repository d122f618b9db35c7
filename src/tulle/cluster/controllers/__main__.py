"""`python -m tulle.cluster.controllers --kubeconfig FILE --root-ca FILE`: run the controllers alone, against any API."""

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

import uvloop

from tulle.cluster.controllers.manager import run
from tulle.kube import Client


async def _main(arguments: argparse.Namespace) -> None:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
    async with Client.load(arguments.kubeconfig, component="kube-controller-manager") as client:
        await run(client, root_ca=arguments.root_ca.read_text(), node_grace_seconds=arguments.node_grace_seconds)


def main() -> None:
    """Parse the command line and run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tulle.cluster.controllers")
    parser.add_argument("--kubeconfig", help="default: in-cluster, $KUBECONFIG or ~/.kube/config")
    parser.add_argument("--root-ca", type=Path, required=True, help="PEM file of the cluster's certificate authority")
    parser.add_argument(
        "--node-grace-seconds", type=float, default=40.0, help="a Lease not renewed for as long means a lost node"
    )
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
