"""An asynchronous client of any Kubernetes API: the verbs, typed by resource.

The client knows nothing of single kinds: ``Resource`` says where a kind lives and what its objects decode to.
Writers that own a whole object ``create``/``replace`` it; writers that own a part ``patch`` it, because a typed
object holds only the fields in use and replacing with it would drop the others.
"""

import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

import msgspec

from tulle.kube import config
from tulle.kube.codec import Body, ListResult, decode, decode_event, decode_list, encode, identity
from tulle.kube.config import Connection
from tulle.kube.errors import Gone, error_from_status
from tulle.kube.objects.meta import PartialObject, Status
from tulle.kube.resources import Resource
from tulle.kube.transport import Transport

T = TypeVar("T")
PatchKind = Literal["merge", "json", "strategic", "apply"]
Propagation = Literal["Background", "Foreground", "Orphan"]

_PAGE = 1000
_PATCH_TYPES: Mapping[str, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


@dataclass(frozen=True)
class WatchEvent(Generic[T]):
    """``object`` is None for BOOKMARK, whose ``resource_version`` alone is news."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: T | None
    resource_version: str


class Client:
    """One API server, one identity. ``component`` names the caller in User-Agent, managedFields and audit logs."""

    def __init__(self, connection: Connection, *, component: str = "tulle", request_seconds: float = 60.0) -> None:
        self.connection = connection
        self.namespace = connection.namespace
        self._transport = Transport(connection, component, request_seconds)

    @classmethod
    def from_kubeconfig(cls, path: str, context: str | None = None, *, component: str = "tulle") -> "Client":
        """Raises config.ConfigError."""
        return cls(config.from_kubeconfig(path, context), component=component)

    @classmethod
    def in_cluster(cls, *, component: str = "tulle") -> "Client":
        """The pod's service account; its token file is read again as it rotates. Raises config.ConfigError."""
        return cls(config.in_cluster(), component=component)

    @classmethod
    def load(cls, kubeconfig: str | None = None, context: str | None = None, *, component: str = "tulle") -> "Client":
        """The named kubeconfig, else in-cluster, else $KUBECONFIG, else ~/.kube/config. Raises config.ConfigError."""
        return cls(config.load(kubeconfig, context), component=component)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every connection."""
        await self._transport.close()

    async def get(self, res: Resource[T], name: str, namespace: str | None = None) -> T:
        """One object. Raises NotFound, ApiError."""
        path = res.path(namespace, name)
        return decode(await self._transport.request("GET", path), res.type, path)

    async def list(
        self, res: Resource[T], namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> ListResult[T]:
        """Every object of a namespace, or of all; read page by page, from the start when a page's snapshot expired."""
        path = res.path(namespace)
        selection = _selection(label_selector, field_selector)
        items: list[T] = []
        token, limit = "", _PAGE
        while True:
            params = {**selection, **({"limit": str(limit)} if limit else {}), **({"continue": token} if token else {})}
            try:
                meta, page = decode_list(await self._transport.request("GET", path, params=params), res)
            except Gone:
                if not token:
                    raise
                items, token, limit = [], "", 0
                continue
            items += page
            token = meta.continue_ or ""
            if not token:
                return ListResult(tuple(items), meta.resource_version)

    async def create(
        self, res: Resource[T], obj: Body, namespace: str | None = None, *, subresource: str = "", name: str = ""
    ) -> T:
        """Creates ``obj``, or posts it to a subresource of ``name`` that answers with the resource's own kind.

        For subresources that answer with another kind (token, binding, eviction) see ``post``.
        """
        namespace = namespace or identity(obj).namespace or None
        _need_namespace(res, namespace, identity(obj).name)
        path = res.path(namespace, name if subresource else "", subresource)
        data = await self._transport.request("POST", path, body=encode(res, obj, identify=not subresource))
        return decode(data, res.type, path)

    async def post(
        self, res: Resource[Any], name: str, subresource: str, body: Body, namespace: str | None = None
    ) -> dict[str, Any]:
        """Posts to a subresource whose kind is not the resource's own: token, binding, eviction."""
        path = res.path(namespace, name, subresource)
        data = await self._transport.request("POST", path, body=msgspec.json.encode(body))
        return decode(data, dict[str, Any], path)

    async def replace(self, res: Resource[T], obj: Body, *, subresource: str = "") -> T:
        """Replaces the whole object; with its resourceVersion set, only if unchanged. Raises Conflict."""
        who = identity(obj)
        path = res.path(who.namespace or None, who.name, subresource)
        return decode(await self._transport.request("PUT", path, body=encode(res, obj)), res.type, path)

    async def patch(
        self,
        res: Resource[T],
        name: str,
        body: Body | Sequence[Mapping[str, Any]],
        namespace: str | None = None,
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> T:
        """Changes a part of an object; server-side ``apply`` needs ``field_manager``. Raises Conflict, ApiError."""
        if kind == "apply" and not field_manager:
            raise ValueError(f"{res.kind} {name}: server-side apply needs a field manager")
        path = res.path(namespace, name, subresource)
        params = {"fieldManager": field_manager} if field_manager else {}
        if kind == "apply" and force:
            params["force"] = "true"
        data = msgspec.json.encode(body) if isinstance(body, Sequence) else encode(res, body, identify=kind == "apply")
        answer = await self._transport.request("PATCH", path, params=params, body=data, content_type=_PATCH_TYPES[kind])
        return decode(answer, res.type, path)

    async def delete(
        self,
        res: Resource[Any],
        name: str,
        namespace: str | None = None,
        *,
        propagation: Propagation = "Background",
        uid: str = "",
        grace_period: int | None = None,
    ) -> None:
        """Asks for deletion; finalizers and grace may delay it. ``uid``: only that one. Raises NotFound, Conflict."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_period is not None:
            options["gracePeriodSeconds"] = grace_period
        await self._transport.request("DELETE", res.path(namespace, name), body=msgspec.json.encode(options))

    async def watch(
        self,
        res: Resource[T],
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[WatchEvent[T], None]:
        """Changes after ``resource_version``, until the server ends the watch, as it does after some minutes.

        Raises Gone when the version is too old, ApiError otherwise. Leave it through ``contextlib.aclosing``.
        """
        path = res.path(namespace)
        seconds = random.randint(300, 600)  # noqa: S311
        params = {
            **_selection(label_selector, field_selector),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        async with self._transport.stream(path, params=params, idle_seconds=seconds + 30) as content:
            rest = b""
            async for chunk in content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield _event(line, res, path)

    async def raw(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        *,
        accept: str = "application/json",
    ) -> bytes:
        """Any request; ``path`` may carry a query. The body of a 2xx answer. Raises ApiError."""
        return await self._transport.request(method, path, body=body, content_type=content_type, accept=accept)

    async def stream(self, path: str) -> AsyncGenerator[bytes, None]:
        """Any GET whose answer is read as it arrives (a followed log). Leave it through ``contextlib.aclosing``."""
        async with self._transport.stream(path) as content:
            async for chunk in content.iter_any():
                yield chunk


def _selection(label_selector: str, field_selector: str) -> dict[str, str]:
    pairs = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return {key: value for key, value in pairs if value}


def _need_namespace(res: Resource[Any], namespace: str | None, name: str) -> None:
    if res.namespaced and not namespace:
        raise ValueError(f"{res.kind} {name!r} is namespaced: give its namespace")


def _event(line: bytes, res: Resource[T], path: str) -> WatchEvent[T]:
    event = decode_event(line, path)
    match event.type:
        case "ADDED" | "MODIFIED" | "DELETED":
            obj = decode(event.object, res.type, path)
            return WatchEvent(event.type, obj, identity(obj).resource_version)
        case "BOOKMARK":
            return WatchEvent("BOOKMARK", None, decode(event.object, PartialObject, path).metadata.resource_version)
        case "ERROR":
            status = decode(event.object, Status, path)
            raise error_from_status(status, status.code or 500, f"WATCH {path}")
        case other:
            status = Status(reason="Undecodable", message=f"unknown watch event type {other!r}", code=500)
            raise error_from_status(status, 500, f"WATCH {path}")
