"""get and list.

A list is one moment of the store: its pages come from the same snapshot (records are immutable, so a snapshot is a list of
references), kept for a few minutes under the continue token; after that the client is told to start again (410).
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.rest import response
from tulle.cluster.apiserver.rest.call import Call
from tulle.cluster.apiserver.rest.convert import from_storage, is_identity
from tulle.cluster.apiserver.rest.objects import parse_revision
from tulle.cluster.apiserver.rest.response import Format
from tulle.cluster.apiserver.rest.writer import Writer
from tulle.cluster.apiserver.selectors import Requirement, Selector, parse_field_selector, parse_label_selector
from tulle.cluster.apiserver.table import render
from tulle.cluster.store import Record, Store

_SNAPSHOT_LIFE = 300.0
_SNAPSHOTS = 64
TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. "
    "You must start a new list without the continue parameter."
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects of a resource a list or watch is about."""

    labels: Selector
    fields: Selector

    def matches(self, record: Record | None) -> bool:
        """Whether the record is among them."""
        return record is not None and self.labels.matches(record.labels) and self.fields.matches(record.fields)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    records: Sequence[Record]
    revision: int
    deadline: float


def filter_of(call: Call, registry: Registry) -> Filter:
    """The selectors of a request; what it was authorised for by name it gets by name. Raises StatusError 400."""
    fields = parse_field_selector(call.query.get("fieldSelector", ""), registry.supported_fields(call.kind))
    if call.info.name:
        fields = Selector((*fields.requirements, Requirement("metadata.name", "in", (call.info.name,))))
    return Filter(parse_label_selector(call.query.get("labelSelector", "")), fields)


class Reader:
    """Answers get and list."""

    def __init__(self, store: Store, registry: Registry, writer: Writer) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._snapshots: OrderedDict[str, _Snapshot] = OrderedDict()

    def get(self, call: Call) -> web.Response:
        """One object."""
        _, obj = self._writer.get(call.kind, call.info.namespace, call.info.name)
        self._check_revision(call)
        return response.respond_object(call, obj)

    def _check_revision(self, call: Call) -> None:
        wanted = call.query.get("resourceVersion", "")
        if wanted and parse_revision(wanted) > self._store.revision:
            raise errors.too_large_revision(int(wanted), self._store.revision)
        match = call.query.get("resourceVersionMatch", "")
        if match == "Exact" and wanted not in ("", "0") and int(wanted) != self._store.revision:
            raise errors.expired(f"The resourceVersion for the provided list is too old: {wanted}")

    def list(self, call: Call) -> web.Response:
        """A list, paged when asked for."""
        form = response.format_of(call)
        records, revision, token = self._page(call)
        metadata = {"resourceVersion": str(revision)}
        if token:
            snapshot, _, start = token.partition(".")
            metadata["continue"] = token
            total = len(self._snapshots[snapshot].records)
            if not call.query.get("labelSelector") and not call.query.get("fieldSelector"):
                metadata["remainingItemCount"] = total - int(start)  # type: ignore[assignment]
        if form.shape == "object" and form.media == "json" and is_identity(call.kind):
            return self._raw(call, records, metadata)
        objects = [from_storage(call.kind, record.decode()) for record in records]
        if form.shape == "table":
            body = render.table(call.kind, objects, metadata, response.include_object(call))
        else:
            body = response.list_head(call.kind, form, metadata)
            body["items"] = [response.shaped(obj, form) for obj in objects]
        return response.respond(call, body, 200, form)

    @staticmethod
    def _raw(call: Call, records: Sequence[Record], metadata: dict[str, str]) -> web.Response:
        head = msgspec.json.encode(response.list_head(call.kind, Format(), metadata))
        body = b"".join((head[:-1], b',"items":[', b",".join(record.value for record in records), b"]}"))
        answer = web.Response(body=body, content_type="application/json")
        for name, value in response.warning_headers(call.options.warnings):
            answer.headers.add(name, value)
        return answer

    def _page(self, call: Call) -> tuple[Sequence[Record], int, str]:
        limit = _limit(call)
        token = call.query.get("continue", "")
        if token:
            return self._next_page(token, limit)
        self._check_revision(call)
        wanted = filter_of(call, self._registry)
        records = self._store.list(call.kind.storage, call.info.namespace if call.kind.namespaced else "")
        if wanted.labels or wanted.fields:
            records = [record for record in records if wanted.matches(record)]
        if not limit or len(records) <= limit:
            return records, self._store.revision, ""
        snapshot = secrets.token_urlsafe(12).replace(".", "")
        self._snapshots[snapshot] = _Snapshot(records, self._store.revision, time.monotonic() + _SNAPSHOT_LIFE)
        while len(self._snapshots) > _SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return records[:limit], self._store.revision, f"{snapshot}.{limit}"

    def _next_page(self, token: str, limit: int) -> tuple[Sequence[Record], int, str]:
        name, _, start_text = token.partition(".")
        snapshot = self._snapshots.get(name)
        if not start_text.isdecimal():
            raise errors.bad_request("continue key is not valid: want the token of the previous page")
        if snapshot is None or snapshot.deadline < time.monotonic():
            self._snapshots.pop(name, None)
            raise errors.expired(TOO_OLD)
        start = int(start_text)
        end = start + limit if limit else len(snapshot.records)
        more = end < len(snapshot.records)
        return snapshot.records[start:end], snapshot.revision, f"{name}.{end}" if more else ""


def _limit(call: Call) -> int:
    text = call.query.get("limit") or "0"
    if not text.isdecimal():
        raise errors.bad_request(f"limit: found {text!r}, want a number of items")
    return int(text)
