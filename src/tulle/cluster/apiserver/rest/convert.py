"""Between the version an object is served in and the version it is stored in.

Only two conversions exist: versions of a custom resource differ in `apiVersion` alone (conversion strategy None), and an
event is one stored object seen through two groups whose field names differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tulle.cluster.apiserver.kinds import Kind

Object = dict[str, Any]

_EVENTS_TO_CORE: Mapping[str, str] = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_CORE_TO_EVENTS = {core: new for new, core in _EVENTS_TO_CORE.items()}


def _is_new_event(kind: Kind) -> bool:
    return kind.group == "events.k8s.io"


def to_storage(kind: Kind, obj: Object) -> Object:
    """The stored form of an object in `kind`'s version."""
    if _is_new_event(kind):
        obj = {_EVENTS_TO_CORE.get(key, key): value for key, value in obj.items()}
        return {**obj, "apiVersion": "v1"}
    if kind.api_version != kind.storage_api_version:
        return {**obj, "apiVersion": kind.storage_api_version}
    return obj


def from_storage(kind: Kind, obj: Object) -> Object:
    """A stored object in `kind`'s version."""
    if _is_new_event(kind):
        obj = {_CORE_TO_EVENTS.get(key, key): value for key, value in obj.items()}
        return {**obj, "apiVersion": kind.api_version}
    if obj.get("apiVersion") != kind.api_version:
        return {**obj, "apiVersion": kind.api_version}
    return obj


def is_identity(kind: Kind) -> bool:
    """Whether stored bytes can be served as they are."""
    return not _is_new_event(kind) and not kind.mixed and kind.api_version == kind.storage_api_version
