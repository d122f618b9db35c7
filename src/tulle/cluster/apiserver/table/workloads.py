"""Rows of Deployments, ReplicaSets, DaemonSets, autoscalers and disruption budgets."""

from __future__ import annotations

import datetime
from typing import Any

from tulle.cluster.apiserver.table.cells import UNKNOWN, age, containers, pairs, selector
from tulle.cluster.apiserver.table.layout import Layout, columns

Object = dict[str, Any]
_WIDE = ("Containers", "Images", "Selector")


def _wide(obj: Object) -> list[Any]:
    spec = obj.get("spec") or {}
    return [*containers(spec.get("template") or {}), selector(spec.get("selector"))]


def _deployment(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        obj["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(obj, now),
        *_wide(obj),
    ]


def _replica_set(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    numbers = [spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [obj["metadata"]["name"], *numbers, age(obj, now), *_wide(obj)]


def _daemon_set(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    names = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    nodes = pairs(((spec.get("template") or {}).get("spec") or {}).get("nodeSelector"))
    return [obj["metadata"]["name"], *(status.get(n, 0) for n in names), nodes, age(obj, now), *_wide(obj)]


def _metric(spec: Object, current: list[Object], index: int) -> str:
    found = current[index] if index < len(current) else {}
    source = (spec.get("type") or "").lower()
    kind = {"containerresource": "containerResource"}.get(source, source)
    target = (spec.get(kind) or {}).get("target") or {}
    now = (found.get(kind) or {}).get("current") or {}
    name = (spec.get(kind) or {}).get("name") or ((spec.get(kind) or {}).get("metric") or {}).get("name", "")
    label = f"{name}: " if kind in ("resource", "containerResource") else ""
    if target.get("averageUtilization") is not None:
        shown = f"{now['averageUtilization']}%" if now.get("averageUtilization") is not None else UNKNOWN
        return f"{label}{shown}/{target['averageUtilization']}%"
    wanted = target.get("averageValue") or target.get("value") or UNKNOWN
    return f"{label}{now.get('averageValue') or now.get('value') or UNKNOWN}/{wanted}"


def _autoscaler(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    target = spec.get("scaleTargetRef") or {}
    metrics = [_metric(m, status.get("currentMetrics") or [], i) for i, m in enumerate(spec.get("metrics") or ())]
    shown = ", ".join(metrics[:2]) + (f" + {len(metrics) - 2} more..." if len(metrics) > 2 else "")
    return [
        obj["metadata"]["name"],
        f"{target.get('kind', '')}/{target.get('name', '')}",
        shown or "<none>",
        str(spec.get("minReplicas", "<unset>")),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        age(obj, now),
    ]


def _budget(obj: Object, now: datetime.datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    limits = [str(spec.get(name, "N/A")) for name in ("minAvailable", "maxUnavailable")]
    return [obj["metadata"]["name"], *limits, status.get("disruptionsAllowed", 0), age(obj, now)]


def _revision(obj: Object, now: datetime.datetime) -> list[Any]:
    owner = next((o for o in obj["metadata"].get("ownerReferences") or () if o.get("controller")), None)
    group, _, _ = (owner or {}).get("apiVersion", "").rpartition("/")
    kind = f"{(owner or {}).get('kind', '').lower()}{'.' if group else ''}{group}/{(owner or {}).get('name', '')}"
    return [obj["metadata"]["name"], kind if owner else "<none>", obj.get("revision", 0), age(obj, now)]


WORKLOADS = {
    ("apps", "ControllerRevision"): Layout(columns("Name", "Controller", "Revision", "Age"), _revision),
    ("apps", "Deployment"): Layout(columns("Name", "Ready", "Up-to-date", "Available", "Age", wide=_WIDE), _deployment),
    ("apps", "ReplicaSet"): Layout(
        columns("Name", "Desired", "Current", "Ready", "Age", wide=_WIDE, integers=("Ready",)), _replica_set
    ),
    ("apps", "DaemonSet"): Layout(
        columns(
            "Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age",
            wide=_WIDE, integers=("Ready", "Up-to-date"),
        ),
        _daemon_set,
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): Layout(
        columns("Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"), _autoscaler
    ),
    ("policy", "PodDisruptionBudget"): Layout(
        columns("Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age"), _budget
    ),
}  # fmt: skip
