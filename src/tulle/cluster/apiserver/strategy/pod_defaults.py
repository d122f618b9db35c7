"""Defaults of pods and pod templates."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

_POD_SPEC: Object = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
}
_PROBE: Object = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_VOLUME_MODES = {
    "configMap": "defaultMode",
    "secret": "defaultMode",
    "downwardAPI": "defaultMode",
    "projected": "defaultMode",
}
DEFAULT_MODE = 0o644
TOKEN_SECONDS = 3600


def fill(obj: Object, defaults: Object) -> None:
    """Set what is absent."""
    for key, value in defaults.items():
        obj.setdefault(key, value)


def pull_policy(image: str) -> str:
    """Always for `:latest` and untagged images, else IfNotPresent."""
    if "@" in image:
        return "IfNotPresent"
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return "Always" if not colon or tag == "latest" else "IfNotPresent"


def default_pod_spec(spec: Object) -> None:
    """A PodSpec, in place."""
    fill(spec, _POD_SPEC)
    spec.setdefault("securityContext", {})
    if spec.get("serviceAccount") and not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    elif spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    for volume in spec.get("volumes") or ():
        _default_volume(volume)
    host_network = bool(spec.get("hostNetwork"))
    for name in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(name) or ():
            _default_container(container, host_network)
    for constraint in spec.get("topologySpreadConstraints") or ():
        fill(constraint, {"nodeAffinityPolicy": "Honor", "nodeTaintsPolicy": "Ignore"})


def _default_container(container: Object, host_network: bool) -> None:
    container.setdefault("imagePullPolicy", pull_policy(container.get("image", "")))
    fill(container, {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    container.setdefault("resources", {})
    resources = container["resources"]
    if resources.get("limits"):
        requests = resources.setdefault("requests", {})
        fill(requests, resources["limits"])
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if host_network and "containerPort" in port:
            port.setdefault("hostPort", port["containerPort"])
    for variable in container.get("env") or ():
        field = (variable.get("valueFrom") or {}).get("fieldRef")
        if field is not None:
            field.setdefault("apiVersion", "v1")
        resource = (variable.get("valueFrom") or {}).get("resourceFieldRef")
        if resource is not None:
            resource.setdefault("divisor", "0")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            # 0 is as good as absent here, as upstream: nobody means a probe without a pause.
            container[name] |= {key: value for key, value in _PROBE.items() if not container[name].get(key)}
            _default_action(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _default_action(hook)


def _default_action(action: Object) -> None:
    if action.get("httpGet") is not None:
        fill(action["httpGet"], {"path": "/", "scheme": "HTTP"})
    if action.get("grpc") is not None:
        action["grpc"].setdefault("service", "")


def _default_volume(volume: Object) -> None:
    if set(volume) == {"name"}:
        volume["emptyDir"] = {}
    for source, key in _VOLUME_MODES.items():
        if volume.get(source) is not None:
            volume[source].setdefault(key, DEFAULT_MODE)
    if volume.get("hostPath") is not None:
        volume["hostPath"].setdefault("type", "")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if source.get("serviceAccountToken") is not None:
            source["serviceAccountToken"].setdefault("expirationSeconds", TOKEN_SECONDS)
        _default_fields((source.get("downwardAPI") or {}).get("items"))
    _default_fields((volume.get("downwardAPI") or {}).get("items"))


def _default_fields(items: Any) -> None:
    for item in items or ():
        if item.get("fieldRef") is not None:
            item["fieldRef"].setdefault("apiVersion", "v1")


def default_pod(pod: Object) -> None:
    """A Pod, in place."""
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    status = pod.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", qos_class(spec))


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort, by the containers' cpu and memory."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    requests = [(c.get("resources") or {}).get("requests") or {} for c in containers]
    limits = [(c.get("resources") or {}).get("limits") or {} for c in containers]
    counted = ("cpu", "memory")
    if not any(r.get(name) or m.get(name) for r, m in zip(requests, limits, strict=True) for name in counted):
        return "BestEffort"
    guaranteed = all(m.get(n) and r.get(n) == m.get(n) for r, m in zip(requests, limits, strict=True) for n in counted)
    return "Guaranteed" if guaranteed else "Burstable"


def default_template(template: Object) -> None:
    """A PodTemplateSpec, in place."""
    template.setdefault("metadata", {})
    template["metadata"].setdefault("creationTimestamp", None)
    if template["metadata"]["creationTimestamp"] is None:
        template["metadata"].pop("creationTimestamp")
    default_pod_spec(template.setdefault("spec", {}))
