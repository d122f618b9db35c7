"""What a request asks for, read off its method, path and query: the unit that authorisation and the handlers work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tulle.cluster.apiserver.selectors import exact_value

_READ = ("GET", "HEAD")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """`resource` is empty for a path that is not about resources (then `verb` is the HTTP method in lower case).

    A list or watch has a `name` when it is about that one alone.
    """

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
    if verb in ("list", "watch") and not name:
        name = _selected_name(query)
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


def _selected_name(query: Mapping[str, str]) -> str:
    """The name that the field selector leaves: whoever may list or watch that one may do so in this way, as upstream."""
    name = exact_value(query.get("fieldSelector", ""), "metadata.name")
    return "" if name in (".", "..") or "/" in name or "%" in name else name


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if method in _READ:
        if truthy(query.get("watch")):
            return "watch"
        return "get" if name else "list"
    verb = _VERBS.get(method, method.lower())
    return "deletecollection" if verb == "delete" and not name else verb
