"""A pod's sandbox: its network, its directory, and the container that holds its namespaces open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tulle.cluster.node import linux
from tulle.cluster.node.pods import container, files
from tulle.cluster.node.pods.env import ConfigError
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.spec import Container, Pod
from tulle.cluster.node.runtime import cgroups
from tulle.cluster.node.runtime.oci import Mount
from tulle.cluster.node.runtime.records import Record, Status
from tulle.cluster.node.runtime.runtime import ContainerError, new_id
from tulle.cluster.node.seams import NetworkError

SHM_SIZE = "64m"


class SandboxError(Exception):
    """The sandbox could not be made (FailedCreatePodSandBox); it is tried again."""


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that is there."""

    cid: str
    pid: int
    netns: str
    ip: str


def hostname(node: Node, pod: Pod) -> str:
    if pod.spec.host_network:
        return node.name
    if pod.spec.set_hostname_as_fqdn and pod.spec.subdomain:
        return f"{pod.hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{node.cluster_domain}"[:64]
    return pod.hostname


async def ensure(node: Node, pod: Pod, existing: Status | None) -> Sandbox:
    """Make the sandbox, or take over `existing`; idempotent. Raises SandboxError."""
    try:
        network = await node.network.attach(pod.ref, pod.spec.host_network)
    except NetworkError as error:
        raise SandboxError(f"failed to set up the network of sandbox {pod.ref}: {error.reason}") from error
    ip = network.ip or node.ip
    try:
        _prepare(node, pod, ip)
        if existing is not None:
            return Sandbox(existing.record.cid, existing.pid, network.netns_path, ip)
        return await _create(node, pod, network.netns_path, ip)
    except (OSError, ContainerError, ConfigError) as error:
        raise SandboxError(f"failed to create sandbox of {pod.ref}: {error}") from error


def _prepare(node: Node, pod: Pod, ip: str) -> None:
    """The pod's directory: the files of /etc, and the shared memory of its containers."""
    directory = node.paths.pod(pod.metadata.uid)
    etc = directory / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    name = hostname(node, pod)
    texts = {"hostname": f"{name}\n", "resolv.conf": _resolv_conf(node, pod)}
    if pod.spec.host_network:
        texts["hosts"] = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{node.ip}\t{node.name}\n"
    else:
        texts["hosts"] = files.hosts(pod, ip, name.partition(".")[0], node.cluster_domain)
    for file, text in texts.items():
        path = etc / file
        # a container may have changed its hosts file: it is written once, as by any kubelet
        if not path.exists():
            path.write_text(text)
            path.chmod(0o644)
    shm = directory / "shm"
    shm.mkdir(exist_ok=True)
    if not os.path.ismount(shm):
        options = f"mode=1777,size={SHM_SIZE}"
        linux.mount("shm", str(shm), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, options)


def _resolv_conf(node: Node, pod: Pod) -> str:
    policy = pod.spec.dns_policy
    if policy == "ClusterFirst" and pod.spec.host_network:
        policy = "Default"
    base = node.network.resolv_conf(pod.metadata.namespace, policy)
    return files.resolv_conf(base, policy, pod.spec.dns_config)


async def _create(node: Node, pod: Pod, netns: str, ip: str) -> Sandbox:
    cid, meta = new_id(), pod.metadata
    cgroup = cgroups.container_path(meta.uid, cid)
    record = Record(
        cid=cid,
        kind="sandbox",
        pod_uid=meta.uid,
        pod_namespace=meta.namespace,
        pod_name=meta.name,
        name="POD",
        attempt=0,
    )
    config = container.sandbox(pod, str(node.paths.pause), cgroup, netns, hostname(node, pod))
    await node.runtime.create(record, config, None)
    status = await node.runtime.run(cid)
    if status.exit is not None:
        raise ContainerError(f"the sandbox ended at once with code {status.exit.exit_code}")
    return Sandbox(cid, status.pid, netns, ip)


def mounts(node: Node, pod: Pod, spec: Container, message_file: Path) -> list[Mount]:
    """What every container of the pod gets besides its volumes, where it mounts nothing of its own."""
    directory = node.paths.pod(pod.metadata.uid)
    wanted = {
        "/etc/hosts": directory / "etc/hosts",
        "/etc/hostname": directory / "etc/hostname",
        "/etc/resolv.conf": directory / "etc/resolv.conf",
        "/dev/shm": Path("/dev/shm") if pod.spec.host_ipc else directory / "shm",  # noqa: S108 - the machine's, as asked for
    }
    if spec.termination_message_path:
        wanted[spec.termination_message_path] = message_file
    own = {mount.mount_path.rstrip("/") for mount in spec.volume_mounts}
    return [Mount(str(source), target) for target, source in wanted.items() if target not in own]
