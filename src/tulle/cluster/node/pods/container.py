"""From a container's spec and its image to what the runtime is asked for (pure, except for reading seccomp profiles)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tulle.cluster.node.images.store import LocalImage
from tulle.cluster.node.images.users import Account, UnknownUserError, resolve
from tulle.cluster.node.pods import quantity
from tulle.cluster.node.pods.env import ConfigError
from tulle.cluster.node.pods.expansion import expand
from tulle.cluster.node.pods.spec import Container, Pod, SeccompProfile
from tulle.cluster.node.runtime import security
from tulle.cluster.node.runtime.oci import ContainerConfig, Limits, Mount, Namespaces, User

SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    }
)
"""The ones that change nothing outside the pod; a kubelet refuses all others unless told otherwise."""

_DEFAULT_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


@dataclass(frozen=True)
class Machine:
    """What this node can give: its capabilities, its cgroup controllers, where its seccomp profiles are."""

    capabilities: frozenset[str]
    controllers: frozenset[str]
    seccomp_directory: Path


@dataclass(frozen=True)
class Place:
    """Where a container will be: in which namespaces and cgroup, with which root and mounts."""

    rootfs: str
    cgroup: str
    netns: str
    sandbox_pid: int
    mounts: Sequence[Mount]


def sandbox(pod: Pod, root: str, cgroup: str, netns: str, hostname: str) -> ContainerConfig:
    """The container that holds the pod's namespaces. Raises ConfigError for a sysctl that is not allowed."""
    spec = pod.spec
    sysctls = {} if spec.host_network else dict(_DEFAULT_SYSCTLS)
    for sysctl in spec.security_context.sysctls:
        if sysctl.name not in SAFE_SYSCTLS:
            raise ConfigError(
                f"forbidden sysctl: {sysctl.name!r} not allowed; allowed are {', '.join(sorted(SAFE_SYSCTLS))}"
            )
        sysctls[sysctl.name] = sysctl.value
    return ContainerConfig(
        rootfs=root,
        args=("/pause",),
        env=("PATH=/",),
        cwd="/",
        cgroup=cgroup,
        user=User(65535, 65535),
        hostname=hostname,
        namespaces=Namespaces(network=netns, ipc=None if spec.host_ipc else ""),
        read_only_root=True,
        capabilities=(),
        seccomp=security.seccomp(()),
        sysctls=sysctls,
    )


def build(
    pod: Pod, container: Container, image: LocalImage, *, env: Mapping[str, str], place: Place, machine: Machine
) -> ContainerConfig:
    """Raises ConfigError with the reason that the container's status shows."""
    context = container.security_context
    account = _account(pod, container, image)
    merged = {"PATH": security_path(image), "HOSTNAME": pod.hostname, **dict(image.config.env), **env}
    if container.tty:
        merged.setdefault("TERM", "xterm")
    merged.setdefault("HOME", account.home or "/")
    capabilities = _capabilities(container, machine)
    return ContainerConfig(
        rootfs=place.rootfs,
        args=_command(container, image, env),
        env=[f"{key}={value}" for key, value in merged.items()],
        cwd=container.working_dir or image.config.working_dir or "/",
        cgroup=place.cgroup,
        user=User(account.uid, account.gid, _groups(pod, account)),
        namespaces=_namespaces(pod, container, place),
        mounts=place.mounts,
        tty=container.tty,
        privileged=context.privileged,
        read_only_root=context.read_only_root_filesystem,
        no_new_privileges=not (context.privileged or context.allow_privilege_escalation),
        capabilities=capabilities,
        seccomp=None if context.privileged else _seccomp(pod, container, capabilities, machine),
        unmasked_proc=context.proc_mount == "Unmasked",
        filter_devices="CAP_SYS_RESOURCE" in machine.capabilities,
        limits=_limits(container, machine),
        annotations={
            "io.kubernetes.pod.name": pod.metadata.name,
            "io.kubernetes.pod.namespace": pod.metadata.namespace,
        },
    )


def security_path(image: LocalImage) -> str:
    return dict(image.config.env).get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def _command(container: Container, image: LocalImage, env: Mapping[str, str]) -> list[str]:
    """`command` takes the place of the entrypoint and, without `args`, of the image's arguments too."""
    entrypoint = container.command or image.config.entrypoint
    arguments = container.args or (() if container.command else image.config.cmd)
    args = [expand(word, env) for word in container.command] if container.command else list(entrypoint)
    args += [expand(word, env) for word in container.args] if container.args else list(arguments)
    if not args:
        raise ConfigError(
            f"no command specified: image {image.name} has none and container {container.name} gives none"
        )
    return args


def _account(pod: Pod, container: Container, image: LocalImage) -> Account:
    context, pod_context = container.security_context, pod.spec.security_context
    wanted = context.run_as_user if context.run_as_user is not None else pod_context.run_as_user
    group = context.run_as_group if context.run_as_group is not None else pod_context.run_as_group
    try:
        account = resolve(image.config.user if wanted is None else str(wanted), image.etc("passwd"), image.etc("group"))
    except UnknownUserError as error:
        raise ConfigError(str(error)) from error
    non_root = context.run_as_non_root if context.run_as_non_root is not None else pod_context.run_as_non_root
    if non_root and account.uid == 0:
        where = f'pod: "{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})", container: {container.name}'
        cause = "image will run as root" if wanted is None else "runAsUser is 0"
        raise ConfigError(f"container has runAsNonRoot and {cause} ({where})")
    return account if group is None else Account(account.uid, group, account.groups, account.home)


def _groups(pod: Pod, account: Account) -> tuple[int, ...]:
    context = pod.spec.security_context
    extra = () if context.fs_group is None else (context.fs_group,)
    return tuple(dict.fromkeys((*account.groups, *context.supplemental_groups, *extra)))


def _namespaces(pod: Pod, container: Container, place: Place) -> Namespaces:
    spec, holder = pod.spec, f"/proc/{place.sandbox_pid}/ns"
    shared_pid = f"{holder}/pid" if spec.share_process_namespace else ""
    # whoever is to see the machine's processes has to see their cgroups by the names that the machine gives them
    whole_machine = spec.host_pid or container.security_context.privileged
    return Namespaces(
        network=place.netns,
        ipc=None if spec.host_ipc else f"{holder}/ipc",
        uts=f"{holder}/uts",
        pid=None if spec.host_pid else shared_pid,
        cgroup=None if whole_machine else "",
    )


def _capabilities(container: Container, machine: Machine) -> list[str]:
    context = container.security_context
    wanted = context.capabilities
    try:
        return security.capabilities(
            wanted.add, wanted.drop, privileged=context.privileged, available=machine.capabilities
        )
    except security.UnknownCapabilityError as error:
        raise ConfigError(f"securityContext.capabilities names {error}, which is no Linux capability") from error
    except security.MissingCapabilityError as error:
        raise ConfigError(
            f"securityContext.capabilities.add {error}: this node's root does not have it to give"
        ) from error


def _seccomp(pod: Pod, container: Container, granted: Sequence[str], machine: Machine) -> Mapping[str, Any] | None:
    profile = container.security_context.seccomp_profile or pod.spec.security_context.seccomp_profile
    profile = profile or SeccompProfile(type="RuntimeDefault")
    if profile.type == "Unconfined":
        return None
    if profile.type == "RuntimeDefault":
        return security.seccomp(granted)
    if ".." in Path(profile.localhost_profile).parts:
        raise ConfigError(f"seccompProfile.localhostProfile {profile.localhost_profile!r} must not contain '..'")
    path = machine.seccomp_directory / profile.localhost_profile.lstrip("/")
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"seccompProfile.localhostProfile {profile.localhost_profile!r} cannot be read: {error}"
        ) from error
    keys = ("names", "action", "errnoRet", "args")
    calls = [{k: v for k, v in call.items() if k in keys} for call in document.get("syscalls", [])]
    return {
        **{k: document[k] for k in ("defaultAction", "defaultErrnoRet", "architectures") if k in document},
        "syscalls": calls,
    }


def _limits(container: Container, machine: Machine) -> Limits:
    """The limits whose controllers this machine has in cgroup2; the others are only promises to the scheduler."""
    limits, requests = container.resources.limits, container.resources.requests
    memory = weight = quota = None
    if "memory" in limits and "memory" in machine.controllers:
        memory = quantity.rounded_up(limits["memory"])
    if "cpu" in machine.controllers:
        if "cpu" in limits:
            quota = max(1000, quantity.rounded_up(limits["cpu"], "0.00001"))
        milli = quantity.rounded_up(requests.get("cpu", limits.get("cpu", 0)), "1m")
        shares = max(2, milli * 1024 // 1000)
        weight = 1 + ((shares - 2) * 9999) // 262142
    return Limits(memory=memory, cpu_weight=weight, cpu_quota=quota)
