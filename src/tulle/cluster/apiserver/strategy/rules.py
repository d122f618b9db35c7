"""Rules of the kinds other than pods: what makes an object invalid, field by field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tulle.cluster.apiserver.errors import FieldError, forbidden_field, invalid_value, not_supported, required
from tulle.cluster.apiserver.rest.objects import check_labels, check_name
from tulle.cluster.apiserver.schema.structural import validate_definition
from tulle.cluster.apiserver.selectors import from_label_selector_object
from tulle.cluster.apiserver.strategy import checks
from tulle.cluster.apiserver.strategy.pod_rules import pod_spec

Object = Mapping[str, Any]
Rule = Callable[[Object], Iterator[FieldError]]
_RBAC = "rbac.authorization.k8s.io"
_SUBJECTS = {"ServiceAccount": "", "User": _RBAC, "Group": _RBAC}
_SECRET_LIMIT = 1024 * 1024


def _pod(obj: Object) -> Iterator[FieldError]:
    yield from pod_spec("spec", obj.get("spec") or {})


def _template(path: str, obj: Object, selector: Object | None) -> Iterator[FieldError]:
    template = obj.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector is not None:
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            yield invalid_value(f"{path}.selector", dict(selector), "empty selector is invalid for deployment")
        elif not list(checks.label_selector("", selector)) and not from_label_selector_object(selector).matches(labels):
            text = "`selector` does not match template `labels`"
            yield invalid_value(f"{path}.template.metadata.labels", labels, text)
    yield from check_labels(f"{path}.template.metadata.labels", labels)
    yield from pod_spec(f"{path}.template.spec", template.get("spec") or {}, restart=("Always",))


def _workload(obj: Object) -> Iterator[FieldError]:
    spec = obj.get("spec") or {}
    for name in ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        yield from checks.non_negative(f"spec.{name}", spec.get(name))
    if spec.get("selector") is None:
        yield required("spec.selector")
    else:
        yield from checks.label_selector("spec.selector", spec["selector"])
    yield from _template("spec", spec, spec.get("selector"))


def _rolling(path: str, strategy: Object, accepted: tuple[str, ...]) -> Iterator[FieldError]:
    kind = strategy.get("type")
    yield from checks.one_of(f"{path}.type", kind, accepted)
    rolling = strategy.get("rollingUpdate")
    if kind != "RollingUpdate" and rolling is not None:
        yield forbidden_field(f"{path}.rollingUpdate", f"may not be specified when strategy `type` is '{kind}'")
    for name in ("maxSurge", "maxUnavailable"):
        yield from checks.count_or_percent(f"{path}.rollingUpdate.{name}", (rolling or {}).get(name))
    if (
        rolling
        and str(rolling.get("maxSurge", 1)) in ("0", "0%")
        and str(rolling.get("maxUnavailable", 1)) in ("0", "0%")
    ):
        text = "may not be 0 when `maxSurge` is 0"
        yield invalid_value(f"{path}.rollingUpdate.maxUnavailable", rolling["maxUnavailable"], text)


def _deployment(obj: Object) -> Iterator[FieldError]:
    yield from _workload(obj)
    yield from _rolling("spec.strategy", (obj.get("spec") or {}).get("strategy") or {}, ("Recreate", "RollingUpdate"))


def _daemon_set(obj: Object) -> Iterator[FieldError]:
    yield from _workload(obj)
    strategy = (obj.get("spec") or {}).get("updateStrategy") or {}
    yield from _rolling("spec.updateStrategy", strategy, ("OnDelete", "RollingUpdate"))


def _service(obj: Object) -> Iterator[FieldError]:
    spec = obj.get("spec") or {}
    kind = spec.get("type", "ClusterIP")
    ports = spec.get("ports") or []
    yield from checks.one_of("spec.type", kind, ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"))
    yield from checks.one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    yield from check_labels("spec.selector", spec.get("selector") or {})
    headless = spec.get("clusterIP") == "None"
    if not ports and not headless and kind != "ExternalName":
        yield required("spec.ports")
    if kind == "ExternalName":
        yield from check_name("spec.externalName", (spec.get("externalName") or "").rstrip("."), "subdomain")
    elif headless and kind != "ClusterIP":
        yield invalid_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    for index, port in enumerate(ports):
        yield from _service_port(f"spec.ports[{index}]", port, several=len(ports) > 1)
    yield from checks.unique_names("spec.ports", ports)
    yield from _distinct_ports(ports)
    for index, external in enumerate(spec.get("externalIPs") or ()):
        yield from checks.address(f"spec.externalIPs[{index}]", external)


def _service_port(path: str, port: Object, *, several: bool) -> Iterator[FieldError]:
    if several or port.get("name"):
        yield from checks.label_name(f"{path}.name", port.get("name"))
    yield from checks.port_number(f"{path}.port", port.get("port"))
    yield from checks.one_of(f"{path}.protocol", port.get("protocol"), checks.PROTOCOLS)
    target = port.get("targetPort")
    if isinstance(target, int):
        yield from checks.port_number(f"{path}.targetPort", target)
    elif target:
        yield from checks.port_name(f"{path}.targetPort", target)


def _distinct_ports(ports: list[Any]) -> Iterator[FieldError]:
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        identity = (port.get("port"), port.get("protocol"))
        if identity in seen:
            shown = {"protocol": identity[1], "port": identity[0]}
            yield FieldError("FieldValueDuplicate", f"spec.ports[{index}]", f"Duplicate value: {_shown(shown)}")
        seen.add(identity)


def _shown(value: Object) -> str:
    return "{" + ",".join(f'"{k}":' + (f'"{v}"' if isinstance(v, str) else str(v)) for k, v in value.items()) + "}"


def _data(obj: Object) -> Iterator[FieldError]:
    size = 0
    for field in ("data", "binaryData"):
        for key, value in (obj.get(field) or {}).items():
            size += len(value)
            if not key or len(key) > 253 or not all(c.isalnum() or c in "-_." for c in key) or key in (".", ".."):
                text = (
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                    "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                )
                yield invalid_value(f"{field}[{key}]", key, text)
    if size > _SECRET_LIMIT:
        yield FieldError("FieldValueTooLong", "data", f"Too long: may not be more than {_SECRET_LIMIT} bytes")


def _policy_rules(obj: Object, *, cluster: bool) -> Iterator[FieldError]:
    for index, rule in enumerate(obj.get("rules") or ()):
        path = f"rules[{index}]"
        if not rule.get("verbs"):
            yield required(f"{path}.verbs", "verbs must contain at least one value")
        if rule.get("nonResourceURLs"):
            if not cluster:
                text = "namespaced rules cannot apply to non-resource URLs"
                yield invalid_value(f"{path}.nonResourceURLs", rule["nonResourceURLs"], text)
            if rule.get("apiGroups") or rule.get("resources"):
                text = "rules cannot apply to both regular resources and non-resource URLs"
                yield invalid_value(f"{path}.nonResourceURLs", rule["nonResourceURLs"], text)
            continue
        if not rule.get("apiGroups"):
            yield required(f"{path}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            yield required(f"{path}.resources", "resource rules must supply at least one resource")


def _role(obj: Object) -> Iterator[FieldError]:
    yield from _policy_rules(obj, cluster=False)


def _cluster_role(obj: Object) -> Iterator[FieldError]:
    for index, selector in enumerate((obj.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()):
        yield from checks.label_selector(f"aggregationRule.clusterRoleSelectors[{index}]", selector)
    yield from _policy_rules(obj, cluster=True)


def _binding(obj: Object) -> Iterator[FieldError]:
    reference = obj.get("roleRef") or {}
    if reference.get("apiGroup") != _RBAC:
        yield not_supported("roleRef.apiGroup", reference.get("apiGroup", ""), [_RBAC])
    accepted = ("ClusterRole", "Role") if obj.get("kind") == "RoleBinding" else ("ClusterRole",)
    if reference.get("kind") not in accepted:
        yield not_supported("roleRef.kind", reference.get("kind", ""), accepted)
    if not reference.get("name"):
        yield required("roleRef.name")
    for index, subject in enumerate(obj.get("subjects") or ()):
        path = f"subjects[{index}]"
        if not subject.get("name"):
            yield required(f"{path}.name")
        if subject.get("kind") not in _SUBJECTS:
            yield not_supported(f"{path}.kind", subject.get("kind", ""), sorted(_SUBJECTS))
        elif subject["kind"] == "ServiceAccount" and not subject.get("namespace"):
            yield required(f"{path}.namespace")
        elif subject.get("apiGroup", "") != _SUBJECTS[subject["kind"]]:
            yield not_supported(f"{path}.apiGroup", subject.get("apiGroup", ""), [_SUBJECTS[subject["kind"]]])


def _endpoint_slice(obj: Object) -> Iterator[FieldError]:
    yield from checks.one_of("addressType", obj.get("addressType"), ("FQDN", "IPv4", "IPv6"))
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        if not endpoint.get("addresses"):
            yield required(f"endpoints[{index}].addresses", "must contain at least 1 address")
        for number, value in enumerate(endpoint.get("addresses") or ()):
            if obj.get("addressType") in ("IPv4", "IPv6"):
                yield from checks.address(f"endpoints[{index}].addresses[{number}]", value)


def _endpoints(obj: Object) -> Iterator[FieldError]:
    for index, subset in enumerate(obj.get("subsets") or ()):
        for name in ("addresses", "notReadyAddresses"):
            for number, entry in enumerate(subset.get(name) or ()):
                yield from checks.address(f"subsets[{index}].{name}[{number}].ip", entry.get("ip", ""))
        for number, port in enumerate(subset.get("ports") or ()):
            yield from checks.port_number(f"subsets[{index}].ports[{number}].port", port.get("port"))


def _autoscaler(obj: Object) -> Iterator[FieldError]:
    spec = obj.get("spec") or {}
    low, high = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
    if high < 1:
        yield invalid_value("spec.maxReplicas", high, "must be greater than 0")
    if low < 1:
        yield invalid_value("spec.minReplicas", low, "must be greater than or equal to 1")
    elif high < low:
        yield invalid_value("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`")
    for name in ("kind", "name"):
        if not (spec.get("scaleTargetRef") or {}).get(name):
            yield required(f"spec.scaleTargetRef.{name}")


def _budget(obj: Object) -> Iterator[FieldError]:
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        yield invalid_value("spec", {}, "minAvailable and maxUnavailable cannot be both set")
    for name in ("minAvailable", "maxUnavailable"):
        yield from checks.count_or_percent(f"spec.{name}", spec.get(name))


def _webhooks(obj: Object) -> Iterator[FieldError]:
    for index, webhook in enumerate(obj.get("webhooks") or ()):
        path = f"webhooks[{index}]"
        yield from check_name(f"{path}.name", webhook.get("name") or "", "subdomain")
        client = webhook.get("clientConfig") or {}
        if bool(client.get("url")) == bool(client.get("service")):
            yield required(f"{path}.clientConfig", "exactly one of url or service is required")
        for name in ("namespaceSelector", "objectSelector"):
            yield from checks.label_selector(f"{path}.{name}", webhook.get(name) or {})
        yield from checks.one_of(f"{path}.failurePolicy", webhook.get("failurePolicy"), ("Fail", "Ignore"))
        yield from checks.one_of(f"{path}.sideEffects", webhook.get("sideEffects"), ("None", "NoneOnDryRun"))
        if "v1" not in (webhook.get("admissionReviewVersions") or ()):
            text = "must include at least one of v1, v1beta1"
            yield invalid_value(f"{path}.admissionReviewVersions", webhook.get("admissionReviewVersions") or [], text)
        if not 1 <= webhook.get("timeoutSeconds", 10) <= 30:
            yield invalid_value(
                f"{path}.timeoutSeconds",
                webhook["timeoutSeconds"],
                "the timeout value must be between 1 and 30 seconds",
            )


def _event(obj: Object) -> Iterator[FieldError]:
    involved = (obj.get("involvedObject") or obj.get("regarding") or {}).get("namespace") or ""
    namespace = obj["metadata"].get("namespace", "")
    if (involved or "default") != namespace:
        yield invalid_value("involvedObject.namespace", involved, "does not match event.namespace")


def _definition(obj: Object) -> Iterator[FieldError]:
    yield from validate_definition(obj)


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", "ConfigMap"): _data,
    ("", "Secret"): _data,
    ("", "Endpoints"): _endpoints,
    ("", "Event"): _event,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _workload,
    ("apps", "DaemonSet"): _daemon_set,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    (_RBAC, "Role"): _role,
    (_RBAC, "ClusterRole"): _cluster_role,
    (_RBAC, "RoleBinding"): _binding,
    (_RBAC, "ClusterRoleBinding"): _binding,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("policy", "PodDisruptionBudget"): _budget,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _webhooks,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
}
