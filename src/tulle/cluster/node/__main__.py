"""`python -m tulle.cluster.node`: run a node in the network namespace that this process was started in.

It gives itself a mount namespace of its own, so that no mount of a pod is ever seen by the machine and nothing stays
when it dies; while the shim of an earlier process runs, it joins the shim's, where the mounts of the running pods
are.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog

from tulle.cluster.node import cleanup, linux
from tulle.cluster.node.app import KUBELET_PORT, Settings, run
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.runtime import cgroups
from tulle.cluster.node.runtime.runtime import shim_pid


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tulle.cluster.node")
    parser.add_argument("--state-dir", type=Path, required=True, help="state directory of the embedded cluster")
    parser.add_argument("--name", required=True, help="name of the node")
    parser.add_argument("--api-kubeconfig", help="kubeconfig with the node's certificate")
    parser.add_argument("--node-ip", help="the node's address, on which the kubelet listens")
    parser.add_argument("--pod-cidr", help="the node's range of pod addresses")
    parser.add_argument("--port", type=int, default=KUBELET_PORT, help="port of the kubelet's server")
    parser.add_argument("--label", type=_label, action="append", default=[], help="KEY=VALUE label of the Node")
    parser.add_argument("--remove", action="store_true", help="end all pods of the node, remove what it has, and exit")
    arguments = parser.parse_args()
    needed = ("api_kubeconfig", "node_ip", "pod_cidr")
    if not arguments.remove and any(getattr(arguments, name) is None for name in needed):
        parser.error(f"needed without --remove: {', '.join('--' + name.replace('_', '-') for name in needed)}")
    return arguments


def enter_namespaces(paths: NodePaths) -> None:
    """Join the running shim's mount namespace, or make one with a cgroup2 at its usual place. Raises OSError."""
    pid = shim_pid(paths)
    if pid is not None:
        linux.enter_mounts(pid)
        return
    linux.unshare_mounts()
    if not (cgroups.MOUNT / "cgroup.procs").exists():
        linux.mount("none", str(cgroups.MOUNT), "cgroup2")


def _configure_log() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _main(settings: Settings) -> None:
    task = asyncio.create_task(run(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


def main() -> None:
    """Parse the command line, enter the namespaces, run until SIGINT or SIGTERM."""
    arguments = _arguments()
    os.umask(0o022)
    _configure_log()
    paths = NodePaths(arguments.state_dir.resolve(), arguments.name)
    if arguments.remove:
        cleanup.clean(paths.state, paths.node)
        return
    enter_namespaces(paths)
    settings = Settings(
        state_dir=paths.state,
        name=arguments.name,
        kubeconfig=arguments.api_kubeconfig,
        node_ip=arguments.node_ip,
        pod_cidr=arguments.pod_cidr,
        port=arguments.port,
        labels=tuple(arguments.label),
    )
    asyncio.run(_main(settings))


if __name__ == "__main__":
    main()
