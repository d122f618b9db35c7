"""Who looked at what: so that a change of the mesh is followed by work for those it concerns and nobody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tulle.ztunnel.state.mesh import Key


class Dependents:
    """Names of derived things, and the keys each of them looked at."""

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[Key]] = {}
        self._names: dict[Key, set[str]] = {}

    def note(self, name: str, keys: frozenset[Key]) -> None:
        """`name` was derived from what `keys` stand for; replaces what was noted of it before."""
        before = self._keys.get(name, frozenset())
        for key in before - keys:
            self._leave(key, name)
        for key in keys - before:
            self._names.setdefault(key, set()).add(name)
        self._keys[name] = keys

    def forget(self, name: str) -> None:
        for key in self._keys.pop(name, frozenset()):
            self._leave(key, name)

    def __iter__(self) -> Iterator[Key]:
        """Every key that something looked at."""
        return iter(self._names)

    def of(self, keys: Iterable[Key]) -> set[str]:
        """Everything that looked at any of the keys."""
        found: set[str] = set()
        for key in keys:
            found |= self._names.get(key, set())
        return found

    def _leave(self, key: Key, name: str) -> None:
        names = self._names[key]
        names.discard(name)
        if not names:
            del self._names[key]
