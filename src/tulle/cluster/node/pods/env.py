"""A container's environment: from the image, from Services, from ConfigMaps and Secrets, from the pod itself (pure).

Later sources win over earlier ones, in the order of the real kubelet: image, Services, envFrom, env.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tulle.cluster.node.pods import downward
from tulle.cluster.node.pods.downward import PodFacts
from tulle.cluster.node.pods.expansion import expand
from tulle.cluster.node.pods.spec import Container, EnvVarSource, KeySelector, Pod

_NAME = re.compile(r"[^=\x00]+")


class ConfigError(Exception):
    """A container's configuration cannot be made now (CreateContainerConfigError); it is tried again."""


@dataclass(frozen=True)
class ServicePort:
    name: str
    port: int
    protocol: str


@dataclass(frozen=True)
class Service:
    """A Service with a cluster address, as environment variables tell of it."""

    namespace: str
    name: str
    ip: str
    ports: tuple[ServicePort, ...]


@dataclass(frozen=True)
class Sources:
    """Everything that a container's environment can refer to. The objects are those that exist; keys are (kind,
    name).
    """

    facts: PodFacts
    services: tuple[Service, ...] = ()
    objects: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)


def references(container: Container) -> Iterator[tuple[str, str]]:
    """The ConfigMaps and Secrets that the environment refers to, as (kind, name)."""
    for source in container.env_from:
        if source.config_map_ref is not None:
            yield "ConfigMap", source.config_map_ref.name
        if source.secret_ref is not None:
            yield "Secret", source.secret_ref.name
    for variable in container.env:
        if variable.value_from is not None and variable.value_from.config_map_key_ref is not None:
            yield "ConfigMap", variable.value_from.config_map_key_ref.name
        if variable.value_from is not None and variable.value_from.secret_key_ref is not None:
            yield "Secret", variable.value_from.secret_key_ref.name


def build(pod: Pod, container: Container, sources: Sources) -> dict[str, str]:
    """The pod's own part of the environment, in order. Raises ConfigError naming what is missing."""
    values = dict(service_variables(pod, sources.services))
    for source in container.env_from:
        for kind, reference in (("ConfigMap", source.config_map_ref), ("Secret", source.secret_ref)):
            if reference is None:
                continue
            found = sources.objects.get((kind, reference.name))
            if found is None:
                if not reference.optional:
                    raise ConfigError(f'{kind.lower()} "{reference.name}" not found')
                continue
            named = {key: value for key, value in _data(found).items() if _NAME.fullmatch(key)}
            values |= {f"{source.prefix}{k}": _text(kind, reference.name, k, v) for k, v in named.items()}
    known = dict(values)
    for variable in container.env:
        if variable.value_from is None:
            value: str | None = expand(variable.value, known)
        else:
            value = _value_from(pod, container, variable.value_from, sources)
        if value is not None:
            values[variable.name] = known[variable.name] = value
    return values


def _data(found: Mapping[str, Any]) -> Mapping[str, str]:
    return found.get("data") or {}


def _text(kind: str, name: str, key: str, value: str) -> str:
    """A value of a ConfigMap or Secret. Raises ConfigError if it is no text."""
    if kind == "ConfigMap":
        return value
    try:
        return base64.b64decode(value).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f'secret "{name}" key {key!r} is not UTF-8 text, which the environment cannot hold; mount it as a volume'
        ) from error


def _value_from(pod: Pod, container: Container, source: EnvVarSource, sources: Sources) -> str | None:
    try:
        if source.field_ref is not None:
            return downward.field(pod, sources.facts, source.field_ref.field_path)
        if source.resource_field_ref is not None:
            return downward.resource(pod, container, sources.facts, source.resource_field_ref)
    except downward.UnknownFieldError as error:
        raise ConfigError(str(error)) from error
    if source.config_map_key_ref is not None:
        return _key(pod, "ConfigMap", source.config_map_key_ref, sources)
    if source.secret_key_ref is not None:
        return _key(pod, "Secret", source.secret_key_ref, sources)
    return None


def _key(pod: Pod, kind: str, selector: KeySelector, sources: Sources) -> str | None:
    found = sources.objects.get((kind, selector.name))
    if found is None:
        if selector.optional:
            return None
        raise ConfigError(f'{kind.lower()} "{selector.name}" not found')
    if selector.key in _data(found):
        return _text(kind, selector.name, selector.key, _data(found)[selector.key])
    if selector.optional:
        return None
    raise ConfigError(f"couldn't find key {selector.key} in {kind} {pod.metadata.namespace}/{selector.name}")


def service_variables(pod: Pod, services: Iterable[Service]) -> Iterator[tuple[str, str]]:
    """`NAME_SERVICE_HOST` and its relatives: the Services of the pod's namespace (if it wants them) and the API
    server's.
    """
    for service in sorted(services, key=lambda s: (s.namespace, s.name)):
        master = (service.namespace, service.name) == ("default", "kubernetes")
        mine = service.namespace == pod.metadata.namespace and pod.spec.enable_service_links
        if (master or mine) and service.ports:
            yield from _variables_of(service)


def _variables_of(service: Service) -> Iterator[tuple[str, str]]:
    prefix = service.name.upper().replace("-", "_")
    yield f"{prefix}_SERVICE_HOST", service.ip
    yield f"{prefix}_SERVICE_PORT", str(service.ports[0].port)
    for port in service.ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}", str(port.port)
    first = service.ports[0]
    yield f"{prefix}_PORT", f"{first.protocol.lower()}://{service.ip}:{first.port}"
    for port in service.ports:
        stem = f"{prefix}_PORT_{port.port}_{port.protocol}"
        yield stem, f"{port.protocol.lower()}://{service.ip}:{port.port}"
        yield f"{stem}_PROTO", port.protocol.lower()
        yield f"{stem}_PORT", str(port.port)
        yield f"{stem}_ADDR", service.ip
