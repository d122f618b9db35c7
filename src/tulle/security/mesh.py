"""The mesh settings that security depends on.

They come from one document, the MeshConfig in ConfigMap ``istio``. Istio's own keys are read leniently, since that document
holds much that is not about security; the keys under ``tulle:`` are Tulle's, and an unknown one is an error, because a
misspelt security switch must not be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATH_NORMALIZATIONS = ("NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")

# Each profile only sets these four keys.
PROFILES: Mapping[str, Mapping[str, bool]] = {
    "lesson": {
        "waypointLabelAlias": True,
        "liftSelectorPolicies": True,
        "headIsGet": True,
        "explainRefusals": True,
    },
    "istio": {
        "waypointLabelAlias": False,
        "liftSelectorPolicies": False,
        "headIsGet": False,
        "explainRefusals": False,
    },
}


class InvalidMeshConfig(ValueError):  # noqa: N818 - it names the finding, as NotFound does
    """A MeshConfig that cannot be used; ``path`` names the field."""

    def __init__(self, path: str, found: object, accepted: str) -> None:
        super().__init__(f"mesh configuration: {path}: found {found!r}; accepted is {accepted}")
        self.path = path


@dataclass(frozen=True, slots=True)
class ExtensionProvider:
    """An entry of extensionProviders, kept as it stands: its name and the one block that defines it."""

    name: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """The settings, with upstream's defaults. See ``profile`` for the two named sets."""

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = "istio-system"
    path_normalization: str = "BASE"
    extension_providers: tuple[ExtensionProvider, ...] = ()
    waypoint_label_alias: bool = False
    lift_selector_policies: bool = False
    head_is_get: bool = False
    explain_refusals: bool = False

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """The mesh's own trust domain first, then its aliases, without repetition."""
        return tuple(dict.fromkeys((self.trust_domain, *self.trust_domain_aliases)))


def profile(name: str) -> MeshSettings:
    """The default settings under a profile, ``lesson`` or ``istio``. Raises InvalidMeshConfig for another name."""
    if name not in PROFILES:
        raise InvalidMeshConfig("profile", name, " or ".join(PROFILES))
    return parse_mesh_config({"tulle": dict(PROFILES[name])})


def parse_mesh_config(config: Mapping[str, Any] | None) -> MeshSettings:
    """Read the settings from a MeshConfig given as a dict. Raises InvalidMeshConfig with the field's path."""
    config = _mapping(config, "")
    switches = _mapping(config.get("tulle"), "tulle")
    known = PROFILES["istio"]
    for key in switches:
        if key not in known:
            raise InvalidMeshConfig(f"tulle.{key}", switches[key], "one of the keys " + ", ".join(known))
    normalization = _mapping(config.get("pathNormalization"), "pathNormalization").get("normalization", "BASE")
    if normalization == "DEFAULT":
        normalization = "BASE"
    if normalization not in PATH_NORMALIZATIONS:
        raise InvalidMeshConfig("pathNormalization.normalization", normalization, ", ".join(PATH_NORMALIZATIONS))
    return MeshSettings(
        trust_domain=_name(config, "trustDomain", "cluster.local"),
        trust_domain_aliases=_names(config, "trustDomainAliases"),
        root_namespace=_name(config, "rootNamespace", "istio-system"),
        path_normalization=normalization,
        extension_providers=_providers(config.get("extensionProviders")),
        waypoint_label_alias=_switch(switches, "waypointLabelAlias"),
        lift_selector_policies=_switch(switches, "liftSelectorPolicies"),
        head_is_get=_switch(switches, "headIsGet"),
        explain_refusals=_switch(switches, "explainRefusals"),
    )


def _mapping(value: object, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidMeshConfig(path or "(document)", value, "a mapping")
    return value


def _name(config: Mapping[str, Any], key: str, default: str) -> str:
    value = config.get(key) or default
    if not isinstance(value, str) or "/" in value or "*" in value:
        raise InvalidMeshConfig(key, value, "a name without '/' and '*'")
    return value


def _names(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = config.get(key) or ()
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InvalidMeshConfig(key, values, "a list of names")
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value or "/" in value or "*" in value:
            raise InvalidMeshConfig(f"{key}[{index}]", value, "a name without '/' and '*'")
    return tuple(values)


def _switch(switches: Mapping[str, Any], key: str) -> bool:
    value = switches.get(key, False)
    if not isinstance(value, bool):
        raise InvalidMeshConfig(f"tulle.{key}", value, "true or false")
    return value


def _providers(values: object) -> tuple[ExtensionProvider, ...]:
    if values is None:
        return ()
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InvalidMeshConfig("extensionProviders", values, "a list")
    providers = []
    for index, value in enumerate(values):
        entry = _mapping(value, f"extensionProviders[{index}]")
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidMeshConfig(f"extensionProviders[{index}].name", name, "a non-empty name")
        kinds = [key for key in entry if key != "name"]
        providers.append(ExtensionProvider(name, kinds[0] if kinds else ""))
    return tuple(providers)
