"""Where each kind lives in the API: the one table that turns a kind into request paths and a decoder.

A ``Resource`` carries the Python type of its objects, so ``client.get(PODS, ...)`` is a ``Pod`` to the type checker.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from tulle.kube import objects as o

T = TypeVar("T")


@dataclass(frozen=True)
class Resource(Generic[T]):
    """One served resource. ``group`` is "" for core/v1; ``type`` is a struct of ``tulle.kube.objects`` or ``dict``."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: type[T]

    @property
    def api_version(self) -> str:
        """``v1`` or ``group/version``, as in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The request path. No namespace means all namespaces (lists) or a cluster-scoped object.

        Raises ValueError for a namespaced object without a namespace, and for a subresource without a name.
        """
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        elif self.namespaced and name:
            raise ValueError(f"{self.kind} {name!r} is namespaced: give its namespace")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            if not name:
                raise ValueError(f"{self.kind}: subresource {subresource!r} needs the object's name")
            parts.append(subresource)
        return "/".join(parts)


def untyped(group: str, version: str, plural: str, kind: str, namespaced: bool) -> Resource[dict[str, Any]]:
    """A resource whose objects stay plain dictionaries."""
    return Resource(group, version, plural, kind, namespaced, dict[str, Any])


NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False, o.Namespace)
PODS = Resource("", "v1", "pods", "Pod", True, o.Pod)
SERVICES = Resource("", "v1", "services", "Service", True, o.Service)
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount", True, o.ServiceAccount)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", True, o.ConfigMap)
SECRETS = Resource("", "v1", "secrets", "Secret", True, o.Secret)
NODES = Resource("", "v1", "nodes", "Node", False, o.Node)
EVENTS = Resource("", "v1", "events", "Event", True, o.Event)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", True, o.Deployment)
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet", True, o.ReplicaSet)
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", True, o.DaemonSet)
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision", True, o.ControllerRevision)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True, o.EndpointSlice)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True, o.Lease)

GATEWAY_CLASSES = Resource("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", False, o.GatewayClass)
GATEWAYS = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway", True, o.Gateway)
HTTP_ROUTES = untyped("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", True)

AUTHORIZATION_POLICIES = untyped("security.istio.io", "v1", "authorizationpolicies", "AuthorizationPolicy", True)
PEER_AUTHENTICATIONS = untyped("security.istio.io", "v1", "peerauthentications", "PeerAuthentication", True)
REQUEST_AUTHENTICATIONS = untyped("security.istio.io", "v1", "requestauthentications", "RequestAuthentication", True)
SERVICE_ENTRIES = untyped("networking.istio.io", "v1", "serviceentries", "ServiceEntry", True)
WORKLOAD_ENTRIES = untyped("networking.istio.io", "v1", "workloadentries", "WorkloadEntry", True)

CUSTOM_RESOURCE_DEFINITIONS = untyped(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
VALIDATING_WEBHOOKS = untyped(
    "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False
)
TOKEN_REVIEWS = untyped("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False)
SUBJECT_ACCESS_REVIEWS = untyped("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False)
HORIZONTAL_POD_AUTOSCALERS = untyped("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True)
POD_DISRUPTION_BUDGETS = untyped("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True)
ROLES = untyped("rbac.authorization.k8s.io", "v1", "roles", "Role", True)
ROLE_BINDINGS = untyped("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", True)
CLUSTER_ROLES = untyped("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
CLUSTER_ROLE_BINDINGS = untyped("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False)
