"""YAML as kubectl reads it: as another spelling of JSON.

YAML can say more than Kubernetes understands. A port as a key is a string to the API, a date is the text that stands there, and a key that
stands twice is refused, since the one that is dropped in silence may be the restriction. Read otherwise, an object would be explained that
no cluster would hold.
"""

from __future__ import annotations

from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML has it, which reads a folder of manifests much faster."""
_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_TYPES = ("null", "bool", "int", "float", "binary", "str", "seq", "map")


class Loader(_BASE):  # type: ignore[misc]
    """See the module."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in found if tag != _DATE]
        for first, found in _BASE.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **{tag: _BASE.yaml_constructors[tag] for tag in (f"tag:yaml.org,2002:{name}" for name in _TYPES)},
        None: _BASE.yaml_constructors[None],
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        """Keys as strings. Raises ConstructorError for one that is none, or that stands twice."""
        if not isinstance(node, yaml.MappingNode):
            raise ConstructorError(None, None, f"expected a mapping, found {node.id}", node.start_mark)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = _key(self, key_node)
            if key in seen:
                raise ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key)
        # What is merged into it comes first, so that its own keys win.
        self.flatten_mapping(node)
        return {_key(self, key_node): self.construct_object(value, deep=deep) for key_node, value in node.value}


def _key(loader: Any, node: Any) -> str:
    key = loader.construct_object(node, deep=True)
    if isinstance(key, bool):
        return str(key).lower()
    if not isinstance(key, str | int):
        raise ConstructorError(None, None, f"a key is a string, found {node.value!r}", node.start_mark)
    return str(key)


def _mapping(loader: Any, node: Any) -> Any:
    """At once, and not in two steps as PyYAML does for the sake of values that hold themselves."""
    return loader.construct_mapping(node, deep=True)


def _sequence(loader: Any, node: Any) -> Any:
    return loader.construct_sequence(node, deep=True)


Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
Loader.add_constructor("tag:yaml.org,2002:seq", _sequence)


def read_all(text: str) -> list[Any]:
    """The documents of a stream. Raises ValueError with the reason and the place."""
    try:
        return list(yaml.load_all(text, Loader))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
