"""A pod's volumes as directories of this machine: made before its containers, kept up to date, taken away after them.

What is secret lies in a tmpfs of the pod that only the node's mount namespace sees; it is never written to disk.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tulle.cluster.node import linux
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.pods import atomic, projected, quantity
from tulle.cluster.node.pods.downward import PodFacts
from tulle.cluster.node.pods.objects import ObjectCache
from tulle.cluster.node.pods.projected import Material, VolumeError
from tulle.cluster.node.pods.spec import EmptyDirSource, HostPathSource, Pod, Volume, VolumeMount
from tulle.cluster.node.pods.subpaths import SubPaths
from tulle.cluster.node.runtime.oci import Mount
from tulle.kube.errors import ApiError

_PROPAGATION = {"None": "rprivate", "": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}


@dataclass(frozen=True)
class Prepared:
    """Where a pod's volumes are, by name; `refresh_at` is when a token has to be replaced (clock time), if any.

    `read_only` names those that the node writes to itself.
    """

    paths: Mapping[str, Path]
    refresh_at: float | None
    read_only: frozenset[str] = frozenset()


class Volumes:
    """Makes and updates the volumes of this node's pods."""

    def __init__(self, paths: NodePaths, objects: ObjectCache) -> None:
        self._paths = paths
        self._objects = objects

    async def prepare(self, pod: Pod, facts: PodFacts) -> Prepared:
        """Make every volume, or bring it up to date; idempotent. Raises VolumeError naming the volume."""
        found: dict[str, Path] = {}
        refresh: list[float] = []
        for volume in pod.spec.volumes:
            try:
                found[volume.name] = await self._prepare(pod, volume, facts, refresh)
            except (VolumeError, OSError, ValueError) as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error
            except ApiError as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error.message}') from error
        return Prepared(found, min(refresh, default=None), frozenset(v.name for v in pod.spec.volumes if _is_files(v)))

    async def _prepare(self, pod: Pod, volume: Volume, facts: PodFacts, refresh: list[float]) -> Path:
        if volume.empty_dir is not None:
            return self._empty_dir(pod, volume.name, volume.empty_dir)
        if volume.host_path is not None:
            return self._host_path(volume.host_path)
        if _is_files(volume):
            return await self._files(pod, volume, facts, refresh)
        raise VolumeError(
            "its type is not supported on this node; supported are emptyDir, hostPath, configMap, secret, downwardAPI and projected"
        )

    async def _files(self, pod: Pod, volume: Volume, facts: PodFacts, refresh: list[float]) -> Path:
        uid, namespace = pod.metadata.uid, pod.metadata.namespace
        objects = {}
        for kind, name in projected.needed_objects(volume):
            found = await self._objects.get(uid, kind, namespace, name)
            if found is not None:
                objects[(kind, name)] = found
        tokens = {}
        for wanted in projected.needed_tokens(volume):
            token = await self._objects.token(pod, wanted.audience, wanted.expiration_seconds)
            tokens[(wanted.audience, wanted.expiration_seconds)] = token.value
            refresh.append(token.rotate_at)
        files = projected.files(pod, volume, Material(facts, objects, tokens))
        secret = volume.secret is not None or volume.projected is not None
        directory = (self._private(uid) if secret else self._paths.pod(uid) / "volumes") / volume.name
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        atomic.write(directory, files)
        return directory

    def _private(self, uid: str) -> Path:
        """The pod's tmpfs for what must not reach the disk."""
        directory = self._paths.pod(uid) / "private"
        if not os.path.ismount(directory):
            directory.mkdir(parents=True, exist_ok=True)
            linux.mount("tmpfs", str(directory), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=16m")
        return directory

    def _empty_dir(self, pod: Pod, name: str, source: EmptyDirSource) -> Path:
        directory = self._paths.pod(pod.metadata.uid) / "volumes" / name
        in_memory = source.medium == "Memory"
        if source.medium not in {"", "Memory"}:
            raise VolumeError(f"emptyDir.medium {source.medium!r} is not supported; accepted are '' and 'Memory'")
        if os.path.ismount(directory) if in_memory else directory.exists():
            return directory  # its owner and mode are the pod's to change: a database refuses one that is open to all
        directory.mkdir(parents=True, exist_ok=True)
        if in_memory:
            size = f",size={quantity.rounded_up(source.size_limit)}" if source.size_limit is not None else ""
            linux.mount("tmpfs", str(directory), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=0777{size}")
        group = pod.spec.security_context.fs_group
        if group is not None:
            os.chown(directory, -1, group)
        directory.chmod(0o777 if group is None else 0o2777)
        return directory

    def _host_path(self, source: HostPathSource) -> Path:
        path = self._paths.host_path(source.path)
        checks: Mapping[str, Callable[[int], bool]] = {
            "Directory": stat.S_ISDIR,
            "File": stat.S_ISREG,
            "Socket": stat.S_ISSOCK,
            "CharDevice": stat.S_ISCHR,
            "BlockDevice": stat.S_ISBLK,
        }
        if source.type in {"", "DirectoryOrCreate"} and not path.exists():
            path.mkdir(parents=True)
        elif source.type == "FileOrCreate" and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o644)
        wanted = source.type.removesuffix("OrCreate")
        if wanted and not path.exists():
            raise VolumeError(f"hostPath type check failed: {source.path} does not exist on this node ({path})")
        if wanted in checks and not checks[wanted](path.stat().st_mode):
            raise VolumeError(f"hostPath type check failed: {source.path} is not a {wanted}")
        return path

    def remove(self, uid: str) -> None:
        """Take away the pod's directory with all its volumes; hostPath volumes are not in it. Raises OSError if a
        mount stays.
        """
        directory = self._paths.pod(uid)
        for point in linux.mounts_under(directory):
            linux.unmount(point)
        if linux.mounts_under(directory):
            raise OSError(f"{directory} still has mounts")
        shutil.rmtree(directory, ignore_errors=True)
        self._objects.release(uid)


def mounts(
    container_mounts: tuple[VolumeMount, ...], prepared: Prepared, sub_paths: Mapping[str, str], held: SubPaths
) -> list[Mount]:
    """A container's volume mounts; `sub_paths` has the expanded sub-path of each mount path that has one. Those are good as
    long as they are `held`. Raises VolumeError, OSError.
    """
    found = []
    for mount in container_mounts:
        base = prepared.paths.get(mount.name)
        if base is None:
            raise VolumeError(f'volumeMounts names volume "{mount.name}", which the pod does not have')
        if mount.mount_propagation not in _PROPAGATION:
            raise VolumeError(
                f"mountPropagation {mount.mount_propagation!r} is not one of None, HostToContainer, Bidirectional"
            )
        sub_path = sub_paths.get(mount.mount_path, "")
        source = held.hold(base, sub_path) if sub_path else base
        propagation = _PROPAGATION[mount.mount_propagation]
        # Whatever the mount says, as in Kubernetes: the next update is made by root of the machine, outside of the container,
        # and follows the links that it finds.
        read_only = mount.read_only or mount.name in prepared.read_only
        found.append(Mount(str(source), mount.mount_path, read_only=read_only, propagation=propagation))
    return found


def _is_files(volume: Volume) -> bool:
    """Whether the node makes the volume's files, and keeps them up to date."""
    return any(s is not None for s in (volume.config_map, volume.secret, volume.downward_api, volume.projected))
