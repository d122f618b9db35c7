"""The mesh settings that security depends on.

They come from one document, the MeshConfig in ConfigMap ``istio``. Istio's own keys are read leniently, since that document
holds much that is not about security; the keys under ``tulle:`` are Tulle's, and an unknown one is an error, because a
misspelt security switch must not be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .match import read_network
from .providers import ExtensionProvider, InvalidMeshConfig, read_providers

__all__ = ["PROFILES", "ExtensionProvider", "InvalidMeshConfig", "MeshSettings", "parse_mesh_config", "profile"]

PATH_NORMALIZATIONS = ("NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")

_JWKS_ALLOWED = "jwksAllowedAddresses"
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
    jwks_allowed: tuple[str, ...] = ()
    """Addresses and ranges that keys of token issuers may be fetched from although they are loopback, link-local or a
    metadata service (``tulle.jwksAllowedAddresses``)."""

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
    known = (*PROFILES["istio"], _JWKS_ALLOWED)
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
        extension_providers=read_providers(config.get("extensionProviders")),
        waypoint_label_alias=_switch(switches, "waypointLabelAlias"),
        lift_selector_policies=_switch(switches, "liftSelectorPolicies"),
        head_is_get=_switch(switches, "headIsGet"),
        explain_refusals=_switch(switches, "explainRefusals"),
        jwks_allowed=_networks(switches, _JWKS_ALLOWED),
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


def _networks(switches: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = switches.get(key) or ()
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InvalidMeshConfig(f"tulle.{key}", values, "a list of addresses or CIDR ranges")
    for index, value in enumerate(values):
        try:
            read_network(str(value))
        except ValueError:
            raise InvalidMeshConfig(f"tulle.{key}[{index}]", value, "an address or a CIDR range") from None
    return tuple(map(str, values))
