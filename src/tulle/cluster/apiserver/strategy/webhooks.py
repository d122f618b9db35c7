"""Validating webhooks: who is asked about which change, how, and what a failure to answer means.

A webhook's Service is resolved here (Service, then a ready endpoint of its EndpointSlices) and dialled directly, because
this process does not live in the pod network's name resolution; the certificate is still checked against the Service's name.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import uuid
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.rest.call import Change, Options
from tulle.cluster.apiserver.selectors import from_label_selector_object
from tulle.cluster.store import Event, Key, Store

Object = dict[str, Any]
RESOURCE = "validatingwebhookconfigurations.admissionregistration.k8s.io"
_SLICES = "endpointslices.discovery.k8s.io"
_EXEMPT = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")


class _UnreachableError(Exception):
    """The webhook could not be asked, or did not answer as it should."""


class _Status(msgspec.Struct, frozen=True):
    code: int | None = None
    message: str | None = None
    reason: str | None = None
    details: dict[str, Any] | None = None


class _Answer(msgspec.Struct, frozen=True):
    uid: str
    allowed: bool = False
    warnings: list[str] | None = None
    status: _Status | None = None


class _Review(msgspec.Struct, frozen=True):
    """The part of an AdmissionReview that counts. What has another type is no answer: above all, no yes."""

    response: _Answer


class Webhooks:
    """Asks every webhook whose rules match."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._configurations: dict[str, Object] = {}
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        for record in store.list(RESOURCE):
            self._configurations[record.key.name] = record.decode()
        store.listen(RESOURCE, self._changed)

    def _changed(self, event: Event) -> None:
        if event.new is None:
            self._configurations.pop(event.key.name, None)
        else:
            self._configurations[event.key.name] = event.new.decode()

    async def close(self) -> None:
        """Close connections."""
        for session in self._sessions.values():
            await session.close()

    async def review(self, change: Change, options: Options) -> None:
        """Ask; all must allow. Raises StatusError."""
        if change.kind.plural in _EXEMPT:
            return
        matching = [webhook for name in sorted(self._configurations) for webhook in self._matching(name, change)]
        if matching:
            request = _request(change, options)
            answers = await asyncio.gather(
                *(self._ask(webhook, request, options) for webhook in matching), return_exceptions=True
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer

    def _matching(self, name: str, change: Change) -> list[Object]:
        found = []
        for webhook in self._configurations[name].get("webhooks") or ():
            matches = any(_rule_matches(rule, change) for rule in webhook.get("rules") or ())
            if matches and self._selected(webhook, change):
                found.append(webhook)
        return found

    def _selected(self, webhook: Object, change: Change) -> bool:
        kind, either = change.kind, [o for o in (change.obj, change.old) if o is not None]
        wanted = from_label_selector_object(webhook.get("objectSelector") or {})
        if wanted and not any(wanted.matches(o["metadata"].get("labels") or {}) for o in either):
            return False
        namespaces = from_label_selector_object(webhook.get("namespaceSelector") or {})
        if not namespaces:
            return True
        if kind.namespaced:
            record = self._store.get(Key("namespaces", "", either[0]["metadata"].get("namespace", "")))
            return record is not None and namespaces.matches(record.labels)
        return kind.plural != "namespaces" or namespaces.matches(either[0]["metadata"].get("labels") or {})

    async def _ask(self, webhook: Object, request: Object, options: Options) -> None:
        name = webhook["name"]
        try:
            answer = await self._call(webhook, request)
        except _UnreachableError as error:
            if webhook.get("failurePolicy") == "Ignore":
                return
            raise errors.internal(f'failed calling webhook "{name}": failed to call webhook: {error}') from None
        options.warnings.extend(answer.warnings or ())
        if answer.allowed:
            return
        status = answer.status or _Status()
        message = status.message or status.reason or ""
        text = f'admission webhook "{name}" denied the request'
        text = f"{text}: {message}" if message else f"{text} without explanation"
        code = status.code or 400
        reason = status.reason or ("Forbidden" if code == 403 else "BadRequest")
        raise errors.StatusError(code if 400 <= code < 600 else 400, reason, text, status.details or {})

    async def _call(self, webhook: Object, request: Object) -> _Answer:
        client = webhook.get("clientConfig") or {}
        url, host, address = self._target(client)
        body = msgspec.json.encode({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
        timeout = aiohttp.ClientTimeout(total=webhook.get("timeoutSeconds", 10))
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            **({"Host": host} if address else {}),
        }
        session = self._session(client.get("caBundle") or "")
        try:
            async with session.post(
                url, data=body, headers=headers, timeout=timeout, server_hostname=host or None
            ) as answer:
                data = await answer.read()
                if answer.status != 200:
                    raise _UnreachableError(f'Post "{url}": the server answered {answer.status}')
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            raise _UnreachableError(f'Post "{url}": {error}') from None
        except TimeoutError:
            raise _UnreachableError(f'Post "{url}": context deadline exceeded') from None
        return _response(data, request["uid"])

    def _session(self, bundle: str) -> aiohttp.ClientSession:
        if bundle not in self._sessions:
            try:
                authorities = base64.b64decode(bundle).decode() if bundle else None
                context = ssl.create_default_context(cadata=authorities)
            except (ValueError, ssl.SSLError) as error:
                raise _UnreachableError(f"clientConfig.caBundle: {error}") from None
            self._sessions[bundle] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
        return self._sessions[bundle]

    def _target(self, client: Mapping[str, Any]) -> tuple[str, str, str]:
        """(URL, host name of the certificate, address); the last two are empty for a plain URL."""
        if client.get("url"):
            return client["url"], "", ""
        service = client.get("service") or {}
        namespace, name = service.get("namespace", ""), service.get("name", "")
        address, port = self._endpoint(namespace, name, service.get("port", 443))
        path = "/" + (service.get("path") or "").lstrip("/")
        shown = f"[{address}]" if ":" in address else address
        return f"https://{shown}:{port}{path}", f"{name}.{namespace}.svc", address

    def _endpoint(self, namespace: str, name: str, port: int) -> tuple[str, int]:
        record = self._store.get(Key("services", namespace, name))
        if record is None:
            raise _UnreachableError(f'service "{name}" not found in namespace "{namespace}"')
        ports = (record.decode().get("spec") or {}).get("ports") or ()
        service_port = next((p for p in ports if p.get("port") == port), None)
        if service_port is None:
            raise _UnreachableError(f'no service port {port} found for service "{name}"')
        for item in self._store.list(_SLICES, namespace):
            if item.labels.get("kubernetes.io/service-name") != name:
                continue
            found = item.decode()
            number = next(
                (p.get("port") for p in found.get("ports") or () if p.get("name", "") == service_port.get("name", "")),
                None,
            )
            for endpoint in found.get("endpoints") or ():
                if (
                    number is not None
                    and (endpoint.get("conditions") or {}).get("ready") is not False
                    and endpoint.get("addresses")
                ):
                    return str(endpoint["addresses"][0]), int(number)
        raise _UnreachableError(f'no endpoints available for service "{name}"')


def _response(data: bytes, uid: str) -> _Answer:
    try:
        answer = msgspec.json.decode(data, type=_Review).response
    except msgspec.DecodeError as error:
        raise _UnreachableError(f"the answer is not an AdmissionReview with a response: {error}") from None
    if answer.uid != uid:
        raise _UnreachableError(f"the answer is for request {answer.uid!r}, want {uid!r}")
    return answer


def _matches(value: str, wanted: Any) -> bool:
    return "*" in (wanted or ()) or value in (wanted or ())


def _rule_matches(rule: Mapping[str, Any], change: Change) -> bool:
    kind, subresource = change.kind, change.subresource
    if not _matches(change.operation, rule.get("operations")) or not _matches(kind.group, rule.get("apiGroups")):
        return False
    # matchPolicy Equivalent, the default: a rule for another version of the same kind matches too.
    scope = rule.get("scope") or "*"
    if scope != "*" and (scope == "Namespaced") != kind.namespaced:
        return False
    accepted = (
        {kind.plural, "*"}
        if not subresource
        else {f"{kind.plural}/{subresource}", f"*/{subresource}", f"{kind.plural}/*"}
    )
    return bool((accepted | {"*/*"}) & set(rule.get("resources") or ()))


def _request(change: Change, options: Options) -> Object:
    kind, metadata = change.kind, change.subject.get("metadata") or {}
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    gvr = {"group": kind.group, "version": kind.version, "resource": kind.plural}
    request: Object = {
        "uid": str(uuid.uuid4()),
        "kind": gvk,
        "resource": gvr,
        "requestKind": gvk,
        "requestResource": gvr,
        "name": metadata.get("name", ""),
        "operation": change.operation,
        "userInfo": options.user.as_user_info(),
        "object": change.obj,
        "oldObject": change.old,
        "dryRun": options.dry_run,
        "options": None,
    }
    if change.subresource:
        request["subResource"] = request["requestSubResource"] = change.subresource
    if metadata.get("namespace"):
        request["namespace"] = metadata["namespace"]
    return request
