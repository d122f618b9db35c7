"""Bringing the embedded cluster up and taking it down again: everything that is on the machine because of it.

What is made is written down before it is made (the node's network in `hostnet`, processes in `supervisor`, containers in the node's own
records), all under one state directory, so that `stop` finds it after a crash as well and touches nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tulle.cluster import heap, hostnet, pki, supervisor
from tulle.cluster.node import cleanup
from tulle.cluster.supervisor import ProcessSpec

DEFAULT_STATE = Path("/var/lib/tulle")
DEFAULT_PORT = 6443
MAX_NODES = 8
"""Each node is linked with each other one; more than this is a question for a real cluster."""
_SPEC = "cluster.json"
_KEPT = frozenset({"images"})
"""Below the state directory this outlives a cluster: roots of images, which take long to make and hold nothing of a cluster."""
_TOOLS: Mapping[str, str] = {
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "crun": "crun",
    "mount": "mount",
}
_STOP_SECONDS = 30.0


class ClusterError(Exception):
    """The cluster cannot be brought up or taken down; the message says why and what to do."""


@dataclass(frozen=True)
class ClusterSpec:
    """An embedded cluster: where its state lives, the port of its API on the host, and how many nodes it has."""

    state: str
    port: int
    profile: str
    nodes: int = 1

    @property
    def node_indices(self) -> range:
        """The numbers of its nodes, from which their names and addresses follow."""
        return range(1, self.nodes + 1)

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(map(node_name, self.node_indices))


def node_name(index: int) -> str:
    """The name of node number `index`."""
    return f"node{index}"


def find(state: Path) -> ClusterSpec | None:
    """The cluster of that state directory, if there is one (running or not)."""
    record = state / _SPEC
    if not record.exists():
        return None
    found = json.loads(record.read_text())
    return ClusterSpec(found["state"], found["port"], found["profile"], found.get("nodes", 1))


def kubeconfig(state: Path) -> Path:
    """The cluster's own kubeconfig."""
    return state / "kubeconfig"


def check(spec: ClusterSpec) -> None:
    """What must hold before anything is made. Raises ClusterError."""
    if not 1 <= spec.nodes <= MAX_NODES:
        raise ClusterError(f"--nodes {spec.nodes} is not possible: accepted are 1 to {MAX_NODES}")
    if os.geteuid() != 0:
        raise ClusterError("root is needed, because pods are network namespaces of their own: run this with sudo")
    missing = {tool: package for tool, package in _TOOLS.items() if shutil.which(tool) is None}
    if missing:
        raise ClusterError(
            f"{', '.join(missing)} not found: run `make install`, or apt-get install {' '.join(sorted(set(missing.values())))}"
        )
    present = find(Path(spec.state))
    if present is not None and supervisor.running(Path(spec.state)):
        raise ClusterError(
            f"Tulle is up already (profile {present.profile}, state {spec.state}): "
            "`tulle status` shows it, `tulle down` takes it down"
        )
    _refuse_busy_port(spec.port)


def _refuse_busy_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError as error:
            raise ClusterError(f"port {port} is not a port: accepted are 1 to 65535") from error
        except OSError as error:
            raise ClusterError(
                f"port {port} on 127.0.0.1 cannot be used ({error.strerror}): choose another with --port"
            ) from error


def start(spec: ClusterSpec) -> None:
    """Make the node's network and start the cluster's processes; returns before the API answers.

    Raises ClusterError. What a crashed cluster of the same state directory left behind is cleared away first.
    """
    check(spec)
    state = Path(spec.state)
    if find(state) is not None:
        stop(state)
    state.mkdir(parents=True, exist_ok=True)
    (state / _SPEC).write_text(json.dumps(asdict(spec)))
    try:
        plans = [hostnet.create(index, node_name(index), state) for index in spec.node_indices]
    except hostnet.HostNetworkError as error:
        stop(state)
        raise ClusterError(str(error)) from error
    pki.create(state, server=f"https://127.0.0.1:{spec.port}", extra_addresses=[plan.host_ip for plan in plans])
    for plan in plans:
        pki.create_node(state, plan.name, [plan.node_ip], f"https://{plan.host_ip}:{spec.port}")
    supervisor.write(state, processes(spec, plans))
    _launch(state)


def processes(spec: ClusterSpec, plans: Sequence[hostnet.HostPlan]) -> tuple[ProcessSpec, ...]:
    """The processes of the cluster in the order in which they start: the control plane, then each node."""
    # Pods of every node reach the API under the last address: the host answers to it whatever link a packet comes from.
    addresses = [argument for plan in plans for argument in ("--address", plan.host_ip)]
    command = (*_python("tulle.cluster.control_plane"), "--state-dir", spec.state, "--port", str(spec.port), *addresses)
    return (ProcessSpec("control-plane", command, heap.ENVIRONMENT), *(_node_process(spec, plan) for plan in plans))


def _node_process(spec: ClusterSpec, plan: hostnet.HostPlan) -> ProcessSpec:
    command = (
        *("ip", "netns", "exec", plan.netns),
        *(*_python("tulle.cluster.node"), "--state-dir", spec.state, "--name", plan.name),
        *("--api-kubeconfig", f"{spec.state}/kubeconfig.node-{plan.name}"),
        *("--node-ip", plan.node_ip, "--pod-cidr", plan.pod_cidr),
    )
    return ProcessSpec(plan.name, command, heap.ENVIRONMENT)


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


def _launch(state: Path) -> None:
    (state / "logs").mkdir(exist_ok=True)
    with (state / "logs" / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "tulle.cluster.supervisor", "--state-dir", str(state)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )


def stop(state: Path) -> bool:
    """Take the cluster of that state directory down, running or crashed; False when there is none. Safe to repeat.

    Raises ClusterError without root, or when a process does not end.
    """
    spec = find(state)
    if spec is None:
        return False
    if os.geteuid() != 0:
        raise ClusterError("root is needed to take the cluster down: run this with sudo")
    _stop_supervisor(state)
    for name in spec.node_names:
        cleanup.clean(state, name)
    for name in spec.node_names:
        hostnet.destroy(name, state)
    for entry in state.iterdir():
        if entry.name in _KEPT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return True


def forget_images(state: Path) -> None:
    """Remove the cached image roots too, and the state directory with them."""
    shutil.rmtree(state, ignore_errors=True)


def _stop_supervisor(state: Path) -> None:
    if not supervisor.running(state):
        return
    pid = supervisor.pids(state).get("supervisor")
    deadline = time.monotonic() + _STOP_SECONDS
    while supervisor.running(state):
        if pid is not None:
            _signal(pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            raise ClusterError(f"the supervisor (process {pid}) does not end: see {state}/logs/supervisor.log")
        time.sleep(0.05)
        pid = supervisor.pids(state).get("supervisor", pid)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
