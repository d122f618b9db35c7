"""Changes to objects, as commands that can be pasted and as edits that can be tried.

Both forms are made from one description, so that what is printed is what was verified: a JSON patch is applied to the manifest by the
rules of RFC 6902, and a label command changes the labels and whatever the mesh's controllers would change in its wake.
"""

from __future__ import annotations

import copy
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tulle.cli.explain import completion
from tulle.cli.explain.documents import Key
from tulle.cli.explain.world import Edits, World

_PLURALS: Mapping[str, str] = {
    "AuthorizationPolicy": "authorizationpolicy",
    "PeerAuthentication": "peerauthentication",
    "Namespace": "namespace",
    "Service": "service",
    "Pod": "pod",
    "Gateway": "gateway.gateway.networking.k8s.io",
}


@dataclass(frozen=True)
class Operation:
    """One operation of a JSON patch; `path` is a JSON pointer."""

    op: str
    path: str
    value: Any = None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"op": self.op, "path": self.path}
        return found if self.op == "remove" else {**found, "value": self.value}


@dataclass(frozen=True)
class Change:
    """A change to the cluster: what it does, the commands that make it, and its effect on objects. `cost`: smaller is preferred."""

    title: str
    commands: tuple[str, ...]
    edits: Edits
    cost: int

    def then(self, other: Change) -> Change:
        """Both, one after the other."""
        return Change(
            f"{self.title}; then {other.title}",
            (*self.commands, *other.commands),
            {**self.edits, **other.edits},
            self.cost + other.cost,
        )


def pointer(path: str) -> str:
    """`spec.rules[0].from` as a JSON pointer."""
    return "/" + path.replace("[", ".").replace("]", "").replace(".", "/")


def applied(manifest: Mapping[str, Any], operations: Sequence[Operation]) -> dict[str, Any]:
    """The manifest after a JSON patch of add, remove and replace. Raises LookupError for a path that does not exist."""
    result: dict[str, Any] = copy.deepcopy(dict(manifest))
    for operation in operations:
        *parents, last = operation.path.strip("/").split("/")
        holder: Any = result
        for step in parents:
            holder = holder[int(step)] if isinstance(holder, list) else holder[_unescaped(step)]
        if isinstance(holder, list):
            _apply_to_list(holder, last, operation)
        elif operation.op == "remove":
            del holder[_unescaped(last)]
        else:
            holder[_unescaped(last)] = operation.value
    return result


def _apply_to_list(holder: list[Any], last: str, operation: Operation) -> None:
    if operation.op == "remove":
        del holder[int(last)]
    elif operation.op == "replace":
        holder[int(last)] = operation.value
    else:
        holder.insert(len(holder) if last == "-" else int(last), operation.value)


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def patch(world: World, key: Key, operations: Sequence[Operation], title: str, cost: int) -> Change:
    """A JSON patch of one object."""
    return Change(title, (command(key, operations),), {key: applied(world.objects[key].manifest, operations)}, cost)


def command(key: Key, operations: Sequence[Operation]) -> str:
    """A JSON patch as kubectl takes it."""
    body = json.dumps([operation.as_json() for operation in operations])
    where = f" -n {key.namespace}" if key.namespace else ""
    return f"kubectl patch {_PLURALS[key.kind]} {key.name}{where} --type=json -p {shlex.quote(body)}"


def at(manifest: Mapping[str, Any], path: str) -> Any:
    """The value at a JSON pointer; None where there is none."""
    found: Any = manifest
    for step in path.strip("/").split("/"):
        if isinstance(found, Mapping):
            found = found.get(_unescaped(step))
        elif isinstance(found, list | tuple) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


def delete(key: Key, cost: int) -> Change:
    """Deletion of one object."""
    command = f"kubectl delete {_PLURALS[key.kind]} {key.name} -n {key.namespace}"
    return Change(f"delete {key}", (command,), {key: None}, cost)


def create(world: World, manifest: Mapping[str, Any], title: str, cost: int) -> Change:
    """A new object, as a document for `kubectl apply`, under a name that is free: to apply it must not replace another one."""
    meta = manifest["metadata"]
    names = itertools.chain((meta["name"],), (f"{meta['name']}-{number}" for number in itertools.count(2)))
    key = next(key for name in names if (key := Key(manifest["kind"], meta["namespace"], name)) not in world.objects)
    named = {**manifest, "metadata": {**meta, "name": key.name}}
    text = yaml.safe_dump(named, sort_keys=False).rstrip()
    return Change(title, (f"kubectl apply -f - <<'EOF'\n{text}\nEOF",), {key: named}, cost)


def waypoint(namespace: str, name: str = "waypoint") -> Change:
    """A waypoint, deployed and ready."""
    manifest = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    }
    named = "" if name == "waypoint" else f" --name {name}"
    command = f"istioctl waypoint apply -n {namespace}{named} --wait"
    edits: Edits = {
        Key("Gateway", namespace, name): completion.programmed(manifest),
        Key("Pod", namespace, f"{name}-0"): completion.waypoint_pod(namespace, name),
    }
    return Change(f"deploy waypoint {namespace}/{name}", (command,), edits, 4)


def label(world: World, key: Key, name: str, value: str | None, title: str, cost: int) -> Change:
    """A label set (None: removed). Labels that steer capture take the pods with them, as the node agent does."""
    before = world.manifest(*key) or {"apiVersion": "v1", "kind": key.kind, "metadata": {"name": key.name}}
    meta = before["metadata"]
    old: dict[str, str] = dict(meta.get("labels") or {})
    new = {k: v for k, v in old.items() if k != name} | ({name: value} if value is not None else {})
    changed = {**before, "metadata": {**meta, "labels": new}}
    where = f" -n {key.namespace}" if key.namespace else ""
    overwrite = " --overwrite" if value is not None and name in old else ""
    given = f"{name}={value}" if value is not None else f"{name}-"
    command = f"kubectl label {_PLURALS[key.kind]} {key.name}{where} {given}{overwrite}"
    edits: dict[Key, Mapping[str, Any] | None] = {key: changed}
    if name == "istio.io/dataplane-mode":
        edits.update(_recaptured(world, key, changed))
    return Change(title, (command,), edits, cost)


def _recaptured(world: World, key: Key, changed: Mapping[str, Any]) -> Edits:
    if key.kind == "Pod":
        return {key: completion.redirected(changed, world.labels("Namespace", "", key.namespace))}
    labels = changed["metadata"]["labels"]
    return {pod.key: completion.redirected(pod.manifest, labels) for pod in world.of("Pod", key.name)}
