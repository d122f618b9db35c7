"""The Kubernetes objects that make up a Tulle installation, as YAML with a handful of values to fill in.

`crds/` are the custom resources, `mesh/` the mesh itself (the same on any Kubernetes), `cluster/` what only the embedded cluster needs.
`render` reads them in file-name order, which is the order in which they must be applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from string import Template
from typing import Any

import yaml

import tulle

PROFILES: Mapping[str, Mapping[str, bool]] = {
    "lesson": {"waypointLabelAlias": True, "liftSelectorPolicies": True, "headIsGet": True, "explainRefusals": True},
    "istio": {"waypointLabelAlias": False, "liftSelectorPolicies": False, "headIsGet": False, "explainRefusals": False},
}
"""A profile sets these four keys of the mesh configuration and nothing else."""


class UnknownProfileError(ValueError):
    """The profile's name is not one of `PROFILES`."""


@dataclass(frozen=True)
class Values:
    """What an installation may choose. `image` runs every part of the mesh; `dns_capture` is Istio's `cni.ambient.dnsCapture`."""

    profile: str
    namespace: str = "istio-system"
    image: str = f"tulle/tulle:{tulle.__version__}"
    pull_policy: str = "IfNotPresent"
    trust_domain: str = "cluster.local"
    mesh_config: Mapping[str, Any] = field(default_factory=dict)
    dns_capture: bool = True

    def mesh(self) -> dict[str, Any]:
        """The mesh configuration: the profile's keys, then whatever was given besides. Raises UnknownProfileError."""
        if self.profile not in PROFILES:
            raise UnknownProfileError(
                f"profile {self.profile!r} is not known; accepted are {', '.join(sorted(PROFILES))}"
            )
        return {
            "rootNamespace": self.namespace,
            "trustDomain": self.trust_domain,
            "tulle": {**PROFILES[self.profile]},
            **self.mesh_config,
        }


def crds() -> tuple[dict[str, Any], ...]:
    """The CustomResourceDefinitions."""
    return tuple(_documents("crds", {}))


def mesh(values: Values) -> tuple[dict[str, Any], ...]:
    """The mesh, in the order in which to apply it. Raises UnknownProfileError."""
    config = yaml.safe_dump(values.mesh(), sort_keys=False)
    return tuple(
        _documents(
            "mesh",
            {
                "namespace": values.namespace,
                "image": values.image,
                "pull_policy": values.pull_policy,
                "trust_domain": values.trust_domain,
                "dns_capture": str(values.dns_capture).lower(),
                "mesh_config": "".join(f"    {line}\n" for line in config.splitlines()),
            },
        )
    )


def cluster() -> tuple[dict[str, Any], ...]:
    """What only the embedded cluster needs besides what its API server makes itself."""
    return tuple(_documents("cluster", {}))


def _documents(folder: str, values: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for path in sorted(files(__name__).joinpath(folder).iterdir(), key=lambda entry: entry.name):
        text = path.read_text(encoding="utf-8")
        filled = Template(text).substitute(values) if values else text
        # Ten times faster than the loader in Python: the custom resources' schemas are long, and every start of the mesh reads them.
        yield from (document for document in yaml.load_all(filled, Loader=yaml.CSafeLoader) if document)
