"""Subresources other than status: scale, finalize, binding, eviction, token; log, exec, attach and portforward go to the
kubelet proxy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.token_request import TokenIssuer
from tulle.cluster.apiserver.kinds import SCALE, SUBRESOURCE_KINDS
from tulle.cluster.apiserver.kubelet import KubeletProxy
from tulle.cluster.apiserver.rest import body, patching, response
from tulle.cluster.apiserver.rest.call import Call
from tulle.cluster.apiserver.rest.deleter import DeleteOptions, Deleter
from tulle.cluster.apiserver.rest.fields import check_builtin, check_fields
from tulle.cluster.apiserver.rest.objects import now
from tulle.cluster.apiserver.rest.writer import Writer
from tulle.cluster.apiserver.table.cells import selector as selector_text

Object = dict[str, Any]


def _at(obj: Any, path: str) -> Any:
    for part in path.strip(".").split("."):
        obj = obj.get(part) if isinstance(obj, Mapping) else None
    return obj


def _put(obj: Object, path: str, value: Any) -> None:
    *parents, last = path.strip(".").split(".")
    for part in parents:
        obj = obj.setdefault(part, {})
    obj[last] = value


def scale_of(paths: Mapping[str, str], obj: Object) -> Object:
    """The Scale view of a scalable object."""
    metadata = obj["metadata"]
    shown = {
        k: metadata[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if k in metadata
    }
    status: Object = {"replicas": _at(obj, paths["statusReplicasPath"]) or 0}
    chosen = _at(obj, paths["labelSelectorPath"]) if paths.get("labelSelectorPath") else None
    if chosen:
        status["selector"] = chosen if isinstance(chosen, str) else selector_text(chosen)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": shown,
        "spec": {"replicas": _at(obj, paths["specReplicasPath"]) or 0},
        "status": status,
    }


class Subresources:
    """Handles one subresource request at a time."""

    def __init__(self, writer: Writer, issuer: TokenIssuer, proxy: KubeletProxy) -> None:
        self._writer = writer
        self._deleter = Deleter(writer)
        self._issuer = issuer
        self._proxy = proxy
        self._handlers: dict[str, Callable[[Call], Awaitable[web.StreamResponse]]] = {
            "scale": self._scale,
            "finalize": self._finalize,
            "binding": self._binding,
            "eviction": self._eviction,
            "token": self._token,
            "log": proxy.logs,
            "exec": proxy.stream,
            "attach": proxy.stream,
            "portforward": proxy.stream,
        }

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer. Raises StatusError."""
        return await self._handlers[call.info.subresource](call)

    async def _scale(self, call: Call) -> web.StreamResponse:
        paths = call.kind.scale or {}
        info = call.info
        if info.verb == "get":
            _, obj = self._writer.get(call.kind, info.namespace, info.name)
            return response.respond(call, scale_of(paths, obj))
        change = await self._scale_change(call)

        def make(old: Object) -> Object:
            wanted = check_builtin(SCALE[3], "Scale", "autoscaling/v1", change(scale_of(paths, old)), call.options)
            replicas = (wanted.get("spec") or {}).get("replicas", 0)
            if replicas < 0:
                problem = errors.invalid_value("spec.replicas", replicas, "must be greater than or equal to 0")
                raise errors.invalid("Scale", "autoscaling", info.name, [problem])
            _put(old, paths["specReplicasPath"], replicas)
            insisted = wanted.get("metadata", {}).get("resourceVersion")
            if insisted:
                old["metadata"]["resourceVersion"] = insisted
            return old

        updated = await self._writer.change(call.kind, info.namespace, info.name, make, call.options)
        return response.respond(call, scale_of(paths, updated))

    @staticmethod
    async def _scale_change(call: Call) -> Callable[[Object], Object]:
        if call.info.verb == "patch":
            media = (call.request.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
            return patching.patcher(call.kind, SCALE[3], media, await body.read(call.request))
        sent = await body.read_object(call.request)
        return lambda _: sent

    async def _finalize(self, call: Call) -> web.StreamResponse:
        sent = check_fields(call.kind, await body.read_object(call.request), call.options)
        finalizers = (sent.get("spec") or {}).get("finalizers") or []

        def make(old: Object) -> Object:
            insisted = (sent.get("metadata") or {}).get("resourceVersion")
            if insisted:
                old["metadata"]["resourceVersion"] = insisted
            old["spec"] = {**(old.get("spec") or {}), "finalizers": finalizers}
            return old

        updated = await self._writer.change(call.kind, "", call.info.name, make, call.options, subresource="finalize")
        return response.respond(call, updated)

    async def _binding(self, call: Call) -> web.StreamResponse:
        sent = check_builtin(
            "io.k8s.api.core.v1.Binding", "Binding", "v1", await body.read_object(call.request), call.options
        )
        # The pod that was looked at: another one may have its name by now.
        seen, target = sent.get("metadata") or {}, sent.get("target") or {}
        if target.get("kind") not in ("Node", "", None) or not target.get("name"):
            problem = (
                errors.required("target.name")
                if not target.get("name")
                else errors.not_supported("target.kind", target["kind"], ["Node"])
            )
            raise errors.invalid("Binding", "", call.info.name, [problem])

        def make(old: Object) -> Object:
            if old["metadata"].get("deletionTimestamp"):
                raise errors.conflict(
                    "pods/binding",
                    "",
                    call.info.name,
                    f"pod {call.info.name} is being deleted, cannot be assigned to a host",
                )
            assigned = old["spec"].get("nodeName")
            if assigned:
                raise errors.conflict(
                    "pods/binding", "", call.info.name, f'pod {call.info.name} is already assigned to node "{assigned}"'
                )
            old["metadata"] |= {name: seen[name] for name in ("uid", "resourceVersion") if seen.get(name)}
            old["spec"]["nodeName"] = target["name"]
            conditions = [c for c in old["status"].get("conditions") or () if c.get("type") != "PodScheduled"]
            scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now()}
            old["status"]["conditions"] = [*conditions, scheduled]
            return old

        await self._writer.change(
            call.kind, call.info.namespace, call.info.name, make, call.options, subresource="binding"
        )
        return response.respond(
            call, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    async def _eviction(self, call: Call) -> web.StreamResponse:
        _, _, _, schema = SUBRESOURCE_KINDS["pods", "eviction"]
        sent = check_builtin(schema, "Eviction", "policy/v1", await body.read_object(call.request), call.options)
        wish = DeleteOptions.parse(sent.get("deleteOptions") or {}, {}, call.options)
        await self._deleter.delete(call.kind, call.info.namespace, call.info.name, wish, call.options)
        return response.respond(
            call, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    async def _token(self, call: Call) -> web.StreamResponse:
        schema = "io.k8s.api.authentication.v1.TokenRequest"
        sent = await body.read_object(call.request)
        sent.setdefault("apiVersion", "authentication.k8s.io/v1")
        sent.setdefault("kind", "TokenRequest")
        sent = check_builtin(schema, "TokenRequest", "authentication.k8s.io/v1", sent, call.options)
        _, account = self._writer.get(call.kind, call.info.namespace, call.info.name)
        return response.respond(call, self._issuer.issue(account, sent), 201)
