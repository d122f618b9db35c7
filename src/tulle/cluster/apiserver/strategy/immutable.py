"""What may not be changed once it is there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tulle.cluster.apiserver.errors import FieldError, forbidden_field, invalid_value

Object = dict[str, Any]
Rule = Callable[[Object, Object], Iterator[FieldError]]
FIELD_IS_IMMUTABLE = "field is immutable"
_RBAC = "rbac.authorization.k8s.io"
_POD_TEXT = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def _selector(old: Object, new: Object) -> Iterator[FieldError]:
    before, after = old["spec"].get("selector"), new["spec"].get("selector")
    if before != after:
        yield invalid_value("spec.selector", after, FIELD_IS_IMMUTABLE)


def _pod(old: Object, new: Object) -> Iterator[FieldError]:
    before, after = copy.deepcopy(old["spec"]), copy.deepcopy(new["spec"])
    kept = [t for t in before.get("tolerations") or () if t not in (after.get("tolerations") or ())]
    for spec in (before, after):
        for name in ("containers", "initContainers"):
            for container in spec.get(name) or ():
                container.pop("image", None)
        spec.pop("activeDeadlineSeconds", None)
        if not kept:
            spec.pop("tolerations", None)
    if before != after:
        yield forbidden_field("spec", _POD_TEXT)


def _service(old: Object, new: Object) -> Iterator[FieldError]:
    before, after = old["spec"], new["spec"]
    if "ExternalName" in (before.get("type"), after.get("type")):
        return
    if before.get("clusterIP") and before["clusterIP"] != after.get("clusterIP"):
        yield invalid_value("spec.clusterIPs[0]", after.get("clusterIP", ""), "may not change once set")


def _data(old: Object, new: Object) -> Iterator[FieldError]:
    if new.get("type") != old.get("type"):
        yield invalid_value("type", new.get("type", ""), FIELD_IS_IMMUTABLE)
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        yield forbidden_field("immutable", "field is immutable when `immutable` is set")
    for name in ("data", "binaryData"):
        if old.get(name) != new.get(name):
            yield forbidden_field(name, "field is immutable when `immutable` is set")


def _revision_data(old: Object, new: Object) -> Iterator[FieldError]:
    if old.get("data") != new.get("data"):
        yield invalid_value("data", new.get("data"), FIELD_IS_IMMUTABLE)


def _role_reference(old: Object, new: Object) -> Iterator[FieldError]:
    if old.get("roleRef") != new.get("roleRef"):
        yield invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef")


def _address_type(old: Object, new: Object) -> Iterator[FieldError]:
    if old.get("addressType") != new.get("addressType"):
        yield invalid_value("addressType", new.get("addressType", ""), FIELD_IS_IMMUTABLE)


def _definition(old: Object, new: Object) -> Iterator[FieldError]:
    conditions = (old.get("status") or {}).get("conditions") or ()
    if not any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
        return
    for path in (("scope",), ("group",), ("names", "kind"), ("names", "plural")):
        before, after = _at(old["spec"], path), _at(new["spec"], path)
        if before != after:
            yield invalid_value(f"spec.{'.'.join(path)}", after, FIELD_IS_IMMUTABLE)


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        obj = obj.get(part) if isinstance(obj, Mapping) else None
    return obj


IMMUTABLE: Mapping[tuple[str, str], Rule] = {
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", "ConfigMap"): _data,
    ("", "Secret"): _data,
    ("apps", "ControllerRevision"): _revision_data,
    ("apps", "Deployment"): _selector,
    ("apps", "ReplicaSet"): _selector,
    ("apps", "DaemonSet"): _selector,
    ("discovery.k8s.io", "EndpointSlice"): _address_type,
    (_RBAC, "RoleBinding"): _role_reference,
    (_RBAC, "ClusterRoleBinding"): _role_reference,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
}
