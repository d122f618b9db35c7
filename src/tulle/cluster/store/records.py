"""What the store keeps: immutable records and the events between them.

A record carries its encoded JSON, so that a list or a watch copies bytes instead of encoding objects again, and the few
values that selectors look at, so that a selector never has to decode anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

Object = dict[str, Any]


class Key(NamedTuple):
    """Address of one object: storage resource (`pods`, `deployments.apps`), namespace ("" if cluster-scoped), name."""

    resource: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """One object at one revision. `fields` holds the values that field selectors may ask for."""

    key: Key
    revision: int
    value: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    def decode(self) -> Object:
        """A fresh, mutable copy of the object."""
        decoded: Object = msgspec.json.decode(self.value)
        return decoded


@dataclass(frozen=True, slots=True)
class Event:
    """One committed change. `new is None` is a deletion; `old is None` a creation; never both."""

    revision: int
    key: Key
    old: Record | None
    new: Record | None
    deleted: bytes = b""  # the last state of a deleted object, at the revision of its deletion
