"""Rules of pods and pod templates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tulle.cluster.apiserver.errors import FieldError, invalid_value, not_found_value, required
from tulle.cluster.apiserver.strategy import checks

Object = Mapping[str, Any]
_RESTART = ("Always", "OnFailure", "Never")
_DNS_POLICY = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_PULL = ("Always", "IfNotPresent", "Never")
_TERMINATION = ("File", "FallbackToLogsOnError")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?\d+))?\Z")
_QUANTITY_HELP = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_HOST_PATH = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")


def pod_spec(path: str, spec: Object, *, restart: tuple[str, ...] = _RESTART) -> Iterator[FieldError]:
    """A PodSpec; `restart` are the restart policies that its owner allows."""
    volumes = [v.get("name", "") for v in spec.get("volumes") or ()]
    for index, volume in enumerate(spec.get("volumes") or ()):
        yield from _volume(f"{path}.volumes[{index}]", volume)
    yield from checks.unique_names(f"{path}.volumes", spec.get("volumes") or ())
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    every: list[Object] = []
    for name in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(name) or ()):
            yield from _container(f"{path}.{name}[{index}]", container, volumes, init=name == "initContainers")
        every += spec.get(name) or ()
        yield from checks.unique_names(f"{path}.{name}", spec.get(name) or ())
    yield from checks.one_of(f"{path}.restartPolicy", spec.get("restartPolicy"), restart)
    yield from checks.one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS_POLICY)
    yield from checks.non_negative(f"{path}.terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    if spec.get("hostname"):
        yield from checks.label_name(f"{path}.hostname", spec["hostname"])
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from _toleration(f"{path}.tolerations[{index}]", toleration)
    if spec.get("hostNetwork"):
        yield from _host_ports(path, every)


def _host_ports(path: str, containers: list[Any]) -> Iterator[FieldError]:
    for index, container in enumerate(containers):
        for number, port in enumerate(container.get("ports") or ()):
            if port.get("hostPort") and port["hostPort"] != port.get("containerPort"):
                text = "must match `containerPort` when `hostNetwork` is true"
                yield invalid_value(f"{path}.containers[{index}].ports[{number}].hostPort", port["hostPort"], text)


def _volume(path: str, volume: Object) -> Iterator[FieldError]:
    yield from checks.label_name(f"{path}.name", volume.get("name"))
    sources = [key for key in volume if key != "name"]
    if len(sources) > 1:
        text = "may not specify more than 1 volume type"
        yield FieldError("FieldValueForbidden", f"{path}.{sources[1]}", f"Forbidden: {text}")
    host = volume.get("hostPath")
    if host is not None:
        if not host.get("path"):
            yield required(f"{path}.hostPath.path")
        if host.get("type") not in (None, *_HOST_PATH):
            yield from checks.one_of(f"{path}.hostPath.type", host["type"], _HOST_PATH)
    if volume.get("configMap") is not None and not volume["configMap"].get("name"):
        yield required(f"{path}.configMap.name")
    if volume.get("secret") is not None and not volume["secret"].get("secretName"):
        yield required(f"{path}.secret.secretName")


def _container(path: str, container: Object, volumes: list[str], *, init: bool) -> Iterator[FieldError]:
    yield from checks.label_name(f"{path}.name", container.get("name"))
    image = container.get("image", "")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield invalid_value(f"{path}.image", image, "must not have leading or trailing whitespace")
    yield from checks.one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), _PULL)
    yield from checks.one_of(
        f"{path}.terminationMessagePolicy", container.get("terminationMessagePolicy"), _TERMINATION
    )
    if container.get("restartPolicy"):
        accepted = ("Always",) if init else _RESTART
        yield from checks.one_of(f"{path}.restartPolicy", container["restartPolicy"], accepted)
    for index, port in enumerate(container.get("ports") or ()):
        yield from _container_port(f"{path}.ports[{index}]", port)
    yield from checks.unique_names(f"{path}.ports", container.get("ports") or ())
    for index, variable in enumerate(container.get("env") or ()):
        at = f"{path}.env[{index}]"
        if not variable.get("name"):
            yield required(f"{at}.name")
        if variable.get("value") and variable.get("valueFrom"):
            yield invalid_value(f"{at}.valueFrom", "", "may not be specified when `value` is not empty")
    yield from _mounts(path, container, volumes)
    yield from _resources(f"{path}.resources", container.get("resources") or {})
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            yield from _probe(f"{path}.{name}", container[name])
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, Mapping):
            yield from _handler(f"{path}.lifecycle.{name}", hook)


def _container_port(path: str, port: Object) -> Iterator[FieldError]:
    if port.get("name"):
        yield from checks.port_name(f"{path}.name", port["name"])
    if not port.get("containerPort"):
        yield required(f"{path}.containerPort")
    else:
        yield from checks.port_number(f"{path}.containerPort", port["containerPort"])
    if port.get("hostPort"):
        yield from checks.port_number(f"{path}.hostPort", port["hostPort"])
    yield from checks.one_of(f"{path}.protocol", port.get("protocol"), checks.PROTOCOLS)


def _mounts(path: str, container: Object, volumes: list[str]) -> Iterator[FieldError]:
    seen: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        at = f"{path}.volumeMounts[{index}]"
        if not mount.get("name"):
            yield required(f"{at}.name")
        elif mount["name"] not in volumes:
            yield not_found_value(f"{at}.name", mount["name"])
        where = mount.get("mountPath")
        if not where:
            yield required(f"{at}.mountPath")
        elif where in seen:
            yield invalid_value(f"{at}.mountPath", where, "must be unique")
        seen.add(where or "")
        sub_path = mount.get("subPath") or ""
        if sub_path.startswith("/") or ".." in sub_path.split("/"):
            text = "must be a relative path" if sub_path.startswith("/") else "must not contain '..'"
            yield invalid_value(f"{at}.subPath", sub_path, text)


def _resources(path: str, resources: Object) -> Iterator[FieldError]:
    for field in ("limits", "requests"):
        for name, quantity in (resources.get(field) or {}).items():
            if not _QUANTITY.match(str(quantity)):
                yield invalid_value(f"{path}.{field}[{name}]", quantity, _QUANTITY_HELP)
            elif str(quantity).startswith("-"):
                yield invalid_value(f"{path}.{field}[{name}]", quantity, "must be greater than or equal to 0")


def _handler(path: str, handler: Object) -> Iterator[FieldError]:
    chosen = [name for name in _HANDLERS if handler.get(name) is not None]
    if not chosen:
        yield required(path, "must specify a handler type")
    for name in chosen[1:]:
        yield FieldError("FieldValueForbidden", f"{path}.{name}", "Forbidden: may not specify more than 1 handler type")
    for name in ("httpGet", "tcpSocket", "grpc"):
        if handler.get(name) is not None:
            port = handler[name].get("port")
            if isinstance(port, int) or port is None:
                yield from checks.port_number(f"{path}.{name}.port", port)
            else:
                yield from checks.port_name(f"{path}.{name}.port", port)
    if handler.get("exec") is not None and not handler["exec"].get("command"):
        yield required(f"{path}.exec.command")


def _probe(path: str, probe: Object) -> Iterator[FieldError]:
    yield from _handler(path, probe)
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        yield from checks.non_negative(f"{path}.{name}", probe.get(name))


def _toleration(path: str, toleration: Object) -> Iterator[FieldError]:
    operator = toleration.get("operator") or "Equal"
    if operator not in ("Equal", "Exists"):
        yield from checks.one_of(f"{path}.operator", operator, ("Equal", "Exists"))
    if operator == "Exists" and toleration.get("value"):
        yield invalid_value(f"{path}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'")
    if not toleration.get("key") and operator == "Equal":
        yield invalid_value(
            f"{path}.operator",
            operator,
            'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        )
    yield from checks.one_of(f"{path}.effect", toleration.get("effect"), _EFFECTS, needed=False)
