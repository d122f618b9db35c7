"""Which resources the API serves, those of custom resource definitions included: what namespace deletion and
the garbage collector must look through.
"""

from dataclasses import dataclass

import msgspec

from tulle.kube import Client, Resource
from tulle.kube.objects import PartialObject

_ACCEPT = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class _ResponseKind(msgspec.Struct, frozen=True):
    kind: str = ""


class _ResourceEntry(msgspec.Struct, frozen=True, rename="camel"):
    resource: str
    response_kind: _ResponseKind | None = None
    scope: str = ""
    verbs: tuple[str, ...] = ()


class _Version(msgspec.Struct, frozen=True):
    version: str
    resources: tuple[_ResourceEntry, ...] = ()


class _Name(msgspec.Struct, frozen=True):
    name: str = ""


class _Group(msgspec.Struct, frozen=True):
    metadata: _Name = _Name()
    versions: tuple[_Version, ...] = ()


class _Groups(msgspec.Struct, frozen=True):
    items: tuple[_Group, ...] = ()


@dataclass(frozen=True)
class Served:
    """A resource of the preferred version of its group, and what can be done with it."""

    resource: Resource[PartialObject]
    verbs: frozenset[str]


async def served(client: Client) -> list[Served]:
    """Every resource of every group in its preferred version. Raises ApiError."""
    found: dict[tuple[str, str], Served] = {}
    for path in ("/api", "/apis"):
        groups = msgspec.json.decode(await client.raw("GET", path, accept=_ACCEPT), type=_Groups)
        for group in groups.items:
            for version in group.versions:
                for entry in version.resources:
                    key = (group.metadata.name, entry.resource)
                    if key not in found:
                        found[key] = _served(group.metadata.name, version.version, entry)
    return list(found.values())


def _served(group: str, version: str, entry: _ResourceEntry) -> Served:
    kind = entry.response_kind.kind if entry.response_kind else ""
    resource = Resource(group, version, entry.resource, kind, entry.scope == "Namespaced", PartialObject)
    return Served(resource, frozenset(entry.verbs))
