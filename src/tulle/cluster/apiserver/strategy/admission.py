"""Built-in admission: the life of namespaces and definitions, and the ServiceAccount of pods."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.strategy.pod_defaults import DEFAULT_MODE
from tulle.cluster.store import Key, Store

Object = dict[str, Any]
TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
_TOKEN_SECONDS = 3607
_ACCOUNT_ATTEMPTS, _ACCOUNT_PAUSE = 100, 0.05
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
IMMORTAL = ("default", "kube-system", "kube-public")
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_TOLERATIONS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def check_namespace_alive(store: Store, kind: Kind, obj: Object) -> None:
    """Nothing is created in a namespace that is missing or terminating. Raises StatusError 404 or 403."""
    namespace = obj["metadata"]["namespace"]
    record = store.get(Key("namespaces", "", namespace))
    if record is None:
        raise errors.not_found("namespaces", "", namespace)
    if record.decode()["metadata"].get("deletionTimestamp"):
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        refusal = errors.forbidden(kind.plural, kind.group, obj["metadata"].get("name", ""), why)
        cause = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {namespace} is being terminated",
            "field": "metadata.namespace",
        }
        refusal.details = {**refusal.details, "causes": [cause]}
        raise refusal


def check_definition_alive(registry: Registry, kind: Kind) -> None:
    """Nothing is created of a definition that is gone or terminating. Raises StatusError 404 or 405."""
    now = registry.find(kind.group, kind.version, kind.plural)
    if now is None:
        raise errors.no_such_path()
    if now.ending:
        refusal = errors.method_not_allowed("create", kind.plural, kind.group)
        refusal.message = "create not allowed while custom resource definition is terminating"
        raise refusal


def hold_definition(definition: Object) -> Object:
    """A definition with the finalizer that keeps it until its objects are gone."""
    held = definition["metadata"].get("finalizers") or []
    definition["metadata"]["finalizers"] = [*(name for name in held if name != CLEANUP), CLEANUP]
    return definition


def check_may_die(kind: Kind, name: str) -> None:
    """The system's namespaces stay. Raises StatusError 403."""
    if kind.plural == "namespaces" and not kind.group and name in IMMORTAL:
        raise errors.forbidden("namespaces", "", name, "this namespace may not be deleted")


async def await_default_account(store: Store, pod: Object) -> None:
    """The ServiceAccount `default` is made a moment after its namespace; a pod that is quicker waits for it, as upstream
    (which asks ten times), some seconds at most.
    """
    namespace, name = pod["metadata"]["namespace"], pod["spec"].get("serviceAccountName") or "default"
    if name != "default" or store.get(Key("namespaces", "", namespace)) is None:
        return
    for _ in range(_ACCOUNT_ATTEMPTS):
        if store.get(Key("serviceaccounts", namespace, name)) is not None:
            return
        await asyncio.sleep(_ACCOUNT_PAUSE)


def admit_pod(store: Store, pod: Object) -> None:
    """ServiceAccount, API token volume, tolerations and priority of a new pod. Raises StatusError 403."""
    spec = pod["spec"]
    for key in _TOLERATIONS:
        tolerations = spec.setdefault("tolerations", [])
        if not any(t.get("key") in (key, None, "") and t.get("effect") in ("NoExecute", None, "") for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    spec.setdefault(
        "priority",
        {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}.get(
            spec.get("priorityClassName", ""), 0
        ),
    )
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    if "kubernetes.io/config.mirror" in (pod["metadata"].get("annotations") or {}):
        return
    _service_account(store, pod)


def _service_account(store: Store, pod: Object) -> None:
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    name = spec.get("serviceAccountName") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    record = store.get(Key("serviceaccounts", namespace, name))
    if record is None:
        why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise errors.forbidden("pods", "", pod["metadata"].get("name", ""), why)
    account = record.decode()
    if account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    mount = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
    if mount:
        _mount_token(spec)


def _mount_token(spec: Object) -> None:
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    bare = [
        c for c in containers if not any(m.get("mountPath") == TOKEN_DIRECTORY for m in c.get("volumeMounts") or ())
    ]
    if not bare:
        return
    volumes = spec.setdefault("volumes", [])
    known = next((v["name"] for v in volumes if v.get("name", "").startswith("kube-api-access-")), "")
    name = known or "kube-api-access-" + "".join(secrets.choice(_ALPHABET) for _ in range(5))
    if not known:
        volumes.append(token_volume(name))
    for container in bare:
        mount = {"name": name, "readOnly": True, "mountPath": TOKEN_DIRECTORY}
        container.setdefault("volumeMounts", []).append(mount)


def token_volume(name: str) -> Object:
    """The projected volume with token, CA and namespace that pods reach the API with."""
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": _TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": DEFAULT_MODE}}
