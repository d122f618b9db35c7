"""Discovery: which groups, versions and resources there are, in the plain and in the aggregated form."""

from __future__ import annotations

from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import SCALE, SUBRESOURCE_KINDS, SUBRESOURCE_VERBS, Kind
from tulle.cluster.apiserver.registry import Registry

Object = dict[str, Any]
GIT_VERSION = "v1.36.4"
_STREAMS = {"exec": "PodExecOptions", "attach": "PodAttachOptions", "portforward": "PodPortForwardOptions"}


def version() -> Object:
    """The /version document."""
    return {
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


def _subresource_kind(kind: Kind, name: str) -> tuple[str, str, str]:
    found = SCALE if name == "scale" else SUBRESOURCE_KINDS.get((kind.plural, name))
    if found is not None:
        return found[0], found[1], found[2]
    return kind.group, kind.version, _STREAMS.get(name, kind.kind)


def _plain_resource(kind: Kind) -> list[Object]:
    entry: Object = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    entries = [entry]
    for name in kind.subresources:
        group, version_name, kind_name = _subresource_kind(kind, name)
        sub: Object = {
            "name": f"{kind.plural}/{name}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": kind_name,
            "verbs": list(SUBRESOURCE_VERBS[name]),
        }
        if (group, version_name) != (kind.group, kind.version):
            sub |= {"group": group, "version": version_name}
        entries.append(sub)
    return entries


def resource_list(registry: Registry, group: str, version_name: str) -> Object:
    """The APIResourceList of a group version. Raises StatusError 404."""
    kinds = registry.resources(group, version_name)
    if not kinds:
        raise errors.no_such_path()
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": [entry for kind in kinds for entry in _plain_resource(kind)],
    }


def _group(name: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def group_list(registry: Registry) -> Object:
    """The APIGroupList of /apis."""
    groups = [_group(name, versions) for name, versions in registry.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, name: str) -> Object:
    """The APIGroup of /apis/<name>. Raises StatusError 404."""
    versions = registry.groups().get(name)
    if not versions or not name:
        raise errors.no_such_path()
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def core_versions(address: str) -> Object:
    """The APIVersions of /api."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def _aggregated_resource(kind: Kind) -> Object:
    entry: Object = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    if kind.subresources:
        entry["subresources"] = [_aggregated_subresource(kind, name) for name in kind.subresources]
    return entry


def _aggregated_subresource(kind: Kind, name: str) -> Object:
    group_name, version_name, kind_name = _subresource_kind(kind, name)
    response = {"group": group_name, "version": version_name, "kind": kind_name}
    return {"subresource": name, "responseKind": response, "verbs": list(SUBRESOURCE_VERBS[name])}


def aggregated(registry: Registry, api_version: str, *, core: bool) -> Object:
    """The APIGroupDiscoveryList of /api or /apis in apidiscovery.k8s.io/<api_version>."""
    items = []
    for name, versions in registry.groups().items():
        if core != (name == ""):
            continue
        metadata: Object = {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None}
        items.append({"metadata": metadata, "versions": [_aggregated_version(registry, name, v) for v in versions]})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{api_version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_version(registry: Registry, name: str, version_name: str) -> Object:
    resources = [_aggregated_resource(kind) for kind in registry.resources(name, version_name)]
    return {"version": version_name, "resources": resources, "freshness": "Current"}
