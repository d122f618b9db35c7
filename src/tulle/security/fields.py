"""Errors that name a field, and the few checks that every kind shares.

A refused object must tell its author which field, what was found there and what is accepted. ``Checker`` collects such
errors; the kinds' own modules say what to check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_TARGET_REFS = 16
TARGET_KINDS = frozenset(
    {
        ("", "Service"),
        ("core", "Service"),
        ("networking.istio.io", "ServiceEntry"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
    }
)


@dataclass(frozen=True, slots=True)
class FieldError:
    """One reason to refuse an object. ``value`` is what was found, None when nothing was; str() is the full line."""

    path: str
    value: object
    message: str

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.path}: Required value: {self.message}"
        return f"{self.path}: Invalid value: {json.dumps(self.value, default=str, ensure_ascii=False)}: {self.message}"


@dataclass
class Checker:
    """Collects errors and warnings about one object."""

    errors: list[FieldError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, path: str, value: object, message: str) -> None:
        """Record an error."""
        self.errors.append(FieldError(path, value, message))

    def mapping(self, value: object, path: str, known: Iterable[str] | None = None) -> Mapping[str, Any]:
        """``value`` as a mapping (absent is empty). Keys that are not ``known`` are refused: a misspelt restriction
        that is dropped in silence would make a policy wider than written."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.refuse(path, value, "must be an object")
            return {}
        if known is not None:
            names = tuple(known)
            for key in value:
                if key not in names:
                    self.refuse(f"{path}.{key}", value[key], f"unknown field; accepted are {', '.join(names)}")
        return value

    def sequence(self, value: object, path: str) -> list[Any]:
        """``value`` as a list (absent is empty)."""
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self.refuse(path, value, "must be a list")
            return []
        return list(value)

    def strings(self, value: object, path: str) -> list[tuple[str, str]]:
        """The non-empty strings of a list, each with its own path."""
        found = []
        for index, item in enumerate(self.sequence(value, path)):
            where = f"{path}[{index}]"
            if not isinstance(item, str):
                self.refuse(where, item, "must be a string")
            elif not item:
                self.refuse(where, item, 'must not be empty; remove it, or use "*" for any non-empty value')
            else:
                found.append((where, item))
        return found

    def text(self, holder: Mapping[str, Any], key: str, path: str) -> str:
        """An optional string field; "" when absent."""
        value = holder.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(f"{path}.{key}", value, "must be a string")
            return ""
        return value

    def attachment(self, spec: Mapping[str, Any]) -> None:
        """Selector and targetRefs: at most one of them, well formed, and in the policy's own namespace (C1)."""
        used = [name for name in ("selector", "targetRef", "targetRefs") if spec.get(name)]
        if spec.get("selector") is not None and "selector" not in used:
            used.insert(0, "selector")
        if len(used) > 1:
            self.refuse("spec", used, "at most one of selector, targetRef and targetRefs may be set")
        self._selector(spec.get("selector"))
        if (single := spec.get("targetRef")) is not None:
            self._target_ref(single, "spec.targetRef")
        references = self.sequence(spec.get("targetRefs"), "spec.targetRefs")
        if len(references) > MAX_TARGET_REFS:
            self.refuse("spec.targetRefs", len(references), f"at most {MAX_TARGET_REFS} references are accepted")
        for index, reference in enumerate(references):
            self._target_ref(reference, f"spec.targetRefs[{index}]")

    def _selector(self, selector: object) -> None:
        labels = self.mapping(
            self.mapping(selector, "spec.selector", ("matchLabels",)).get("matchLabels"), "spec.selector.matchLabels"
        )
        for key, value in labels.items():
            path = f"spec.selector.matchLabels[{key}]"
            if not key or not isinstance(key, str) or "*" in key:
                self.refuse(path, key, "a label key must be a non-empty string without '*'")
            if not isinstance(value, str) or "*" in value:
                self.refuse(path, value, "a label value must be a string without '*'; wildcards are not supported")

    def _target_ref(self, reference: object, path: str) -> None:
        if not isinstance(reference, Mapping):
            self.refuse(path, reference, "must be an object with group, kind and name")
            return
        self.mapping(reference, path, ("group", "kind", "name", "namespace"))
        kind, group = self.text(reference, "kind", path), self.text(reference, "group", path)
        if not self.text(reference, "name", path):
            self.refuse(f"{path}.name", None, "the name of the target")
        if namespace := self.text(reference, "namespace", path):
            self.refuse(f"{path}.namespace", namespace, "must be empty: a policy targets objects of its own namespace")
        if not kind:
            self.refuse(f"{path}.kind", None, "the kind of the target")
        elif (group, kind) not in TARGET_KINDS:
            self.refuse(
                path,
                f"{group}/{kind}",
                'accepted are Service (group ""), ServiceEntry (networking.istio.io), Gateway and GatewayClass '
                "(gateway.networking.k8s.io)",
            )
