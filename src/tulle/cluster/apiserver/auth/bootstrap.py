"""The default roles and bindings, as data.

They follow the defaults of Kubernetes as far as the kinds served here go; the reader's table is `_RULES`: role name, then
rules as (verbs, API groups, resources).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Object = dict[str, Any]
_GROUP = "rbac.authorization.k8s.io"
_META: Object = {
    "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
}
_READ = "get list watch"
_WRITE = "create delete deletecollection patch update"
_ALL = f"{_READ} {_WRITE}"
Rule = tuple[str, str, str]

_VIEW: tuple[Rule, ...] = (
    (
        _READ,
        "",
        "configmaps endpoints events namespaces pods pods/log pods/status serviceaccounts services services/status",
    ),
    (
        _READ,
        "apps",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status",
    ),
    (_READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    (_READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    (_READ, "discovery.k8s.io", "endpointslices"),
    (_READ, "events.k8s.io", "events"),
)
_EDIT: tuple[Rule, ...] = (
    (_READ, "", "secrets pods/attach pods/exec pods/portforward"),
    ("impersonate", "", "serviceaccounts"),
    (_WRITE, "", "configmaps events pods pods/attach pods/exec pods/portforward secrets serviceaccounts services"),
    ("create", "", "pods/eviction serviceaccounts/token"),
    (_WRITE, "apps", "daemonsets deployments deployments/scale replicasets replicasets/scale"),
    (_WRITE, "autoscaling", "horizontalpodautoscalers"),
    (_WRITE, "policy", "poddisruptionbudgets"),
    (_ALL, "coordination.k8s.io", "leases"),
)
_ADMIN: tuple[Rule, ...] = (
    ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    (_ALL, _GROUP, "rolebindings roles"),
    (_WRITE, "discovery.k8s.io", "endpointslices"),
)
_RULES: Mapping[str, tuple[Rule, ...]] = {
    "cluster-admin": (("*", "*", "*"),),
    "view": _VIEW,
    "edit": _VIEW + _EDIT,
    "admin": _VIEW + _EDIT + _ADMIN,
    "system:basic-user": (
        ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
        ("create", "authentication.k8s.io", "selfsubjectreviews"),
    ),
    "system:discovery": (),
    "system:public-info-viewer": (),
    "system:auth-delegator": (
        ("create", "authentication.k8s.io", "tokenreviews"),
        ("create", "authorization.k8s.io", "subjectaccessreviews"),
    ),
    "system:node": (
        ("create", "authentication.k8s.io", "tokenreviews"),
        ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
        # Namespaces: a node of the embedded cluster answers the cluster's DNS itself.
        (_READ, "", "services configmaps secrets serviceaccounts namespaces"),
        ("create get list watch patch update delete", "", "nodes"),
        ("patch update", "", "nodes/status pods/status"),
        ("create patch update", "", "events"),
        ("create get list watch delete", "", "pods"),
        ("create", "", "pods/eviction serviceaccounts/token"),
        ("create patch update", "events.k8s.io", "events"),
        (_READ, "discovery.k8s.io", "endpointslices"),
        ("create delete get patch update list watch", "coordination.k8s.io", "leases"),
    ),
    "system:kube-controller-manager": (
        ("*", "*", "*"),
    ),
    "system:kube-scheduler": (
        (_READ, "", "nodes pods services namespaces"),
        ("create", "", "bindings pods/binding"),
        ("patch update", "", "pods/status"),
        ("delete", "", "pods"),
        ("create patch update", "", "events"),
        ("create patch update", "events.k8s.io", "events"),
        (_READ, "apps", "replicasets"),
        (_READ, "policy", "poddisruptionbudgets"),
        ("create get list update watch", "coordination.k8s.io", "leases"),
    ),
    "system:service-account-issuer-discovery": (),
    "system:monitoring": (),
}  # fmt: skip
_PATHS: Mapping[str, Sequence[str]] = {
    "cluster-admin": ("*",),
    "system:discovery": (
        "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/", "/",
    ),
    "system:public-info-viewer": ("/healthz", "/livez", "/readyz", "/version", "/version/"),
    "system:service-account-issuer-discovery": ("/.well-known/openid-configuration", "/openid/v1/jwks"),
    "system:monitoring": ("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"),
}  # fmt: skip
# Roles that grow by what others label for them, as providers of custom resources do.
_AGGREGATED: Mapping[str, Sequence[str]] = {
    "admin": ("admin", "edit", "view"),
    "edit": ("edit", "view"),
    "view": ("view",),
}
_BINDINGS: Sequence[tuple[str, str, str, str]] = (
    ("cluster-admin", "cluster-admin", "Group", "system:masters"),
    ("system:basic-user", "system:basic-user", "Group", "system:authenticated"),
    ("system:discovery", "system:discovery", "Group", "system:authenticated"),
    ("system:public-info-viewer", "system:public-info-viewer", "Group", "system:authenticated"),
    ("system:node", "system:node", "Group", "system:nodes"),
    ("system:kube-controller-manager", "system:kube-controller-manager", "User", "system:kube-controller-manager"),
    ("system:kube-scheduler", "system:kube-scheduler", "User", "system:kube-scheduler"),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        "Group",
        "system:serviceaccounts",
    ),
    ("system:monitoring", "system:monitoring", "Group", "system:monitoring"),
)


def _policy_rule(rule: Rule) -> Object:
    verbs, group, resources = rule
    return {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}


def _metadata(name: str) -> Object:
    return {"name": name, "labels": dict(_META["labels"]), "annotations": dict(_META["annotations"])}


def cluster_roles() -> list[Object]:
    """ClusterRoles of an empty cluster."""
    found = []
    for name, rules in _RULES.items():
        listed = [_policy_rule(rule) for rule in rules]
        if name in _PATHS:
            verbs = ["*"] if name == "cluster-admin" else ["get"]
            listed.append({"verbs": verbs, "nonResourceURLs": list(_PATHS[name])})
        role: Object = {"metadata": _metadata(name), "rules": listed}
        if name in _AGGREGATED:
            labels = [f"{_GROUP}/aggregate-to-{part}" for part in _AGGREGATED[name]]
            role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {label: "true"}} for label in labels]}
        found.append(role)
    return found


def cluster_role_bindings() -> list[Object]:
    """ClusterRoleBindings of an empty cluster."""
    return [
        {
            "metadata": _metadata(name),
            "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": kind, "name": subject, "apiGroup": _GROUP}],
        }
        for name, role, kind, subject in _BINDINGS
    ]


def roles() -> list[tuple[str, Object]]:
    """(namespace, Role) of an empty cluster."""
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"]}
    return [("kube-public", {"metadata": _metadata("system:controller:bootstrap-signer"), "rules": [rule]})]
