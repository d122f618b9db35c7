"""Manifests that come straight from an editor, held against the types that an API server would have held them against.

Everything after this reads manifests as an API server gives them out, where a map is a map. So each is checked once, before anything is
derived from it, and the complaint names file, object and field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tulle.cli.explain.documents import Document
from tulle.cli.explain.objects import typed, without_nulls
from tulle.kube.objects import EndpointSlice, Gateway, GatewayClass, KubeObject, Namespace, Pod, Service
from tulle.kube.objects.meta import ObjectMeta, Part, PartialObject


class _Template(Part, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies it


class _TemplatedSpec(Part, frozen=True, kw_only=True):
    replicas: int = 1
    template: _Template = _Template()


class _Templated(KubeObject, frozen=True, kw_only=True):
    spec: _TemplatedSpec = _TemplatedSpec()


class _Port(Part, frozen=True, kw_only=True):
    number: int
    name: str
    protocol: str = ""
    target_port: int = 0


class _Labels(Part, frozen=True, kw_only=True):
    labels: dict[str, str] = {}  # noqa: RUF012 - likewise


class _Workload(_Labels, frozen=True, kw_only=True):
    address: str = ""
    ports: dict[str, int] = {}  # noqa: RUF012 - likewise


class _EntrySpec(Part, frozen=True, kw_only=True):
    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    ports: tuple[_Port, ...] = ()
    endpoints: tuple[_Workload, ...] = ()
    workload_selector: _Labels = _Labels()


class _ServiceEntry(KubeObject, frozen=True, kw_only=True):
    spec: _EntrySpec


class _WorkloadEntry(KubeObject, frozen=True, kw_only=True):
    spec: _Workload = _Workload()


class _Reference(Part, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""


class _ClientConfig(Part, frozen=True, kw_only=True):
    service: _Reference | None = None


class _Webhook(Part, frozen=True, kw_only=True):
    name: str = ""
    client_config: _ClientConfig = _ClientConfig()


class _Webhooks(KubeObject, frozen=True, kw_only=True):
    webhooks: tuple[_Webhook, ...] = ()


_TYPES: Mapping[str, type[KubeObject]] = {
    "Namespace": Namespace,
    "Pod": Pod,
    "Service": Service,
    "EndpointSlice": EndpointSlice,
    "GatewayClass": GatewayClass,
    "Gateway": Gateway,
    "ServiceEntry": _ServiceEntry,
    "WorkloadEntry": _WorkloadEntry,
    "ValidatingWebhookConfiguration": _Webhooks,
    **dict.fromkeys(("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"), _Templated),
}
"""Of any other kind only the metadata is read, or it is one of the policies, whose admission checks them."""


def checked(document: Document) -> Document:
    """The document, without nulls where its kind is known. Raises InputError for a field of the wrong type."""
    kind = _TYPES.get(document.key.kind)
    typed(document, kind or PartialObject)
    return document if kind is None else replace(document, manifest=without_nulls(document.manifest))
