"""The kinds of objects that are served, as data.

One row per built-in kind; a CustomResourceDefinition adds rows of the same type at run time. The rest of the server asks
the row and never the name: whether it is namespaced, which subresources it has, where it is stored, how its schema is
called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CREATE_ONLY = ("create",)

_CORE = "io.k8s.api.core.v1."


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """One column of a table answer. `path` is the JSONPath of a custom resource's column."""

    name: str
    type: str
    description: str = ""
    priority: int = 0
    format: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One served version of one kind.

    `resource` is the storage resource (shared by the versions of a kind); `schema` the name of the built-in definition,
    or the OpenAPI v3 schema of a custom resource's version; `status` whether /status is a subresource of its own;
    `generation` whether metadata.generation counts changes of the desired state; `mixed` whether some of its objects may
    still be stored in an older version than `storage_version`; `ending` whether its definition is being deleted.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    schema: str | Mapping[str, Any]
    resource: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    generation: bool = False
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: tuple[PrinterColumn, ...] = ()
    singular_name: str = ""
    list_kind: str = ""
    storage_version: str = ""
    mixed: bool = False
    ending: bool = False
    scale: Mapping[str, str] | None = None
    name_rule: str = "subdomain"
    warning: str = ""

    @property
    def api_version(self) -> str:
        """`apps/v1`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage_api_version(self) -> str:
        """The apiVersion that stored objects carry."""
        version = self.storage_version or self.version
        return f"{self.group}/{version}" if self.group else version

    @property
    def storage(self) -> str:
        """Name of the storage resource."""
        return self.resource or (f"{self.plural}.{self.group}" if self.group else self.plural)

    @property
    def custom(self) -> bool:
        """Whether it comes from a CustomResourceDefinition."""
        return not isinstance(self.schema, str)

    @property
    def status(self) -> bool:
        """Whether status is written through its own subresource only."""
        return "status" in self.subresources

    @property
    def list_name(self) -> str:
        """Kind of a list of these."""
        return self.list_kind or f"{self.kind}List"

    @property
    def singular(self) -> str:
        """Lower-case singular name."""
        return self.singular_name or self.kind.lower()


def _fields(*paths: str) -> dict[str, tuple[str, ...]]:
    return {path: tuple(path.split(".")) for path in paths}


def _core(kind: str, plural: str, *short: str, **more: Any) -> Kind:
    more.setdefault("namespaced", True)
    return Kind("", "v1", kind, plural, schema=_CORE + kind, short_names=short, **more)


def _grouped(group: str, version: str, kind: str, plural: str, *short: str, **more: Any) -> Kind:
    more.setdefault("namespaced", True)
    more.setdefault("schema", f"io.k8s.api.{group.split('.', maxsplit=1)[0]}.{version}.{kind}")
    return Kind(group, version, kind, plural, short_names=short, **more)


_EVENT_FIELDS = _fields(
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
    "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
    "reason", "reportingComponent", "source", "type",
) | {"source": ("source", "component")}  # fmt: skip
_POD_FIELDS = _fields(
    "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
    "status.phase", "status.podIP", "status.nominatedNodeName",
)  # fmt: skip
_REVIEW: dict[str, Any] = {"namespaced": False, "verbs": CREATE_ONLY}
_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_APIEXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_SCALABLE: dict[str, Any] = {
    "subresources": ("scale", "status"),
    "generation": True,
    "categories": ("all",),
    "scale": {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".spec.selector",
    },
}

BUILTIN: tuple[Kind, ...] = (
    _core("ConfigMap", "configmaps", "cm"),
    _core("Endpoints", "endpoints", "ep", warning="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    _core("Event", "events", "ev", fields=_EVENT_FIELDS),
    _core("Namespace", "namespaces", "ns", namespaced=False, subresources=("finalize", "status"), name_rule="label",
          fields=_fields("status.phase"), verbs=tuple(v for v in ALL_VERBS if v != "deletecollection")),
    _core("Node", "nodes", "no", namespaced=False, subresources=("status",), fields=_fields("spec.unschedulable")),
    _core("Pod", "pods", "po", categories=("all",), generation=True, fields=_POD_FIELDS,
          subresources=("attach", "binding", "eviction", "exec", "log", "portforward", "status")),
    _core("Secret", "secrets", fields=_fields("type")),
    _core("Service", "services", "svc", categories=("all",), subresources=("status",), name_rule="label",
          fields=_fields("spec.clusterIP", "spec.type")),
    _core("ServiceAccount", "serviceaccounts", "sa", subresources=("token",)),
    _grouped("apps", "v1", "Deployment", "deployments", "deploy", **_SCALABLE),
    _grouped("apps", "v1", "ReplicaSet", "replicasets", "rs", **_SCALABLE, fields=_fields("status.replicas")),
    _grouped("apps", "v1", "ControllerRevision", "controllerrevisions"),
    _grouped("apps", "v1", "DaemonSet", "daemonsets", "ds", categories=("all",), subresources=("status",), generation=True),
    _grouped("apps", "v1", "ControllerRevision", "controllerrevisions"),
    _grouped("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", generation=True),
    _grouped("coordination.k8s.io", "v1", "Lease", "leases"),
    _grouped("events.k8s.io", "v1", "Event", "events", "ev", resource="events", fields={
        "regarding.kind": ("involvedObject", "kind"), "regarding.namespace": ("involvedObject", "namespace"),
        "regarding.name": ("involvedObject", "name"), "regarding.uid": ("involvedObject", "uid"),
        "reason": ("reason",), "reportingController": ("reportingComponent",), "type": ("type",)}),
    _grouped("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", categories=("all",),
             subresources=("status",)),
    _grouped("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", subresources=("status",), generation=True),
    _grouped(_RBAC, "v1", "Role", "roles", name_rule="path"),
    _grouped(_RBAC, "v1", "RoleBinding", "rolebindings", name_rule="path"),
    _grouped(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False, name_rule="path"),
    _grouped(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False, name_rule="path"),
    _grouped(_ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", namespaced=False,
             categories=("api-extensions",), generation=True),
    Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False,
         _APIEXTENSIONS + "CustomResourceDefinition", short_names=("crd", "crds"), categories=("api-extensions",),
         subresources=("status",), generation=True),
    _grouped("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", **_REVIEW),
    _grouped("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", **_REVIEW),
    _grouped("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", **_REVIEW),
    _grouped("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", **_REVIEW),
    _grouped("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", **_REVIEW),
    _grouped("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", verbs=CREATE_ONLY),
)  # fmt: skip

# Kinds that exist only as the body of a subresource: (resource, subresource) -> (group, version, kind, schema).
SUBRESOURCE_KINDS: Mapping[tuple[str, str], tuple[str, str, str, str]] = {
    ("pods", "binding"): ("", "v1", "Binding", _CORE + "Binding"),
    ("pods", "eviction"): ("policy", "v1", "Eviction", "io.k8s.api.policy.v1.Eviction"),
    ("serviceaccounts", "token"): (
        "authentication.k8s.io", "v1", "TokenRequest", "io.k8s.api.authentication.v1.TokenRequest",
    ),
    ("deployments", "scale"): ("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
    ("replicasets", "scale"): ("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
}  # fmt: skip
SCALE = ("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale")

# Verbs of the subresources, for discovery and authorisation.
SUBRESOURCE_VERBS: Mapping[str, tuple[str, ...]] = {
    "status": ("get", "patch", "update"),
    "scale": ("get", "patch", "update"),
    "finalize": ("update",),
    "binding": ("create",),
    "eviction": ("create",),
    "token": ("create",),
    "log": ("get",),
    "exec": ("create", "get"),
    "attach": ("create", "get"),
    "portforward": ("create", "get"),
}
