"""`istioctl proxy-status POD`: whether a waypoint's Envoy has what istiod means it to have, and if not, where they differ.

Both sides give a dump of Envoy's form (`envoy.admin.v3.ConfigDump` as JSON), one with the fields' names in camel case and one with
underscores. What Envoy has from its bootstrap is nothing of istiod's and left out.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

from tulle.cli.console import CommandError

_CONTEXT: Final = 7
_CAPITAL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")
_NUMBERED: Final = re.compile(r"_(?=\d)")
"""An underscore before a digit (`accept_http_10`), of which camel case keeps no trace."""


@dataclass(frozen=True)
class _Section:
    """Where a dump holds one kind of resource: type, list, and the way from its entries to the resource."""

    title: str
    dump: str
    entries: str
    path: tuple[str, ...]


_SECTIONS: Final = (
    _Section("Clusters", "ClustersConfigDump", "dynamic_active_clusters", ("cluster",)),
    _Section("Listeners", "ListenersConfigDump", "dynamic_listeners", ("active_state", "listener")),
    _Section("Routes", "RoutesConfigDump", "dynamic_route_configs", ("route_config",)),
)


def compare(istiod: bytes, envoy: bytes) -> str:
    """A line for each kind of resource that is the same, a unified diff for each that is not. Raises CommandError."""
    meant, had = _read(istiod, "istiod"), _read(envoy, "the proxy")
    return "\n".join(_section(section, meant, had) for section in _SECTIONS)


def _section(section: _Section, meant: Any, had: Any) -> str:
    lines = difflib.unified_diff(
        _lines(section, meant),
        _lines(section, had),
        f"Istiod {section.title}",
        f"Envoy {section.title}",
        lineterm="",
        n=_CONTEXT,
    )
    return "\n".join(lines) or f"{section.title} Match{_last_loaded(section, had)}"


def _lines(section: _Section, dump: Any) -> list[str]:
    return json.dumps(_resources(section, dump), indent=2, sort_keys=True).splitlines()


def _last_loaded(section: _Section, had: Any) -> str:
    if section.title != "Routes":
        return ""
    loaded = max((entry.get("last_updated", "") for entry in _entries(section, had)), default="")
    return f" (RDS last loaded at {loaded})" if loaded else ""


def _entries(section: _Section, dump: Any) -> Iterator[Any]:
    for part in dump.get("configs", ()):
        if part.get("@type", "").endswith(f".{section.dump}"):
            yield from part.get(section.entries, ())


def _resources(section: _Section, dump: Any) -> list[Any]:
    found = [reduce(lambda at, step: at.get(step, {}), section.path, entry) for entry in _entries(section, dump)]
    return sorted(found, key=lambda one: str(one.get("name", "")))


def _read(data: bytes, whose: str) -> Any:
    try:
        document = json.loads(data)
        if not isinstance(document.get("configs", []), list):
            raise TypeError("configs is no list")
    except (ValueError, TypeError, AttributeError) as error:
        raise CommandError(f"the configuration dump of {whose} is not understood: {error!r}") from error
    return _underscored(document)


def _underscored(value: Any) -> Any:
    """The same with the names of fields as the protocol spells them. Keys of maps are no names, but lose nothing by it on both sides."""
    if isinstance(value, dict):
        return {_name(key): _underscored(one) for key, one in value.items()}
    return [_underscored(one) for one in value] if isinstance(value, list) else value


def _name(key: str) -> str:
    return _NUMBERED.sub("", _CAPITAL.sub(lambda m: f"_{m[1].lower()}", key))
