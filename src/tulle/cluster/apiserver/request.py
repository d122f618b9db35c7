"""What a request asks for, read off its method, path and query: the unit that authorisation and the handlers work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_READ = ("GET", "HEAD")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """`resource` is empty for a path that is not about resources (then `verb` is the HTTP method in lower case)."""

    path: str
    verb: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    tail: str = ""

    @property
    def is_resource(self) -> bool:
        """Whether the request is about a resource."""
        return bool(self.resource)


def truthy(value: str | None) -> bool:
    """A boolean query parameter: present and not 0 or false."""
    return value is not None and value.lower() not in ("0", "false")


def parse(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """The request's meaning. Paths outside /api and /apis, and group documents inside them, are not resources."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return RequestInfo(path, method.lower())
    namespace, resource, name, subresource, tail = _split(group, rest)
    verb = _verb(method, name, query)
    return RequestInfo(path, verb, group, version, namespace, resource, subresource, name, tail)


def _split(group: str, parts: list[str]) -> tuple[str, str, str, str, str]:
    """(namespace, resource, name, subresource, what follows) of the path below a group version."""
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        # /namespaces/X, /namespaces/X/status and /namespaces/X/finalize are about the namespace itself.
        if group == "" and (len(parts) == 2 or (len(parts) == 3 and parts[2] in ("status", "finalize"))):
            namespace = parts[1]
        elif len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
    resource, name, subresource, *tail = [*parts, "", "", ""][: max(len(parts), 3)]
    return namespace, resource, name, subresource, "/".join(tail)


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method in _READ:
        if truthy(query.get("watch")):
            return "watch"
        return "get" if name else "list"
    verb = _VERBS.get(method, method.lower())
    return "deletecollection" if verb == "delete" and not name else verb
