"""get and list.

A list is one moment of the store: the continue token says which, and what the page before ended with; the later pages are
read out of the store's history, so that a list which nobody reads to its end holds nothing. What the history no longer knows
has to be listed again (410).
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.rest import response
from tulle.cluster.apiserver.rest.call import Call
from tulle.cluster.apiserver.rest.convert import from_storage, is_identity
from tulle.cluster.apiserver.rest.objects import parse_number, parse_revision
from tulle.cluster.apiserver.rest.response import Format
from tulle.cluster.apiserver.rest.writer import Writer
from tulle.cluster.apiserver.selectors import Requirement, Selector, parse_field_selector, parse_label_selector
from tulle.cluster.apiserver.table import render
from tulle.cluster.store import CompactedError, FutureRevisionError, Record, Store

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
class _Page:
    """Some records of a list, at which revision it was begun, and how many come after them."""

    records: Sequence[Record]
    revision: int
    remaining: int = 0

    @property
    def token(self) -> str:
        """What the next page is asked for with ("": there is none). It gives no right to anything."""
        if not self.remaining:
            return ""
        last = self.records[-1].key
        said = msgspec.json.encode((self.revision, last.namespace, last.name))
        return base64.urlsafe_b64encode(said).rstrip(b"=").decode()


def _read_token(token: str) -> tuple[int, str, str]:
    """Revision, and namespace and name of the last object before. Raises StatusError 400."""
    try:
        said = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(said, type=tuple[int, str, str])
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise errors.bad_request("continue key is not valid: want the token of the previous page") from None


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
        page = self._page(call)
        metadata: dict[str, Any] = {"resourceVersion": str(page.revision)}
        if page.token:
            metadata["continue"] = page.token
            if not call.query.get("labelSelector") and not call.query.get("fieldSelector"):
                metadata["remainingItemCount"] = page.remaining
        if form.shape == "object" and form.media == "json" and is_identity(call.kind):
            return self._raw(call, page.records, metadata)
        objects = [from_storage(call.kind, record.decode()) for record in page.records]
        if form.shape == "table":
            body = render.table(call.kind, objects, metadata, response.include_object(call))
        else:
            body = response.list_head(call.kind, form, metadata)
            body["items"] = [response.shaped(obj, form) for obj in objects]
        return response.respond(call, body, 200, form)

    @staticmethod
    def _raw(call: Call, records: Sequence[Record], metadata: dict[str, Any]) -> web.Response:
        head = msgspec.json.encode(response.list_head(call.kind, Format(), metadata))
        body = b"".join((head[:-1], b',"items":[', b",".join(record.value for record in records), b"]}"))
        answer = web.Response(body=body, content_type="application/json")
        for name, value in response.warning_headers(call.options.warnings):
            answer.headers.add(name, value)
        return answer

    def _page(self, call: Call) -> _Page:
        limit, token = _limit(call), call.query.get("continue", "")
        if not token:
            self._check_revision(call)
        revision, *last = _read_token(token) if token else (self._store.revision,)
        wanted = filter_of(call, self._registry)
        namespace = call.info.namespace if call.kind.namespaced else ""
        records = self._records(call.kind.storage, namespace, revision)
        if wanted.labels or wanted.fields:
            records = [record for record in records if wanted.matches(record)]
        if last:
            records = records[bisect_right(records, tuple(last), key=lambda record: record.key[1:]) :]
        end = limit or len(records)
        return _Page(records[:end], revision, max(0, len(records) - end))

    def _records(self, storage: str, namespace: str, revision: int) -> Sequence[Record]:
        try:
            return self._store.list_at(storage, namespace, revision)
        except CompactedError:
            raise errors.expired(TOO_OLD) from None
        except FutureRevisionError as error:
            raise errors.too_large_revision(error.requested, error.current) from None


def _limit(call: Call) -> int:
    return parse_number("limit", call.query.get("limit") or "0")
