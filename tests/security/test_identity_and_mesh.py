"""Identities and settings: what is read, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security.identity import Identity, InvalidIdentity
from tulle.security.mesh import InvalidMeshConfig, MeshSettings, parse_mesh_config, profile
from tulle.security.trust import expand_principals, expand_trust_domains

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)


@given(names, names, names)
def test_identities_survive_writing_and_reading(domain: str, namespace: str, account: str) -> None:
    identity = Identity(domain, namespace, account)
    assert Identity.parse(identity.spiffe) == Identity.parse(identity.principal) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://td/ns/a/sa",
        "spiffe://td/ns/a/sa/",
        "spiffe://td/ns//sa/b",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/sa/a/ns/b",
        "spiffe://td/ns/a/sa/b\x00",
        "spiffe://td/ns/a/sa/b\n",
        "SPIFFE://td/ns/a/sa/b",
        "spiffe://td/ns/A/sa/b",
        "https://td/ns/a/sa/b",
        "spiffe://spiffe://td/ns/a/sa/b",
    ],
)
def test_what_is_no_identity(text: str) -> None:
    with pytest.raises(InvalidIdentity, match="is not an identity"):
        Identity.parse(text)


def test_defaults_are_upstream_s() -> None:
    assert parse_mesh_config(None) == parse_mesh_config({}) == MeshSettings() == profile("istio")


def test_the_lesson_profile_sets_four_keys() -> None:
    assert profile("lesson") == MeshSettings(
        waypoint_label_alias=True, lift_selector_policies=True, head_is_get=True, explain_refusals=True
    )


def test_every_key() -> None:
    settings = parse_mesh_config(
        {
            "trustDomain": "new",
            "trustDomainAliases": ["old", "new"],
            "rootNamespace": "root",
            "pathNormalization": {"normalization": "MERGE_SLASHES"},
            "extensionProviders": [{"name": "opa", "envoyExtAuthzHttp": {"service": "x", "port": 8000}}],
            "enableTracing": True,
            "tulle": {"headIsGet": True},
        }
    )
    assert settings.trust_domains == ("new", "old")
    assert (settings.root_namespace, settings.path_normalization, settings.head_is_get) == (
        "root",
        "MERGE_SLASHES",
        True,
    )
    assert [(p.name, p.kind) for p in settings.extension_providers] == [("opa", "envoyExtAuthzHttp")]
    assert parse_mesh_config({"pathNormalization": {"normalization": "DEFAULT"}}).path_normalization == "BASE"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ([], "(document)"),
        ({"tulle": []}, "tulle"),
        ({"tulle": {"headIsGett": True}}, "tulle.headIsGett"),
        ({"tulle": {"headIsGet": "true"}}, "tulle.headIsGet"),
        ({"trustDomain": "a/b"}, "trustDomain"),
        ({"trustDomainAliases": "a"}, "trustDomainAliases"),
        ({"trustDomainAliases": ["a", ""]}, "trustDomainAliases[1]"),
        ({"rootNamespace": 1}, "rootNamespace"),
        ({"pathNormalization": {"normalization": "MERGE"}}, "pathNormalization.normalization"),
        ({"extensionProviders": {}}, "extensionProviders"),
        ({"extensionProviders": [{}]}, "extensionProviders[0].name"),
    ],
)
def test_what_is_refused(config: Any, path: str) -> None:
    with pytest.raises(InvalidMeshConfig) as refused:
        parse_mesh_config(config)
    assert refused.value.path == path
    assert "accepted is" in str(refused.value)


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InvalidMeshConfig, match="lesson or istio"):
        profile("none")


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("cluster.local/ns/a/sa/b", ("new/ns/a/sa/b", "old/ns/a/sa/b")),
        ("old/ns/a/sa/*", ("new/ns/a/sa/*", "old/ns/a/sa/*")),
        ("*/ns/a/sa/b", ("*/ns/a/sa/b",)),
        ("other/ns/a/sa/b", ("other/ns/a/sa/b",)),
        ("old/ns/a/*", ("old/ns/a/*",)),
        ("*", ("*",)),
    ],
)
def test_aliases(value: str, expanded: tuple[str, ...]) -> None:
    assert expand_principals((value,), ("new", "old")) == expanded


def test_trust_domain_aliases() -> None:
    assert expand_trust_domains(("old", "x*", "cluster.local"), ("new", "old")) == ("new", "old", "x*")
