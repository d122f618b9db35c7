"""One request on its way through the server, and the options that writes take from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tulle.cluster.apiserver.auth.users import APISERVER, User
from tulle.cluster.apiserver.errors import bad_request
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.request import RequestInfo

Object = dict[str, Any]
_VALIDATION = ("Ignore", "Strict", "Warn")


@dataclass(slots=True)
class Options:
    """How to write: for whom, whether only in pretence, and how strictly fields are checked; `warnings` collects what the
    client is told beside the answer."""

    user: User = APISERVER
    dry_run: bool = False
    manager: str = "tulle"
    validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Change:
    """One change to one object, as admission sees it: `obj` is None for a deletion, `old` for a creation."""

    kind: Kind
    operation: str
    obj: Object | None
    old: Object | None
    subresource: str = ""

    @property
    def subject(self) -> Object:
        """The object as it will be, or as it was."""
        return self.obj if self.obj is not None else self.old or {}


@dataclass(slots=True)
class Call:
    """A request about a resource, authenticated and authorised."""

    request: web.BaseRequest
    info: RequestInfo
    kind: Kind
    options: Options

    @property
    def query(self) -> Mapping[str, str]:
        """The query parameters."""
        return self.request.query


def options_of(request: web.BaseRequest, user: User) -> Options:
    """Write options from the query. Raises StatusError 400."""
    query = request.query
    dry_run = query.getall("dryRun", [])
    if any(value != "All" for value in dry_run):
        raise bad_request(f'dryRun: found {dry_run!r}, supported values: "All"')
    validation = query.get("fieldValidation") or "Warn"
    if validation not in _VALIDATION:
        raise bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        )
    manager = query.get("fieldManager") or _default_manager(request.headers.get("User-Agent", ""))
    if len(manager) > 128:
        raise bad_request(f"fieldManager: found {len(manager)} characters, must have at most 128")
    return Options(user, bool(dry_run), manager, validation)


def _default_manager(user_agent: str) -> str:
    return user_agent.split("/", 1)[0].split(" ", 1)[0][:128] or "unknown"
