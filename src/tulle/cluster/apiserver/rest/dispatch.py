"""Ties a request about a resource to the handler of its verb or subresource."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.rbac import Rbac, require
from tulle.cluster.apiserver.auth.rules import Attributes
from tulle.cluster.apiserver.kinds import SUBRESOURCE_VERBS, Kind
from tulle.cluster.apiserver.patch.apply import apply_change
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.request import RequestInfo, truthy
from tulle.cluster.apiserver.rest import body, patching, response
from tulle.cluster.apiserver.rest.call import Call, Options
from tulle.cluster.apiserver.rest.deleter import DeleteOptions, Deleter
from tulle.cluster.apiserver.rest.objects import check_type
from tulle.cluster.apiserver.rest.read import Reader, filter_of
from tulle.cluster.apiserver.rest.subresources import Subresources
from tulle.cluster.apiserver.rest.watch import watch
from tulle.cluster.apiserver.rest.writer import Writer, key_of

Object = dict[str, Any]
Handler = Callable[[Call], Awaitable[web.StreamResponse]]
ReviewHandler = Callable[[Call, Object], Object]


class Dispatcher:
    """Handles requests about resources that have been authenticated and authorised."""

    def __init__(
        self, registry: Registry, writer: Writer, subresources: Subresources, review: ReviewHandler, rbac: Rbac
    ) -> None:
        store = self._store = writer.store
        self._registry = registry
        self._writer = writer
        self._reader = Reader(store, registry, writer)
        self._deleter = Deleter(writer)
        self._subresources = subresources
        self._review = review
        self._rbac = rbac
        self._verbs: dict[str, Handler] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def handle(
        self, request: web.BaseRequest, info: RequestInfo, kind: Kind, options: Options
    ) -> web.StreamResponse:
        """Answer. Raises StatusError."""
        call = Call(request, info, kind, options)
        if kind.warning:
            options.warnings.append(kind.warning)
        handler = self._verbs.get(info.verb)
        if info.subresource:
            verbs = SUBRESOURCE_VERBS.get(info.subresource, ())
            if info.subresource not in kind.subresources or info.tail:
                raise errors.no_such_path()
            if info.verb not in verbs or handler is None:
                raise errors.method_not_allowed(info.verb, kind.plural, kind.group)
            if info.subresource != "status":
                return await self._subresources.handle(call)
        elif info.verb not in kind.verbs or handler is None or (info.verb == "create" and info.name):
            # What is created is named by the body: a name in the path would be authorised instead of it.
            raise errors.method_not_allowed(info.verb, kind.plural, kind.group)
        if kind.namespaced and not info.namespace and info.verb not in ("list", "watch"):
            raise errors.bad_request(f"an empty namespace may not be set during {info.verb}")
        return await handler(call)

    async def _get(self, call: Call) -> web.StreamResponse:
        return self._reader.get(call)

    async def _list(self, call: Call) -> web.StreamResponse:
        return self._reader.list(call)

    async def _watch(self, call: Call) -> web.StreamResponse:
        return await watch(call, self._store, self._registry)

    async def _create(self, call: Call) -> web.StreamResponse:
        response.format_of(call)
        obj = await body.read_object(call.request)
        if call.kind.verbs == ("create",):
            return response.respond(call, self._review(call, obj), 201)
        created = await self._writer.create(call.kind, call.info.namespace, obj, call.options)
        return response.respond_object(call, created, 201)

    async def _update(self, call: Call) -> web.StreamResponse:
        obj = await body.read_object(call.request)
        check_type(obj, call.kind.api_version, call.kind.kind)
        if not obj["metadata"].get("name"):
            raise errors.bad_request("name must be provided in the object")
        updated = await self._change(call, lambda old: _copied(obj))
        return response.respond_object(call, updated)

    async def _change(self, call: Call, make: Callable[[Object], Object], *, owned: bool = False) -> Object:
        info = call.info
        return await self._writer.change(
            call.kind, info.namespace, info.name, make, call.options, subresource=info.subresource, owned=owned
        )

    async def _patch(self, call: Call) -> web.StreamResponse:
        media = (call.request.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        data = await body.read(call.request)
        if media == patching.APPLY:
            return await self._apply(call, data)
        schema = call.kind.schema if isinstance(call.kind.schema, str) else None
        make = patching.patcher(call.kind, schema, media, data)
        return response.respond_object(call, await self._change(call, make))

    async def _apply(self, call: Call, data: bytes) -> web.StreamResponse:
        applied = body.parse_yaml(data)
        change = apply_change(call.kind, applied, call.options, call.info.subresource, call.query)
        info = call.info
        existing = self._store.get(key_of(call.kind, info.namespace, info.name))
        if existing is None:
            create = Attributes("create", info.group, info.version, info.resource, "", info.name, info.namespace)
            require(self._rbac, call.options.user, create)
            if info.subresource:
                raise errors.not_found(call.kind.plural, call.kind.group, info.name)
            try:
                created = await self._writer.create(
                    call.kind, info.namespace, change.created(info.name), call.options, owned=True
                )
            except errors.StatusError as error:
                if error.reason != "AlreadyExists":
                    raise
            else:
                return response.respond_object(call, created, 201)
        return response.respond_object(call, await self._change(call, change.changed, owned=True))

    async def _delete_options(self, call: Call) -> DeleteOptions:
        return DeleteOptions.parse(await body.read_object(call.request, optional=True), call.query, call.options)

    async def _delete(self, call: Call) -> web.StreamResponse:
        wish = await self._delete_options(call)
        obj, gone = await self._deleter.delete(call.kind, call.info.namespace, call.info.name, wish, call.options)
        if gone:
            return response.success(call, obj)
        return response.respond_object(call, obj)

    async def _delete_collection(self, call: Call) -> web.StreamResponse:
        wish = await self._delete_options(call)
        if truthy(call.query.get("watch")):
            raise errors.bad_request("watch is not possible with DELETE")
        wanted = filter_of(call, self._registry)
        records = self._store.list(call.kind.storage, call.info.namespace if call.kind.namespaced else "")
        chosen = [record for record in records if wanted.matches(record)]

        async def remove(namespace: str, name: str) -> None:
            try:
                await self._deleter.delete(call.kind, namespace, name, wish, call.options)
            except errors.StatusError as error:
                if error.reason != "NotFound":
                    raise

        await asyncio.gather(*(remove(record.key.namespace, record.key.name) for record in chosen))
        form = response.Format()
        answer = response.list_head(call.kind, form, {"resourceVersion": str(self._store.revision)})
        answer["items"] = [record.decode() for record in chosen]
        return response.respond(call, answer)


def _copied(obj: Object) -> Object:
    return {**obj, "metadata": dict(obj["metadata"])}
