"""Rows of everything else: namespaces, configuration, accounts, roles, events, leases, admission, definitions."""

from __future__ import annotations

import datetime
from typing import Any

from tulle.cluster.apiserver.table.cells import UNKNOWN, age, since
from tulle.cluster.apiserver.table.layout import Layout, columns

Object = dict[str, Any]


def _namespace(obj: Object, now: datetime.datetime) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("status") or {}).get("phase", ""), age(obj, now)]


def _config_map(obj: Object, now: datetime.datetime) -> list[Any]:
    count = len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
    return [obj["metadata"]["name"], count, age(obj, now)]


def _secret(obj: Object, now: datetime.datetime) -> list[Any]:
    return [obj["metadata"]["name"], obj.get("type", ""), len(obj.get("data") or ()), age(obj, now)]


def _service_account(obj: Object, now: datetime.datetime) -> list[Any]:
    # Kubernetes 1.35 dropped the column of secrets.
    return [obj["metadata"]["name"], age(obj, now)]


def _role(obj: Object, now: datetime.datetime) -> list[Any]:
    return [obj["metadata"]["name"], obj["metadata"].get("creationTimestamp")]


def _binding(obj: Object, now: datetime.datetime) -> list[Any]:
    reference = obj.get("roleRef") or {}
    found: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        found.setdefault(subject.get("kind", ""), []).append(name)
    wide = [", ".join(found[kind]) for kind in ("User", "Group", "ServiceAccount")]
    return [obj["metadata"]["name"], f"{reference.get('kind', '')}/{reference.get('name', '')}", age(obj, now), *wide]


def _event_times(obj: Object, now: datetime.datetime) -> tuple[str, str]:
    first = since(obj.get("firstTimestamp") or obj.get("eventTime"), now)
    last = since(obj.get("lastTimestamp") or obj.get("eventTime"), now)
    series = obj.get("series") or {}
    if series:
        last = f"{since(series.get('lastObservedTime'), now)} (x{series.get('count', 1)} over {first})"
    elif obj.get("count", 1) > 1:
        last = f"{last} (x{obj['count']} over {first})"
    return first, last


def _event(obj: Object, now: datetime.datetime) -> list[Any]:
    involved = obj.get("involvedObject") or obj.get("regarding") or {}
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    obj = {
        **obj,
        "firstTimestamp": obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp"),
        "lastTimestamp": obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp"),
        "count": obj.get("count") or obj.get("deprecatedCount") or 1,
    }
    first, last = _event_times(obj, now)
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController") or ""
    target = involved.get("kind", "").lower() + (f"/{involved['name']}" if involved.get("name") else "")
    count = (obj.get("series") or {}).get("count") or obj["count"]
    return [
        last,
        obj.get("type", ""),
        obj.get("reason", ""),
        target,
        involved.get("fieldPath", ""),
        ", ".join(part for part in (component, source.get("host", "")) if part),
        (obj.get("message") or obj.get("note") or "").strip(),
        first,
        count,
        obj["metadata"]["name"],
    ]


def _lease(obj: Object, now: datetime.datetime) -> list[Any]:
    return [obj["metadata"]["name"], (obj.get("spec") or {}).get("holderIdentity", ""), age(obj, now)]


def _webhooks(obj: Object, now: datetime.datetime) -> list[Any]:
    return [obj["metadata"]["name"], len(obj.get("webhooks") or ()), age(obj, now)]


def _definition(obj: Object, now: datetime.datetime) -> list[Any]:
    return [obj["metadata"]["name"], obj["metadata"].get("creationTimestamp") or UNKNOWN]


_RBAC = "rbac.authorization.k8s.io"
_BINDING = columns("Name", "Role", "Age", wide=("Users", "Groups", "ServiceAccounts"))
_EVENT = Layout(
    columns("Last Seen", "Type", "Reason", "Object", wide=("Subobject", "Source"))
    + columns("Message")
    + columns(wide=("First Seen", "Count", "Name")),
    _event,
)
MISC = {
    ("", "Namespace"): Layout(columns("Name", "Status", "Age"), _namespace),
    ("", "ConfigMap"): Layout(columns("Name", "Data", "Age"), _config_map),
    ("", "Secret"): Layout(columns("Name", "Type", "Data", "Age"), _secret),
    ("", "ServiceAccount"): Layout(columns("Name", "Age"), _service_account),
    (_RBAC, "Role"): Layout(columns("Name", "Created At"), _role),
    (_RBAC, "ClusterRole"): Layout(columns("Name", "Created At"), _role),
    (_RBAC, "RoleBinding"): Layout(_BINDING, _binding),
    (_RBAC, "ClusterRoleBinding"): Layout(_BINDING, _binding),
    ("", "Event"): _EVENT,
    ("events.k8s.io", "Event"): _EVENT,
    ("coordination.k8s.io", "Lease"): Layout(columns("Name", "Holder", "Age"), _lease),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): Layout(
        columns("Name", "Webhooks", "Age"), _webhooks
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): Layout(columns("Name", "Created At"), _definition),
}
