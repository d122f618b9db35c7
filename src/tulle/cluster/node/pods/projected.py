"""The files of configMap, secret, downwardAPI and projected volumes (pure, given the objects and tokens)."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tulle.cluster.node.pods import downward
from tulle.cluster.node.pods.atomic import File
from tulle.cluster.node.pods.downward import PodFacts
from tulle.cluster.node.pods.spec import (
    ConfigMapSource,
    DownwardSource,
    KeyToPath,
    Pod,
    ProjectedSource,
    SecretSource,
    TokenSource,
    Volume,
)


class VolumeError(Exception):
    """A volume cannot be mounted now (FailedMount); it is tried again."""


@dataclass(frozen=True)
class Material:
    """What the files are made from: objects by (kind, name), tokens by (audience, seconds)."""

    facts: PodFacts
    objects: Mapping[tuple[str, str], Mapping[str, Any]]
    tokens: Mapping[tuple[str, int], str]


def needed_objects(volume: Volume) -> Iterator[tuple[str, str]]:
    """The objects that the volume is made from, as (kind, name)."""
    if volume.config_map is not None:
        yield "ConfigMap", volume.config_map.name
    if volume.secret is not None:
        yield "Secret", volume.secret.secret_name
    for source in volume.projected.sources if volume.projected is not None else ():
        if source.config_map is not None:
            yield "ConfigMap", source.config_map.name
        if source.secret is not None:
            yield "Secret", source.secret.name


def needed_tokens(volume: Volume) -> Iterator[TokenSource]:
    for source in volume.projected.sources if volume.projected is not None else ():
        if source.service_account_token is not None:
            yield source.service_account_token


def files(pod: Pod, volume: Volume, material: Material) -> dict[str, File]:
    """The volume's files by path. Raises VolumeError naming what is missing."""
    owner = _Owner(pod)
    if volume.config_map is not None:
        return owner.adopt(_config_map(volume.config_map, volume.config_map.default_mode, material))
    if volume.secret is not None:
        return owner.adopt(_secret(volume.secret, volume.secret.default_mode, material))
    if volume.downward_api is not None:
        return owner.adopt(_downward(pod, volume.downward_api, volume.downward_api.default_mode, material))
    assert volume.projected is not None
    return _projected(pod, volume.projected, material, owner)


class _Owner:
    """Who may read a pod's files besides root: its fsGroup, and for tokens the one user that all its containers run
    as.
    """

    def __init__(self, pod: Pod) -> None:
        self.group = pod.spec.security_context.fs_group
        users = {
            c.security_context.run_as_user
            if c.security_context.run_as_user is not None
            else pod.spec.security_context.run_as_user
            for c in (*pod.spec.containers, *pod.spec.init_containers)
        }
        self.user = users.pop() if len(users) == 1 else None

    def adopt(self, files_: Mapping[str, File]) -> dict[str, File]:
        if self.group is None:
            return dict(files_)
        return {path: File(f.data, f.mode | 0o040, f.uid, self.group) for path, f in files_.items()}

    def token(self, data: bytes) -> File:
        if self.group is not None:
            return File(data, 0o640, None, self.group)
        if self.user is not None:
            return File(data, 0o600, self.user, None)
        return File(data, 0o644)


def _projected(pod: Pod, source: ProjectedSource, material: Material, owner: _Owner) -> dict[str, File]:
    found: dict[str, File] = {}
    mode = source.default_mode
    for part in source.sources:
        if part.config_map is not None:
            found.update(owner.adopt(_config_map(part.config_map, mode, material)))
        if part.secret is not None:
            as_secret = SecretSource(
                secret_name=part.secret.name, items=part.secret.items, optional=part.secret.optional
            )
            found.update(owner.adopt(_secret(as_secret, mode, material)))
        if part.downward_api is not None:
            found.update(owner.adopt(_downward(pod, part.downward_api, mode, material)))
        if part.service_account_token is not None:
            wanted = part.service_account_token
            token = material.tokens[(wanted.audience, wanted.expiration_seconds)]
            found[wanted.path] = owner.token(token.encode())
    return found


def _config_map(source: ConfigMapSource, mode: int, material: Material) -> dict[str, File]:
    found = material.objects.get(("ConfigMap", source.name))
    if found is None and not source.optional:
        raise VolumeError(f'configmap "{source.name}" not found')
    data = {k: v.encode() for k, v in ((found or {}).get("data") or {}).items()}
    data.update({k: base64.b64decode(v) for k, v in ((found or {}).get("binaryData") or {}).items()})
    return _select(data, source.items, mode, f"configmap {source.name}", optional=source.optional)


def _secret(source: SecretSource, mode: int, material: Material) -> dict[str, File]:
    found = material.objects.get(("Secret", source.secret_name))
    if found is None and not source.optional:
        raise VolumeError(f'secret "{source.secret_name}" not found')
    data = {k: base64.b64decode(v) for k, v in ((found or {}).get("data") or {}).items()}
    return _select(data, source.items, mode, f"secret {source.secret_name}", optional=source.optional)


def _select(
    data: Mapping[str, bytes], items: tuple[KeyToPath, ...], mode: int, name: str, *, optional: bool
) -> dict[str, File]:
    if not items:
        return {key: File(value, mode) for key, value in data.items()}
    chosen = {}
    for item in items:
        if item.key in data:
            chosen[item.path] = File(data[item.key], mode if item.mode is None else item.mode)
        elif not optional:
            raise VolumeError(f"{name} has no key {item.key!r}; it has {', '.join(sorted(data)) or 'none'}")
    return chosen


def _downward(pod: Pod, source: DownwardSource, mode: int, material: Material) -> dict[str, File]:
    found = {}
    for item in source.items:
        try:
            if item.field_ref is not None:
                value = downward.field(pod, material.facts, item.field_ref.field_path)
            elif item.resource_field_ref is not None:
                value = downward.resource(pod, None, material.facts, item.resource_field_ref)
            else:
                raise VolumeError(f"downwardAPI item {item.path!r} has neither fieldRef nor resourceFieldRef")
        except downward.UnknownFieldError as error:
            raise VolumeError(str(error)) from error
        found[item.path] = File(value.encode(), mode if item.mode is None else item.mode)
    return found
